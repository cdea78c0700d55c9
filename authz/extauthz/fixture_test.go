package extauthz_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	acmeWeb      = "spiffe://acme.demo.test/ns/acme/sa/web"
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	globexWeb    = "spiffe://globex.demo.test/ns/globex/sa/web"
	globexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
	platformBill = "spiffe://platform.demo.test/ns/platform/sa/billing"
	acmeIDP      = "https://idp.acme.example.com"
	globexIDP    = "https://idp.globex.example.com"
)

// mesh is examples/two-tenants with roots and token keys whose private halves are here.
type mesh struct {
	t                      testing.TB
	now                    time.Time
	acme, globex, platform *testca.CA
	idp                    *ecdsa.PrivateKey
	files                  map[string]string
	kid                    string // of the tokens that are signed
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{
		t: t, now: time.Now(), idp: key, kid: "k1", files: tenancytest.TwoTenantsFiles(t),
		acme: testca.Constrained(t, "acme.demo.test"), globex: testca.Constrained(t, "globex.demo.test"), platform: testca.Constrained(
			t, "platform.demo.test",
		),
	}
	m.files["platform/acme-jwks.json"], m.files["platform/globex-jwks.json"] = string(jwks), string(jwks)
	return m
}

func (m *mesh) model() *tenancy.Model {
	m.t.Helper()
	in := tenancytest.Input(m.t, m.files)
	var err error
	if in.Bundles, err = identity.NewBundles(
		m.acme.Bundle("acme.demo.test"), m.globex.Bundle("globex.demo.test"), m.platform.Bundle("platform.demo.test"),
	); err != nil {
		m.t.Fatal(err)
	}
	model, problems := tenancy.Build(in)
	if model == nil {
		m.t.Fatal(problems)
	}
	return model
}

// whole is the Table of a tenant, agent's the one that the workload's agent gets.
func (m *mesh) whole(tenant string) *authz.Table {
	m.t.Helper()
	table, err := authz.Compile(tenancytest.Tenant(m.t, m.model(), tenant))
	if err != nil {
		m.t.Fatal(err)
	}
	return table
}

func (m *mesh) agents(id string) *authz.Table {
	m.t.Helper()
	w := m.id(id)
	data, err := m.whole(w.Tenant().Name()).For(w, "v1")
	if err != nil {
		m.t.Fatal(err)
	}
	table, err := authz.DecodeTable(data)
	if err != nil {
		m.t.Fatal(err)
	}
	return table
}

func (m *mesh) id(uri string) identity.WorkloadID {
	m.t.Helper()
	w, err := m.model().Mapping().Parse(uri)
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

// edit changes a file of the configuration.
func (m *mesh) edit(file, old, replacement string) {
	m.t.Helper()
	if !strings.Contains(m.files[file], old) {
		m.t.Fatalf("%s does not hold %q", file, old)
	}
	m.files[file] = strings.Replace(m.files[file], old, replacement, 1)
}

// token is signed by the issuer's key.
func (m *mesh) token(issuer, tenant string, expires time.Time, roles ...string) string {
	m.t.Helper()
	return m.tokenWith(issuer, tenant, expires, map[string]any{"roles": roles})
}

// tokenWith is a token with further claims.
func (m *mesh) tokenWith(issuer, tenant string, expires time.Time, claims map[string]any) string {
	m.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: m.idp}, (&jose.SignerOptions{}).WithHeader("kid", m.kid))
	if err != nil {
		m.t.Fatal(err)
	}
	all := map[string]any{
		"iss": issuer, "aud": "orders-api", "sub": "alice", "tenant": tenant,
		"iat": expires.Add(-10 * time.Minute).Unix(), "exp": expires.Unix(),
	}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		m.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		m.t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

func (m *mesh) clerk() string { return m.token(acmeIDP, "acme", m.now.Add(5*time.Minute), "clerk") }

// asEnvoy writes a certificate as Envoy does.
func asEnvoy(svid *testca.SVID) string {
	return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(string(svid.CertPEM()))
}

