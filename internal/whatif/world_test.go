package whatif_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/whatif"
	"github.com/ringfence-mesh/ringfence/source"
)

const (
	acmeWeb   = "spiffe://acme.demo.test/ns/acme/sa/web"
	globexWeb = "spiffe://globex.demo.test/ns/globex/sa/web"
)

func open(t *testing.T, dir string, at time.Time) *whatif.World {
	t.Helper()
	w, report, err := whatif.Open(t.Context(), source.NewDirectory(dir, zap.NewNop()), at)
	if err != nil || w == nil {
		t.Fatalf("%v, %v", report.Problems, err)
	}
	return w
}

func TestExplain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 12, 0, 0, 999_999_999, time.UTC)
	w := open(t, dir, at)
	token := func(tenant string) map[string]any {
		return map[string]any{"iss": "https://idp.acme.example.com", "tenant": tenant, "roles": []any{"manager"}}
	}
	with := func(claim string, value any) map[string]any {
		claims := token("acme")
		claims[claim] = value
		return claims
	}
	for name, tc := range map[string]struct {
		call whatif.Call
		want authz.Reason
	}{
		"allowed":        {whatif.Call{From: acmeWeb, To: "acme/orders", Method: "POST", Path: "/orders", Token: token("acme")}, authz.Allowed},
		"granted":        {whatif.Call{From: acmeWeb, To: "platform/billing", Method: "GET", Path: "/invoices"}, authz.Allowed},
		"own token":      {whatif.Call{From: acmeWeb, To: "platform/billing", Method: "GET", Path: "/invoices", Token: token("acme")}, authz.Allowed},
		"no grant":       {whatif.Call{From: globexWeb, To: "platform/billing"}, authz.GrantMissing},
		"foreign":        {whatif.Call{From: globexWeb, To: "acme/orders", Token: token("acme")}, authz.CrossTenant},
		"foreign token":  {whatif.Call{From: acmeWeb, To: "acme/orders", Token: token("globex")}, authz.IssuerNotAllowed},
		"empty token":    {whatif.Call{From: acmeWeb, To: "acme/orders", Token: map[string]any{}}, authz.IssuerNotAllowed},
		"wrong audience": {whatif.Call{From: acmeWeb, To: "acme/orders", Token: with("aud", "other")}, authz.TokenInvalid},
		"long life":      {whatif.Call{From: acmeWeb, To: "acme/orders", Token: with("exp", float64(at.Unix()+86400))}, authz.TokenInvalid},
		"old token":      {whatif.Call{From: acmeWeb, To: "acme/orders", Token: with("exp", float64(at.Unix()))}, authz.TokenExpired},
		"no token":       {whatif.Call{From: acmeWeb, To: "acme/orders"}, authz.TokenMissing},
		"unmapped":       {whatif.Call{From: "spiffe://elsewhere.test/x", To: "acme/orders"}, authz.UnknownCaller},
		"no ID":          {whatif.Call{From: "web", To: "acme/orders"}, authz.InvalidIdentity},
		"no service":     {whatif.Call{From: acmeWeb, To: "acme/none"}, authz.UnknownDestination},
	} {
		e, err := w.Explain(tc.call)
		if err != nil || e.Decision.Reason() != tc.want {
			t.Errorf("%s: %s, %v", name, e.Decision.Reason(), err)
		}
		for _, r := range e.Rules {
			if r.Position == "" {
				t.Errorf("%s: %s stands nowhere", name, r.Name)
			}
		}
	}
	for _, to := range []string{"", "acme", "initech/orders", "-/orders"} {
		if _, err := w.Explain(whatif.Call{From: acmeWeb, To: to}); err == nil {
			t.Errorf("%q was answered", to)
		}
	}
	if _, err := w.Explain(whatif.Call{From: acmeWeb, To: "initech/orders"}); !errors.Is(err, whatif.ErrNoTenant) {
		t.Error(err)
	}

	late := open(t, dir, time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC))
	if e, err := late.Explain(whatif.Call{From: acmeWeb, To: "platform/billing", Method: "GET", Path: "/invoices"}); err != nil || e.Decision.Reason() != authz.GrantExpired {
		t.Errorf("after the Grant: %s, %v", e.Decision.Reason(), err)
	}
	if err := os.Remove(filepath.Join(dir, "mesh.yaml")); err != nil {
		t.Fatal(err)
	}
	if w, report, err := whatif.Open(t.Context(), source.NewDirectory(dir, zap.NewNop()), at); w != nil || report.Clean() || err != nil {
		t.Errorf("a directory without a mesh can be asked: %v", err)
	}
}

