package authz_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/authz"
)

// The dumb twin of Decide: it reads the encoded Table as it was written, knows callers and tokens by their texts, and
// follows the documentation line by line. It shares no code with the package.

type twinCaller struct {
	id, tenant string
	problem    string // the reason why nobody is proved
	serial     string
	notAfter   time.Time
}

type twinToken struct {
	present bool
	problem string
	tenant  string
	issuer  string
	jti     string
	subject string
	session string
	roles   []string
	expires time.Time
	acr     string
	amr     []string
	auth    time.Time // zero: the token does not say it
}

type twinCall struct {
	caller       twinCaller
	token        twinToken
	service      string // "tenant/service"
	method, path string
	now          time.Time
}

func twinDecide(table *tableMsg, c twinCall) (reason, rule string) {
	// The caller is known.
	if c.caller.problem != "" {
		return c.caller.problem, ""
	}
	if c.now.After(c.caller.notAfter) {
		return "expired_identity", ""
	}
	// Neither it nor its certificate is revoked.
	for _, r := range table.GetRevocations() {
		if r.GetTenant() == c.caller.tenant && c.now.Before(time.Unix(r.GetNotAfter(), 0)) &&
			(r.GetWorkload() == c.caller.id || (r.GetSerial() != "" && r.GetSerial() == c.caller.serial)) {
			return "revoked", ""
		}
	}
	// The destination is a service of this Table.
	var dest *serviceMsg
	for _, s := range table.GetServices() {
		if table.GetTenant()+"/"+s.GetName() == c.service {
			dest = s
		}
	}
	if dest == nil {
		return "unknown_destination", ""
	}
	// Caller and destination are of the same tenant, or the destination is a shared service with an unexpired Grant for the
	// caller's tenant.
	if c.caller.tenant != table.GetTenant() {
		if table.GetTenant() != "platform" {
			return "cross_tenant", ""
		}
		granted, holds := false, false
		for _, g := range dest.GetGrants() {
			if g.GetTenant() == c.caller.tenant {
				granted = true
				holds = holds || c.now.Before(time.Unix(g.GetNotAfter(), 0))
			}
		}
		if !granted {
			return "grant_missing", ""
		}
		if !holds {
			return "grant_expired", ""
		}
	}
	// The token, where present, asserts that same tenant and its issuer may.
	if dest.GetToken() == tokenRequired && !c.token.present {
		return "token_missing", ""
	}
	if dest.GetToken() != tokenNone && c.token.present {
		if c.token.problem != "" {
			return c.token.problem, ""
		}
		if !c.now.Before(c.token.expires) {
			return "token_expired", ""
		}
		if c.token.tenant != c.caller.tenant {
			return "token_tenant_mismatch", ""
		}
		if twinRevoked(table, c) {
			return "revoked", ""
		}
	}
	// The sensitivity's demands hold.
	if !twinMeets(dest.GetSensitivity(), c) {
		return "step_up_required", ""
	}
	for _, r := range dest.GetRoutes() {
		methods := r.GetMethods()
		if len(methods) == 0 {
			methods = []string{c.method}
		}
		if dest.GetTcpPort() > 0 || !twinCovers(dest, methods, r.GetPaths(), c) {
			continue
		}
		if r.GetTokenRequired() && !c.token.present {
			return "token_missing", ""
		}
		if !twinMeets(r.GetSensitivity(), c) {
			return "step_up_required", ""
		}
	}
	// A rule allows it.
	for _, r := range dest.GetRules() {
		if slices.Contains(r.GetFrom(), c.caller.id) && twinCovers(dest, r.GetMethods(), r.GetPaths(), c) && twinRole(dest, r.GetRoles(), c) {
			return "allowed", r.GetName()
		}
	}
	for _, g := range dest.GetGrants() {
		if slices.Contains(g.GetFrom(), c.caller.id) && twinCovers(dest, g.GetMethods(), g.GetPaths(), c) &&
			c.now.Before(time.Unix(g.GetNotAfter(), 0)) {
			return "allowed", g.GetName()
		}
	}
	return "no_rule", ""
}

