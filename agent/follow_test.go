package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	acmeDomain = "acme.demo.test"
	globexWeb  = "spiffe://globex.demo.test/ns/globex/sa/web"
)

var errHang = errors.New("nothing is said")

// api is a Workload API that says what the test wants, good or bad, and says it again on every stream.
type api struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	t    *testing.T
	path string
	stop func()

	mu      sync.Mutex
	now     func() (*workload.X509SVIDResponse, error)
	changed chan struct{}
	streams int
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, path: filepath.Join(realenvoy.Dir(t), "api.sock"), changed: make(chan struct{})}
	a.hang()
	a.start()
	return a
}

func (a *api) start() {
	a.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(a.t.Context(), "unix", a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	a.stop = sync.OnceFunc(func() { s.Stop(); <-done })
	a.t.Cleanup(a.stop)
}

// FetchX509SVID implements the Workload API.
func (a *api) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "the security header is missing")
	}
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		now, changed := a.now, a.changed
		a.mu.Unlock()
		resp, err := now()
		if err == nil {
			err = stream.Send(resp)
		}
		if err != nil && !errors.Is(err, errHang) {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (a *api) opened() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams
}

func (a *api) say(now func() (*workload.X509SVIDResponse, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = now
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *api) hang() { a.say(func() (*workload.X509SVIDResponse, error) { return nil, errHang }) }

func (a *api) refuse() {
	a.say(func() (*workload.X509SVIDResponse, error) {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	})
}

func (a *api) give(svids ...*workload.X509SVID) {
	a.say(func() (*workload.X509SVIDResponse, error) { return &workload.X509SVIDResponse{Svids: svids}, nil })
}

// of is an SVID as the Workload API carries it, under the first of the roots.
func of(t *testing.T, s *testca.SVID, id string, roots ...*testca.CA) *workload.X509SVID {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	var bundle []byte
	for _, ca := range roots {
		bundle = append(bundle, ca.Cert.Raw...)
	}
	return &workload.X509SVID{SpiffeId: id, X509Svid: s.Cert.Raw, X509SvidKey: key, Bundle: bundle}
}

func good(t *testing.T, roots ...*testca.CA) *workload.X509SVID {
	t.Helper()
	return of(t, roots[0].SVID(acmeOrders), acmeOrders, roots...)
}

func bundleOf(t *testing.T, roots ...*testca.CA) *identity.Bundle {
	t.Helper()
	var ders [][]byte
	for _, ca := range roots {
		ders = append(ders, ca.Cert.Raw)
	}
	b, err := identity.NewBundle(identity.MustTrustDomain(acmeDomain), ders...)
	if err != nil {
		t.Fatal(err)
	}
	return &b
}

func (p *plane) following(dir string, from *api) agent.Config {
	p.t.Helper()
	c := p.config(dir, false)
	c.Issuer, c.WorkloadAPI = "", "unix://"+from.path
	return c
}

// serial is that of the certificate on the disk.
func serial(t *testing.T, dir string) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(decoded(t, file(t, dir, "svid.pem")))
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// The SVID comes from the Workload API, and every further one goes to Envoy, to the stream, to the application and to the disk, from
// which the agent goes on while everybody else is away.
func TestAgentTakesItsSVIDFromTheWorkloadAPI(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	// Others' SVIDs beside, as an issuer gives to a process that is several workloads.
	first := good(t, ca)
	from.give(of(t, ca.SVID("spiffe://acme.demo.test/ns/acme/sa/web"), "spiffe://acme.demo.test/ns/acme/sa/web", ca), first)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	a.ready()
	if err := a.Status().WorkloadAPI; err != "" {
		t.Errorf("trouble: %s", err)
	}
	client, err := workloadapi.NewX509Source(t.Context(),
		workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+filepath.Join(dir, "workload.sock"))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	for range 2 {
		before, stream := serial(t, dir), p.server.Status()
		next := ca.SVID(acmeOrders)
		from.give(of(t, next, acmeOrders, ca))
		eventually(t, "it is on the disk", func() bool { return serial(t, dir) != before })
		eventually(t, "Envoy has it", func() bool { return strings.Contains(a.ask("certs"), next.Cert.SerialNumber.Text(16)) })
		eventually(t, "the application has it", func() bool {
			svid, err := client.GetX509SVID()
			return err == nil && svid.Certificates[0].Equal(next.Cert)
		})
		eventually(t, "another stream", func() bool {
			now := p.server.Status()
			return len(now) == 1 && len(stream) == 1 && now[0].Since.After(stream[0].Since) && now[0].Acked == now[0].Target
		})
	}
	private(t, dir)
	last, key := serial(t, dir), file(t, dir, "key.pem")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	from.stop()
	a = start(t, p.following(dir, from))
	a.ready()
	eventually(t, "that the Workload API is away is said", func() bool { return a.Status().WorkloadAPI != "" && a.Status().Failures > 0 })
	if serial(t, dir) != last || !bytes.Equal(file(t, dir, "key.pem"), key) {
		t.Error("the SVID on the disk is another one")
	}
	from.give(good(t, ca))
	from.start()
	eventually(t, "the Workload API is back", func() bool { return serial(t, dir) != last && a.Status().WorkloadAPI == "" })
	a.ready()
}

// The roots that the Workload API gives are those that the agent believes of its own tenant; what the control plane says beyond
// them is refused until the Workload API says it too.
func TestTheWorkloadAPIAnchorsTheOwnTenantsTrust(t *testing.T) {
	t.Parallel()
	one, two := testca.Unconstrained(t, "one"), testca.Unconstrained(t, "two")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, one)), newAPI(t)
	svid := one.SVID(acmeOrders)
	from.give(of(t, svid, acmeOrders, one))
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	a.ready()
	holds := func(ca *testca.CA) bool {
		return bytes.Contains(file(t, dir, "state"), bundleOf(t, ca).PEM())
	}

	p.external.Store(bundleOf(t, one, two))
	p.publish()
	eventually(t, "the agent refuses a root that only the control plane knows", func() bool {
		now := p.server.Status()
		return len(now) == 1 && len(now[0].Refused) > 0
	})
	if holds(two) {
		t.Fatal("it was taken")
	}
	from.give(of(t, svid, acmeOrders, one, two))
	eventually(t, "the agent takes it once the Workload API gives it too", func() bool {
		now := p.server.Status()
		return len(now) == 1 && now[0].Acked == now[0].Target && holds(two)
	})
	if !bytes.Equal(file(t, dir, "bundle.pem"), bundleOf(t, one, two).PEM()) {
		t.Error("the roots are not kept")
	}
	// From one root to the other, with an SVID of the new one.
	from.give(good(t, two))
	p.external.Store(bundleOf(t, two))
	p.publish()
	eventually(t, "the old root is gone", func() bool {
		now := p.server.Status()
		return len(now) == 1 && now[0].Acked == now[0].Target && !holds(one) && holds(two)
	})
	a.ready()
}

