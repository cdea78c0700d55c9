package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	acmeHost   = "acme.example.com"
	globexHost = "globex.example.com"
	acmePage   = "https://app.acme.example.com"
	globexIDP  = "https://idp.globex.example.com"
)

// ingress is the configuration of examples/ingress as it stands there, ports and paths apart, beside `ringfence authz`.
type ingress struct {
	acme, globex       *ecdsa.PrivateKey // of the token issuers
	port               int
	authz              *process
	envoy              *realenvoy.Process
	public             *testca.CA          // of the hosts' certificates
	certs              []*x509.Certificate // these
	acmeHits, globexes atomic.Int64
}

func startIngress(t *testing.T) *ingress {
	t.Helper()
	i := &ingress{port: freePort(t)}
	acme, globex := i.app(t, &i.acmeHits), i.app(t, &i.globexes)
	work := shortDir(t)
	config, trust, certs := filepath.Join(work, "config"), filepath.Join(work, "trust"), filepath.Join(work, "certs")
	if err := os.CopyFS(config, os.DirFS("../examples/ingress/ringfence")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{trust, certs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	i.acme, i.globex = issue(t, filepath.Join(config, "platform/acme-jwks.json")), issue(t, filepath.Join(config, "platform/globex-jwks.json"))
	socket := filepath.Join(work, "edge.sock")
	file := filepath.Join(config, "mesh.yaml")
	write(t, file, strings.ReplaceAll(string(readFile(t, file)), "/run/ringfence/edge.sock", socket))
	for _, td := range []string{"acme.demo.test", "globex.demo.test", "platform.demo.test"} {
		write(t, filepath.Join(trust, td+".pem"), string(testca.Constrained(t, td).Bundle(td).PEM()))
	}
	i.public = testca.Unconstrained(t, "public.test")
	for _, host := range []string{acmeHost, globexHost} {
		leaf := i.public.SVID("", testca.Hosts(host))
		i.certs = append(i.certs, leaf.Cert)
		write(t, filepath.Join(certs, host+".pem"), string(leaf.CertPEM()))
		write(t, filepath.Join(certs, host+"-key.pem"), string(leaf.KeyPEM()))
	}
	health := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	i.authz = startProcess(t, nil, "authz", "--config", config, "--trust", trust, "--listen", fmt.Sprintf("unix:%s/own.sock", work),
		"--asker", acmeOrders, "--http-listen", health)
	eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, health) })
	text := strings.NewReplacer(
		"certs/", certs+"/", "path: admin.sock", "path: "+filepath.Join(work, "admin.sock"), "/run/ringfence/edge.sock", socket,
		"port_value: 8443", fmt.Sprintf("port_value: %d", i.port), "port_value: 20281", "port_value: "+acme, "port_value: 20283", "port_value: "+globex,
	).Replace(string(readFile(t, "../examples/ingress/envoy.yaml")))
	bootstrap, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	i.envoy = realenvoy.Start(t, bootstrap)
	return i
}

// app answers with the headers that it was sent.
func (i *ingress) app(t *testing.T, hits *atomic.Int64) (port string) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	t.Cleanup(app.Close)
	return fmt.Sprint(app.Listener.Addr().(*net.TCPAddr).Port)
}

// edgeCall is a request to the ingress. Its zero value is a GET of /orders/7 at acme's host, without a token.
type edgeCall struct {
	sni, host    string // empty: acme's host
	method, path string
	token        string
	header       http.Header
	cert         *tls.Certificate
}

// edgeAnswer is what came back; status 0 where the connection or the stream was closed without an answer.
type edgeAnswer struct {
	status int
	header http.Header
	body   string
}

