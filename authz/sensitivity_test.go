package authz_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// Every class out of a small space with every token out of a small space, for callers of the tenant, of a tenant with a
// Grant and of one without, and for paths that a rule covers or not.
func TestDecideSensitivityCompletely(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(5 * time.Minute)
	moment := w.now.Truncate(time.Second)
	base := newCast(t, w, end)

	tokens := slices.Clone(base.tokens)
	for _, acr := range []string{"", "mfa", "MFA"} {
		for _, amr := range [][]string{nil, {"hwk"}, {"pwd"}, {"pwd", "hwk"}} {
			for _, age := range []time.Duration{-1, time.Minute, time.Minute + time.Second, -20 * time.Second} {
				claims := map[string]any{}
				dumb := twinToken{present: true, tenant: "acme", expires: time.Unix(end.Unix(), 0), acr: acr, amr: amr}
				if acr != "" {
					claims["acr"] = acr
				}
				if amr != nil {
					claims["amr"] = amr
				}
				if age != -1 {
					dumb.auth = moment.Add(-age)
					claims["auth_time"] = dumb.auth.Unix()
				}
				text := w.tokenWith(t, "https://idp.acme.example.com", "acme", end, claims)
				tokens = append(tokens, player[authz.Token, twinToken]{"made", func(table *authz.Table) authz.Token { return table.Token(text, w.now) }, dumb})
			}
		}
	}
	far := end.Add(time.Hour).Unix()
	calls, stepUps, allowed := 0, 0, 0
	for _, acr := range [][]string{nil, {"mfa"}, {"phr", "mfa"}} {
		for _, amr := range [][]string{nil, {"hwk"}, {"hwk", "pwd"}} {
			for _, age := range []int64{0, 60} {
				class := &classMsg{Name: "secret", Acr: acr, Amr: amr, MaxAuthAgeSeconds: age}
				orders := w.orders(tokenRequired, &ruleMsg{Name: "p/r", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/orders"}})
				billing := w.billing(tokenRequired, nil, &grantMsg{Name: "g", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/orders"}, NotAfter: far})
				for _, m := range []*tableMsg{orders, billing} {
					m.Services[0].Sensitivity = class
					table := decode(t, m)
					ref := table.Services()[0]
					for _, caller := range base.callers {
						switch {
						case m == orders && (caller.name == "globex" || caller.name == "ops"):
							caller.dumb.problem = "cross_tenant"
						case caller.name == "globex":
							caller.dumb.problem = "grant_missing"
						}
						proved := caller.real(table)
						for _, token := range tokens {
							in := authz.Input{Caller: proved, Token: token.real(table), Service: ref, Method: "GET"}
							for _, in.Path = range []string{"/orders", "/secret"} {
								for _, in.Now = range []time.Time{moment, moment.Add(1), end} {
									compare(t, m, table, caller, token, in, twinCall{service: m.GetTenant() + "/" + ref.Name()})
									calls++
									switch d := authz.Decide(table, in); {
									case d.Allowed():
										allowed++
									case d.Reason() == authz.StepUpRequired:
										stepUps++
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d calls, %d step-ups, %d allowed", calls, stepUps, allowed)
	if calls < 50_000 || stepUps < 10_000 || allowed < 500 {
		t.Errorf("%d calls, %d step-ups, %d allowed: the space is too small", calls, stepUps, allowed)
	}
}

// A step-up tells of the class, so only who has passed the guard and the token's test may hear of it.
func TestStepUpComesAfterGuardAndToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.billing(tokenRequired, nil, &grantMsg{
		Name: "g", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/"}, NotAfter: w.now.Add(time.Hour).Unix(),
	})
	m.Services[0].Sensitivity = &classMsg{Name: "secret", Acr: []string{"mfa"}}
	table := decode(t, m)
	acme, globex := table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now)
	end := w.now.Add(5 * time.Minute)
	weak := table.Token(w.acmeToken(t), w.now)
	strong := table.Token(w.tokenWith(t, "https://idp.acme.example.com", "acme", end, map[string]any{"acr": "mfa"}), w.now)
	foreign := table.Token(w.tokenWith(t, "https://idp.globex.example.com", "globex", end, map[string]any{"acr": "mfa"}), w.now)
	for _, tc := range []struct {
		name   string
		caller authz.Caller
		token  authz.Token
		path   string
		reason authz.Reason
	}{
		{"weak", acme, weak, "/", authz.StepUpRequired},
		{"weak, and no rule would allow it", acme, weak, "/x", authz.StepUpRequired},
		{"strong", acme, strong, "/", authz.Allowed},
		{"strong, and no rule allows it", acme, strong, "/x", authz.NoRule},
		{"no token", acme, authz.Token{}, "/", authz.TokenMissing},
		{"another tenant's token", acme, foreign, "/", authz.IssuerNotAllowed},
		{"another tenant, weak", globex, weak, "/", authz.GrantMissing},
		{"another tenant, strong", globex, strong, "/", authz.GrantMissing},
		{"nobody, strong", authz.Caller{}, strong, "/", authz.UnknownCaller},
	} {
		d := authz.Decide(table, authz.Input{Caller: tc.caller, Token: tc.token, Service: table.Services()[0], Method: "GET", Path: tc.path, Now: w.now})
		if d.Reason() != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, d.Reason(), tc.reason)
		}
	}
}

func TestDecodeSensitivity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	with := func(mode tokenMode, class *classMsg) *tableMsg {
		m := w.orders(mode)
		m.Services[0].Sensitivity = class
		return m
	}
	class := &classMsg{Name: "secret", Acr: []string{"mfa"}, Amr: []string{"hwk"}, MaxAuthAgeSeconds: 300}
	table := decode(t, with(tokenRequired, class))
	d := authz.Decide(table, authz.Input{
		Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Token: table.Token(w.acmeToken(t), w.now),
		Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/", Now: w.now,
	})
	want := tenancy.Sensitivity{Class: "secret", ACR: []string{"mfa"}, AMR: []string{"hwk"}, MaxAuthAge: 5 * time.Minute}
	d.Unmet().ACR[0], d.Unmet().AMR[0] = "x", "x"
	if diff := cmp.Diff(want, d.Unmet()); diff != "" {
		t.Error(diff)
	}
	if none := (authz.Decision{}).Unmet(); none.Class != "" || none.Demands() {
		t.Error("no decision names a class")
	}
	for _, mode := range tokenModes {
		decode(t, with(mode, &classMsg{Name: "internal"}))
		if _, err := authz.DecodeTable(encode(t, with(mode, class))); (err == nil) != (mode == tokenRequired) {
			t.Errorf("demands with token %s: %v", mode, err)
		}
	}
	for name, change := range map[string]func(*classMsg){
		"no name":              func(c *classMsg) { c.Name = "" },
		"name":                 func(c *classMsg) { c.Name = "a\nb" },
		"acr that ends a text": func(c *classMsg) { c.Acr = []string{`a", error="`} },
		"acr of two":           func(c *classMsg) { c.Acr = []string{"a b"} },
		"acr with a break":     func(c *classMsg) { c.Acr = []string{"a\r\nset-cookie: b"} },
		"acr empty":            func(c *classMsg) { c.Acr = []string{""} },
		"amr":                  func(c *classMsg) { c.Amr = []string{"a", "\\"} },
		"too many":             func(c *classMsg) { c.Amr = slices.Repeat([]string{"a"}, 9) },
		"too long":             func(c *classMsg) { c.Acr = []string{strings.Repeat("a", 129)} },
		"age negative":         func(c *classMsg) { c.MaxAuthAgeSeconds = -1 },
		"age huge":             func(c *classMsg) { c.MaxAuthAgeSeconds = 1 << 62 },
		"age long":             func(c *classMsg) { c.MaxAuthAgeSeconds = 31 * 24 * 3600 },
		"unknown field":        func(c *classMsg) { c.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) },
	} {
		changed, _ := proto.Clone(class).(*classMsg)
		change(changed)
		if _, err := authz.DecodeTable(encode(t, with(tokenRequired, changed))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Every route out of a small space, on services of each mode with and without a class, with tokens that meet it or not.
func TestDecideRoutesCompletely(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(5 * time.Minute)
	cast := newCast(t, w, end)
	for _, acr := range []string{"mfa", "pwd"} {
		text := w.tokenWith(t, "https://idp.acme.example.com", "acme", end, map[string]any{"acr": acr})
		cast.tokens = append(cast.tokens, player[authz.Token, twinToken]{
			acr, func(table *authz.Table) authz.Token { return table.Token(text, w.now) },
			twinToken{present: true, tenant: "acme", issuer: "https://idp.acme.example.com", subject: "alice", acr: acr, expires: time.Unix(end.Unix(), 0)},
		})
	}
	secret, open := &classMsg{Name: "secret", Acr: []string{"mfa"}}, &classMsg{Name: "open"}
	reasons := map[authz.Reason]int{}
	for _, mode := range tokenModes {
		for _, own := range []*classMsg{nil, open, {Name: "own", Acr: []string{"pwd", "mfa"}}} {
			for _, methods := range [][]string{nil, {"GET"}, {"PUT", "POST"}} {
				for _, paths := range [][]string{{"/secret"}, {"/**"}, {"/a", "/*/b"}} {
					for _, further := range []*routeMsg{{Sensitivity: open}, {Sensitivity: open, TokenRequired: true}, {Sensitivity: secret, TokenRequired: true}} {
						if own.GetAcr() != nil && mode != tokenRequired || further.GetTokenRequired() && mode == tokenNone {
							continue
						}
						m := w.orders(mode, &ruleMsg{Name: "p/r", From: []string{acmeWeb}, Methods: []string{"GET", "PUT"}, Paths: []string{"/secret", "/x/**", "/a"}})
						m.Services[0].Sensitivity = own
						one, _ := proto.Clone(further).(*routeMsg)
						one.Methods, one.Paths = methods, paths
						m.Services[0].Routes = []*routeMsg{{Paths: []string{"/never"}, Sensitivity: open}, one}
						table := decode(t, m)
						ref := table.Services()[0]
						for _, caller := range cast.callers[:2] {
							proved := caller.real(table)
							for _, token := range cast.tokens {
								in := authz.Input{Caller: proved, Token: token.real(table), Service: ref, Now: w.now}
								for _, in.Method = range []string{"GET", "PUT", "get"} {
									for _, in.Path = range []string{"/secret", "/secret/", "/secret?a=b", "//secret", "/%2e", "/x/b", "/x/c", "/a"} {
										compare(t, m, table, caller, token, in, twinCall{service: "acme/orders"})
										reasons[authz.Decide(table, in).Reason()]++
									}
								}
							}
						}
					}
				}
			}
		}
	}
	for _, r := range []authz.Reason{authz.Allowed, authz.TokenMissing, authz.StepUpRequired, authz.NoRule} {
		if reasons[r] < 1000 {
			t.Errorf("%s: only %d times", r, reasons[r])
		}
	}
}

func TestDecodeRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := &routeMsg{
		Methods: []string{"GET"}, Paths: []string{"/a/*"}, TokenRequired: true, Sensitivity: &classMsg{Name: "secret", Acr: []string{"mfa"}},
	}
	for name, change := range map[string]func(*routeMsg, *serviceMsg){
		"":                         func(*routeMsg, *serviceMsg) {},
		"no class":                 func(r *routeMsg, _ *serviceMsg) { r.Sensitivity = nil },
		"class":                    func(r *routeMsg, _ *serviceMsg) { r.Sensitivity.Acr = []string{`"`} },
		"age":                      func(r *routeMsg, _ *serviceMsg) { r.Sensitivity.MaxAuthAgeSeconds = -1 },
		"no path":                  func(r *routeMsg, _ *serviceMsg) { r.Paths = nil },
		"path":                     func(r *routeMsg, _ *serviceMsg) { r.Paths = []string{"/a", "/%2f"} },
		"method":                   func(r *routeMsg, _ *serviceMsg) { r.Methods = []string{"get"} },
		"demands without a token":  func(r *routeMsg, _ *serviceMsg) { r.TokenRequired = false },
		"a service without tokens": func(_ *routeMsg, s *serviceMsg) { s.Token = tokenNone },
		"connections": func(r *routeMsg, s *serviceMsg) {
			r.TokenRequired, r.Sensitivity.Acr, s.Token, s.TcpPort = false, nil, tokenNone, 9000
		},
		"unknown field": func(r *routeMsg, _ *serviceMsg) { r.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) },
	} {
		m := w.orders(tokenOptional)
		one, _ := proto.Clone(good).(*routeMsg)
		m.Services[0].Routes = []*routeMsg{one}
		change(one, m.GetServices()[0])
		if _, err := authz.DecodeTable(encode(t, m)); (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDecideSensitivityAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts the allocations of the whole process
	w := newWorld(t)
	m := w.orders(tokenRequired, webReads())
	class := &classMsg{Name: "secret", Acr: []string{"phr", "mfa"}, Amr: []string{"hwk"}, MaxAuthAgeSeconds: 300}
	m.Services[0].Sensitivity = &classMsg{Name: "open"}
	m.Services[0].Routes = []*routeMsg{
		{Paths: []string{"/a/*/**", "/x"}, Sensitivity: &classMsg{Name: "open"}}, {Methods: []string{"PUT", "GET"}, Paths: []string{"/**"}, TokenRequired: true, Sensitivity: class},
	}
	table := decode(t, m)
	in := authz.Input{
		Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Service: table.Services()[0], Method: "GET", Path: "/orders", Now: w.now,
	}
	for reason, claims := range map[authz.Reason]map[string]any{
		authz.Allowed:        {"acr": "mfa", "amr": []string{"hwk"}, "auth_time": w.now.Unix()},
		authz.StepUpRequired: {"acr": "mfa", "amr": []string{"hwk"}, "auth_time": w.now.Unix() - 301},
	} {
		in.Token = table.Token(w.tokenWith(t, "https://idp.acme.example.com", "acme", w.now.Add(5*time.Minute), claims), w.now)
		var d authz.Decision
		if n := testing.AllocsPerRun(1000, func() { d = authz.Decide(table, in) }); n != 0 || d.Reason() != reason {
			t.Errorf("%v allocations, %s, want %s", n, d.Reason(), reason)
		}
	}
}

// What the documents say arrives in the agent's Table.
func TestCompileSensitivity(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] += "\n  sensitivity: {secret: {token: required, acr: [phr, mfa], amr: [hwk], maxAuthAge: 5m}}\n"
	files["tenants/acme/orders.yaml"] = strings.Replace(files["tenants/acme/orders.yaml"], "token: required", "sensitivity: secret", 1)
	m := tenancytest.Model(t, files)
	got := forWorkload(t, compile(t, m, "acme"), workload(t, m, acmeOrders)).GetServices()[0]
	want := &classMsg{Name: "secret", Acr: []string{"phr", "mfa"}, Amr: []string{"hwk"}, MaxAuthAgeSeconds: 300}
	if !proto.Equal(got.GetSensitivity(), want) || got.GetToken() != tokenRequired || len(got.GetRoutes()) > 0 {
		t.Errorf("token %s, %v, %v", got.GetToken(), got.GetSensitivity(), got.GetRoutes())
	}

	files["tenants/acme/orders.yaml"] = strings.Replace(files["tenants/acme/orders.yaml"], "sensitivity: secret", `routes: [{methods: [GET], paths: ["/a/**"], sensitivity: secret}]`, 1)
	m = tenancytest.Model(t, files)
	got = forWorkload(t, compile(t, m, "acme"), workload(t, m, acmeOrders)).GetServices()[0]
	if len(got.GetRoutes()) != 1 || got.GetToken() != tokenOptional || got.GetSensitivity() != nil ||
		!proto.Equal(got.GetRoutes()[0], &routeMsg{Methods: []string{"GET"}, Paths: []string{"/a/**"}, TokenRequired: true, Sensitivity: want}) {
		t.Errorf("token %s, %v", got.GetToken(), got.GetRoutes())
	}
}

func TestExplainRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.orders(tokenOptional, webReads())
	m.Services[0].Sensitivity = &classMsg{Name: "internal"}
	m.Services[0].Routes = []*routeMsg{
		{Methods: []string{"PUT"}, Paths: []string{"/**"}, Sensitivity: &classMsg{Name: "other"}},
		{Paths: []string{"/orders"}, TokenRequired: true, Sensitivity: &classMsg{Name: "secret", Acr: []string{"mfa"}}},
	}
	table := decode(t, m)
	const internal = "class internal demands nothing of how the user authenticated"
	for _, tc := range []struct {
		acr, path, token, sensitivity string
	}{
		{"", "/orders", "failed: class secret, of which this route is, requires a token", "not reached: "},
		{"", "/orders/7", "passed: none, and none is required", "passed: " + internal},
		{"pwd", "/orders", "", "failed: class secret demands acr mfa; the token's is pwd"},
		{"mfa", "/orders", "", "passed: " + internal + "; of this route, the token meets class secret: acr mfa"},
		{"mfa", "//orders", "", "passed: " + internal},
	} {
		in := authz.Input{
			Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Service: table.Services()[0], Method: "GET", Path: tc.path, Now: w.now,
		}
		if tc.acr != "" {
			in.Token = table.Token(w.tokenWith(t, "https://idp.acme.example.com", "acme", w.now.Add(5*time.Minute), map[string]any{"acr": tc.acr}), w.now)
		}
		e := authz.Explain(table, in)
		token, sensitivity := e.Steps[3], e.Steps[4]
		if got := string(token.Outcome) + ": " + token.Text; got != tc.token && tc.token != "" {
			t.Errorf("%s with %q: %q", tc.path, tc.acr, got)
		}
		if got := string(sensitivity.Outcome) + ": " + sensitivity.Text; got != tc.sensitivity {
			t.Errorf("%s with %q: %q", tc.path, tc.acr, got)
		}
	}
}

func TestExplainSensitivity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Add(5 * time.Minute)
	authenticated := w.now.Truncate(time.Second).Add(-10 * time.Minute)
	text := func(class *classMsg, claims map[string]any) string {
		t.Helper()
		m := w.orders(tokenRequired, webReads())
		m.Services[0].Sensitivity = class
		table := decode(t, m)
		e := authz.Explain(table, authz.Input{
			Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Token: table.Token(w.tokenWith(t, "https://idp.acme.example.com", "acme", end, claims), w.now),
			Service: table.Services()[0], Method: "GET", Path: "/orders", Now: w.now,
		})
		return string(e.Steps[4].Outcome) + ": " + e.Steps[4].Text
	}
	mfa := &classMsg{Name: "secret", Acr: []string{"phr", "mfa"}, Amr: []string{"hwk", "pwd"}, MaxAuthAgeSeconds: 300}
	good := map[string]any{"acr": "mfa", "amr": []string{"pwd", "hwk"}, "auth_time": w.now.Unix()}
	for _, tc := range []struct {
		class  *classMsg
		change map[string]any
		want   string
	}{
		{nil, nil, "passed: the service is of no class"},
		{&classMsg{Name: "internal"}, nil, "passed: class internal demands nothing of how the user authenticated"},
		{mfa, nil, "passed: the token meets class secret: acr phr or mfa, amr hwk and pwd, authenticated within 5m0s"},
		{mfa, map[string]any{"acr": "pwd"}, "failed: class secret demands acr phr or mfa; the token's is pwd"},
		{mfa, map[string]any{"acr": nil}, "failed: class secret demands acr phr or mfa; the token does not say it"},
		{mfa, map[string]any{"amr": []string{"pwd"}}, "failed: class secret demands amr hwk and pwd; the token does not name all of them"},
		{mfa, map[string]any{"auth_time": nil}, "failed: class secret demands that the user authenticated within 5m0s; the token does not say it"},
		{
			mfa,
			map[string]any{"auth_time": authenticated.Unix()},
			"failed: class secret demands that the user authenticated within 5m0s; the token's user did so at " + authenticated.UTC().Format(time.RFC3339),
		},
	} {
		claims := map[string]any{}
		maps.Copy(claims, good)
		maps.Copy(claims, tc.change)
		if got := text(tc.class, claims); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