// Whatever a Workload API does, the last good SVID stays in force, the reason is told, and the next good one is taken.
func TestAgentOutlivesABadWorkloadAPI(t *testing.T) {
	t.Parallel()
	ca, stranger := testca.Unconstrained(t, "acme"), testca.Unconstrained(t, "stranger")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	from.give(good(t, ca))
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	a.ready()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*workload.X509SVID)) func() {
		return func() {
			s := good(t, ca)
			change(s)
			from.give(s)
		}
	}
	for _, bad := range []struct {
		name, says string
		do         func()
	}{
		{"nothing registered", "no identity issued", from.refuse},
		{"no SVID", "no SVID of this workload", func() { from.give() }},
		{"only other workloads", "no SVID of this workload", func() { from.give(of(t, ca.SVID(globexWeb), globexWeb, ca)) }},
		{"two", "several SVIDs", func() { from.give(good(t, ca), good(t, ca)) }},
		{"another tenant's under our name", "globex", with(func(s *workload.X509SVID) {
			other := of(t, ca.SVID(globexWeb), acmeOrders, ca)
			s.X509Svid, s.X509SvidKey = other.GetX509Svid(), other.GetX509SvidKey()
		})},
		{"expired", "outside its validity", func() {
			from.give(of(t, ca.SVID(acmeOrders, testca.ValidFor(-time.Hour, -time.Minute)), acmeOrders, ca))
		}},
		{"not begun", "outside its validity", func() {
			from.give(of(t, ca.SVID(acmeOrders, testca.ValidFor(time.Hour, 2*time.Hour)), acmeOrders, ca))
		}},
		{"of a stranger's root", "SVID", func() { from.give(of(t, stranger.SVID(acmeOrders), acmeOrders, ca)) }},
		{"another's key", "another key", with(func(s *workload.X509SVID) { s.X509SvidKey = good(t, ca).GetX509SvidKey() })},
		{"an RSA key", "not ECDSA", with(func(s *workload.X509SVID) { s.X509SvidKey = rsaDER })},
		{"garbage for a certificate", "malformed", with(func(s *workload.X509SVID) { s.X509Svid = []byte("garbage") })},
		{"garbage for a key", "malformed", with(func(s *workload.X509SVID) { s.X509SvidKey = []byte("garbage") })},
		{"garbage for roots", "malformed", with(func(s *workload.X509SVID) { s.Bundle = []byte("garbage") })},
		{"no roots", "malformed", with(func(s *workload.X509SVID) { s.Bundle = nil })},
		{"a leaf for a root", "no CA", with(func(s *workload.X509SVID) { s.Bundle = s.GetX509Svid() })},
	} {
		before, end := serial(t, dir), a.Status().NotAfter
		bad.do()
		eventually(t, bad.name+": it is said", func() bool { return strings.Contains(a.Status().WorkloadAPI, bad.says) })
		if serial(t, dir) != before || !a.Status().NotAfter.Equal(end) || a.Ready() != nil {
			t.Fatalf("%s: the last good SVID is not in force: %v", bad.name, a.Ready())
		}
		from.give(good(t, ca))
		eventually(t, bad.name+": the next good one is taken", func() bool { return serial(t, dir) != before && a.Status().WorkloadAPI == "" })
	}
}

