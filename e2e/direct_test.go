//go:build spire

package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSPIREDirect runs a mixed mesh: acme's two Envoys have SPIRE's agent beside them, one asking for changes and one for the state
// of the world, and globex has Ringfence's agents.
func TestSPIREDirect(t *testing.T) {
	d := startDirectMesh(t)
	eventually(t, 15*time.Second, "a call is allowed", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet)
		return status == http.StatusOK
	})
	d.goesOn(10 * time.Second) // globex
	t.Run("who is refused, and by which guard", d.refusals)
	t.Run("each guard alone", d.eachGuard)
	t.Run("a TCP service", d.tcp)
	t.Run("SPIRE renews SVIDs under load: no call fails", d.rotation)
	t.Run("the control plane is away: Envoys keep what they have", d.planeAway)
	t.Run("a changed rule takes effect", func(t *testing.T) {
		if status, _ := d.call(t.Context(), http.MethodDelete); status != 403 {
			t.Errorf("before: %d", status)
		}
		editFile(t, filepath.Join(d.dir, "tenants/acme/orders.yaml"), "methods: [GET]", "methods: [GET, DELETE]")
		eventually(t, 15*time.Second, "the new rule holds", func(ctx context.Context) bool {
			status, _ := d.call(ctx, http.MethodDelete)
			return status == 200
		})
	})
	t.Run("a changed caller takes effect at both guards", func(t *testing.T) {
		stranger, clerk := fromSPIRE(t, d.socket, acmeStranger), d.token("acme")
		sni := d.web.sniOf("service/acme/orders")
		write(t, filepath.Join(d.dir, "tenants/acme/stranger.yaml"), strangerCalls)
		eventually(t, 15*time.Second, "the stranger is let in", func(ctx context.Context) bool {
			status, _ := raw(ctx, stranger, sni, fmt.Sprintf("127.0.0.1:%d", d.ports["20081"]), "/orders/7", clerk)
			return status == 200
		})
	})
	t.Run("who is revoked", d.revoked)
	t.Run("ringfence authz is gone: nothing passes", func(t *testing.T) {
		d.authz.stop(t, os.Interrupt)
		before := d.hits.Load()
		if status, _ := d.call(t.Context(), http.MethodGet); status != 503 {
			t.Errorf("got %d, want 503", status)
		}
		if d.hits.Load() != before {
			t.Error("the application was reached")
		}
	})
	t.Run("the tenant is removed: its Envoys have nothing any more, others notice nothing", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(d.dir, "tenants/acme")); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(d.dir, "platform/tenants.yaml"),
			"apiVersion: ringfence.dev/v1alpha1\nkind: Tenant\nmetadata: {name: globex}\nspec: {namespaces: [globex]}\n")
		editFile(t, filepath.Join(d.dir, "platform/token-issuers.yaml"), "tenants: [acme]", "tenants: [globex]")
		editFile(t, filepath.Join(d.dir, "platform/billing.yaml"), "tenant: acme", "tenant: globex")
		for _, e := range []*directEnvoy{d.web, d.orders} {
			eventually(t, 20*time.Second, "no listener is left", func(ctx context.Context) bool {
				return e.stat(ctx, "listener_manager.total_listeners_active") == "0"
			})
		}
		d.goesOn(10 * time.Second)
	})
}

const acmeStranger = "spiffe://acme.demo.test/ns/acme/sa/stranger"

