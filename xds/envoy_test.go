package xds_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

const patience = 10 * time.Second

// mesh is a compiled mesh whose roots can sign, on ports that are free here.
type mesh struct {
	parts []xds.Part
	cas   map[string]*testca.CA // by trust domain
	ports map[string]string     // of the documents, to those that are used
}

var portText = regexp.MustCompile(`\b20[0-9]{3}\b`)

func realMesh(tb testing.TB, files map[string]string) mesh {
	tb.Helper()
	m := mesh{cas: map[string]*testca.CA{}, ports: map[string]string{}}
	for name, text := range files {
		if filepath.Ext(name) == ".yaml" {
			files[name] = portText.ReplaceAllStringFunc(text, func(port string) string {
				if m.ports[port] == "" {
					m.ports[port] = freePort(tb)
				}
				return m.ports[port]
			})
		}
	}
	in := tenancytest.Input(tb, files)
	var bundles []identity.Bundle
	for _, td := range tenancy.TrustDomains(in.Documents) {
		m.cas[td.String()] = testca.Constrained(tb, td.String())
		bundles = append(bundles, m.cas[td.String()].Bundle(td.String()))
	}
	var err error
	if in.Bundles, err = identity.NewBundles(bundles...); err != nil {
		tb.Fatal(err)
	}
	model, problems := tenancy.Build(in)
	if model == nil {
		tb.Fatalf("no model: %v", problems)
	}
	m.parts = xdstest.Parts(tb, model)
	return m
}

// ports are given once each, to all tests of this package.
var ports freeport.Finder

func freePort(tb testing.TB) string {
	tb.Helper()
	port, err := ports.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return strconv.Itoa(int(port))
}

func (m mesh) address(port string) string { return net.JoinHostPort("127.0.0.1", m.ports[port]) }

func (m mesh) svid(id string) *testca.SVID {
	return m.cas[strings.Split(id, "/")[2]].SVID(id)
}

// sidecar is a real Envoy with the whole configuration of one workload.
type sidecar struct {
	*realenvoy.Process

	agent *agentStub
}

func (m mesh) start(tb testing.TB, workload string, authz authv3.AuthorizationServer) sidecar {
	tb.Helper()
	dir := realenvoy.Dir(tb)
	svid := m.svid(workload)
	secret, err := proto.Marshal(&tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: svid.CertPEM()}},
		PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: svid.KeyPEM()}},
	}}})
	if err != nil {
		tb.Fatal(err)
	}
	s := xdstest.Find(tb, m.parts, workload)
	agent := serveAgent(tb, filepath.Join(dir, "e.sock"), authz, append(s.All(), xds.NewResource(xds.SecretType, "default", secret))...)
	bootstrap, err := xds.Bootstrap(xds.BootstrapConfig{
		NodeID: workload, NodeCluster: "test", AgentSocket: filepath.Join(dir, "e.sock"), AdminSocket: filepath.Join(dir, "a.sock"),
	})
	if err != nil {
		tb.Fatal(err)
	}
	p := sidecar{realenvoy.Start(tb, bootstrap), agent}
	p.waitFor(tb, len(s.Resources(xds.ListenerType)))
	return p
}

// waitFor waits until all listeners take connections.
func (s sidecar) waitFor(tb testing.TB, listeners int) {
	tb.Helper()
	want := fmt.Sprintf("listener_manager.total_listeners_active: %d\n", listeners)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if stats := s.Admin(tb, "/stats"); strings.Contains(stats, want) && strings.Contains(stats, "listener_manager.total_listeners_warming: 0\n") {
			return
		}
	}
	tb.Fatalf("not %d listeners in time: %s; refused: %q", listeners, s.Admin(tb, "/stats?filter=listener_manager"), s.agent.Refused())
}