// Without a new SVID the old one ends, and with it every call; a new one opens again. A restart in between waits for it, and needs no
// control plane for it.
func TestAnSVIDOfTheWorkloadAPIEnds(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	from.say(func() (*workload.X509SVIDResponse, error) { // a new one on each stream
		s := of(t, ca.SVID(acmeOrders, testca.ValidFor(-time.Minute, 6*time.Second)), acmeOrders, ca)
		return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{s}}, nil
	})
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	a.ready()
	from.stop()
	eventually(t, "it ends", func() bool { return errors.Is(a.Ready(), agent.ErrExpired) })
	from.start()
	a.ready()
	from.stop()
	eventually(t, "it ends", func() bool { return errors.Is(a.Ready(), agent.ErrExpired) })
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	a = start(t, p.following(dir, from))
	eventually(t, "why there is none is said", func() bool {
		err := a.Ready()
		return errors.Is(err, agent.ErrNotIdentified) && strings.Contains(err.Error(), "api.sock")
	})
	from.give(good(t, ca))
	from.start()
	a.ready()
}

// A Workload API that keeps its stream open and says nothing more is asked anew before the SVID ends.
func TestAWorkloadAPIThatHangsIsAskedAnew(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	from.give(of(t, ca.SVID(acmeOrders, testca.ValidFor(-200*time.Second, 60*time.Second)), acmeOrders, ca)) // the next one is overdue
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	a.ready()
	from.hang()
	streams := from.opened()
	eventually(t, "it is asked anew", func() bool { return from.opened() > streams && a.Status().WorkloadAPI != "" })
	from.give(good(t, ca))
	eventually(t, "the new SVID is taken", func() bool { return time.Until(a.Status().NotAfter) > time.Minute && a.Status().WorkloadAPI == "" })
	a.ready()
}

