package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acmeWeb   = "spiffe://acme.demo.test/ns/acme/sa/web"
	globexWeb = "spiffe://globex.demo.test/ns/globex/sa/web"
)

var allTypes = []string{xds.TableType, xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType}

// mesh is a control plane's state: two tenants and their CAs.
type mesh struct {
	t        *testing.T
	mapping  identity.Mapping
	cas      map[string]*testca.CA
	verifier atomic.Pointer[identity.Verifier]
	registry *prometheus.Registry
	server   *server.Server
	addr     string

	mu        sync.Mutex
	snapshots map[identity.WorkloadID]xds.Snapshot
	tables    map[identity.WorkloadID][]byte
	changed   chan struct{}
	revoked   atomic.Value // the SPIFFE ID, as a string
}

func newMesh(t *testing.T, limits server.Limits) *mesh {
	t.Helper()
	m := &mesh{
		t: t, cas: map[string]*testca.CA{}, registry: prometheus.NewRegistry(),
		snapshots: map[identity.WorkloadID]xds.Snapshot{}, tables: map[identity.WorkloadID][]byte{}, changed: make(chan struct{}, 1),
	}
	var err error
	m.mapping, err = identity.NewMapping(identity.MustTrustDomain("platform.demo.test"),
		[]identity.MappingRule{{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, td := range []string{"acme.demo.test", "globex.demo.test", "platform.demo.test"} {
		m.cas[td] = testca.Constrained(t, td)
	}
	m.believe()
	m.start(limits)
	return m
}

// believe makes the present roots, without those of the trust domains that are left out, the ones that count.
func (m *mesh) believe(without ...string) {
	m.t.Helper()
	var bundles []identity.Bundle
	for td, ca := range m.cas {
		if !slices.Contains(without, td) {
			bundles = append(bundles, ca.Bundle(td))
		}
	}
	all, err := identity.NewBundles(bundles...)
	if err != nil {
		m.t.Fatal(err)
	}
	v := identity.NewVerifier(m.mapping, all)
	m.verifier.Store(&v)
}

func (m *mesh) start(limits server.Limits) {
	m.t.Helper()
	self := m.cas["platform.demo.test"].SVID("spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane").TLS()
	metrics, err := server.NewMetrics(m.registry)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server, err = server.New(server.Config{
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &self, nil },
		Verifier:    func() identity.Verifier { return *m.verifier.Load() },
		Snapshots:   m, Clock: time.Now, Log: zap.NewNop(), Metrics: metrics, Limits: limits,
		Revoked: func(p identity.Peer) bool { return m.revoked.Load() == p.ID().String() },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(m.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.server.Serve(ctx, l) }()
	m.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			m.t.Errorf("serve: %v", err)
		}
	})
}

func (m *mesh) Snapshot(w identity.WorkloadID) (xds.Snapshot, []byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.snapshots[w]
	return s, m.tables[w], ok
}

func (m *mesh) Subscribe() (<-chan struct{}, func()) { return m.changed, func() {} }

// set publishes a workload's resources: one of each type, named after the owner.
func (m *mesh) set(id, name, value string) {
	m.t.Helper()
	w, err := m.mapping.Parse(id)
	if err != nil {
		m.t.Fatal(err)
	}
	var rs []xds.Resource
	for _, typeURL := range allTypes[1:] {
		rs = append(rs, xds.NewResource(typeURL, name, []byte(value)))
	}
	s, err := xds.NewSnapshot(w, rs...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	m.snapshots[w], m.tables[w] = s, []byte("table "+value)
	m.mu.Unlock()
	m.tell()
}

func (m *mesh) drop(id string) {
	m.t.Helper()
	w, err := m.mapping.Parse(id)
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	delete(m.snapshots, w)
	m.mu.Unlock()
	m.tell()
}

func (m *mesh) tell() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// agent is a client that asks for everything and acknowledges everything.
type agent struct {
	t      *testing.T
	conn   *grpc.ClientConn
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

func (m *mesh) dial(creds credentials.TransportCredentials) *agent {
	m.t.Helper()
	conn, err := grpc.NewClient(m.addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(m.t.Context())
	if err != nil {
		return &agent{t: m.t, conn: conn}
	}
	return &agent{t: m.t, conn: conn, stream: stream}
}

func clientTLS(svid *testca.SVID) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{svid.TLS()}})
}

func (m *mesh) as(id string, options ...testca.Option) *agent {
	m.t.Helper()
	td, _, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
	return m.dial(clientTLS(m.cas[td].SVID(id, options...)))
}

func (a *agent) send(req *discovery.DeltaDiscoveryRequest) {
	a.t.Helper()
	if err := a.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		a.t.Fatal(err)
	}
}

