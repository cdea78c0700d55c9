package extauthz_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// While a change is on its way the Table in force gives the answer, unless only the one that follows refuses.
func TestTheStricterTableAnswers(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	open := m.agents(acmeOrders)
	m.edit("tenants/acme/orders.yaml", "roles: [clerk, manager]", "roles: [manager]")
	strict := m.agents(acmeOrders)
	m.files["tenants/acme/revoked.yaml"] = "apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r}\nspec: {workload: " + acmeWeb + `, reason: r, notAfter: "2036-01-01T00:00:00Z"}` + "\n"
	closed := m.agents(acmeOrders)
	p := start(t, m, acmeOrders, open)
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	for name, tt := range map[string]struct {
		current, next *authz.Table
		reason        string
		by            *authz.Table
	}{
		"both allow":            {open, open, "allowed", open},
		"the next refuses":      {open, strict, "no_rule", strict},
		"the one now refuses":   {strict, open, "no_rule", strict},
		"both refuse":           {strict, closed, "no_rule", strict},
		"both refuse otherwise": {closed, strict, "revoked", closed},
		"nothing yet, then one": {nil, open, "not_ready", nil},
	} {
		p.tables.mu.Lock()
		p.tables.current[acmeOrders], p.tables.next[acmeOrders] = tt.current, tt.next
		p.tables.mu.Unlock()
		resp := p.check(t, req)
		by := ""
		if tt.by != nil {
			by = tt.by.Version()[:12]
		}
		if e := p.entries.last(t); reason(resp) != tt.reason || e.Generation != by {
			t.Errorf("%s: %s by %q, want %s by %q", name, reason(resp), e.Generation, tt.reason, by)
		}
	}
	// Of two that allow, the one now is told.
	m2 := newMesh(t)
	current := m2.agents(acmeOrders)
	m2.edit("tenants/acme/orders.yaml", "roles: [clerk, manager]", "roles: [clerk]")
	p = start(t, m2, acmeOrders, current)
	p.tables.next[acmeOrders] = m2.agents(acmeOrders)
	p.check(t, call(m2.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m2.clerk()))
	if e := p.entries.last(t); !e.Allowed || e.Generation != current.Version()[:12] {
		t.Errorf("%+v", e)
	}
}

// A token that one of both Tables does not want passed on is not.
func TestTheTokenIsStrippedIfEitherTableSaysSo(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	drops := m.agents(platformBill)
	m.edit("platform/billing.yaml", "token: optional", "token: optional\n  forwardToken: true")
	keeps := m.agents(platformBill)
	p := start(t, m, platformBill, keeps, extauthz.StripToken())
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "platform/billing", "GET", "/invoices/1", "Bearer "+m.clerk())
	for _, tt := range []struct {
		current, next *authz.Table
		want          bool
	}{{keeps, nil, false}, {drops, nil, true}, {keeps, keeps, false}, {keeps, drops, true}, {drops, keeps, true}, {drops, drops, true}} {
		p.tables.mu.Lock()
		p.tables.current[platformBill], p.tables.next[platformBill] = tt.current, tt.next
		p.tables.mu.Unlock()
		resp := p.check(t, req)
		if got := slices.Contains(resp.GetOkResponse().GetHeadersToRemove(), "authorization"); got != tt.want || reason(resp) != "allowed" {
			t.Errorf("now %v, next %v: %s, stripped %v", tt.current == drops, tt.next == drops, reason(resp), got)
		}
	}
}

// An asker is answered by its own tenant's Table, whichever Table it is given, and by none where there is none. Nothing breaks.
func TestOnlyTheAskersOwnTableAnswers(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, nil)
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	for name, table := range map[string]*authz.Table{
		"none": nil, "another tenant's": m.whole("globex"), "another tenant's workload's": m.agents(globexOrders), "a colleague's": m.agents(acmeWeb),
	} {
		p.tables.mu.Lock()
		p.tables.current[acmeOrders] = table
		p.tables.mu.Unlock()
		resp := p.check(t, req)
		if e := p.entries.last(t); reason(resp) != "not_ready" || e.Generation != "" || !e.Caller.IsZero() {
			t.Errorf("%s: %s, %+v", name, reason(resp), e)
		}
	}
	if n := counter(t, p.registry, "ringfence_authz_faults_total", nil); n != 0 {
		t.Errorf("%v faults", n)
	}
}

// A server that knows no Tables for askers that the Mesh names answers none of them, and one that does says in its record by
// what it knows one that asks about a tenant that is not its.
func TestNamedAskersOfNobody(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	key := tenancy.KeyOfSocket("/run/whole.sock")
	wire := encode(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders"))
	s := extauthz.New(&tables{}, extauthz.FixedKey(key), &entries{}, metrics(t, prometheus.NewRegistry()), newClock(m.now).Now)
	if _, err := s.Check(t.Context(), wire); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without Tables: %v", err)
	}
	p := startNamed(t, m, all, gateway)
	p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "nobody/orders", "GET", "/orders"))
	if e := p.entries.last(t); e.Named != gateway || e.Reason != authz.UnknownDestination {
		t.Errorf("%+v", e)
	}
}

// Where a service reads no tokens, what stands in Authorization is the application's own: it is neither read nor removed.
func TestTokensThatAreNotRead(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.edit("tenants/acme/orders.yaml", "token: required", "token: none")
	m.edit("tenants/acme/orders.yaml", ", roles: [clerk, manager]", "")
	m.files["tenants/acme/orders.yaml"] = strings.ReplaceAll(m.files["tenants/acme/orders.yaml"], ", roles: [manager]", "")
	var lacking []string
	p := start(t, m, acmeOrders, m.whole("acme"), extauthz.StripToken(), extauthz.WithUnknownKeys(func(issuer string) { lacking = append(lacking, issuer) }))
	m.kid = "unknown"
	unknown := m.token(acmeIDP, "acme", m.now.Add(time.Minute))
	m.kid = "k1"
	for _, token := range []string{m.clerk(), unknown} {
		resp := p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+token))
		if h := headers(resp.GetOkResponse().GetHeaders()); reason(resp) != "allowed" || h["x-ringfence-subject"] != "" || slices.Contains(resp.GetOkResponse().GetHeadersToRemove(), "authorization") {
			t.Errorf("%v", resp)
		}
	}
	if len(lacking) != 0 {
		t.Errorf("keys of %v are asked for", lacking)
	}
	// Who wants to hear of no unknown key hears of none.
	m3 := newMesh(t)
	p = start(t, m3, acmeOrders, m3.agents(acmeOrders))
	m3.kid = "unknown"
	resp := p.check(t, call(m3.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m3.clerk()))
	if n := counter(t, p.registry, "ringfence_authz_faults_total", nil); reason(resp) != "token_invalid" || n != 0 {
		t.Errorf("%s, %v faults", reason(resp), n)
	}
	// Nor is the token of somebody who is not known.
	m2 := newMesh(t)
	p = start(t, m2, acmeOrders, m2.agents(acmeOrders), extauthz.WithUnknownKeys(func(issuer string) { lacking = append(lacking, issuer) }))
	m2.kid = "unknown"
	p.check(t, call(m2.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders", "Bearer "+m2.token(acmeIDP, "acme", m2.now.Add(time.Minute))))
	if len(lacking) != 0 {
		t.Errorf("for a stranger keys of %v are asked for", lacking)
	}
}
