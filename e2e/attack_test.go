package e2e_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	acmeWeb      = "spiffe://acme.demo.test/ns/acme/sa/web"
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	globexWeb    = "spiffe://globex.demo.test/ns/globex/sa/web"
	globexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
)

// stolenRoot is a tenant's own root, key and all: the worst that can be taken from one tenant.
func stolenRoot(t testing.TB, m *demo.Mesh, trustDomain string) *testca.CA {
	t.Helper()
	dir := filepath.Join(m.PlaneDir(), "ca", trustDomain)
	cert, err := x509.ParseCertificate(pemBlock(t, m.TrustBundle(trustDomain)))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "key-*.pem"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(pemBlock(t, keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	return (&testca.CA{Cert: cert, Key: key.(*ecdsa.PrivateKey)}).With(t)
}

func pemBlock(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	return block.Bytes
}

// TestAttacks goes straight at inbound ports with everything that acme's own root can mint. Nothing of it may reach a
// backend; where the attacker's certificate is genuine and in order, the call passes, so the test bed can tell.
func TestAttacks(t *testing.T) {
	m := startMesh(t)
	root := stolenRoot(t, m, "acme.demo.test")
	rogue := testca.Constrained(t, "acme.demo.test")
	cert := func(s *testca.SVID) *tls.Certificate { c := s.TLS(); return &c }
	handshake, invalid := demo.Want{Layer: demo.LayerTLS}, demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "invalid_identity"}
	tests := []struct {
		name string
		to   string
		raw  demo.Raw
		want demo.Want
	}{
		{"genuine, as a control", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(acmeWeb))}, demo.Want{Status: 200, Layer: demo.LayerNone}},
		{"expired", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(acmeWeb, testca.ValidFor(-2*time.Hour, -time.Hour)))}, handshake},
		{"not yet valid", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(acmeWeb, testca.ValidFor(time.Hour, 2*time.Hour)))}, handshake},
		{"no client certificate", "acme/orders", demo.Raw{SNI: "acme/web", Anonymous: true}, handshake},
		{"no SNI", "acme/orders", demo.Raw{Certificate: cert(root.SVID(acmeWeb))}, handshake},
		{"another root of the same name", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(rogue.SVID(acmeWeb))}, handshake},
		{"two URI SANs, the caller's first", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID("", testca.RawURIs(acmeWeb, acmeOrders)))}, invalid},
		{"two URI SANs, the caller's second", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID("", testca.RawURIs(acmeOrders, acmeWeb)))}, invalid},
		{"upper-case scheme", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID("SPIFFE://acme.demo.test/ns/acme/sa/web"))}, demo.Want{Status: 403, Layer: demo.LayerRBAC}},
		{"empty fragment", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(acmeWeb + "#"))}, demo.Want{Status: 403, Layer: demo.LayerRBAC}},
		{"a workload that nobody declared", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID("spiffe://acme.demo.test/ns/acme/sa/ghost"))}, demo.Want{Status: 403, Layer: demo.LayerRBAC}},

		{"acme's root mints globex/web, at globex", "globex/orders", demo.Raw{SNI: "globex/web", Certificate: cert(root.SVID(globexWeb))}, handshake},
		{"acme's root mints globex/web, at acme", "acme/orders", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(globexWeb))}, handshake},
		{"acme's root mints globex/web, at the shared service", "platform/billing", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID(globexWeb))}, handshake},
		{"acme's root mints the control plane, at the shared service", "platform/billing", demo.Raw{SNI: "acme/web", Certificate: cert(root.SVID("spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"))}, handshake},
		{"genuine acme/web at globex", "globex/orders", demo.Raw{SNI: "globex/web"}, handshake},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := hits(m).total
			r := do(t, m, demo.Call{
				From: "acme/web", To: tt.to, Raw: &tt.raw, Method: http.MethodGet, Path: "/orders/7",
				Token: demo.Token{Issuer: "acme", Roles: []string{"clerk"}}, Want: tt.want,
			})
			if !r.As(tt.want) {
				t.Errorf("got %d by %s (%s, %v), want %v", r.Status, r.Layer, r.Reason, r.Err, tt.want)
			}
			reached := hits(m).total - before
			if allowed := tt.want.Status == 200; (reached > 0) != allowed {
				t.Errorf("a backend was reached %d times", reached)
			}
		})
	}
}

