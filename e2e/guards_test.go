package e2e_test

import (
	"bytes"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	filterRBAC     = "envoy.filters.http.rbac"
	filterExtAuthz = "envoy.filters.http.ext_authz"
)

// TestEachGuardAlone takes the configuration that a sidecar's Envoy really holds, takes one guard out of a copy, runs the
// copy in a static Envoy, and tries to cross the tenants again. With both guards out the call passes: the attack is real.
//
// Guard 1 is in the proxy: the bundle that TLS trusts, and RBAC over exact SPIFFE IDs. Guard 2 is ext_authz.
func TestEachGuardAlone(t *testing.T) {
	m := startMesh(t)
	eachGuardAlone(t, m, "globex/web", "acme/orders", "acme/web")
}

// eachGuardAlone lets the attacker, "tenant/service", cross to another tenant's service, with the label of a caller there.
func eachGuardAlone(t *testing.T, m *demo.Mesh, attacker, victim, label string) {
	t.Helper()
	forward := func(t *testing.T, c *copied) {
		c.trust(t, append(readFile(t, m.TrustBundle("acme.demo.test")), readFile(t, m.TrustBundle("globex.demo.test"))...))
	}
	noRBAC := func(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterRBAC) }
	noAuthz := func(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterExtAuthz) }
	tests := []struct {
		name   string
		change []func(*testing.T, *copied)
		want   demo.Want
	}{
		{"the copy as it is", nil, demo.Want{Layer: demo.LayerTLS}},
		{"without ext_authz: TLS stops it", []func(*testing.T, *copied){noAuthz}, demo.Want{Layer: demo.LayerTLS}},
		{"without ext_authz and with TLS deceived: RBAC stops it", []func(*testing.T, *copied){noAuthz, forward}, demo.Want{Status: 403}},
		{"without guard 1, TLS and RBAC: ext_authz stops it", []func(*testing.T, *copied){noRBAC, forward}, demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "cross_tenant"}},
		{"without any guard: it passes", []func(*testing.T, *copied){noRBAC, noAuthz, forward}, demo.Want{Status: 200, Layer: demo.LayerNone}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := copyInbound(t, m.AdminSocket(victim), "inbound/"+victim)
			for _, change := range tt.change {
				change(t, c)
			}
			target := runCopy(t, m, victim, c)
			before := hits(m).each[victim]
			r := do(t, m, demo.Call{
				From: attacker, To: victim, Raw: &demo.Raw{SNI: label, Address: target}, Method: http.MethodGet, Path: "/orders/7",
			})
			if r.Status != tt.want.Status || (tt.want.Layer != "" && (r.Layer != tt.want.Layer || r.Reason != tt.want.Reason)) {
				t.Errorf("got %d by %s (%s, %v), want %v", r.Status, r.Layer, r.Reason, r.Err, tt.want)
			}
			if reached := hits(m).each[victim] - before; (reached > 0) != (tt.want.Status == 200) {
				t.Errorf("the backend was reached %d times", reached)
			}
		})
	}
}

// TestUnconstrainedRootAtTheSharedService: the shared service trusts, for acme, a root without name constraints, and that
// root mints globex/web. TLS has nothing against it; RBAC of acme's chain has, and ext_authz alone has too.
func TestUnconstrainedRootAtTheSharedService(t *testing.T) {
	m := startMesh(t)
	rogue := testca.Unconstrained(t, "acme, without constraints")
	minted := rogue.SVID(globexWeb).TLS()
	asAcme := rogue.SVID(acmeWeb).TLS()
	roots := append(readFile(t, m.TrustBundle("acme.demo.test")), rogue.Bundle("acme.demo.test").PEM()...)
	trust := func(t *testing.T, c *copied) { c.trust(t, roots) }
	noRBAC := func(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterRBAC) }
	noAuthz := func(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterExtAuthz) }
	for _, tt := range []struct {
		name   string
		raw    demo.Raw
		change []func(*testing.T, *copied)
		want   demo.Want
	}{
		{"both guards", demo.Raw{Certificate: &minted}, []func(*testing.T, *copied){trust}, demo.Want{Status: 403}},
		{"RBAC alone", demo.Raw{Certificate: &minted}, []func(*testing.T, *copied){trust, noAuthz}, demo.Want{Status: 403}},
		{"ext_authz alone", demo.Raw{Certificate: &minted}, []func(*testing.T, *copied){trust, noRBAC}, demo.Want{Status: 403, Layer: demo.LayerAuthz}},
		{"ext_authz alone, with an ID of acme by the rogue root", demo.Raw{Certificate: &asAcme}, []func(*testing.T, *copied){trust, noRBAC}, demo.Want{Status: 403, Layer: demo.LayerAuthz}},
		{"no guard", demo.Raw{Certificate: &minted}, []func(*testing.T, *copied){trust, noRBAC, noAuthz}, demo.Want{Status: 200, Layer: demo.LayerNone}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := copyInbound(t, m.AdminSocket("platform/billing"), "inbound/platform/billing")
			for _, change := range tt.change {
				change(t, c)
			}
			tt.raw.SNI, tt.raw.Address = "acme/web", runCopy(t, m, "platform/billing", c)
			before := hits(m).each["platform/billing"]
			r := do(t, m, demo.Call{From: "globex/web", To: "platform/billing", Raw: &tt.raw, Method: http.MethodGet, Path: "/invoices/7"})
			if r.Status != tt.want.Status || (tt.want.Layer != "" && r.Layer != tt.want.Layer) {
				t.Errorf("got %d by %s (%s, %v), want %v", r.Status, r.Layer, r.Reason, r.Err, tt.want)
			}
			if reached := hits(m).each["platform/billing"] - before; (reached > 0) != (tt.want.Status == 200) {
				t.Errorf("the backend was reached %d times", reached)
			}
		})
	}
}

// runCopy runs the copy with the sidecar's own key and returns where it listens.
func runCopy(t testing.TB, m *demo.Mesh, workload string, c *copied) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return runCopyAt(t, m, workload, c, address.String())
}

// runCopyAt runs the copy at an address of 127.0.0.0/8.
func runCopyAt(t testing.TB, m *demo.Mesh, workload string, c *copied, listen string) string {
	t.Helper()
	address := netip.MustParseAddrPort(listen)
	c.listener.GetAddress().GetSocketAddress().Address = address.Addr().String()
	state := m.StateDir(workload)
	svid := readFile(t, filepath.Join(state, "svid.pem"))
	config := c.bootstrap(t, uint32(address.Port()), svid, readFile(t, filepath.Join(state, "key.pem")))
	if bytes.Contains(config, []byte("sdsConfig")) {
		t.Fatal("the copy still asks for secrets")
	}
	realenvoy.Start(t, config)
	return listen
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