// call is a CheckRequest as a sidecar of the service makes it.
func call(svid *testca.SVID, principal, service, method, path string, authorization ...string) *authv3.CheckRequest {
	headers := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: ":method", RawValue: []byte(method)}, {Key: ":path", RawValue: []byte(path)}, {Key: "x-request-id", RawValue: []byte("1")},
	}}
	for _, a := range authorization {
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: "authorization", RawValue: []byte(a)})
	}
	source := &authv3.AttributeContext_Peer{Principal: principal}
	if svid != nil {
		source.Certificate = asEnvoy(svid)
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      source,
		Destination: &authv3.AttributeContext_Peer{},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: method, Path: path, HeaderMap: headers,
		}},
		ContextExtensions: map[string]string{"service": service, "port": "http"},
	}}
}

// tables are fixed Tables by asker.
type tables struct {
	mu            sync.Mutex
	current, next map[string]*authz.Table
}

func (s *tables) Tables(asker identity.WorkloadID) (current, next *authz.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current[asker.String()], s.next[asker.String()]
}

// entries collects what is recorded.
type entries struct {
	mu  sync.Mutex
	all []extauthz.Entry
}

func (e *entries) Record(entry extauthz.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, entry)
}

func (e *entries) last(t testing.TB) extauthz.Entry {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) == 0 {
		t.Fatal("nothing was recorded")
	}
	return e.all[len(e.all)-1]
}

// clock is a time that a test sets.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock(t time.Time) *clock {
	c := &clock{}
	c.set(t)
	return c
}

func (c *clock) set(t time.Time) { c.now.Store(&t) }

func (c *clock) Now() time.Time { return *c.now.Load() }

// point is a running decision point of one asker, and what it tells.
type point struct {
	client   authv3.AuthorizationClient
	conn     *grpc.ClientConn
	tables   *tables
	entries  *entries
	registry *prometheus.Registry
	clock    *clock
}

func start(t testing.TB, m *mesh, asker string, current *authz.Table, options ...extauthz.Option) *point {
	t.Helper()
	p := &point{
		tables:  &tables{current: map[string]*authz.Table{asker: current}, next: map[string]*authz.Table{}},
		entries: &entries{}, registry: prometheus.NewRegistry(), clock: newClock(m.now),
	}
	p.serve(t, extauthz.New(p.tables, extauthz.Fixed(m.id(asker)), p.entries, metrics(t, p.registry), p.clock.Now, options...))
	return p
}

func metrics(t testing.TB, r prometheus.Registerer) *extauthz.Metrics {
	t.Helper()
	m, err := extauthz.NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// serve runs the server on a Unix socket, as an agent does.
func (p *point) serve(t testing.TB, s *extauthz.Server) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "envoy.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(extauthz.ServerOptions()...)
	extauthz.Register(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if p.conn, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	p.client = authv3.NewAuthorizationClient(p.conn)
}

func (p *point) check(t testing.TB, req *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := p.client.Check(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decode asks the server without gRPC, and requires that its answer is what the protobuf library would write.
func decode(t testing.TB, s *extauthz.Server, wire []byte) (*authv3.CheckResponse, error) {
	t.Helper()
	data, err := s.Check(t.Context(), wire)
	if err != nil {
		return nil, err
	}
	resp := &authv3.CheckResponse{}
	if err := proto.Unmarshal(data, resp); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	if again, err := (proto.MarshalOptions{Deterministic: true}).Marshal(resp); err != nil || !bytes.Equal(data, again) {
		t.Fatalf("not as the library writes it: %v, %v\n%x\n%x", resp, err, data, again)
	}
	return resp, nil
}

func reason(resp *authv3.CheckResponse) string {
	return resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
}

func headers(list []*corev3.HeaderValueOption) map[string]string {
	out := map[string]string{}
	for _, h := range list {
		out[h.GetHeader().GetKey()] += h.GetHeader().GetValue()
	}
	return out
}

// greedy marks a call as the greedy asker's, isGreedy reads the mark.
func greedy(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-greedy", "yes")
}

func isGreedy(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, "x-greedy")) > 0
}