// TestForgedHeaders sends what identities and routes could be believed from, on allowed and refused ways: nobody believes it.
func TestForgedHeaders(t *testing.T) {
	m := startMesh(t)
	forged := http.Header{
		"X-Forwarded-Client-Cert":              {"Hash=00;URI=" + globexWeb + ",By=" + globexOrders + ";URI=" + globexWeb},
		"X-Ringfence-Tenant":                   {"globex"},
		"X-Ringfence-Caller":                   {globexWeb},
		"X-Ringfence-Subject":                  {"root"},
		"X-Ringfence-Decision":                 {"0123456789abcdef0123456789abcdef"},
		"X-Envoy-Original-Path":                {"/orders/7"},
		"X-Envoy-Internal":                     {"true"},
		"X-Envoy-Downstream-Service-Cluster":   {"globex/web"},
		"X-Envoy-Upstream-Rq-Timeout-Ms":       {"60000"},
		"X-Forwarded-For":                      {"127.0.0.1"},
		"X-Forwarded-Host":                     {"orders.globex.mesh"},
		"X-Envoy-External-Address":             {"203.0.113.7"},
		"X-Envoy-Force-Trace":                  {"true"},
		"X-Envoy-Attempt-Count":                {"1"},
		"X-Envoy-Retry-On":                     {"5xx"},
		"X-Envoy-Decorator-Operation":          {"globex"},
		"X-Envoy-Expected-Rq-Timeout-Ms":       {"1"},
		"X-Envoy-Hedge-On-Per-Try-Timeout":     {"true"},
		"X-Envoy-Upstream-Alt-Stat-Name":       {"<b>globex</b>"},
		"X-Envoy-Upstream-Service-Time":        {"0"},
		"X-Envoy-Original-Dst-Host":            {"127.0.0.1:1"},
		"X-Envoy-Ip-Tags":                      {"internal"},
		"X-Envoy-Is-Timeout-Retry":             {"true"},
		"X-Envoy-Ratelimited":                  {"true"},
		"X-Envoy-Overloaded":                   {"true"},
		"X-Envoy-Max-Retries":                  {"100"},
		"X-Envoy-Immediate-Health-Check-Fail":  {"true"},
		"X-Envoy-Degraded":                     {"true"},
		"X-Envoy-Upstream-Stream-Duration-Ms":  {"1"},
		"X-Envoy-Upstream-Canary":              {"true"},
		"X-Envoy-Upstream-Rq-Per-Try-Timeout-": {"1"},
	}
	clerk := demo.Token{Issuer: "acme", Roles: []string{"clerk"}}
	for _, c := range []demo.Call{
		{From: "acme/web", To: "orders", Method: http.MethodGet, Path: "/orders/7", Token: clerk, Want: demo.Want{Status: 200, Layer: demo.LayerNone}},
		{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodGet, Path: "/orders/7", Token: clerk, Want: demo.Want{Status: 200, Layer: demo.LayerNone}},
		{From: "acme/web", To: "billing", Method: http.MethodGet, Path: "/invoices/1", Want: demo.Want{Status: 200, Layer: demo.LayerNone}},
		{From: "acme/web", To: "orders.globex.mesh", Method: http.MethodGet, Path: "/orders/7", Token: clerk, Want: demo.Want{Status: 403, Layer: demo.LayerSource}},
		{From: "acme/web", To: "orders", Method: http.MethodGet, Path: "/orders/7", Want: demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "token_missing"}},
	} {
		t.Run(c.To+" "+c.Want.String(), func(t *testing.T) {
			c.Header = forged
			before := hits(m).total
			r := do(t, m, c)
			if !r.As(c.Want) {
				t.Errorf("got %d by %s (%s), want %v", r.Status, r.Layer, r.Reason, c.Want)
			}
			if c.Want.Status == 200 {
				checkSeen(t, c, r.Seen)
			} else if hits(m).total != before {
				t.Error("a backend was reached")
			}
			for _, name := range r.Seen.Foreign {
				t.Errorf("the application was passed %s", name)
			}
		})
	}
}

// TestGrantAfterItsTime: a Grant whose time has passed opens nothing, though its document still stands there.
func TestGrantAfterItsTime(t *testing.T) {
	m := startMesh(t)
	call := demo.Call{From: "acme/web", To: "billing", Method: http.MethodGet, Path: "/invoices/1"}
	if r := do(t, m, call); r.Status != 200 {
		t.Fatalf("before: %d by %s", r.Status, r.Layer)
	}
	edit(t, m, "platform/billing.yaml", "2036-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
	await(t, m, call, demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "grant_expired"})
	before := hits(m).total
	for range 10 {
		if r := do(t, m, call); r.Status != 403 {
			t.Errorf("after: %d", r.Status)
		}
	}
	if hits(m).total != before {
		t.Error("the backend was reached after the Grant's time")
	}
}

// await repeats a call until it ends as wanted.
func await(t testing.TB, m *demo.Mesh, c demo.Call, want demo.Want) time.Duration {
	t.Helper()
	start := time.Now()
	var last demo.Result
	for time.Since(start) < 10*time.Second {
		if last = do(t, m, c); last.As(want) {
			return time.Since(start)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s to %s stays %d by %s (%s), want %v", c.From, c.To, last.Status, last.Layer, last.Reason, want)
	return 0
}
