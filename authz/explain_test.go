package authz_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/authz"
)

// That an Explanation is the Decision's, call by call, is shown where Decide is compared with its twin.
func TestExplainNothing(t *testing.T) {
	t.Parallel()
	e := authz.Explain(nil, authz.Input{})
	if e.Decision.Allowed() || e.Decision.Reason() != authz.NotReady || len(e.Rules) > 0 {
		t.Errorf("%+v", e)
	}
	for _, s := range e.Steps {
		if s.Outcome != authz.NotReached {
			t.Errorf("%+v", s)
		}
	}
}

func TestExplainRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := func(name string, change func(*ruleMsg)) *ruleMsg {
		r := webReads("clerk")
		r.Name, r.Position = name, "orders.yaml:1:1"
		r.Methods, r.Paths = []string{"GET"}, []string{"/orders/*"}
		change(r)
		return r
	}
	table := decode(t, w.orders(
		tokenRequired,
		rule("p/caller", func(r *ruleMsg) { r.From = []string{acmeBatch} }),
		rule("p/method", func(r *ruleMsg) { r.Methods = []string{"POST"} }),
		rule("p/path", func(r *ruleMsg) { r.Paths = []string{"/", "/x"} }),
		rule("p/role", func(r *ruleMsg) { r.Roles = []string{"manager"} }),
		rule("p/none", func(*ruleMsg) {}),
		rule("p/later", func(*ruleMsg) {}),
	))
	e := authz.Explain(table, authz.Input{
		Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Token: table.Token(w.acmeToken(t, "clerk"), w.now),
		Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders/7", Now: w.now,
	})
	got := map[string]string{}
	for _, r := range e.Rules {
		got[r.Name] = r.Fails
		if r.Grant || r.Position != "orders.yaml:1:1" {
			t.Errorf("%+v", r)
		}
	}
	want := map[string]string{"p/caller": "caller", "p/method": "method", "p/path": "path", "p/role": "role", "p/none": "", "p/later": ""}
	if diff := cmp.Diff(want, got); diff != "" || e.Decision.Rule() != "p/none" {
		t.Error(diff, e.Decision.Rule())
	}
}

func TestReasonsInWords(t *testing.T) {
	t.Parallel()
	for _, r := range authz.Reasons() {
		if back, ok := authz.ParseReason(r.String()); !ok || back != r {
			t.Errorf("%s is read as %s", r, back)
		}
		if r.Words() == "" || (r.Advice() == "") != (r == authz.Allowed) {
			t.Errorf("%s: %q, %q", r, r.Words(), r.Advice())
		}
	}
	if r, ok := authz.ParseReason("nonsense"); ok || r != authz.NotReady {
		t.Error(r)
	}
	all := authz.Reasons()
	for _, beyond := range []authz.Reason{all[len(all)-1] + 1, 200} {
		if beyond.Words() != authz.NotReady.Words() || beyond.Advice() == "" {
			t.Error(beyond.Words())
		}
	}
}
