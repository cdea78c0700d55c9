package authz_test

import (
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func webReads(roles ...string) *ruleMsg {
	return &ruleMsg{Name: "orders/web-reads", From: []string{acmeWeb}, Roles: roles, Methods: []string{"GET"}, Paths: []string{"/orders", "/orders/*"}}
}

func TestDecideWithinATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	table := decode(t, w.orders(tokenRequired, webReads("clerk", "manager"),
		&ruleMsg{
			Name: "orders/web-writes", From: []string{acmeWeb}, Roles: []string{"manager"}, Methods: []string{"POST"},
			Paths: []string{"/orders"},
		},
		&ruleMsg{Name: "orders/late", From: []string{acmeWeb, acmeBatch}, Methods: []string{"GET", "PUT"}, Paths: []string{"/**"}}))
	orders := service(t, table, "acme", "orders")
	caller := func(id string) authz.Caller { return table.Caller(w.acme.SVID(id).Cert.Raw, nil, w.now) }
	web, batch := caller(acmeWeb), caller(acmeBatch)
	clerk, manager, nobody := table.Token(w.acmeToken(t, "clerk"), w.now), table.Token(
		w.acmeToken(t, "x", "manager"), w.now,
	), table.Token(w.acmeToken(t), w.now)
	tests := []struct {
		name         string
		caller       authz.Caller
		token        authz.Token
		service      authz.ServiceRef
		method, path string
		reason       authz.Reason
		rule         string
	}{
		{"first rule", web, clerk, orders, "GET", "/orders/7?x=1", authz.Allowed, "orders/web-reads"},
		{"first of two that match", web, manager, orders, "GET", "/orders", authz.Allowed, "orders/web-reads"},
		{"by its role", web, manager, orders, "POST", "/orders", authz.Allowed, "orders/web-writes"},
		{"no role asked for", web, nobody, orders, "GET", "/orders/7", authz.Allowed, "orders/late"},
		{"another caller", batch, nobody, orders, "PUT", "/a/b/c", authz.Allowed, "orders/late"},
		{"role missing", web, clerk, orders, "POST", "/orders", authz.NoRule, ""},
		{"method missing", web, manager, orders, "DELETE", "/orders", authz.NoRule, ""},
		{"method in lower case", web, clerk, orders, "get", "/orders", authz.NoRule, ""},
		{"method empty", web, clerk, orders, "", "/orders", authz.NoRule, ""},
		{"a path that is not canonical", web, manager, orders, "GET", "/orders/../secret", authz.NoRule, ""},
		{"no path", web, manager, orders, "GET", "", authz.NoRule, ""},
		{"a workload that no rule names", caller(acmeOrders), manager, orders, "GET", "/orders", authz.NoRule, ""},
		{"no token", web, authz.Token{}, orders, "GET", "/orders", authz.TokenMissing, ""},
		{"token invalid", web, table.Token("x.y.z", w.now), orders, "GET", "/orders", authz.TokenInvalid, ""},
		{"token repeated", web, authz.InvalidToken(), orders, "GET", "/orders", authz.TokenInvalid, ""},
		{
			"token expired", web, table.Token(w.token(t, "https://idp.acme.example.com", "acme", w.now), w.now), orders,
			"GET", "/orders", authz.TokenExpired, "",
		},
		{
			"token of another issuer", web,
			table.Token(w.token(t, "https://idp.globex.example.com", "acme", w.now.Add(time.Minute)), w.now), orders, "GET",
			"/orders", authz.IssuerNotAllowed, "",
		},
		{
			"token for another tenant", web,
			table.Token(w.token(t, "https://idp.acme.example.com", "globex", w.now.Add(time.Minute)), w.now), orders, "GET",
			"/orders", authz.IssuerNotAllowed, "",
		},
		{"no caller", authz.Caller{}, manager, orders, "GET", "/orders", authz.UnknownCaller, ""},
		{"caller invalid", authz.InvalidCaller(), manager, orders, "GET", "/orders", authz.InvalidIdentity, ""},
		{"not a certificate", table.Caller([]byte("x"), nil, w.now), manager, orders, "GET", "/orders", authz.InvalidIdentity, ""},
		{"unmapped", caller("spiffe://acme.demo.test/other"), manager, orders, "GET", "/orders", authz.UnknownCaller, ""},
		{"certificate expired", table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now.Add(2*time.Hour)), manager, orders, "GET", "/orders", authz.ExpiredIdentity, ""},
		{"another tenant", table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now), manager, orders, "GET", "/orders", authz.CrossTenant, ""},
		{"the platform", table.Caller(w.platform.SVID(platformOps).Cert.Raw, nil, w.now), manager, orders, "GET", "/orders", authz.CrossTenant, ""},
		{"own ID, another tenant's root", table.Caller(w.globex.SVID(acmeWeb).Cert.Raw, nil, w.now), manager, orders, "GET", "/orders", authz.InvalidIdentity, ""},
		{"no service", web, manager, authz.ServiceRef{}, "GET", "/orders", authz.UnknownDestination, ""},
	}
	for _, tc := range tests {
		d := authz.Decide(
			table,
			authz.Input{Caller: tc.caller, Token: tc.token, Service: tc.service, Method: tc.method, Path: tc.path, Now: w.now},
		)
		if d.Allowed() != (tc.reason == authz.Allowed) || d.Reason() != tc.reason || d.Rule() != tc.rule {
			t.Errorf("%s: %v %s %q, want %s %q", tc.name, d.Allowed(), d.Reason(), d.Rule(), tc.reason, tc.rule)
		}
	}
}

func TestDecideTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	table := decode(t, w.orders(tokenOptional, webReads()))
	svid := w.acme.SVID(acmeWeb)
	in := authz.Input{
		Caller: table.Caller(svid.Cert.Raw, nil, w.now), Token: table.Token(w.acmeToken(t), w.now),
		Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders",
	}
	begins, expires := in.Token.Claims().Begins(), in.Token.Claims().Expires()
	for _, tc := range []struct {
		name   string
		now    time.Time
		token  bool
		reason authz.Reason
	}{
		{"last instant of the token", expires.Add(-1), true, authz.Allowed},
		{"first instant of the token", begins, true, authz.Allowed},
		{"token not yet", begins.Add(-1), true, authz.TokenInvalid},
		{"token over", expires, true, authz.TokenExpired},
		{"without it", expires, false, authz.Allowed},
		{"last instant of the certificate", svid.Cert.NotAfter, false, authz.Allowed},
		{"certificate over", svid.Cert.NotAfter.Add(1), false, authz.ExpiredIdentity},
		{"no time", time.Time{}, false, authz.NotReady},
	} {
		in := in
		if in.Now = tc.now; !tc.token {
			in.Token = authz.Token{}
		}
		if d := authz.Decide(table, in); d.Reason() != tc.reason || d.Allowed() != (tc.reason == authz.Allowed) {
			t.Errorf("%s: %s", tc.name, d.Reason())
		}
	}
}

func TestDecideTokenModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tc := range []struct {
		name                    string
		table                   *tableMsg
		none, bad, plain, clerk authz.Reason
	}{
		{"none", w.orders(tokenNone, webReads()), authz.Allowed, authz.Allowed, authz.Allowed, authz.Allowed},
		{"none, and a rule with a role", w.orders(tokenNone, webReads("clerk")), authz.NoRule, authz.NoRule, authz.NoRule, authz.NoRule},
		{"optional", w.orders(tokenOptional, webReads()), authz.Allowed, authz.TokenInvalid, authz.Allowed, authz.Allowed},
		{
			"optional, and a rule with a role", w.orders(tokenOptional, webReads("clerk")), authz.NoRule, authz.TokenInvalid,
			authz.NoRule, authz.Allowed,
		},
		{"required", w.orders(tokenRequired, webReads()), authz.TokenMissing, authz.TokenInvalid, authz.Allowed, authz.Allowed},
		{
			"required, and a rule with a role", w.orders(tokenRequired, webReads("clerk")), authz.TokenMissing,
			authz.TokenInvalid, authz.NoRule, authz.Allowed,
		},
	} {
		table := decode(t, tc.table)
		in := authz.Input{
			Caller: table.Caller(
				w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now,
			), Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders", Now: w.now,
		}
		for kind, token := range map[string]struct {
			token authz.Token
			want  authz.Reason
		}{
			"none": {authz.Token{}, tc.none}, "bad": {table.Token("x", w.now), tc.bad},
			"plain": {table.Token(w.acmeToken(t), w.now), tc.plain}, "clerk": {table.Token(w.acmeToken(t, "clerk"), w.now), tc.clerk},
		} {
			in.Token = token.token
			if d := authz.Decide(table, in); d.Reason() != token.want || d.TokenRevoked() {
				t.Errorf("%s, token %s: %s, want %s", tc.name, kind, d.Reason(), token.want)
			}
		}
	}
}

func TestDecideGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(time.Minute)
	invoices := &grantMsg{
		Name: "acme-billing", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"POST"},
		Paths: []string{"/invoices"}, NotAfter: end.Unix(),
	}
	old := &grantMsg{
		Name: "acme-old", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/old"},
		NotAfter: w.now.Unix() - 10,
	}
	never := &grantMsg{
		Name: "globex-never", Tenant: "globex", From: []string{globexWeb}, Methods: []string{"POST"},
		Paths: []string{"/invoices"},
	}
	ops := &ruleMsg{Name: "billing/ops", From: []string{platformOps}, Methods: []string{"GET"}, Paths: []string{"/**"}}
	table := decode(t, w.billing(tokenOptional, []*ruleMsg{ops}, old, invoices, never))
	acme, globex, platform := table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), table.Caller(
		w.globex.SVID(globexWeb).Cert.Raw, nil, w.now,
	), table.Caller(w.platform.SVID(platformOps).Cert.Raw, nil, w.now)
	batch := table.Caller(w.acme.SVID(acmeBatch).Cert.Raw, nil, w.now)
	ofAcme := table.Token(w.acmeToken(t), w.now)
	ofGlobex := table.Token(w.token(t, "https://idp.globex.example.com", "globex", w.now.Add(5*time.Minute)), w.now)
	tests := []struct {
		name         string
		caller       authz.Caller
		token        authz.Token
		method, path string
		now          time.Time
		reason       authz.Reason
		rule         string
	}{
		{"granted", acme, authz.Token{}, "POST", "/invoices", w.now, authz.Allowed, "acme-billing"},
		{"granted, with its token", acme, ofAcme, "POST", "/invoices", w.now, authz.Allowed, "acme-billing"},
		{"granted, with another tenant's token", acme, ofGlobex, "POST", "/invoices", w.now, authz.TokenTenantMismatch, ""},
		{"last instant", acme, authz.Token{}, "POST", "/invoices", end.Add(-1), authz.Allowed, "acme-billing"},
		{"over", acme, authz.Token{}, "POST", "/invoices", end, authz.GrantExpired, ""},
		{"over, before any token", acme, authz.InvalidToken(), "POST", "/invoices", end, authz.GrantExpired, ""},
		{"not granted: method", acme, authz.Token{}, "GET", "/invoices", w.now, authz.NoRule, ""},
		{"not granted: path", acme, authz.Token{}, "POST", "/invoices/7", w.now, authz.NoRule, ""},
		{"that Grant is over, another is not", acme, authz.Token{}, "GET", "/old", w.now, authz.NoRule, ""},
		{"a workload that the Grant does not name", batch, authz.Token{}, "POST", "/invoices", w.now, authz.NoRule, ""},
		{"a Grant that never held", globex, authz.Token{}, "POST", "/invoices", w.now, authz.GrantExpired, ""},
		{"the platform itself, by a rule", platform, authz.Token{}, "GET", "/invoices", w.now, authz.Allowed, "billing/ops"},
		{"the platform itself, no rule", platform, authz.Token{}, "POST", "/invoices", w.now, authz.NoRule, ""},
		{"the platform with a tenant's token", platform, ofAcme, "GET", "/invoices", w.now, authz.TokenTenantMismatch, ""},
	}
	for _, tc := range tests {
		d := authz.Decide(
			table,
			authz.Input{
				Caller: tc.caller, Token: tc.token, Service: service(t, table, "platform", "billing"), Method: tc.method,
				Path: tc.path, Now: tc.now,
			},
		)
		if d.Allowed() != (tc.reason == authz.Allowed) || d.Reason() != tc.reason || d.Rule() != tc.rule {
			t.Errorf("%s: %v %s %q, want %s %q", tc.name, d.Allowed(), d.Reason(), d.Rule(), tc.reason, tc.rule)
		}
	}
	narrow := decode(t, w.billing(tokenNone, nil, invoices))
	in := authz.Input{
		Caller:  narrow.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now),
		Service: service(t, narrow, "platform", "billing"), Method: "POST", Path: "/invoices", Now: w.now,
	}
	if d := authz.Decide(narrow, in); d.Reason() != authz.GrantMissing {
		t.Errorf("no roots of the caller's trust domain: %s", d.Reason())
	}
	in.Caller = narrow.Caller(w.acme.SVID(globexWeb).Cert.Raw, nil, w.now)
	if d := authz.Decide(narrow, in); d.Reason() != authz.GrantMissing {
		t.Errorf("an ID that the root may not vouch for: %s", d.Reason())
	}
}