// Every resource of every workload loads in the real Envoy, which is told to refuse unknown fields.
func TestEnvoyLoadsEverything(t *testing.T) {
	t.Parallel()
	meshes := map[string]map[string]string{"example": tenancytest.TwoTenantsFiles(t), "test mesh": xdstest.Files()}
	for name, files := range meshes {
		for _, p := range compiled(t, files) {
			for _, w := range p.Workloads() {
				t.Run(name+"/"+p.Tenant().Name()+"/"+w.ServiceAccount(), func(t *testing.T) {
					t.Parallel()
					m := realMesh(t, maps.Clone(files)) // workloads that run one service listen at one port: here, at their own
					s := m.start(t, w.String(), nil)
					if refused := s.agent.Refused(); len(refused) > 0 {
						t.Errorf("Envoy refused: %q", refused)
					}
					snapshot := xdstest.Find(t, m.parts, w.String())
					dump := s.Admin(t, "/config_dump?include_eds")
					for _, r := range snapshot.All() {
						if !strings.Contains(dump, strconv.Quote(r.Name())) {
							t.Errorf("%s %s is not in use", r.TypeURL(), r.Name())
						}
					}
					if log := s.Log(); strings.Contains(log, "deprecated") {
						t.Errorf("Envoy calls something deprecated:\n%s", log)
					}
				})
			}
		}
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	dir := realenvoy.Dir(t)
	agent, admin := filepath.Join(dir, "e.sock"), filepath.Join(dir, "a.sock")
	good := xds.BootstrapConfig{NodeID: "n", NodeCluster: "acme", AgentSocket: agent, AdminSocket: admin}
	bootstrap, err := xds.Bootstrap(good)
	if err != nil {
		t.Fatal(err)
	}
	again, err := xds.Bootstrap(good)
	if err != nil || string(again) != string(bootstrap) {
		t.Errorf("two bootstraps of one configuration differ (%v)", err)
	}
	realenvoy.Validate(t, bootstrap)
	var doc bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(bootstrap, &doc); err != nil || len(doc.GetStaticResources().GetListeners()) > 0 {
		t.Errorf("a listener in the bootstrap (%v)", err)
	}
	for _, want := range []string{
		`"mode": 384`, `"base_interval": "0.050s"`, `"max_interval": "0.500s"`, `"api_type": "DELTA_GRPC"`, `"static_layer"`,
	} {
		if !strings.Contains(string(bootstrap), want) {
			t.Errorf("no %s in\n%s", want, bootstrap)
		}
	}
	for name, change := range map[string]func(*xds.BootstrapConfig){
		"no node":       func(c *xds.BootstrapConfig) { c.NodeID = "" },
		"no cluster":    func(c *xds.BootstrapConfig) { c.NodeCluster = "" },
		"no agent":      func(c *xds.BootstrapConfig) { c.AgentSocket = "" },
		"no admin":      func(c *xds.BootstrapConfig) { c.AdminSocket = "" },
		"path too long": func(c *xds.BootstrapConfig) { c.AgentSocket = "/" + strings.Repeat("x", 107) },
	} {
		bad := good
		change(&bad)
		if _, err := xds.Bootstrap(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// decider is an ext_authz server that a test can change.
type decider struct {
	authv3.UnimplementedAuthorizationServer

	mu     sync.Mutex
	answer *authv3.CheckResponse
	last   *authv3.CheckRequest
	calls  int
}

func (d *decider) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = r
	d.calls++
	return d.answer, nil
}

func (d *decider) set(r *authv3.CheckResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = r
}

func (d *decider) seen() (*authv3.CheckRequest, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, d.calls
}

func allow(set ...string) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	for i := 0; i+1 < len(set); i += 2 {
		ok.Headers = append(ok.Headers, &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: set[i], Value: set[i+1]}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}
}

// application answers with the request that reached it.
func application(tb testing.TB, address string) {
	tb.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s %s\n", r.Method, r.URL)
			_ = r.Header.Write(w)
		}),
	}}
	s.Start()
	tb.Cleanup(s.Close)
}