func twinRevoked(table *tableMsg, c twinCall) bool {
	for _, r := range table.GetRevocations() {
		if r.GetTenant() != c.token.tenant || !c.now.Before(time.Unix(r.GetNotAfter(), 0)) || (r.GetIssuer() != "" && r.GetIssuer() != c.token.issuer) {
			continue
		}
		for _, pair := range [][2]string{
			{r.GetJti(), c.token.jti}, {r.GetSubject(), c.token.subject}, {r.GetSession(), c.token.session}, {r.GetWorkload(), c.token.subject},
		} {
			if pair[0] != "" && pair[0] == pair[1] {
				return true
			}
		}
	}
	return false
}

func twinMeets(class *classMsg, c twinCall) bool {
	if len(class.GetAcr()) > 0 && (c.token.acr == "" || !slices.Contains(class.GetAcr(), c.token.acr)) {
		return false
	}
	for _, demanded := range class.GetAmr() {
		if !slices.Contains(c.token.amr, demanded) {
			return false
		}
	}
	seconds := class.GetMaxAuthAgeSeconds()
	return seconds == 0 || (!c.token.auth.IsZero() && !c.now.After(c.token.auth.Add(time.Duration(seconds)*time.Second)))
}

func twinRole(dest *serviceMsg, roles []string, c twinCall) bool {
	if len(roles) == 0 {
		return true
	}
	if dest.GetToken() == tokenNone || !c.token.present {
		return false
	}
	for _, r := range roles {
		if slices.Contains(c.token.roles, r) {
			return true
		}
	}
	return false
}

func twinCovers(dest *serviceMsg, methods, patterns []string, c twinCall) bool {
	if dest.GetTcpPort() > 0 {
		return c.method == "" && c.path == "" // a connection, no request
	}
	if !slices.Contains(methods, c.method) {
		return false
	}
	path, _, _ := strings.Cut(c.path, "?")
	if !strings.HasPrefix(path, "/") {
		return false
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		if s == "." || s == ".." || (s == "" && !last) || strings.ContainsAny(s, `\;`) || strings.Contains(strings.ToLower(s), "%2") {
			return false
		}
	}
	for _, p := range patterns {
		if twinMatch(strings.Split(p[1:], "/"), segments) {
			return true
		}
	}
	return false
}

func twinMatch(pattern, segments []string) bool {
	switch {
	case len(pattern) == 1 && pattern[0] == "**":
		return len(segments) > 0
	case len(pattern) == 0 || len(segments) == 0:
		return len(pattern) == len(segments)
	case pattern[0] == "*" && segments[0] == "", pattern[0] != "*" && pattern[0] != segments[0]:
		return false
	}
	return twinMatch(pattern[1:], segments[1:])
}

// player is one caller or token in both forms.
type player[T, D any] struct {
	name string
	real func(*authz.Table) T
	dumb D
}

type cast struct {
	callers []player[authz.Caller, twinCaller]
	tokens  []player[authz.Token, twinToken]
	times   []time.Time
}