func (i *ingress) do(t *testing.T, c edgeCall) edgeAnswer {
	t.Helper()
	or := func(s, standard string) string {
		if s == "" {
			return standard
		}
		return s
	}
	config := &tls.Config{InsecureSkipVerify: true, ServerName: or(c.sni, acmeHost), MinVersion: tls.VersionTLS12}
	if c.sni == "-" {
		config.ServerName = ""
	}
	if c.cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), or(c.method, "GET"), fmt.Sprintf("https://127.0.0.1:%d%s", i.port, or(c.path, "/orders/7")), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = or(c.host, acmeHost)
	maps.Copy(request.Header, c.header)
	if c.token != "" {
		request.Header.Set("authorization", "Bearer "+c.token)
	}
	response, err := client.Do(request)
	if err != nil {
		var network *net.OpError
		if errors.As(err, &network) && network.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("not refused: %v", err)
		}
		return edgeAnswer{}
	}
	defer response.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return edgeAnswer{response.StatusCode, response.Header, string(data)}
}

// TestIngress loads examples/ingress in a real Envoy beside `ringfence authz`, and calls it rightly and wrongly.
func TestIngress(t *testing.T) {
	i := startIngress(t)
	now := time.Now()
	acme := func(roles ...string) string { return sign(t, i.acme, acmeIDP, "acme", now, roles...) }
	globex := sign(t, i.globex, globexIDP, "globex", now)
	clerk := acme("clerk")
	mesh := testca.Constrained(t, "acme.demo.test").SVID(acmeWeb).TLS()
	preflight := func(origin, method string) http.Header {
		return http.Header{"Origin": {origin}, "Access-Control-Request-Method": {method}, "Access-Control-Request-Headers": {"authorization"}}
	}
	forged := http.Header{
		"X-Ringfence-Tenant": {"globex"}, "X-Ringfence-Caller": {globexWeb}, "X-Ringfence-Subject": {"root"}, "X-Forwarded-Client-Cert": {"URI=" + acmeWeb},
		"X-Forwarded-For": {"203.0.113.9"}, "X-Forwarded-Host": {globexHost}, "X-Envoy-Original-Path": {"/admin"}, "Forwarded": {"for=203.0.113.9"}, "X-Real-Ip": {"203.0.113.9"},
	}
	const closed = 0
	for _, tt := range []struct {
		name string
		call edgeCall
		want int
		by   string // what answers: decision, cors or envoy; empty: the application, or nobody where it is closed
	}{
		{"a clerk reads", edgeCall{token: clerk}, 200, ""},
		{"a manager orders", edgeCall{method: "POST", path: "/orders", token: acme("manager")}, 200, ""},
		{"a user of globex reads", edgeCall{sni: globexHost, host: globexHost, token: globex}, 200, ""},
		{"a host with port and dot", edgeCall{host: acmeHost + ".:8443", token: clerk}, 200, ""},
		{"a clerk may not order", edgeCall{method: "POST", path: "/orders", token: clerk}, 403, "decision"},
		{"no rule", edgeCall{method: "DELETE", token: acme("manager")}, 403, "decision"},
		{"no role", edgeCall{token: acme()}, 403, "decision"},

		{"no token", edgeCall{}, 401, "decision"},
		{"no token, where workloads need none", edgeCall{sni: globexHost, host: globexHost}, 401, "decision"},
		{"a password", edgeCall{header: http.Header{"Authorization": {"Basic YTpi"}}}, 401, "decision"},
		{"two tokens", edgeCall{header: http.Header{"Authorization": {"Bearer " + clerk, "Bearer " + clerk}}}, 401, "decision"},
		{"a token that is none", edgeCall{token: "not.a.token"}, 401, "decision"},
		{"a token in the path", edgeCall{path: "/orders/7?access_token=" + clerk}, 401, "decision"},
		{"a token in a cookie", edgeCall{header: http.Header{"Cookie": {"authorization=Bearer " + clerk}}}, 401, "decision"},
		{"an expired token", edgeCall{token: sign(t, i.acme, acmeIDP, "acme", now.Add(-time.Hour), "clerk")}, 401, "decision"},
		{"a token for another audience", edgeCall{token: signFor(t, i.acme, "billing-api", acmeIDP, "acme", now, "clerk")}, 401, "decision"},
		{"a token of another key", edgeCall{token: sign(t, i.globex, acmeIDP, "acme", now, "clerk")}, 401, "decision"},
		{"another tenant's token", edgeCall{token: globex}, 403, "decision"},
		{"acme's token at globex", edgeCall{sni: globexHost, host: globexHost, token: clerk}, 403, "decision"},
		{"acme's issuer asserts globex", edgeCall{sni: globexHost, host: globexHost, token: sign(t, i.acme, acmeIDP, "globex", now)}, 403, "decision"},
		{"a token of an unknown issuer", edgeCall{token: sign(t, i.acme, "https://idp.evil.example.com", "acme", now, "clerk")}, 403, "decision"},

		{"forged headers", edgeCall{header: forged}, 401, "decision"},
		{"forged headers with a token", edgeCall{header: forged, token: clerk}, 200, ""},
		{"a client certificate is no token", edgeCall{cert: &mesh}, 401, "decision"},
		{"a client certificate beside a token", edgeCall{cert: &mesh, token: clerk}, 200, ""},

		{"globex's host on acme's connection", edgeCall{host: globexHost, token: globex}, 421, "envoy"},
		{"acme's host on globex's connection", edgeCall{sni: globexHost, token: clerk}, 421, "envoy"},
		{"acme's host on globex's connection, no token", edgeCall{sni: globexHost}, 421, "envoy"},
		{"a host that nobody has", edgeCall{host: "evil.example.com", token: clerk}, 421, "envoy"},
		{"a connection of no name", edgeCall{sni: "-", token: clerk}, closed, ""},
		{"a connection of another name", edgeCall{sni: "evil.example.com", token: clerk}, closed, ""},

		{"a preflight", edgeCall{method: "OPTIONS", header: preflight(acmePage, "GET")}, 200, "cors"},
		{"a preflight for what nobody has", edgeCall{method: "OPTIONS", path: "/none", header: preflight(acmePage, "DELETE")}, 200, "cors"},
		{"a preflight with a token", edgeCall{method: "OPTIONS", header: preflight(acmePage, "GET"), token: clerk}, 200, "cors"},
		{"a preflight of another page", edgeCall{method: "OPTIONS", header: preflight("https://evil.example.com", "GET")}, 401, "decision"},
		{"a preflight of globex's page", edgeCall{method: "OPTIONS", header: preflight("https://app.globex.example.com", "GET")}, 401, "decision"},
		{"a preflight on another host's connection", edgeCall{method: "OPTIONS", sni: globexHost, header: preflight(acmePage, "GET")}, 421, "envoy"},
		{"OPTIONS that is no preflight", edgeCall{method: "OPTIONS", header: http.Header{"Origin": {acmePage}}}, 401, "decision"},
		{"OPTIONS that is no preflight, with a token", edgeCall{method: "OPTIONS", header: http.Header{"Origin": {acmePage}}, token: clerk}, 403, "decision"},
		{"GET that looks like a preflight", edgeCall{header: preflight(acmePage, "GET")}, 401, "decision"},

		{"a path of two readings", edgeCall{path: "/orders/%2e%2e%2fadmin", token: clerk}, 400, "envoy"},
		{"a path out of the pattern", edgeCall{path: "/orders/../admin", token: clerk}, 403, "decision"},
		{"a header with an underscore", edgeCall{header: http.Header{"X_ringfence_tenant": {"acme"}}, token: clerk}, closed, ""},
		{"a token of 40 KB", edgeCall{token: strings.Repeat("a", 40_000)}, closed, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := [2]int64{i.acmeHits.Load(), i.globexes.Load()}
			got := i.do(t, tt.call)
			reached := [2]int64{i.acmeHits.Load() - before[0], i.globexes.Load() - before[1]}
			wantReached := [2]int64{}
			if tt.want == 200 && tt.by == "" {
				wantReached[0] = 1
				if tt.call.host == globexHost {
					wantReached = [2]int64{0, 1}
				}
			}
			if reached != wantReached {
				t.Errorf("acme's and globex's applications were reached %v times", reached)
			}
			if got.status != tt.want {
				t.Fatalf("%d, want %d: %s", got.status, tt.want, got.body)
			}
			if got.status != closed {
				checkEdge(t, tt.by, got)
			}
		})
	}
	t.Run("what the application is told", func(t *testing.T) { i.checkTold(t, forged, clerk) })
	t.Run("a page reads answers and refusals", func(t *testing.T) {
		for token, want := range map[string]int{clerk: 200, "": 401, globex: 403} {
			for origin, may := range map[string]string{acmePage: acmePage, "https://evil.example.com": ""} {
				got := i.do(t, edgeCall{token: token, header: http.Header{"Origin": {origin}}})
				if reader := got.header.Get("access-control-allow-origin"); got.status != want || reader != may {
					t.Errorf("%s: %d, readable by %q", origin, got.status, reader)
				}
			}
		}
	})
	t.Run("without the decision point", func(t *testing.T) {
		i.authz.stop(t, os.Interrupt)
		before := i.acmeHits.Load()
		if got := i.do(t, edgeCall{token: clerk}); got.status != 503 || i.acmeHits.Load() != before {
			t.Errorf("%d", got.status)
		}
		if got := i.do(t, edgeCall{method: "OPTIONS", header: preflight(acmePage, "GET")}); got.status != 200 {
			t.Errorf("a preflight: %d", got.status)
		}
	})
}

