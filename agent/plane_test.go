package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/agent"
	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

const (
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	controlPlane = "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"
)

// plane is a control plane on loopback: the real discovery server and the real issuer over a model of the test's.
type plane struct {
	t      *testing.T
	issuer *issuer.Issuer
	files  map[string]string
	root   []byte

	xdsAddr, issuerAddr string
	stop                func()

	external atomic.Pointer[identity.Bundle] // acme's, where its roots are not the issuer's

	mu      sync.Mutex
	model   *tenancy.Model
	bundles identity.Bundles
	server  *server.Server
	changed chan struct{}
	unknown chan string // of whom a key is unknown, and to whom
	hostile func(w identity.WorkloadID, s xds.Snapshot) xds.Snapshot

	moreRoots atomic.Pointer[[][]byte] // what the hostile variant adds to each renewal
	refused   atomic.Int64             // how often it did
	noJWT     atomic.Pointer[error]    // what the answer is to who asks for a JWT-SVID
	signed    atomic.Int64             // how often somebody asked for one
}

func newPlane(t *testing.T) *plane { return newPlaneWith(t, issuer.Options{}) }

func newPlaneWith(t *testing.T, o issuer.Options) *plane { return newPlaneOf(t, o, nil) }

func newPlaneOf(t *testing.T, o issuer.Options, external *identity.Bundle) *plane {
	t.Helper()
	p := &plane{t: t, files: tenancytest.TwoTenantsFiles(t), changed: make(chan struct{}, 1), unknown: make(chan string, 10)}
	p.external.Store(external)
	o.External = func(td identity.TrustDomain) bool {
		e := p.external.Load()
		return e != nil && td == e.TrustDomain()
	}
	var err error
	if p.issuer, err = issuer.OpenMemory(o); err != nil {
		t.Fatal(err)
	}
	var held []net.Listener
	ports, number := map[string]string{}, regexp.MustCompile(`\b20[0-9]{3}\b`)
	for path, text := range p.files { // another test may use the example's ports
		p.files[path] = number.ReplaceAllStringFunc(text, func(port string) string {
			if ports[port] == "" {
				l := p.listen("127.0.0.1:0")
				ports[port] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
				held = append(held, l)
			}
			return ports[port]
		})
	}
	for _, l := range held {
		_ = l.Close()
	}
	p.publish()
	bundle, _ := p.bundles.Get(p.model.Mapping().Platform())
	p.root = bundle.PEM()
	xdsListener, issuerListener := p.listen("127.0.0.1:0"), p.listen("127.0.0.1:0")
	p.xdsAddr, p.issuerAddr = xdsListener.Addr().String(), issuerListener.Addr().String()
	p.serve(xdsListener, issuerListener)
	return p
}

func (p *plane) listen(address string) net.Listener {
	p.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// publish makes the files the current generation.
func (p *plane) publish() {
	p.t.Helper()
	in := tenancytest.Input(p.t, p.files)
	var err error
	in.Bundles, err = p.issuer.Bundles(time.Now(), tenancy.TrustDomains(in.Documents)...)
	if acme := p.external.Load(); acme != nil && errors.Is(err, issuer.ErrExternal) {
		in.Bundles, err = identity.NewBundles(append(in.Bundles.All(), *acme)...)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	m, problems := tenancy.Build(in)
	if m == nil {
		p.t.Fatalf("problems: %v", problems)
	}
	p.mu.Lock()
	p.model, p.bundles = m, in.Bundles
	p.mu.Unlock()
	p.tell()
}

func (p *plane) tell() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *plane) serve(xdsListener, issuerListener net.Listener) {
	p.t.Helper()
	id, err := p.model.Mapping().ControlPlaneID()
	if err != nil {
		p.t.Fatal(err)
	}
	certificate := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { // a new one each time: it may live for seconds
		self, err := p.issuer.ControlPlane(id, time.Now())
		return &self, err
	}
	metrics, err := server.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := server.New(server.Config{
		Certificate: certificate, Snapshots: p, Clock: time.Now, Log: zap.NewNop(), Metrics: metrics,
		Verifier: func() identity.Verifier {
			p.mu.Lock()
			defer p.mu.Unlock()
			return identity.NewVerifier(p.model.Mapping(), p.bundles)
		},
		UnknownKey: func(w identity.WorkloadID, issuer string) { p.unknown <- w.String() + " " + issuer },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	agentv1alpha1.RegisterRenewalServer(s, renewals{issuer.NewRenewals(p.issuer, p, time.Now, zap.NewNop()), p})
	agentv1alpha1.RegisterMeshServer(s, describer{p: p})
	agentv1alpha1.RegisterJWTSVIDsServer(s, jwtSVIDs{issuer.NewJWTSVIDs(p.issuer, p, time.Now, zap.NewNop()), p})
	p.server = s
	join := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate})))
	agentv1alpha1.RegisterIssuerServer(join, issuer.NewService(p.issuer, p, time.Now, zap.NewNop()))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, xdsListener); err != nil {
			p.t.Errorf("xDS: %v", err)
		}
	})
	wg.Go(func() { _ = join.Serve(issuerListener) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		join.Stop()
		wg.Wait()
	})
	p.t.Cleanup(p.stop)
}