func (a *agent) recv() *discovery.DeltaDiscoveryResponse {
	a.t.Helper()
	resp, err := a.stream.Recv()
	if err != nil {
		a.t.Fatal(err)
	}
	return resp
}

func (a *agent) ack(resp *discovery.DeltaDiscoveryResponse) {
	a.t.Helper()
	a.send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
}

func (a *agent) askAll() {
	a.t.Helper()
	for _, typeURL := range allTypes {
		a.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
	}
}

// fails expects the stream to end with this code.
func (a *agent) fails(want codes.Code) {
	a.t.Helper()
	if a.stream == nil {
		return // not even a stream
	}
	for {
		if _, err := a.stream.Recv(); err != nil {
			if got := status.Code(err); got != want {
				a.t.Errorf("the stream ends with %v (%v), want %v", got, err, want)
			}
			return
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

func TestAgentGetsItsOwnAndStatusFollows(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(acmeWeb, "acme", "1")
	m.set(globexWeb, "globex", "1")
	a := m.as(acmeWeb)
	a.askAll()
	for range allTypes {
		resp := a.recv()
		r := resp.GetResources()[0]
		if want := map[bool]string{true: acmeWeb, false: "acme"}[resp.GetTypeUrl() == xds.TableType]; r.GetName() != want {
			t.Errorf("%s: got %q", resp.GetTypeUrl(), r.GetName())
		}
		a.ack(resp)
	}
	target := func() string {
		w, err := m.mapping.Parse(acmeWeb)
		if err != nil {
			t.Fatal(err)
		}
		s, table, _ := m.Snapshot(w)
		return server.TargetID(s.Version(), table)
	}
	acked := func() bool {
		all := m.server.Status()
		return len(all) == 1 && all[0].Acked == target() && all[0].Workload.String() == acmeWeb
	}
	eventually(t, "everything acknowledged", acked)

	m.set(acmeWeb, "acme", "2")
	for range allTypes {
		resp := a.recv()
		if resp.GetTypeUrl() == xds.ListenerType {
			a.send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: "bad listener"}})
			continue
		}
		a.ack(resp)
	}
	eventually(t, "the refusal is known", func() bool {
		all := m.server.Status()
		return all[0].Refused[delta.Key{TypeURL: xds.ListenerType, Name: "acme"}].Text == "bad listener"
	})
	if acked() {
		t.Error("a refused configuration counts as acknowledged")
	}
	m.set(acmeWeb, "acme", "3")
	for range allTypes {
		a.ack(a.recv())
	}
	eventually(t, "everything acknowledged", acked)

	m.drop(acmeWeb) // a workload that no document names any more
	for range allTypes {
		resp := a.recv()
		if len(resp.GetRemovedResources()) != 1 {
			t.Errorf("got %v", resp)
		}
		a.ack(resp)
	}
	want := `
# HELP ringfence_xds_nacks_total Discovery responses refused by a client.
# TYPE ringfence_xds_nacks_total counter
ringfence_xds_nacks_total{tenant="acme",type="listener"} 1
# HELP ringfence_xds_streams Open discovery streams.
# TYPE ringfence_xds_streams gauge
ringfence_xds_streams{tenant="acme"} 1
`
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), "ringfence_xds_nacks_total", "ringfence_xds_streams"); err != nil {
		t.Error(err)
	}
	eventually(t, "propagation measured", func() bool {
		n, err := testutil.GatherAndCount(m.registry, "ringfence_xds_propagation_seconds")
		return err == nil && n == 1
	})
}