// A root of acme without name constraints, trusted for acme, mints an identity of globex, which has a Grant of its own.
func TestDecideOwnRootsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := w.now.Add(time.Hour).Unix()
	all := func(tenant, id string) *grantMsg {
		return &grantMsg{Name: tenant, Tenant: tenant, From: []string{id}, Methods: []string{"GET"}, Paths: []string{"/**"}, NotAfter: far}
	}
	table := decode(t, w.billing(tokenNone, nil, all("acme", acmeWeb), all("globex", globexWeb)))
	in := authz.Input{Service: service(t, table, "platform", "billing"), Method: "GET", Path: "/", Now: w.now}
	for _, tc := range []struct {
		name   string
		caller authz.Caller
		reason authz.Reason
	}{
		{"globex by its own root", table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now), authz.Allowed},
		{"globex by acme's root", table.Caller(w.acme.SVID(globexWeb).Cert.Raw, nil, w.now), authz.InvalidIdentity},
		{"acme by globex's root", table.Caller(w.globex.SVID(acmeWeb).Cert.Raw, nil, w.now), authz.InvalidIdentity},
	} {
		in.Caller = tc.caller
		if d := authz.Decide(table, in); d.Reason() != tc.reason {
			t.Errorf("%s: %s", tc.name, d.Reason())
		}
	}
}

// What one Table proved or found means nothing to another.
func TestDecideTakesNoForeignProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := decode(t, w.orders(tokenOptional, webReads())), decode(t, w.orders(tokenRequired, webReads()))
	leaf, bearer := w.acme.SVID(acmeWeb).Cert.Raw, w.acmeToken(t)
	good := authz.Input{
		Caller: two.Caller(leaf, nil, w.now), Token: two.Token(bearer, w.now), Service: service(t, two, "acme", "orders"),
		Method: "GET", Path: "/orders", Now: w.now,
	}
	if d := authz.Decide(two, good); !d.Allowed() {
		t.Fatalf("its own: %s", d.Reason())
	}
	for name, tc := range map[string]struct {
		change func(*authz.Input)
		reason authz.Reason
	}{
		"caller":  {func(in *authz.Input) { in.Caller = one.Caller(leaf, nil, w.now) }, authz.UnknownCaller},
		"token":   {func(in *authz.Input) { in.Token = one.Token(bearer, w.now) }, authz.TokenInvalid},
		"service": {func(in *authz.Input) { in.Service = service(t, one, "acme", "orders") }, authz.UnknownDestination},
	} {
		in := good
		tc.change(&in)
		if d := authz.Decide(two, in); d.Allowed() || d.Reason() != tc.reason {
			t.Errorf("%s of another Table: %s", name, d.Reason())
		}
	}
	again := decode(t, w.orders(tokenRequired, webReads()))
	good.Service = service(t, again, "acme", "orders")
	if d := authz.Decide(again, good); !d.Allowed() {
		t.Errorf("the same content, decoded again: %s", d.Reason())
	}
}