// jwtSVIDs are the issuer's, counted, for everybody who is not refused them.
type jwtSVIDs struct {
	*issuer.JWTSVIDs

	p *plane
}

// Fetch implements agentv1alpha1.JWTSVIDsServer.
func (j jwtSVIDs) Fetch(ctx context.Context, req *agentv1alpha1.FetchJWTSVIDRequest) (*agentv1alpha1.FetchJWTSVIDResponse, error) {
	j.p.signed.Add(1)
	if refusal := j.p.noJWT.Load(); refusal != nil {
		return nil, *refusal
	}
	return j.JWTSVIDs.Fetch(ctx, req)
}

// renewals are the issuer's, with roots beside that it does not have where the hostile variant says so.
type renewals struct {
	*issuer.Renewals

	p *plane
}

// Renew implements agentv1alpha1.RenewalServer.
func (r renewals) Renew(ctx context.Context, req *agentv1alpha1.RenewRequest) (*agentv1alpha1.RenewResponse, error) {
	answer, err := r.Renewals.Renew(ctx, req)
	if more := r.p.moreRoots.Load(); err == nil && more != nil {
		answer.Bundle = append(answer.GetBundle(), *more...)
		r.p.refused.Add(1)
	}
	return answer, err
}

// describer tells how the mesh reads SPIFFE IDs.
type describer struct {
	agentv1alpha1.UnimplementedMeshServer

	p *plane
}

// Describe implements agentv1alpha1.MeshServer.
func (d describer) Describe(ctx context.Context, _ *agentv1alpha1.DescribeRequest) (*agentv1alpha1.DescribeResponse, error) {
	peer, err := d.p.server.Caller(ctx)
	if err != nil {
		return nil, err
	}
	mapping := d.p.Mapping()
	answer := &agentv1alpha1.DescribeResponse{Workload: peer.ID().String(), PlatformTrustDomain: mapping.Platform().String()}
	for _, r := range mapping.Rules() {
		answer.Mapping = append(answer.Mapping, &agentv1alpha1.MappingRule{TrustDomain: r.TrustDomain, Path: r.Path})
	}
	return answer, nil
}

// restart brings a stopped control plane back at its addresses.
func (p *plane) restart() {
	p.t.Helper()
	p.serve(p.listen(p.xdsAddr), p.listen(p.issuerAddr))
}

// Workload implements issuer.Workloads.
func (p *plane) Workload(uri string) (identity.WorkloadID, bool) {
	id, err := p.Mapping().Parse(uri)
	return id, err == nil
}

// Mapping implements issuer.Workloads.
func (p *plane) Mapping() identity.Mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.model.Mapping()
}

// Subscribe implements server.Snapshots.
func (p *plane) Subscribe() (<-chan struct{}, func()) { return p.changed, func() {} }

// Snapshot implements server.Snapshots, and lets the hostile variant change it: with a table that fits.
func (p *plane) Snapshot(w identity.WorkloadID) (xds.Snapshot, []byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tenant, _ := p.model.Tenant(w.Tenant())
	part, err := xds.Compile(tenant)
	if err != nil {
		return xds.Snapshot{}, nil, false
	}
	s, ok := part.Snapshot(w)
	if ok && p.hostile != nil {
		s = p.hostile(w, s)
	}
	tab, err := authz.Compile(tenant)
	if err != nil || !ok {
		return xds.Snapshot{}, nil, false
	}
	bytes, err := tab.For(w, s.Version())
	return s, bytes, err == nil
}

// config is an agent's, with a token where it is the first.
func (p *plane) config(dir string, first bool) agent.Config {
	p.t.Helper()
	return p.configOf(acmeOrders, dir, first)
}

func (p *plane) configOf(workload, dir string, first bool) agent.Config {
	p.t.Helper()
	c := agent.Config{
		ID: workload, StateDir: dir, ControlPlane: p.xdsAddr, Issuer: p.issuerAddr,
		ControlPlaneID: controlPlane, PlatformRoot: p.root,
		EnvoyPath: realenvoy.Path(p.t), EnvoyArgs: []string{"--concurrency", "1"}, Log: zap.NewNop(),
	}
	if first {
		id, _ := p.Workload(workload)
		token, _, err := p.issuer.CreateToken(id, 0, time.Now())
		if err != nil {
			p.t.Fatal(err)
		}
		c.JoinToken = token
	}
	return c
}

// running is an agent that runs in the test.
type running struct {
	*agent.Agent

	t    *testing.T
	dir  string
	stop func() error
}

func start(t *testing.T, c agent.Config) *running {
	t.Helper()
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	r := &running{Agent: a, t: t, dir: c.StateDir}
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	return r
}

func (r *running) ready() {
	r.t.Helper()
	eventually(r.t, "the agent is ready", func() bool { return r.Ready() == nil })
}

// dump is Envoy's whole configuration.
func (r *running) dump() string { return r.ask("config_dump?include_eds") }

// ask asks Envoy's admin interface.
func (r *running) ask(path string) string {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(r.dir, "admin.sock"))
	}}}
	resp, err := client.Get("http://envoy/" + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var text strings.Builder
	if err := resp.Write(&text); err != nil {
		r.t.Fatal(err)
	}
	return text.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// alive reports whether a process runs.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