func newCast(t testing.TB, w *world, end time.Time) cast {
	t.Helper()
	var c cast
	addCaller := func(name string, leaf []byte, dumb twinCaller) {
		c.callers = append(
			c.callers,
			player[authz.Caller, twinCaller]{name, func(table *authz.Table) authz.Caller { return table.Caller(leaf, nil, w.now) }, dumb},
		)
	}
	for _, id := range []string{acmeWeb, acmeBatch} {
		svid := w.acme.SVID(id)
		addCaller(id, svid.Cert.Raw, twinCaller{id: id, tenant: "acme", notAfter: svid.Cert.NotAfter, serial: fmt.Sprintf("%x", svid.Cert.SerialNumber)})
	}
	svid := w.platform.SVID(platformOps)
	addCaller("ops", svid.Cert.Raw, twinCaller{id: platformOps, tenant: "platform", notAfter: svid.Cert.NotAfter})
	svid = w.globex.SVID(globexWeb)
	addCaller("globex", svid.Cert.Raw, twinCaller{id: globexWeb, tenant: "globex", notAfter: svid.Cert.NotAfter})
	addCaller("forged", w.globex.SVID(acmeWeb).Cert.Raw, twinCaller{problem: "invalid_identity"})
	addCaller("unmapped", w.acme.SVID("spiffe://acme.demo.test/x").Cert.Raw, twinCaller{problem: "unknown_caller"})
	c.callers = append(c.callers, player[authz.Caller, twinCaller]{"nobody", func(*authz.Table) authz.Caller { return authz.Caller{} }, twinCaller{problem: "unknown_caller"}})

	addToken := func(name, text string, dumb twinToken) {
		dumb.present = true
		c.tokens = append(
			c.tokens,
			player[authz.Token, twinToken]{name, func(table *authz.Table) authz.Token { return table.Token(text, w.now) }, dumb},
		)
	}
	c.tokens = append(
		c.tokens,
		player[authz.Token, twinToken]{"none", func(*authz.Table) authz.Token { return authz.Token{} }, twinToken{}},
	)
	addToken("malformed", "a.b.c", twinToken{problem: "token_invalid"})
	addToken("unknown issuer", w.token(t, "https://other.example.com", "acme", end), twinToken{problem: "issuer_not_allowed"})
	addToken("plain", w.token(t, "https://idp.acme.example.com", "acme", end), twinToken{tenant: "acme", issuer: "https://idp.acme.example.com", subject: "alice", expires: time.Unix(end.Unix(), 0)})
	addToken(
		"clerk", w.token(t, "https://idp.acme.example.com", "acme", end, "clerk"),
		twinToken{tenant: "acme", issuer: "https://idp.acme.example.com", subject: "alice", roles: []string{"clerk"}, expires: time.Unix(end.Unix(), 0)},
	)
	c.times = []time.Time{w.now, end.Add(-time.Nanosecond), end, w.now.Add(2 * time.Hour)}
	return c
}

// compare runs one call through both and reports a difference.
func compare(
	t rapid.TB, m *tableMsg, table *authz.Table, caller player[authz.Caller, twinCaller],
	token player[authz.Token, twinToken], in authz.Input, call twinCall,
) {
	call.caller, call.token = caller.dumb, token.dumb
	call.method, call.path, call.now = in.Method, in.Path, in.Now
	d := authz.Decide(table, in)
	reason, rule := twinDecide(m, call)
	if d.Reason().String() != reason || d.Rule() != rule || d.Allowed() != (reason == "allowed") {
		t.Fatalf("%s with token %s, %s %s %s at %v on\n%v\n%v %s %q, the twin says %s %q", caller.name, token.name, in.Method, in.Path, call.service, in.Now, m,
			d.Allowed(), d.Reason(), d.Rule(), reason, rule)
	}
	explained(t, authz.Explain(table, in), d)
}

// explained holds an Explanation against the Decision of the same call: it is the same one, one step fails if any does,
// and the first rule without a failing condition is the rule that decided.
func explained(t rapid.TB, e authz.Explanation, d authz.Decision) {
	covering, failed := "", 0
	for _, r := range e.Rules {
		if (r.Fails == "") != (r.Text == "") {
			t.Fatalf("a verdict is half told: %+v", r)
		}
		if r.Fails == "" && covering == "" {
			covering = r.Name
		}
	}
	for i, s := range e.Steps {
		if s.Outcome == authz.Failed {
			failed++
		}
		if i > 0 && (s.Outcome != authz.NotReached) && e.Steps[i-1].Outcome != authz.Passed || (s.Text == "") != (s.Outcome == authz.NotReached) {
			t.Fatalf("steps do not follow each other: %+v", e.Steps)
		}
	}
	if e.Decision != d || covering != d.Rule() || len(e.Steps) != 6 || (failed == 0) != d.Allowed() || failed > 1 {
		t.Fatalf("%s %q is explained by %+v", d.Reason(), d.Rule(), e)
	}
}