// ask sends raw bytes and reads one answer.
func ask(tb testing.TB, address, request string) (code int, headers http.Header, body string) {
	tb.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		tb.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		tb.Fatalf("%q: %v", request, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("%q: %v", request, err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// The outbound proxy brings requests into one form and refuses the rest, all with one body; what a client forges never
// reaches the decision point or the application. web's calls go to orders, the one service that runs here.
func TestEnvoyNormalisesAndRefuses(t *testing.T) {
	t.Parallel()
	m := realMesh(t, tenancytest.TwoTenantsFiles(t))
	application(t, m.address("20281"))
	d := &decider{answer: allow("x-ringfence-tenant", "acme")}
	m.start(t, xdstest.AcmeOrders, d)
	web := m.start(t, xdstest.AcmeWeb, nil)
	proxy := m.address("20182")

	for request, want := range map[string]int{
		"GET /x HTTP/1.1\r\nHost: nosuch\r\n\r\n":                                                    403,
		"GET /x HTTP/1.1\r\nHost: orders.globex.mesh\r\n\r\n":                                        403,
		"GET /x HTTP/1.1\r\nHost: orders,evil\r\n\r\n":                                               403,
		"GET /a%2fb HTTP/1.1\r\nHost: orders\r\n\r\n":                                                400,
		"GET /a%5cb HTTP/1.1\r\nHost: orders\r\n\r\n":                                                400,
		"GET / HTTP/1.1\r\nHost: orders\r\nx_y: 1\r\n\r\n":                                           400,
		"GET / HTTP/1.1\r\n\r\n":                                                                     400,
		"POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
		"CONNECT orders:443 HTTP/1.1\r\nHost: orders\r\n\r\n":                                        404,
		"OPTIONS * HTTP/1.1\r\nHost: orders\r\n\r\n":                                                 404,
		"GET / HTTP/1.0\r\nHost: orders\r\n\r\n":                                                     426,
		"GET / HTTP/1.1\r\nHost: orders\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n":        403,
		"GET / HTTP/1.1\r\nHost: orders\r\nCookie: " + strings.Repeat("x", 40<<10) + "\r\n\r\n":      431,
	} {
		code, headers, body := ask(t, proxy, request)
		wantBody := fmt.Sprintf(`{"type":"about:blank","title":"request refused","status":%d}`, want)
		uniform := body == wantBody && headers.Get("Content-Type") == "application/problem+json" && headers.Get("Server") == ""
		if code != want || !uniform {
			t.Errorf("%.60q: %d %s %v, want %d", request, code, body, headers, want)
		}
	}
	if _, calls := d.seen(); calls != 0 {
		t.Errorf("%d of them reached the decision point", calls)
	}

	forged := "X-Ringfence-Tenant: globex\r\nX-RINGFENCE-Evil: 1\r\nX-Envoy-Original-Path: /evil\r\nX-Envoy-Downstream-Service-Cluster: evil\r\n" +
		"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Client-Cert: URI=evil\r\n"
	for request, path := range map[string]string{
		"GET /a//b/../c?q=1 HTTP/1.1\r\nHost: ORDERS.:99\r\n" + forged + "\r\n":        "/a/c?q=1",
		"GET http://orders.acme.mesh/x HTTP/1.1\r\nHost: nosuch\r\n" + forged + "\r\n": "/x",
	} {
		code, _, body := ask(t, proxy, request)
		if code != http.StatusOK || !strings.HasPrefix(body, "GET "+path+"\n") || !strings.Contains(body, "X-Ringfence-Tenant: acme\r\n") {
			t.Errorf("%.60q: %d %s", request, code, body)
		}
		last, _ := d.seen()
		for _, seen := range []string{strings.ToLower(body), strings.ToLower(last.String())} {
			for _, bad := range []string{"globex", "evil", "10.0.0.1"} {
				if strings.Contains(seen, bad) {
					t.Errorf("%q came through: %s", bad, seen)
				}
			}
		}
		http := last.GetAttributes().GetRequest().GetHttp()
		context := last.GetAttributes().GetContextExtensions()
		if http.GetPath() != path || context["service"] != "acme/orders" || context["port"] != "http" || http.GetHeaderMap() == nil {
			t.Errorf("the decision point was asked about %v %v", http, context)
		}
		if last.GetAttributes().GetSource().GetPrincipal() != xdstest.AcmeWeb || last.GetAttributes().GetSource().GetCertificate() == "" {
			t.Errorf("the caller is told as %v", last.GetAttributes().GetSource())
		}
	}
	if code, err := post(web.AdminSocket(), "/runtime_modify?ringfence.ext_authz.deny_at_disable=false"); err != nil || code == http.StatusOK {
		t.Errorf("the admin interface changes the runtime: %d %v", code, err)
	}
}

func post(socket, path string) (int, error) {
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Post("http://admin"+path, "", nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, nil
}

// What the service's own sidecar lets in over raw TLS, with the decision point answering yes to everything, then no, then
// wrongly, then not at all.
func TestEnvoyGuards(t *testing.T) {
	t.Parallel()
	m := realMesh(t, tenancytest.TwoTenantsFiles(t))
	application(t, m.address("20281"))
	d := &decider{answer: allow()}
	s := m.start(t, xdstest.AcmeOrders, d)
	label := sniOf(t, m, xdstest.AcmeWeb, "service/acme/orders")
	client := func(sni string, protocols []string, certs ...tls.Certificate) (int, string, error) {
		tr := &http.Transport{ForceAttemptHTTP2: len(protocols) == 0, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, ServerName: sni, Certificates: certs, NextProtos: protocols,
		}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + m.address("20081") + "/orders")
		if err != nil {
			return 0, "", err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	web := m.svid(xdstest.AcmeWeb).TLS()
	for name, tt := range map[string]struct {
		sni       string
		protocols []string
		certs     []tls.Certificate
		want      int // 0: no connection
	}{
		"web":                      {label, nil, []tls.Certificate{web}, 200},
		"no certificate":           {label, nil, nil, 0},
		"no SNI":                   {"", nil, []tls.Certificate{web}, 0},
		"another SNI":              {"orders.acme.mesh", nil, []tls.Certificate{web}, 0},
		"HTTP/1.1":                 {label, []string{"http/1.1"}, []tls.Certificate{web}, 0},
		"another account":          {label, nil, []tls.Certificate{m.svid(xdstest.AcmeBatch).TLS()}, 403},
		"another tenant":           {label, nil, []tls.Certificate{m.svid(xdstest.GlobexWeb).TLS()}, 0},
		"another tenant, own root": {label, nil, []tls.Certificate{m.cas["globex.demo.test"].SVID(xdstest.AcmeWeb).TLS()}, 0},
		"other name, own root":     {label, nil, []tls.Certificate{m.cas["acme.demo.test"].SVID(xdstest.GlobexWeb).TLS()}, 0},
		"platform":                 {label, nil, []tls.Certificate{m.svid(xdstest.Billing).TLS()}, 0},
		"a whole trust domain":     {label, nil, []tls.Certificate{m.cas["acme.demo.test"].SVID("spiffe://acme.demo.test").TLS()}, 403},
	} {
		code, _, err := client(tt.sni, tt.protocols, tt.certs...)
		if code != tt.want {
			t.Errorf("%s: %d (%v), want %d", name, code, err, tt.want)
		}
	}
	if _, calls := d.seen(); calls != 1 {
		t.Errorf("the decision point was asked %d times, want once: guard 1 comes first", calls)
	}
	for name, tt := range map[string]struct {
		answer *authv3.CheckResponse
		want   int
	}{
		"denied": {&authv3.CheckResponse{
			Status:       &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Body: "why"}},
		}, 403},
		// The status decides, not the kind of the response: an answer that forgets it allows.
		"no status":     {&authv3.CheckResponse{}, 200},
		"other header":  {allow("x-evil", "1"), 500},
		"other path":    {allow(":path", "/evil"), 500},
		"other host":    {allow("host", "evil"), 500},
		"authorization": {allow("authorization", "evil"), 500},
	} {
		d.set(tt.answer)
		code, body, err := client(label, nil, web)
		if code != tt.want || strings.Contains(body, "why") {
			t.Errorf("%s: %d %s (%v), want %d", name, code, body, err, tt.want)
		}
	}
	s.agent.stop()
	code, body, err := client(label, nil, web)
	if code != http.StatusServiceUnavailable || strings.HasPrefix(body, "GET") {
		t.Errorf("without an agent: %d %s (%v)", code, body, err)
	}
}

// sniOf is the label that a workload's cluster sends.
func sniOf(tb testing.TB, m mesh, workload, cluster string) string {
	tb.Helper()
	for _, r := range xdstest.Find(tb, m.parts, workload).Resources(xds.ClusterType) {
		if label := regexp.MustCompile(`[0-9a-f]{32}\.mesh\.internal`).Find(r.Value()); r.Name() == cluster && label != nil {
			return string(label)
		}
	}
	tb.Fatalf("%s has no cluster %s", workload, cluster)
	return ""
}