// An agent may start before everybody else: it waits for each, and says for whom.
func TestAgentWaitsForItsFirstSVID(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	from.stop()
	p.stop()
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.following(dir, from))
	says := func(text string) func() bool {
		return func() bool {
			err := a.Ready()
			return errors.Is(err, agent.ErrNotIdentified) && strings.Contains(err.Error(), text)
		}
	}
	eventually(t, "no socket", says("api.sock"))
	from.refuse()
	from.start()
	eventually(t, "no entry", says("no identity issued"))
	from.give(of(t, ca.SVID(globexWeb), acmeOrders, ca))
	eventually(t, "another tenant's", says("of another SPIFFE ID"))
	from.give(of(t, ca.SVID(acmeOrders, testca.ValidFor(-time.Hour, -time.Minute)), acmeOrders, ca))
	eventually(t, "an old one", says("outside its validity"))
	from.give(good(t, ca))
	eventually(t, "no control plane", says("asking the control plane"))
	p.restart()
	a.ready()
}

// A workload of the issuer's gets its SVIDs elsewhere from one start to the next, in the state directory that it has.
func TestAgentMovesFromTheIssuerToAWorkloadAPI(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlane(t), newAPI(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.external.Store(bundleOf(t, ca))
	p.publish()
	svid := ca.SVID(acmeOrders)
	from.give(of(t, svid, acmeOrders, ca))
	a = start(t, p.following(dir, from))
	eventually(t, "it has the other SVID, and what belongs to it", func() bool {
		now := p.server.Status()
		return serial(t, dir) == svid.Cert.SerialNumber.String() && len(now) == 1 && now[0].Acked == now[0].Target &&
			bytes.Contains(file(t, dir, "state"), bundleOf(t, ca).PEM())
	})
	a.ready()
}

// A stop while it waits is no failure.
func TestAgentStopsWhileItWaitsForTheWorkloadAPI(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	a, err := agent.New(p.following(filepath.Join(realenvoy.Dir(t), "a"), from))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	eventually(t, "it asks", func() bool { return from.opened() > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheWorkloadAPIStandsInForTheIssuer(t *testing.T) {
	t.Parallel()
	ca := testca.Unconstrained(t, "acme")
	p, from := newPlaneOf(t, issuer.Options{}, bundleOf(t, ca)), newAPI(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	for name, change := range map[string]func(*agent.Config){
		"an issuer beside":      func(c *agent.Config) { c.Issuer = p.issuerAddr },
		"a token beside":        func(c *agent.Config) { c.JoinToken = "rfjoin_" },
		"a TCP port":            func(c *agent.Config) { c.WorkloadAPI = "tcp://127.0.0.1:8081" },
		"a relative path":       func(c *agent.Config) { c.WorkloadAPI = "unix://api.sock" },
		"no scheme":             func(c *agent.Config) { c.WorkloadAPI = from.path },
		"the agent's own":       func(c *agent.Config) { c.WorkloadAPI = "unix://" + filepath.Join(dir, "workload.sock") },
		"neither nor":           func(c *agent.Config) { c.WorkloadAPI = "" },
		"own, in other letters": func(c *agent.Config) { c.WorkloadAPI = "unix://" + dir + "/./workload.sock" },
	} {
		c := p.following(dir, from)
		change(&c)
		if _, err := agent.New(c); err == nil {
			t.Errorf("%s: an agent was made", name)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a state directory was made for nothing")
	}
}
