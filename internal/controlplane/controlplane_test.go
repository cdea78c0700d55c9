package controlplane_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/source"
	"github.com/ringfence-mesh/ringfence/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	globexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
)

// plane is a running control plane over a copy of the example.
type plane struct {
	*controlplane.ControlPlane

	t      *testing.T
	config string
	clock  func() time.Time
	stop   func() error
}

func example(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "config")
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, c controlplane.Config, config string) plane {
	t.Helper()
	c.XDSListen, c.IssuerListen, c.HTTPListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	if c.Log == nil {
		c.Log = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	}
	c.Source = source.NewDirectory(config, zap.NewNop())
	cp, err := controlplane.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cp.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("end: %v", err)
		}
	})
	clock := c.Clock
	if clock == nil {
		clock = time.Now
	}
	return plane{ControlPlane: cp, t: t, config: config, clock: clock, stop: stop}
}

// within bounds what a test waits for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (p plane) edit(path, from, to string) {
	p.t.Helper()
	path = filepath.Join(p.config, path)
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(data, []byte(from)) {
		p.t.Fatalf("%s does not hold %q: %v", path, from, err)
	}
	if err := os.WriteFile(path, bytes.Replace(data, []byte(from), []byte(to), 1), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// trust takes only the control plane for the other end.
func (p plane) trust() *tls.Config {
	p.t.Helper()
	root, err := p.PlatformRootPEM()
	if err != nil {
		p.t.Fatal(err)
	}
	want, err := p.ControlPlaneID()
	if err != nil {
		p.t.Fatal(err)
	}
	bundle, err := identity.ParseBundlePEM(want.Tenant().TrustDomain(), root)
	if err != nil {
		p.t.Fatal(err)
	}
	bundles, err := identity.NewBundles(bundle)
	if err != nil {
		p.t.Fatal(err)
	}
	verifier := identity.NewVerifier(p.Generation().Mapping(), bundles)
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the SPIFFE ID is verified instead of a host name
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, err := verifier.VerifyLeaf(s.PeerCertificates[0].Raw, nil, p.clock())
			if err == nil && !peer.ID().Same(want) {
				err = errors.New("somebody else")
			}
			return err
		},
	}
}

func (p plane) dial(addr string, c *tls.Config) *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// join gets an SVID against a token, as an agent does.
func (p plane) join(id, token string) (tls.Certificate, error) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		p.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	client := agentv1alpha1.NewIssuerClient(p.dial(p.IssuerAddr().String(), p.trust()))
	answer, err := client.Issue(within(p.t), &agentv1alpha1.IssueRequest{Csr: csr, JoinToken: token})
	return tls.Certificate{Certificate: answer.GetChain(), PrivateKey: key}, err
}

func (p plane) joined(id string) tls.Certificate {
	p.t.Helper()
	token, err := p.CreateToken(id)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := p.join(id, token)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert
}

type stream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

func (p plane) stream(cert tls.Certificate) stream {
	p.t.Helper()
	c := p.trust()
	c.Certificates = []tls.Certificate{cert}
	s, err := discovery.NewAggregatedDiscoveryServiceClient(p.dial(p.XDSAddr().String(), c)).DeltaAggregatedResources(within(p.t))
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

var allTypes = []string{xds.TableType, xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType}

func send(t *testing.T, s stream, r *discovery.DeltaDiscoveryRequest) {
	t.Helper()
	if err := s.Send(r); err != nil {
		t.Fatal(err)
	}
}

// follow subscribes to everything and acknowledges it; the newest table goes to the channel.
func follow(t *testing.T, s stream) <-chan *authz.Table {
	t.Helper()
	for _, typeURL := range allTypes {
		send(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
	}
	tables := make(chan *authz.Table, 100)
	go func() {
		defer close(tables)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			if r.GetTypeUrl() == xds.TableType && len(r.GetResources()) == 1 {
				table, err := authz.DecodeTable(r.GetResources()[0].GetResource().GetValue())
				if err != nil {
					t.Errorf("table: %v", err)
					return
				}
				tables <- table
			}
			if err := s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
				return
			}
		}
	}()
	return tables
}

