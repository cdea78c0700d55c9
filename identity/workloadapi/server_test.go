package workloadapi_test

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	client "github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	id          = "spiffe://acme.demo.test/ns/acme/sa/web"
	trustDomain = "spiffe://acme.demo.test"
	platform    = "spiffe://platform.demo.test"
)

// source is an identity that the test changes.
type source struct {
	mu      sync.Mutex
	now     workloadapi.Identity
	changed chan struct{}
}

func (s *source) Identity() workloadapi.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *source) set(i workloadapi.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = i
	close(s.changed)
	s.changed = make(chan struct{})
}

// identityOf is a fresh SVID of acme's web.
func identityOf(t *testing.T, acme, other *testca.CA) workloadapi.Identity {
	t.Helper()
	cert := acme.SVID(id).TLS()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return workloadapi.Identity{
		ID: id, Chain: cert.Certificate, Key: key, TrustDomain: trustDomain,
		Bundles: map[string][][]byte{
			trustDomain: acme.Bundle("acme.demo.test").DER(),
			platform:    other.Bundle("platform.demo.test").DER(),
		},
	}
}

func serve(t *testing.T, s workloadapi.Source) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "w.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(workloadapi.ServerOptions()...)
	workloadapi.Register(g, s, tokens{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return "unix://" + socket
}

// A stock client waits for the first SVID, gets it, and gets the next one without asking.
func TestStockClientThroughARotation(t *testing.T) {
	t.Parallel()
	acme, other := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "platform.demo.test")
	s := &source{changed: make(chan struct{})}
	addr := serve(t, s)
	first := identityOf(t, acme, other)
	time.AfterFunc(50*time.Millisecond, func() { s.set(first) }) // while the client waits
	x, err := client.NewX509Source(t.Context(), client.WithClientOptions(client.WithAddr(addr)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	serial := func() string {
		t.Helper()
		svid, err := x.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if svid.ID.String() != id {
			t.Errorf("the SVID is of %s", svid.ID)
		}
		return svid.Certificates[0].SerialNumber.String()
	}
	old := serial()
	for _, td := range []string{"acme.demo.test", "platform.demo.test"} {
		if b, err := x.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(td)); err != nil || len(b.X509Authorities()) != 1 {
			t.Errorf("bundle of %s: %v, %v", td, b, err)
		}
	}
	renewed := testca.Constrained(t, "acme.demo.test")
	s.set(identityOf(t, renewed, other))
	select {
	case <-x.Updated():
	case <-time.After(10 * time.Second):
		t.Fatal("the client was not told of the new SVID")
	}
	if serial() == old {
		t.Error("the client has the old SVID")
	}
}

// What says nothing new is not sent, and an identity that ended leaves the last answer alone.
func TestOnlyChangesAreSent(t *testing.T) {
	t.Parallel()
	acme, other := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "platform.demo.test")
	first, second := identityOf(t, acme, other), identityOf(t, acme, other)
	s := &source{changed: make(chan struct{}), now: first}
	stream, err := dial(t, serve(t, s)).FetchX509SVID(asClient(t.Context()), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	received := func() string {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return string(resp.GetSvids()[0].GetX509Svid())
	}
	if received() != string(first.Chain[0]) {
		t.Error("the first answer is not the SVID")
	}
	s.set(first)
	s.set(workloadapi.Identity{})
	s.set(second)
	if received() != string(second.Chain[0]) {
		t.Error("the second answer is not the new SVID")
	}
}

func TestBundles(t *testing.T) {
	t.Parallel()
	acme, other := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "platform.demo.test")
	s := &source{changed: make(chan struct{}), now: identityOf(t, acme, other)}
	stream, err := dial(t, serve(t, s)).FetchX509Bundles(asClient(t.Context()), &workload.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetBundles()) != 2 || string(resp.GetBundles()[trustDomain]) != string(s.now.Bundles[trustDomain][0]) {
		t.Errorf("got bundles %v", resp.GetBundles())
	}
}

// A request without the header is none of an application's own.
func TestSecurityHeader(t *testing.T) {
	t.Parallel()
	s := &source{changed: make(chan struct{}), now: workloadapi.Identity{ID: id}}
	c := dial(t, serve(t, s))
	for name, ctx := range map[string]context.Context{
		"none":  t.Context(),
		"false": metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "false"),
		"twice": asClient(asClient(t.Context())),
	} {
		stream, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.FetchJWTSVID(t.Context(), &workload.JWTSVIDRequest{Audience: []string{"x"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("JWT-SVID: %v", err)
	}
	if _, err := c.ValidateJWTSVID(t.Context(), &workload.ValidateJWTSVIDRequest{Audience: "x", Svid: "good"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("validation: %v", err)
	}
	stream, err := c.FetchJWTBundles(t.Context(), &workload.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("JWT bundles: %v", err)
	}
}

func asClient(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

func dial(t *testing.T, addr string) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn)
}