// What a tenant asks for in another's name: nothing comes, and the answer to a foreign name is that to an unknown one.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	limits := server.DefaultLimits()
	limits.Stream.Hold = time.Millisecond // nobody here asks for a new cluster's endpoints
	m := newMesh(t, limits)
	m.set(acmeWeb, "acme", "1")
	m.set(globexWeb, "globex", "secret of globex")
	node := &corev3.Node{Id: globexWeb, Cluster: "globex"}

	// All that comes until the removal of a name of our own, which is the last thing to be said.
	const end = "zz-end"
	answers := func(typeURL string, versions map[string]string, names ...string) []byte {
		a := m.as(acmeWeb)
		defer func() { _ = a.conn.Close() }()
		first := &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL, ResourceNamesSubscribe: names, InitialResourceVersions: versions}
		last := first
		if typeURL == xds.SecretType { // where a removal would be silence
			last = &discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType}
		}
		last.ResourceNamesSubscribe = append(last.GetResourceNamesSubscribe(), end)
		last.InitialResourceVersions = maps.Clone(last.GetInitialResourceVersions())
		if last.InitialResourceVersions == nil {
			last.InitialResourceVersions = map[string]string{}
		}
		last.InitialResourceVersions[end] = "1"
		a.send(first)
		if last != first {
			a.send(last)
		}
		var out []byte
		for {
			resp := a.recv()
			a.ack(resp)
			for _, r := range resp.GetResources() {
				if r.GetName() != "acme" && r.GetName() != acmeWeb {
					t.Errorf("acme got %v", r)
				}
			}
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b...)
			if slices.Contains(resp.GetRemovedResources(), end) {
				return out
			}
		}
	}
	for _, typeURL := range allTypes {
		for name, ask := range map[string]func(foreign string) []byte{
			"by name":              func(n string) []byte { return answers(typeURL, nil, n) },
			"by wildcard":          func(n string) []byte { return answers(typeURL, nil, "*", n) },
			"as one's own":         func(n string) []byte { return answers(typeURL, map[string]string{n: "1"}, n) },
			"as one's own, by all": func(n string) []byte { return answers(typeURL, map[string]string{n: "1"}, "*") },
		} {
			foreign, unknown := ask("globex"), ask("nobody")
			if strings.Contains(string(foreign), "secret of globex") {
				t.Errorf("%s %s: acme got globex's bytes", typeURL, name)
			}
			if diff := cmp.Diff(string(unknown), strings.ReplaceAll(string(foreign), "globex", "nobody")); diff != "" {
				t.Errorf("%s %s: foreign and unknown differ:\n%s", typeURL, name, diff)
			}
		}
	}
}

// A workload that is in no document gets the answers of one that has nothing.
func TestUnknownWorkloadSeesNothing(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(globexWeb, "globex", "1")
	a := m.as("spiffe://acme.demo.test/ns/acme/sa/stranger")
	a.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	a.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"globex"}})
	if resp := a.recv(); len(resp.GetResources())+len(resp.GetRemovedResources()) > 0 {
		t.Errorf("got %v", resp)
	}
	if resp := a.recv(); len(resp.GetResources()) > 0 || !cmp.Equal(resp.GetRemovedResources(), []string{"globex"}) {
		t.Errorf("got %v", resp)
	}
}

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(acmeWeb, "acme", "1")
	tests := map[string]*agent{
		"no certificate":        m.dial(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		"plaintext":             m.dial(insecure.NewCredentials()),
		"TLS 1.2":               m.dial(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{m.cas["acme.demo.test"].SVID(acmeWeb).TLS()}})),
		"expired":               m.as(acmeWeb, testca.ValidFor(-2*time.Hour, -time.Hour)),
		"another tenant's root": m.dial(clientTLS(m.cas["globex.demo.test"].SVID(acmeWeb))),
		"two URI SANs":          m.as(acmeWeb, testca.RawURIs(acmeWeb, "spiffe://acme.demo.test/ns/acme/sa/orders")),
		"upper-case scheme":     m.as(acmeWeb, testca.RawURIs("SPIFFE://acme.demo.test/ns/acme/sa/web")),
		"unmapped":              m.as(acmeWeb, testca.RawURIs("spiffe://acme.demo.test/workload")),
	}
	for name, a := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a.t = t
			a.fails(codes.Unavailable) // the handshake fails
		})
	}
}