// TestExplainThroughAsker asks what a decision point answers named askers.
func TestExplainThroughAsker(t *testing.T) {
	t.Parallel()
	ingress, istio := open(t, "../../examples/ingress/ringfence", present), open(t, "../../examples/istio/ringfence", present)
	user := func(tenant string, more ...any) map[string]any {
		return map[string]any{"iss": "https://idp." + tenant + ".example.com", "tenant": tenant, "sub": "alice", "roles": more}
	}
	nobody := user("acme", "clerk")
	delete(nobody, "sub")
	const istioWeb = "spiffe://cluster.local/ns/acme/sa/web"
	for name, tc := range map[string]struct {
		world *whatif.World
		call  whatif.Call
		want  authz.Reason
	}{
		"a clerk":                   {ingress, whatif.Call{Asker: "edge", To: "acme/orders", Path: "/orders/7", Token: user("acme", "clerk")}, authz.Allowed},
		"no role":                   {ingress, whatif.Call{Asker: "edge", To: "acme/orders", Path: "/orders/7", Token: user("acme")}, authz.NoRule},
		"no token":                  {ingress, whatif.Call{Asker: "edge", To: "acme/orders", Path: "/orders/7"}, authz.TokenMissing},
		"no token where one may be": {ingress, whatif.Call{Asker: "edge", To: "globex/orders", Path: "/orders/7"}, authz.TokenMissing},
		"a user of globex":          {ingress, whatif.Call{Asker: "edge", To: "globex/orders", Path: "/orders/7", Token: user("globex")}, authz.Allowed},
		"nobody's token":            {ingress, whatif.Call{Asker: "edge", To: "acme/orders", Path: "/orders/7", Token: nobody}, authz.TokenInvalid},
		"another tenant's":          {ingress, whatif.Call{Asker: "edge", To: "acme/orders", Path: "/orders/7", Token: user("globex", "clerk")}, authz.IssuerNotAllowed},
		"no such service":           {ingress, whatif.Call{Asker: "edge", To: "acme/none", Token: user("acme", "clerk")}, authz.UnknownDestination},
		"a workload, not through":   {ingress, whatif.Call{From: acmeWeb, To: "acme/orders", Path: "/orders/7", Token: user("acme", "clerk")}, authz.NoRule},

		"asserted":        {istio, whatif.Call{Asker: "istio-gateway", From: istioWeb, To: "acme/orders", Path: "/orders/7", Token: user("acme", "clerk")}, authz.Allowed},
		"asserted nobody": {istio, whatif.Call{Asker: "istio-gateway", From: "alice", To: "acme/orders", Path: "/orders/7"}, authz.InvalidIdentity},
	} {
		e, err := tc.world.Explain(tc.call)
		if err != nil || e.Decision.Reason() != tc.want {
			t.Errorf("%s: %s, %v", name, e.Decision.Reason(), err)
		}
	}
	for name, call := range map[string]whatif.Call{
		"an ID beside a token":      {Asker: "edge", From: acmeWeb, To: "acme/orders"},
		"an asker that is none":     {Asker: "egde", To: "acme/orders"},
		"another tenant's services": {Asker: "edge", To: "platform/x"},
	} {
		if e, err := ingress.Explain(call); !errors.Is(err, whatif.ErrAsker) {
			t.Errorf("%s: %s, %v", name, e.Decision.Reason(), err)
		}
	}
	if e, err := istio.Explain(whatif.Call{Asker: "istio-gateway", To: "acme/orders"}); !errors.Is(err, whatif.ErrAsker) {
		t.Errorf("nobody, asserted: %s, %v", e.Decision.Reason(), err)
	}
}

// TestAnAskersEntry: an asker is not asked about services that its entry does not name, though its callers may call them.
func TestAnAskersEntry(t *testing.T) {
	t.Parallel()
	dir := example(t)
	edit(t, dir, "mesh.yaml", "spec:\n", "spec:\n  askers: [{name: gate, socket: /run/gate.sock, services: [globex/orders]}, {name: gate-acme, socket: /run/acme.sock, services: [acme/web]}]\n")
	w := open(t, dir, present)
	for call, want := range map[*whatif.Call]authz.Reason{
		{Asker: "gate", From: globexWeb, To: "globex/orders", Path: "/orders/7"}: authz.Allowed,
		{Asker: "gate", From: acmeWeb, To: "globex/orders", Path: "/orders/7"}:   authz.CrossTenant,
		{Asker: "gate-acme", From: acmeWeb, To: "acme/orders", Path: "/orders"}:  authz.UnknownDestination,
	} {
		e, err := w.Explain(*call)
		if err != nil || e.Decision.Reason() != want {
			t.Errorf("%s from %s: %s, %v", call.To, call.From, e.Decision.Reason(), err)
		}
	}
}