// Every Table of one rule or Grant out of a small space, with every call out of a small space.
func TestDecideAgainstDumbTwinCompletely(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(5 * time.Minute)
	c := newCast(t, w, end)
	// The globex caller is proved only where its roots are: what acme's Table says of it is another reason of the same guard.
	var tables []*tableMsg
	for _, mode := range []int32{0, 1, 2} {
		for _, methods := range [][]string{{"GET"}, {"POST", "GET"}} {
			for _, paths := range [][]string{{"/orders"}, {"/orders/*", "/a/*/b"}, {"/orders/**"}, {"/**"}} {
				for _, from := range [][]string{nil, {acmeWeb}, {acmeBatch, acmeWeb}} {
					for _, roles := range [][]string{nil, {"clerk"}, {"manager", "clerk"}} {
						m := w.orders(tokenNone, &ruleMsg{Name: "p/r", From: from, Roles: roles, Methods: methods, Paths: paths})
						m.Services[0].Token = tokenModes[mode]
						tables = append(tables, m)
					}
					for _, until := range []int64{0, end.Unix(), end.Unix() + 100} {
						tables = append(
							tables,
							w.billing(
								tokenModes[mode], nil,
								&grantMsg{Name: "g", Tenant: "acme", From: from, Methods: methods, Paths: paths, NotAfter: until},
							),
						)
					}
				}
			}
		}
	}
	calls := 0
	for _, m := range tables {
		table := decode(t, m)
		for _, dest := range []string{"acme/orders", "platform/billing", "acme/other", "globex/orders"} {
			owner, name, _ := strings.Cut(dest, "/")
			ref, _ := table.Service(owner, name)
			for _, caller := range c.callers {
				switch {
				case m.GetTenant() == "acme" && (caller.name == "globex" || caller.name == "ops"):
					caller.dumb.problem = "cross_tenant"
				case caller.name == "globex":
					caller.dumb.problem = "grant_missing"
				}
				proved := caller.real(table)
				for _, token := range c.tokens {
					in := authz.Input{Caller: proved, Token: token.real(table), Service: ref}
					for _, in.Method = range []string{"GET", "PUT", "get"} {
						for _, in.Path = range []string{"/orders", "/orders/", "/orders/7?q", "/a/b/b", "/orders/../x", "", "*"} {
							for _, in.Now = range c.times {
								compare(t, m, table, caller, token, in, twinCall{service: dest})
								calls++
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d Tables, %d calls", len(tables), calls)
	if calls < 1_000_000 {
		t.Errorf("only %d calls compared", calls)
	}
}

var tokenModes = [...]tokenMode{tokenNone, tokenOptional, tokenRequired}

// Tables of several services, rules and Grants, drawn at random.
func TestDecideAgainstDumbTwinAtRandom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(5 * time.Minute)
	c := newCast(t, w, end)
	methods := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "POST", "PUT"}), 1, 3, rapid.ID)
	paths := rapid.SliceOfN(
		rapid.SampledFrom([]string{"/", "/orders", "/orders/*", "/orders/**", "/*/x", "/**", "/orders/*/lines/**", "/a/b/c"}),
		1, 3,
	)
	roles := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"clerk", "manager"}), 0, 2, rapid.ID)
	classes := rapid.SampledFrom([]*classMsg{
		nil, {Name: "internal"}, {Name: "a", Acr: []string{"phr", "mfa"}}, {Name: "b", Amr: []string{"hwk"}}, {Name: "c", MaxAuthAgeSeconds: 300},
	})
	until := rapid.SampledFrom([]int64{0, w.now.Unix(), end.Unix(), end.Unix() + 1000})
	fresh := w.now.Truncate(time.Second).Add(-time.Minute)
	steppedUp := w.tokenWith(t, "https://idp.acme.example.com", "acme", end, map[string]any{
		"roles": []string{"manager"}, "acr": "mfa", "amr": []string{"pwd", "hwk"}, "auth_time": fresh.Unix(),
	})
	c.tokens = append(c.tokens, player[authz.Token, twinToken]{
		"stepped up", func(table *authz.Table) authz.Token { return table.Token(steppedUp, w.now) },
		twinToken{
			present: true, tenant: "acme", issuer: "https://idp.acme.example.com", subject: "alice", roles: []string{"manager"}, expires: time.Unix(end.Unix(), 0),
			acr: "mfa", amr: []string{"pwd", "hwk"}, auth: fresh,
		},
	})
	for _, one := range []twinToken{
		{jti: "t-1", subject: "alice", session: "s-1"}, {jti: "t-2", subject: "bob", session: "s-1"}, {subject: acmeWeb},
	} {
		claims := map[string]any{"sub": one.subject}
		if one.jti != "" {
			claims["jti"], claims["sid"] = one.jti, one.session
		}
		text := w.tokenWith(t, "https://idp.acme.example.com", "acme", end, claims)
		one.present, one.tenant, one.issuer, one.expires = true, "acme", "https://idp.acme.example.com", time.Unix(end.Unix(), 0)
		c.tokens = append(c.tokens, player[authz.Token, twinToken]{
			"of " + one.subject, func(table *authz.Table) authz.Token { return table.Token(text, w.now) }, one,
		})
	}
	rapid.Check(t, func(r *rapid.T) {
		shared := rapid.Bool().Draw(r, "shared")
		var m *tableMsg
		own, owner := []string{acmeWeb, acmeBatch}, "acme"
		if shared {
			own, owner = []string{platformOps}, "platform"
			m = w.billing(
				tokenNone, nil, &grantMsg{Name: "g", Tenant: "acme", Methods: []string{"GET"}, Paths: []string{"/"}},
				&grantMsg{Name: "h", Tenant: "globex", Methods: []string{"GET"}, Paths: []string{"/"}},
			)
		} else {
			m = w.orders(tokenNone)
			m.Bundles = append(m.Bundles, w.base("globex", globexWeb).GetBundles()...)
		}
		for i := range rapid.IntRange(1, 3).Draw(r, "services") {
			s := &serviceMsg{Name: fmt.Sprintf("s%d", i), Port: "http", Token: rapid.SampledFrom(tokenModes[:]).Draw(r, "mode"), Accounts: []string{m.GetWorkload()}}
			methods, paths, roles := methods, paths, roles
			if rapid.IntRange(0, 3).Draw(r, "tcp") == 0 {
				s.TcpPort, s.Token = uint32(9000+i), tokenNone
				nothing := rapid.Just([]string(nil))
				methods, paths, roles = nothing, nothing, nothing
			} else if s.GetToken() == tokenRequired {
				s.Sensitivity = classes.Draw(r, "class")
			}
			for range rapid.IntRange(0, 2).Draw(r, "routes") {
				if s.GetTcpPort() > 0 {
					break
				}
				one := &routeMsg{Paths: paths.Draw(r, "route"), Sensitivity: &classMsg{Name: "internal"}}
				if rapid.Bool().Draw(r, "for some methods") {
					one.Methods = methods.Draw(r, "methods")
				}
				if s.GetToken() != tokenNone && rapid.Bool().Draw(r, "with a token") {
					one.TokenRequired = true
					if class := classes.Draw(r, "class"); class != nil {
						one.Sensitivity = class
					}
				}
				s.Routes = append(s.Routes, one)
			}
			for j := range rapid.IntRange(0, 4).Draw(r, "rules") {
				s.Rules = append(s.Rules, &ruleMsg{
					Name: fmt.Sprintf("p/r%d", j), From: rapid.SliceOfNDistinct(rapid.SampledFrom(own), 0, len(own), rapid.ID).Draw(r, "from"),
					Roles: roles.Draw(r, "roles"), Methods: methods.Draw(r, "methods"), Paths: paths.Draw(r, "paths"),
				})
			}
			for j := range rapid.IntRange(0, 3).Draw(r, "grants") {
				if !shared {
					break
				}
				g := &grantMsg{Name: fmt.Sprintf("g%d", j), Tenant: "acme", From: []string{acmeWeb}, Methods: methods.Draw(r, "methods"), Paths: paths.Draw(r, "paths"), NotAfter: until.Draw(r, "until")}
				if rapid.Bool().Draw(r, "globex") {
					g.Tenant, g.From = "globex", []string{globexWeb}
				}
				s.Grants = append(s.Grants, g)
			}
			m.Services = append(m.Services, s)
		}
		for i := range rapid.IntRange(0, 3).Draw(r, "revocations") {
			one := &revocationMsg{Name: fmt.Sprintf("platform/%d", i), Tenant: "acme", NotAfter: until.Draw(r, "revoked until")}
			if rapid.Bool().Draw(r, "of an issuer") {
				one.Issuer = rapid.SampledFrom([]string{"https://idp.acme.example.com", "https://other.example.com"}).Draw(r, "issuer")
			}
			switch rapid.IntRange(0, 4).Draw(r, "revoked") {
			case 0:
				one.Workload, one.Issuer = rapid.SampledFrom([]string{acmeWeb, acmeBatch, acmeOrders}).Draw(r, "workload"), ""
			case 1:
				one.Serial, one.Issuer = rapid.SampledFrom([]string{"1", c.callers[0].dumb.serial, c.callers[1].dumb.serial}).Draw(r, "serial"), ""
			case 2:
				one.Jti = rapid.SampledFrom([]string{"t-1", "t-2", "alice"}).Draw(r, "jti")
			case 3:
				one.Subject = rapid.SampledFrom([]string{"user-1", "alice", acmeWeb, "t-1"}).Draw(r, "subject")
			default:
				one.Session = rapid.SampledFrom([]string{"s-1", "s-2"}).Draw(r, "session")
			}
			m.Revocations = append(m.Revocations, one)
		}
		table := decode(t, m)
		for range 30 {
			caller, token := rapid.SampledFrom(c.callers).Draw(r, "caller"), rapid.SampledFrom(c.tokens).Draw(r, "token")
			if caller.name == "ops" && !shared {
				caller.dumb.problem = "cross_tenant" // no roots of the platform in acme's Table
			}
			dest := fmt.Sprintf("s%d", rapid.IntRange(0, 3).Draw(r, "destination"))
			ref, _ := table.Service(owner, dest)
			in := authz.Input{
				Caller: caller.real(table), Token: token.real(table), Service: ref, Now: rapid.SampledFrom(c.times).Draw(r, "now"),
				Method: rapid.SampledFrom([]string{"GET", "POST", "PUT", "post"}).Draw(r, "method"),
				Path: rapid.SampledFrom([]string{
					"/", "/orders", "/orders/7", "/orders/7/lines/", "/orders/7/lines/8", "/b/x", "/a/b/c?d", "//", "/%2e",
				}).Draw(r, "path"),
			}
			switch rapid.IntRange(0, 5).Draw(r, "connection") {
			case 0:
				in.Method = ""
			case 1:
				in.Path = ""
			case 2, 3:
				in.Method, in.Path = "", ""
			}
			compare(r, m, table, caller, token, in, twinCall{service: owner + "/" + dest})
		}
	})
}