func TestZeroValuesDeny(t *testing.T) {
	t.Parallel()
	var d authz.Decision
	if d.Allowed() || d.Reason() != authz.NotReady || d.Rule() != "" {
		t.Error("the zero Decision allows")
	}
	var none *authz.Table
	now := time.Now()
	if _, ok := none.Service("acme", "orders"); ok {
		t.Error("no Table has a service")
	}
	in := authz.Input{Caller: none.Caller(nil, nil, now), Token: none.Token("", now), Now: now}
	if d := authz.Decide(nil, in); d.Allowed() || d.Reason() != authz.NotReady {
		t.Errorf("no Table: %s", d.Reason())
	}
	w := newWorld(t)
	table := decode(t, w.orders(tokenNone, webReads()))
	if d := authz.Decide(table, authz.Input{Now: now}); d.Allowed() || d.Reason() != authz.UnknownCaller {
		t.Errorf("an empty Input: %s", d.Reason())
	}
	var s authz.ServiceRef
	if s.Name() != "" || s.Port() != "" || s.ReadsToken() || s.RunBy(identity.WorkloadID{}) ||
		s.Knows(identity.TenantID{}) || !s.Owner().IsZero() {
		t.Error("the zero ServiceRef is a service")
	}
	if !in.Caller.Peer().IsZero() || !in.Token.Claims().IsZero() {
		t.Error("something was proved by no Table")
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range authz.Reasons() {
		if s := r.String(); s == "" || seen[s] {
			t.Errorf("reason %d is called %q", r, s)
		}
		seen[r.String()] = true
	}
	if s := authz.Reason(200).String(); s != "not_ready" {
		t.Errorf("no reason is called %q", s)
	}
}

// A certificate that can prove nobody here, whatever the time is, and one that only does not now.
func TestUnprovable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := decode(t, w.orders(tokenNone, webReads()))
	billing := decode(t, w.billing(tokenNone, nil, billingGrant()))
	stranger := testca.Constrained(t, "acme.demo.test")
	expired := testca.ValidFor(-2*time.Hour, -time.Hour)
	for name, tt := range map[string]struct {
		table  *authz.Table
		leaf   []byte
		want   bool
		reason authz.Reason
	}{
		"good":                             {acme, w.acme.SVID(acmeWeb).Cert.Raw, false, authz.Allowed},
		"of a domain without roots":        {acme, w.globex.SVID(globexWeb).Cert.Raw, true, authz.CrossTenant},
		"the same, at a shared service":    {billing, w.globex.SVID(globexWeb).Cert.Raw, true, authz.GrantMissing},
		"of nobody in the mesh":            {acme, w.acme.SVID("spiffe://acme.demo.test/x").Cert.Raw, true, authz.UnknownCaller},
		"of no SPIFFE ID":                  {acme, w.acme.SVID("https://acme.demo.test").Cert.Raw, true, authz.InvalidIdentity},
		"no certificate":                   {acme, []byte("x"), true, authz.InvalidIdentity},
		"expired":                          {acme, w.acme.SVID(acmeWeb, expired).Cert.Raw, false, authz.ExpiredIdentity},
		"of a root that nobody knows here": {acme, stranger.SVID(acmeWeb).Cert.Raw, false, authz.InvalidIdentity},
	} {
		c := tt.table.Caller(tt.leaf, nil, w.now)
		if c.Unprovable() != tt.want || c.IsKnown() != (tt.reason == authz.Allowed) {
			t.Errorf("%s: unprovable %v, known %v", name, c.Unprovable(), c.IsKnown())
		}
		in := authz.Input{Caller: c, Service: tt.table.Services()[0], Method: "GET", Path: "/orders", Now: w.now}
		if d := authz.Decide(tt.table, in); d.Reason() != tt.reason {
			t.Errorf("%s: %v, want %v", name, d.Reason(), tt.reason)
		}
	}
	if c := (*authz.Table)(nil).Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now); c.Unprovable() || c.IsKnown() {
		t.Error("no Table proves somebody")
	}
}

// Only a token whose key its issuer does not have says which issuer that is.
func TestTokenLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.acmeToken(t)
	for name, tt := range map[string]struct {
		change func(*tableMsg)
		text   string
		want   string
	}{
		"verified":            {func(*tableMsg) {}, good, ""},
		"malformed":           {func(*tableMsg) {}, "a.b.c", ""},
		"no key is known yet": {func(m *tableMsg) { m.Issuers[0].Jwks = nil }, good, "acme-idp"},
		"another issuer":      {func(m *tableMsg) { m.Issuers[0].Issuer = "https://other.example.com" }, good, ""},
	} {
		m := w.orders(tokenRequired)
		tt.change(m)
		token := decode(t, m).Token(tt.text, w.now)
		if token.Lacks() != tt.want || token.Claims().IsZero() == (name == "verified") {
			t.Errorf("%s: it lacks a key of %q, want %q", name, token.Lacks(), tt.want)
		}
	}
}