func TestStreamEndsWithTheSVID(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(acmeWeb, "acme", "1")
	a := m.as(acmeWeb, testca.ValidFor(-time.Hour, 2*time.Second))
	a.askAll()
	a.fails(codes.Unauthenticated)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	limits := server.DefaultLimits()
	limits.StreamsPerWorkload = 1
	limits.Stream.RequestBytes = 2000
	m := newMesh(t, limits)
	m.set(acmeWeb, "acme", "1")
	first := m.as(acmeWeb)
	first.askAll()
	first.recv()
	second := m.as(acmeWeb)
	second.fails(codes.ResourceExhausted)
	other := m.as(globexWeb)
	other.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	other.recv() // another workload's stream is not counted
	other.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNamesSubscribe: []string{strings.Repeat("x", 3000)}})
	other.fails(codes.ResourceExhausted)
	first.send(&discovery.DeltaDiscoveryRequest{})
	first.fails(codes.InvalidArgument)
	eventually(t, "no stream is left", func() bool { return len(m.server.Status()) == 0 })
}

// A connection costs memory though no stream is open on it, and streams are all that is counted.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	limits := server.DefaultLimits()
	limits.Idle = 50 * time.Millisecond
	m := newMesh(t, limits)
	m.set(acmeWeb, "acme", "1")
	conn, err := tls.Dial("tcp", m.addr, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{m.cas["acme.demo.test"].SVID(acmeWeb).TLS()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil { // preface, empty SETTINGS
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for kind := byte(0); kind != 7; { // GOAWAY (RFC 9113, section 6.8)
		var head [9]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		kind = head[3]
		if _, err := io.CopyN(io.Discard, conn, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
			t.Fatal(err)
		}
	}
}

// world is the stream of an Envoy without an agent that wants the state of the world.
type world struct {
	t      *testing.T
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
}

func (a *agent) world() world {
	a.t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(a.conn).StreamAggregatedResources(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return world{a.t, stream}
}

func (w world) ask(typeURL, nonce string, names ...string) {
	w.t.Helper()
	node := &corev3.Node{Id: globexWeb, Cluster: "globex"} // a lie, and nobody reads it
	if err := w.stream.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: typeURL, ResponseNonce: nonce, ResourceNames: names}); err != nil {
		w.t.Fatal(err)
	}
}

// bytes are the next response.
func (w world) bytes() []byte {
	w.t.Helper()
	resp, err := w.stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// The state of the world is that of the workload that the certificate names; a foreign name is an unknown one.
func TestStateOfTheWorld(t *testing.T) {
	t.Parallel()
	limits := server.DefaultLimits()
	limits.Stream.Hold = time.Millisecond // nobody here asks for a new cluster's endpoints
	m := newMesh(t, limits)
	m.set(acmeWeb, "acme", "value of acme")
	m.set(globexWeb, "globex", "secret of globex")
	for _, typeURL := range allTypes {
		if typeURL == xds.TableType {
			continue
		}
		answer := func(name string) string {
			a := m.as(acmeWeb)
			defer func() { _ = a.conn.Close() }()
			w := a.world()
			w.ask(typeURL, "", name, "acme")
			// The table is for agents; asked here, it is no reason for an answer.
			w.ask(xds.TableType, "", acmeWeb)
			return string(w.bytes())
		}
		foreign, unknown := answer("globex"), answer("nobody")
		if strings.Contains(foreign, "globex") || !strings.Contains(foreign, "acme") {
			t.Errorf("%s: got %q", typeURL, foreign)
		}
		if foreign != unknown {
			t.Errorf("%s: foreign and unknown differ:\n%q\n%q", typeURL, foreign, unknown)
		}
	}

	a := m.as(acmeWeb)
	w := a.world()
	w.ask(xds.ClusterType, "")
	if first := w.bytes(); !bytes.Contains(first, []byte("acme")) {
		t.Errorf("got %q", first)
	}
	w.ask(xds.ClusterType, "1")
	w.ask(xds.ListenerType, "")
	w.bytes()
	w.ask(xds.ListenerType, "2")
	eventually(t, "acknowledged", func() bool {
		for _, s := range m.server.Status() {
			if s.Acked != "" && s.Acked == s.Target {
				return true
			}
		}
		return false
	})
	m.set(acmeWeb, "acme", "later value")
	if next := w.bytes(); !bytes.Contains(next, []byte("later value")) {
		t.Errorf("got %q", next)
	}
}

// A revocation ends the streams that are open and refuses new connections, of the revoked one alone; its end lets it in.
func TestRevokedClients(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(acmeWeb, "acme", "1")
	m.set(globexWeb, "globex", "1")
	a, b, idle := m.as(acmeWeb), m.as(globexWeb), m.as(acmeWeb)
	for _, x := range []*agent{a, b} {
		x.askAll()
		x.ack(x.recv())
	}
	m.revoked.Store(acmeWeb)
	m.tell()
	a.fails(codes.Unauthenticated)
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(idle.conn).DeltaAggregatedResources(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a new stream on an open connection: %v", err)
	}
	m.as(acmeWeb).fails(codes.Unavailable) // the handshake fails
	m.set(globexWeb, "globex", "2")
	for b.recv().GetResources() == nil {
		continue // globex goes on
	}
	m.revoked.Store("")
	c := m.as(acmeWeb)
	c.askAll()
	c.recv()
}

// A root that is withdrawn ends the streams that it has proved, and opens none. A trust domain that has no roots for a while
// ends none: its agents are to hear what the mesh has for them.
func TestWithdrawnRoots(t *testing.T) {
	t.Parallel()
	m := newMesh(t, server.Limits{})
	m.set(acmeWeb, "acme", "1")
	m.set(globexWeb, "globex", "1")
	a, b, idle := m.as(acmeWeb), m.as(globexWeb), m.as(acmeWeb)
	old := m.cas["acme.demo.test"]
	for _, x := range []*agent{a, b} {
		x.askAll()
		x.ack(x.recv())
	}
	m.believe("acme.demo.test")
	for _, value := range []string{"2", "3"} { // the second comes on a stream that was looked at without roots
		m.set(acmeWeb, "acme", value)
		for {
			resp := a.recv()
			a.ack(resp)
			if slices.ContainsFunc(resp.GetResources(), func(r *discovery.Resource) bool { return string(r.GetResource().GetValue()) == value }) {
				break // acme goes on
			}
		}
	}
	m.cas["acme.demo.test"] = testca.Constrained(t, "acme.demo.test")
	m.believe()
	m.tell()
	a.fails(codes.Unauthenticated)
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(idle.conn).DeltaAggregatedResources(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a new stream on an open connection: %v", err)
	}
	c := m.as(acmeWeb)
	c.askAll()
	c.recv()
	m.cas["acme.demo.test"] = old // and the certificate of the old one again
	m.as(acmeWeb).fails(codes.Unavailable)
	m.set(globexWeb, "globex", "2")
	for b.recv().GetResources() == nil {
		continue // globex goes on
	}
}

func TestConfigIsComplete(t *testing.T) {
	t.Parallel()
	if _, err := server.New(server.Config{}); err == nil {
		t.Error("a server without anything was made")
	}
}