func TestAnAgentJoinsAndFollows(t *testing.T) {
	t.Parallel()
	p := start(t, controlplane.Config{State: filepath.Join(t.TempDir(), "state")}, example(t))
	g, err := p.WaitGeneration(within(t), nil)
	if err != nil || g.Number() != 1 {
		t.Fatalf("generation %d, %v", g.Number(), err)
	}
	tables := follow(t, p.stream(p.joined(acmeOrders)))
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Fatal(err)
	}
	first := <-tables
	if w, ok := first.Workload(); !ok || w.String() != acmeOrders {
		t.Errorf("the table is %s's", w)
	}

	p.edit("tenants/acme/orders.yaml", "methods: [GET]", "methods: [GET, HEAD]")
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() == 2 }); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Fatal(err)
	}
	if second := <-tables; second.Version() == first.Version() {
		t.Error("the table did not change")
	}
	if s := p.Streams(); len(s) != 1 || s[0].Workload.String() != acmeOrders {
		t.Errorf("streams %v", s)
	}

	// A broken file is told and keeps nobody back.
	p.edit("tenants/acme/orders.yaml", "spec:", "spek:")
	p.edit("tenants/globex/orders.yaml", "methods: [GET]", "methods: [GET, HEAD]")
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() >= 3 }); err != nil {
		t.Fatal(err)
	}
	deadline := within(t)
	for e, _ := p.Last(); len(e.Problems) == 0; e, _ = p.Last() {
		select {
		case <-deadline.Done():
			t.Fatal("the broken file is not told")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := p.WaitAcknowledged(deadline, acmeOrders); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.WaitAcknowledged(short, acmeOrders, globexOrders); err == nil || !strings.Contains(err.Error(), globexOrders) {
		t.Errorf("a workload without a stream has acknowledged: %v", err)
	}
}

func TestTokensAndTheRootsSurviveARestart(t *testing.T) {
	t.Parallel()
	state, config := filepath.Join(t.TempDir(), "state"), example(t)
	first := start(t, controlplane.Config{State: state}, config)
	if _, err := first.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	cert := first.joined(acmeOrders)
	token, err := first.CreateToken(globexOrders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.join(acmeOrders, token); status.Code(err) != codes.Unauthenticated {
		t.Errorf("globex's token for acme: %v", err)
	}
	if _, err := first.CreateToken("spiffe://acme.demo.test/ns/acme/sa/nobody"); err == nil {
		t.Error("a token for nobody")
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := start(t, controlplane.Config{State: state}, config)
	if _, err := second.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	follow(t, second.stream(cert))
	if err := second.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Errorf("an SVID of before the restart: %v", err)
	}
	if _, err := second.join(globexOrders, token); err != nil {
		t.Errorf("a token of before the restart: %v", err)
	}
}

// TestAcceptedDocumentsSurviveARestart: with and without the file of the process before.
func TestAcceptedDocumentsSurviveARestart(t *testing.T) {
	t.Parallel()
	state, config := filepath.Join(t.TempDir(), "state"), example(t)
	kept := filepath.Join(state, "accepted")
	p := start(t, controlplane.Config{State: state}, config)
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	served := func() (string, []byte) {
		t.Helper()
		g, err := p.WaitGeneration(within(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		w, _ := g.Workload(acmeOrders)
		snapshot, table, _ := g.Snapshot(w)
		return snapshot.Version(), table
	}
	version, table := served()
	restart := func() {
		t.Helper()
		if err := p.stop(); err != nil { // it ends after the documents are kept
			t.Fatal(err)
		}
		p = start(t, controlplane.Config{State: state, Log: zap.NewNop()}, config)
	}
	p.edit("tenants/acme/orders.yaml", "spec:", "spek:")
	for range 2 {
		restart()
		if again, same := served(); again != version || !bytes.Equal(table, same) {
			t.Errorf("acme/orders has %q after the restart, %q before", again, version)
		}
	}
	if err := os.Truncate(kept, 100); err != nil {
		t.Fatal(err)
	}
	restart()
	if again, _ := served(); again != "" {
		t.Errorf("acme/orders has %q of a damaged file", again)
	}
	if _, err := os.Stat(kept + ".bad"); err != nil {
		t.Errorf("the damaged file is not set aside: %v", err)
	}
}

func TestNobodyIsServedWithoutACertificateOfTheMesh(t *testing.T) {
	t.Parallel()
	p := start(t, controlplane.Config{}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	stranger := start(t, controlplane.Config{}, example(t)) // the same names, other roots
	if _, err := stranger.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]tls.Certificate{"none": {}, "of other roots": stranger.joined(acmeOrders)} {
		c := p.trust()
		if cert.PrivateKey != nil {
			c.Certificates = []tls.Certificate{cert}
		}
		s, err := discovery.NewAggregatedDiscoveryServiceClient(p.dial(p.XDSAddr().String(), c)).DeltaAggregatedResources(within(t))
		if err == nil {
			_, err = s.Recv()
		}
		if err == nil {
			t.Errorf("certificate %s: served", name)
		}
	}
}

func TestBeforeTheFirstGeneration(t *testing.T) {
	t.Parallel()
	p := start(t, controlplane.Config{}, t.TempDir())
	if p.Generation() != nil {
		t.Fatal("a generation of nothing")
	}
	if _, err := p.PlatformRootPEM(); err == nil {
		t.Error("a root before the Mesh is known")
	}
	if _, err := p.CreateToken(acmeOrders); err == nil {
		t.Error("a token before the mesh is known")
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	conn, err := d.DialContext(within(t), "tcp", p.IssuerAddr().String())
	if err == nil {
		_ = conn.Close()
		t.Error("a handshake without a certificate to show")
	}
	expect := func(path string, code int, text string) {
		t.Helper()
		resp, err := http.Get("http://" + p.HTTPAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != code || !strings.Contains(string(body), text) {
			t.Errorf("%s: %d %q, %v", path, resp.StatusCode, body, err)
		}
	}
	expect("/healthz", http.StatusOK, "ok")
	expect("/readyz", http.StatusServiceUnavailable, "no configuration is published yet")
	expect("/metrics", http.StatusOK, "ringfence_generation 0")
	expect("/debug/pprof/", http.StatusNotFound, "")
	if err := os.CopyFS(p.config, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	expect("/readyz", http.StatusOK, "ok")
	expect("/metrics", http.StatusOK, "ringfence_generation 1")
	http.DefaultClient.CloseIdleConnections()
}

func TestTheControlPlaneRenewsItself(t *testing.T) {
	t.Parallel()
	var (
		mu  sync.Mutex
		now = time.Now()
	)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	p := start(t, controlplane.Config{Issuer: issuer.Options{TTL: time.Hour}, Clock: clock}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	shown := func() *x509.Certificate {
		t.Helper()
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
		conn, err := d.DialContext(within(t), "tcp", p.IssuerAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		secure, ok := conn.(*tls.Conn)
		if !ok {
			t.Fatalf("a %T", conn)
		}
		return secure.ConnectionState().PeerCertificates[0]
	}
	first := shown()
	if !first.Equal(shown()) {
		t.Error("a new SVID for each handshake")
	}
	mu.Lock()
	now = now.Add(40 * time.Minute)
	mu.Unlock()
	if second := shown(); second.Equal(first) || !second.NotAfter.After(first.NotAfter) {
		t.Errorf("not renewed: %s, then %s", first.NotAfter, second.NotAfter)
	}
	// What was made while the clock was ahead is not shown once it was set back: nobody would believe it yet.
	mu.Lock()
	back := now
	now = now.Add(time.Hour)
	mu.Unlock()
	early := shown()
	mu.Lock()
	now = back
	mu.Unlock()
	if third := shown(); !early.NotBefore.After(back) || third.NotBefore.After(back) {
		t.Errorf("at %s: an SVID from %s, after one from %s", back, third.NotBefore, early.NotBefore)
	}
	// Another Mesh, another name.
	p.edit("mesh.yaml", "platformTrustDomain: platform.demo.test", "platformTrustDomain: other.demo.test")
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() > 1 }); err != nil {
		t.Fatal(err)
	}
	if uri := shown().URIs[0].String(); uri != "spiffe://other.demo.test/ns/ringfence-system/sa/control-plane" {
		t.Errorf("shows %s", uri)
	}
}

// An operator's revocation seems to be over while the clock is ahead, and others are made: set back again, it holds.
func TestAClockThatWasAheadEndsNoRevocation(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "admin.sock")
	config, state := example(t), filepath.Join(t.TempDir(), "state")
	p := start(t, controlplane.Config{State: state, AdminSocket: socket, Clock: clock}, config)
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := agentv1alpha1.NewRevocationsClient(conn)
	revoke := func(workload string) {
		t.Helper()
		_, err := client.Revoke(within(t), &agentv1alpha1.RevokeRequest{
			Identity: &agentv1alpha1.RevokedIdentity{Workload: workload}, Reason: "stolen", NotAfterUnix: clock().Add(30 * time.Minute).Unix(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	revoke(globexOrders)
	ahead.Store(int64(time.Hour))
	revoke(globexWeb)
	ahead.Store(0)
	list, err := client.List(within(t), &agentv1alpha1.ListRevocationsRequest{})
	if err != nil || len(list.GetRevocations()) != 2 {
		t.Fatalf("%v, %v", list.GetRevocations(), err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = start(t, controlplane.Config{State: state, Clock: clock}, config)
	g, err := p.WaitGeneration(within(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.Mapping().TenantID("globex")
	if err != nil {
		t.Fatal(err)
	}
	if of, _ := g.Model().Tenant(id); len(of.Revocations()) != 2 {
		t.Errorf("the next process has %d revocations", len(of.Revocations()))
	}
}

func TestTheAdminSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "admin.sock")
	p := start(t, controlplane.Config{AdminSocket: socket}, example(t))
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := controlplane.ListenUnix(t.Context(), socket); err == nil {
		t.Error("two listen on one socket")
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays behind: %v", err)
	}

	// A socket that a dead process left is taken over; anything else is not touched.
	l, err := controlplane.ListenUnix(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "left.sock")
	if err := os.Rename(socket, left); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := controlplane.ListenUnix(t.Context(), left)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := controlplane.ListenUnix(t.Context(), file); err == nil {
		t.Error("listens in place of a file")
	}
	if _, err := controlplane.ListenUnix(t.Context(), filepath.Join(dir, strings.Repeat("x", 100))); err == nil {
		t.Error("a path that no socket can have")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestNewLetsGoOfEverythingWhenItFails(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	c := controlplane.Config{
		Source: source.NewDirectory(t.TempDir(), zap.NewNop()), Log: zap.NewNop(), State: state,
		XDSListen: "127.0.0.1:0", IssuerListen: "127.0.0.1:0",
	}
	for name, spoil := range map[string]func(c *controlplane.Config){
		"xDS":    func(c *controlplane.Config) { c.XDSListen = "nowhere" },
		"issuer": func(c *controlplane.Config) { c.IssuerListen = "nowhere" },
		"admin":  func(c *controlplane.Config) { c.AdminSocket = filepath.Join(t.TempDir(), "no", "where") },
		"http":   func(c *controlplane.Config) { c.HTTPListen = "nowhere" },
		"ttl":    func(c *controlplane.Config) { c.Issuer.TTL = time.Second },
	} {
		bad := c
		spoil(&bad)
		if _, err := controlplane.New(t.Context(), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	cp, err := controlplane.New(t.Context(), c)
	if err != nil {
		t.Fatalf("the state is still held: %v", err)
	}
	if err := errors.Join(cp.Close(), cp.Close()); err != nil {
		t.Error(err)
	}
}
