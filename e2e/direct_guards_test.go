//go:build spire

package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/realspire"
)

// eachGuard takes one guard at a time out of a copy of what orders' Envoy really holds. The roots are both tenants', so that
// guard 1's other half, the exact SPIFFE IDs, is seen alone, too.
func (d *direct) eachGuard(t *testing.T) {
	globex, err := tls.LoadX509KeyPair(filepath.Join(d.agentState("web"), "svid.pem"), filepath.Join(d.agentState("web"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := append(d.spire.Bundle(), readFile(t, d.root("globex.demo.test"))...)
	forward := func(t *testing.T, c *copied) { c.trust(t, roots) }
	d.alone(t, &globex, []aloneCase{
		{"TLS alone", []func(*testing.T, *copied){noRBAC, noAuthz}, 0, ""},
		{"RBAC alone", []func(*testing.T, *copied){forward, noAuthz}, 403, ""},
		{"ext_authz alone", []func(*testing.T, *copied){forward, noRBAC}, 403, "cross_tenant"},
		{"none", []func(*testing.T, *copied){forward, noRBAC, noAuthz}, 200, ""},
	})
}

func noRBAC(t *testing.T, c *copied)  { c.withoutHTTPFilter(t, filterRBAC) }
func noAuthz(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterExtAuthz) }

// aloneCase is what a call across tenants meets at a copy that was changed so.
type aloneCase struct {
	name   string
	change []func(*testing.T, *copied)
	status int
	reason string // of guard 2; empty: it was not asked, or allowed
}

// alone calls the copies of orders' sidecar with a certificate of another tenant, after acme/web has been let in by each.
func (d *direct) alone(t *testing.T, foreign *tls.Certificate, cases []aloneCase) {
	t.Helper()
	web, sni := fromSPIRE(t, d.socket, d.id("acme", "web")), d.web.sniOf("service/acme/orders")
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			c := copyInbound(t, d.orders.admin, "inbound/acme/orders")
			for _, change := range tt.change {
				change(t, c)
			}
			address := d.orders.runCopy(t, c)
			eventually(t, spireWithin, "acme/web is let in", func(ctx context.Context) bool {
				status, _ := raw(ctx, web, sni, address, "/orders/7", d.token("acme"))
				return status == 200
			})
			before := d.hits.Load()
			status, decision := raw(t.Context(), foreign, sni, address, "/orders/7", d.token("acme"))
			d.expect(t, status, decision, tt.status, tt.reason, before)
		})
	}
}

// expect compares an answer, its reason, and whether the application was reached.
func (d *direct) expect(t *testing.T, status int, decision string, wantStatus int, wantReason string, before int64) {
	t.Helper()
	if status != wantStatus || (decision != "") != (wantReason != "") {
		t.Errorf("got %d, decision %q; want %d, %s", status, decision, wantStatus, wantReason)
	} else if decision != "" {
		if got := d.authz.reason(t, decision); got != wantReason {
			t.Errorf("refused for %s, not for %s", got, wantReason)
		}
	}
	if reached := d.hits.Load() - before; (reached > 0) != (wantStatus == 200) {
		t.Errorf("the application was reached %d times", reached)
	}
}

// runCopy runs a copy as the same user, so that SPIRE gives it the same SVID, and returns where it listens.
func (e *directEnvoy) runCopy(t *testing.T, c *copied) string {
	t.Helper()
	port := freePort(t)
	again := &directEnvoy{t: t, uid: e.uid, dir: shortDir(t)}
	if err := os.Chown(again.dir, e.uid, e.uid); err != nil {
		t.Fatal(err)
	}
	again.admin = filepath.Join(again.dir, "admin.sock")
	again.write("bootstrap.json", c.directBootstrap(t, port, again.admin))
	again.start()
	again.waitFor(1)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// TestSPIREDirectUnderOneRoot: two tenants in one trust domain of SPIRE's, parted by the paths of their SPIFFE IDs alone. TLS lets
// both in, which is what is lost; the exact IDs of guard 1 refuse one tenant at the other's service, and so does guard 2 alone.
// The decision point's SVID and roots are SPIRE's, too.
func TestSPIREDirectUnderOneRoot(t *testing.T) {
	d := &direct{spire: realspire.Start(t, "prod.test", time.Hour)}
	d.socket = d.spire.Agent()
	d.id = func(tenant, account string) string { return "spiffe://prod.test/ns/" + tenant + "/sa/" + account }
	d.spire.Entry(d.id("acme", "web"), webUID)
	d.spire.Entry(d.id("acme", "orders"), ordersUID)
	authz := d.id("mesh", "authz")
	for _, id := range []string{d.id("acme", "web"), d.id("globex", "web"), authz} {
		d.spire.Entry(id, os.Getuid())
	}
	d.apart = newExample(t, func(a *apart) {
		mesh := filepath.Join(a.dir, "mesh.yaml")
		editFile(t, mesh, `"{tenant}.demo.test"`, "prod.test")
		editFile(t, mesh, "/ns/{namespace}/sa/{serviceAccount}", "/ns/{tenant}/sa/{serviceAccount}")
		for _, tenant := range []string{"acme", "globex"} {
			for _, name := range []string{"orders", "web"} {
				editFile(t, filepath.Join(a.dir, "tenants", tenant, name+".yaml"), "serviceAccounts: ["+name+"]", "serviceAccounts: ["+name+"]\n  proxy: Direct")
			}
		}
		d.key = issue(t, filepath.Join(a.dir, "platform/acme-jwks.json"))
		external := filepath.Join(a.state, "spire")
		if err := os.Mkdir(external, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(external, "prod.test.pem"), string(d.spire.Bundle()))
		a.flags = []string{"--trust-bundles", external}
		out, err := exec.CommandContext(t.Context(), binary, "validate", a.dir).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "RF2580") || !strings.Contains(string(out), "2 tenants share the trust domain prod.test") {
			t.Errorf("validate does not say what is lost: %v\n%s", err, out)
		}
	})
	own := fromSPIRE(t, d.socket, authz)
	svid, key := filepath.Join(d.state, "authz.pem"), filepath.Join(d.state, "authz.key")
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, svid, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	d.runAuthz(svid, key, "prod.test", "platform.demo.test")
	serveApp(t, d.ports["20281"], &d.hits)
	flags := func(account string) []string {
		return []string{
			"--workload", d.id("acme", account), "--spire", d.socket, "--control-plane", d.listen["xds"], "--control-plane-id", planeID,
			"--platform-root", d.root("platform.demo.test"), "--authz", d.ask, "--authz-id", authz,
		}
	}
	d.web = startDirect(t, webUID, flags("web")...)
	d.orders = startDirect(t, ordersUID, append(flags("orders"), "--sotw")...)
	d.web.waitFor(1)
	d.orders.waitFor(2)
	eventually(t, 15*time.Second, "a call within a tenant is allowed", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet)
		return status == http.StatusOK
	})
	globex := fromSPIRE(t, d.socket, d.id("globex", "web"))
	d.alone(t, globex, []aloneCase{
		{"both guards", nil, 403, ""},
		{"guard 1 alone, which is RBAC", []func(*testing.T, *copied){noAuthz}, 403, ""},
		{"guard 2 alone", []func(*testing.T, *copied){noRBAC}, 403, "cross_tenant"},
		{"TLS alone: it passes", []func(*testing.T, *copied){noRBAC, noAuthz}, 200, ""},
	})
}