// checkEdge holds an answer against what should have given it: a refusal has one body for each status, and says nothing else.
func checkEdge(t *testing.T, by string, got edgeAnswer) {
	t.Helper()
	decision, challenge := got.header.Get("x-ringfence-decision"), got.header.Get("www-authenticate")
	if (decision != "") != (by == "decision") || (challenge != "") != (got.status == http.StatusUnauthorized) {
		t.Errorf("decision %q, challenge %q", decision, challenge)
	}
	var may []string
	switch by {
	case "":
		return
	case "cors":
		cors := http.Header{}
		for name, values := range got.header {
			if strings.HasPrefix(name, "Access-Control-") {
				cors[name] = values
			}
		}
		want := http.Header{
			"Access-Control-Allow-Origin": {acmePage}, "Access-Control-Allow-Methods": {"GET, POST"}, "Access-Control-Allow-Headers": {"authorization, content-type"},
			"Access-Control-Expose-Headers": {"x-ringfence-decision, www-authenticate"}, "Access-Control-Max-Age": {"600"},
		}
		if fmt.Sprint(cors) != fmt.Sprint(want) || got.body != "" {
			t.Errorf("a preflight is told %v, %q; want %v", cors, got.body, want)
		}
		may = append(slices.Collect(maps.Keys(want)), "Vary")
	default:
		if want := fmt.Sprintf(`{"type":"about:blank","title":"request refused","status":%d}`, got.status); got.body != want {
			t.Errorf("refused with %q", got.body)
		}
		may = []string{"Www-Authenticate", "X-Ringfence-Decision", "Content-Type", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary"}
	}
	for name := range got.header {
		if !slices.Contains(append(may, "Date", "Content-Length", "Connection"), name) {
			t.Errorf("the answer tells %s: %v", name, got.header[name])
		}
	}
}

// checkTold: the application learns the token's tenant and subject, and nothing that a client made up.
func (i *ingress) checkTold(t *testing.T, forged http.Header, token string) {
	t.Helper()
	var told http.Header
	if err := json.Unmarshal([]byte(i.do(t, edgeCall{header: forged, token: token}).body), &told); err != nil {
		t.Fatal(err)
	}
	if told.Get("x-ringfence-tenant") != "acme" || told.Get("x-ringfence-subject") != "somebody" || told.Get("authorization") == "" {
		t.Errorf("%v", told)
	}
	for name := range told {
		switch strings.ToLower(name) {
		case "accept", "accept-encoding", "authorization", "user-agent", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-ringfence-tenant", "x-ringfence-subject":
		default:
			t.Errorf("the application is told %s: %v", name, told[name])
		}
	}
	if len(told["X-Forwarded-For"]) != 1 || strings.Contains(told.Get("x-forwarded-for"), "203.0.113.9") {
		t.Errorf("a client says where it is: %v", told["X-Forwarded-For"])
	}
}