const strangerCalls = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: stranger}
spec: {namespace: acme, serviceAccounts: [stranger], proxy: Direct}
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: stranger}
spec: {service: orders, rules: [{name: reads, from: {services: [stranger], roles: [clerk]}, to: {methods: [GET], paths: ["/orders/*"]}}]}
`

// rotation lets SPIRE give both Envoys new SVIDs: three times at once, and then by itself, at half of the life of orders' SVID
// of a minute. The stream that was opened with an SVID which has ended since is opened again with the next one.
func (d *direct) rotation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{ctx: ctx, cancel: cancel}
	defer l.stop()
	for _, anew := range []bool{false, true} {
		l.start(d.through(anew), "http://orders/orders/7")
	}
	for i := range 3 {
		web, orders := d.web.svid(t.Context()), d.orders.svid(t.Context())
		d.spire.Reissue(acmeWeb, time.Hour-time.Duration(i+1)*time.Second)
		d.spire.Reissue(acmeOrders, time.Minute+time.Duration(i)*time.Second)
		eventually(t, spireWithin, "both Envoys hold new SVIDs", func(ctx context.Context) bool {
			return d.web.svid(ctx) != web && d.orders.svid(ctx) != orders
		})
	}
	orders := d.orders.svid(t.Context())
	eventually(t, 2*time.Minute, "SPIRE renews by itself", func(ctx context.Context) bool { return d.orders.svid(ctx) != orders })
	eventually(t, 2*time.Minute, "the stream of an SVID that has ended ends", func(context.Context) bool {
		for line := range strings.Lines(d.serve.output.String()) {
			if strings.Contains(line, acmeOrders) && strings.Contains(line, "the client's SVID has expired") {
				return true
			}
		}
		return false
	})
	eventually(t, 15*time.Second, "and is opened again", func(ctx context.Context) bool { return d.inSync(ctx) == 2 })
	l.ended(t, "renewals by SPIRE", 200)
}

// inSync is how many of acme's Envoys have acknowledged what they shall have.
func (d *direct) inSync(ctx context.Context) int {
	out, _ := exec.CommandContext(ctx, binary, "proxy", "list", "--state", d.planeState(), "--tenant", "acme").Output()
	return strings.Count(string(out), "in sync")
}

func (d *direct) planeAway(t *testing.T) {
	d.serve.stop(t, syscall.SIGKILL)
	for range 20 {
		if status, _ := d.call(t.Context(), http.MethodGet); status != 200 {
			t.Errorf("got %d", status)
		}
	}
	if status, _ := d.call(t.Context(), http.MethodDelete); status != 403 {
		t.Errorf("what no rule allows: %d", status)
	}
	// What there is no disk for: an Envoy that is started now has nothing, and lets nobody in.
	d.web.Stop()
	d.web.start()
	eventually(t, 10*time.Second, "Envoy runs", func(ctx context.Context) bool { return d.web.get(ctx, "/server_info") != "" })
	if status, _ := d.call(t.Context(), http.MethodGet); status != 0 {
		t.Errorf("an Envoy without configuration answers %d", status)
	}
	d.startServe()
	d.web.waitFor(2)
	eventually(t, 15*time.Second, "calls pass, both are in sync", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet)
		return status == 200 && d.inSync(ctx) == 2
	})
}

// revoked: the next call is refused by ringfence authz, and the control plane ends the stream and takes no other; by a document,
// and by an operator.
func (d *direct) revoked(t *testing.T) {
	path := filepath.Join(d.dir, "tenants/acme/revoked.yaml")
	write(t, path, revocationHead+"workload: "+acmeWeb+"\n")
	d.isRevoked(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.isBack(t)
	name, err := exec.CommandContext(t.Context(), binary, "revoke", "workload", acmeWeb, "--reason", "lost", "--state", d.planeState(), "--yes").Output()
	if err != nil {
		t.Fatal(err)
	}
	d.isRevoked(t)
	if err := exec.CommandContext(t.Context(), binary, "revoke", "undo", strings.TrimSpace(string(name)), "--state", d.planeState(), "--yes").Run(); err != nil {
		t.Fatal(err)
	}
	d.isBack(t)
}

func (d *direct) isRevoked(t *testing.T) {
	t.Helper()
	var decision string
	eventually(t, 15*time.Second, "the call is refused", func(ctx context.Context) bool {
		var status int
		status, decision = d.call(ctx, http.MethodGet)
		return status == 403 && decision != ""
	})
	if got := d.authz.reason(t, decision); got != "revoked" {
		t.Errorf("refused for %s", got)
	}
	eventually(t, 15*time.Second, "web is not connected", func(ctx context.Context) bool {
		return d.web.stat(ctx, "control_plane.connected_state") == "0" && d.inSync(ctx) == 1
	})
}

func (d *direct) isBack(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "all is as before", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet)
		return status == 200 && d.inSync(ctx) == 2
	})
}

func (d *direct) refusals(t *testing.T) {
	address, sni := fmt.Sprintf("127.0.0.1:%d", d.ports["20081"]), d.web.sniOf("service/acme/orders")
	globex, err := tls.LoadX509KeyPair(filepath.Join(d.agentState("web"), "svid.pem"), filepath.Join(d.agentState("web"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	web, stranger := fromSPIRE(t, d.socket, acmeWeb), fromSPIRE(t, d.socket, acmeStranger)
	clerk := d.token("acme")
	for name, tt := range map[string]struct {
		cert             *tls.Certificate
		sni, path, token string
		status           int
		reason           string // of guard 2; empty: it was not asked, or allowed
	}{
		"web itself":                {web, sni, "/orders/7", clerk, 200, ""},
		"without a label":           {web, "", "/orders/7", clerk, 0, ""},
		"without a certificate":     {&tls.Certificate{}, sni, "/orders/7", clerk, 0, ""},
		"another tenant":            {&globex, sni, "/orders/7", clerk, 0, ""},
		"an account without rule":   {stranger, sni, "/orders/7", clerk, 403, ""},
		"a path without rule":       {web, sni, "/admin", clerk, 403, "no_rule"},
		"no token":                  {web, sni, "/orders/7", "", 401, "token_missing"},
		"a token of another tenant": {web, sni, "/orders/7", d.token("globex"), 403, "issuer_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			before := d.hits.Load()
			status, decision := raw(t.Context(), tt.cert, tt.sni, address, tt.path, tt.token)
			d.expect(t, status, decision, tt.status, tt.reason, before)
		})
	}
}
