package authz_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const edges = `
  askers:
    - {name: edge, socket: /edge, identityFrom: token, services: [acme/orders, globex/orders]}
    - {name: other, socket: /other, identityFrom: token, services: [acme/orders]}
    - {name: strong, socket: /strong, services: [acme/orders]}
`

// edgeTable is acme's whole Table behind these askers, its service with that token mode and rules, and who runs it.
func (w *world) edgeTable(t testing.TB, mode string, rules ...string) (*authz.Table, identity.WorkloadID) {
	t.Helper()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + edges
	files["platform/acme-jwks.json"] = string(w.jwks)
	service, _, _ := strings.Cut(files["tenants/acme/orders.yaml"], "    - name: web-reads")
	files["tenants/acme/orders.yaml"] = strings.Replace(service, "token: required", "token: "+mode, 1) + strings.Join(rules, "")
	acme := tenancytest.Tenant(t, tenancytest.Model(t, files), "acme")
	table, err := authz.Compile(acme)
	if err != nil {
		t.Fatal(err)
	}
	orders, _ := acme.Service("orders")
	return table, orders.IDs()[0]
}

// bearer is a token of acme's issuer for the audience that the example names, with changes to a good one.
func (w *world) bearer(t testing.TB, expires time.Time, change map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: w.idp}, (&jose.SignerOptions{}).WithHeader("kid", "k1").WithType("JWT"),
	)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"iss": "https://idp.acme.example.com", "aud": "orders-api", "sub": "alice", "tenant": "acme",
		"iat": expires.Add(-10 * time.Minute).Unix(), "exp": expires.Unix(),
	}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func edge(t testing.TB, table *authz.Table, name string) authz.AskerRef {
	t.Helper()
	a, ok := table.Asker(tenancy.KeyOfSocket("/" + name))
	if !ok {
		t.Fatalf("no asker %s", name)
	}
	return a
}

// The dumb twin for a caller that only its token names, through that asker. askers are those that each rule names.
func twinBearer(table *tableMsg, askers map[string][]string, asker, subject string, c twinCall) (reason, rule string) {
	// The destination is a service of this Table.
	var dest *serviceMsg
	for _, s := range table.GetServices() {
		if table.GetTenant()+"/"+s.GetName() == c.service {
			dest = s
		}
	}
	switch {
	case dest == nil:
		return "unknown_destination", ""
	// Where tokens are not read, nobody is named.
	case dest.GetToken() == tokenNone:
		return "unknown_caller", ""
	// The token must be there and hold, and name somebody.
	case !c.token.present:
		return "token_missing", ""
	case c.token.problem != "":
		return c.token.problem, ""
	case !c.now.Before(c.token.expires):
		return "token_expired", ""
	case subject == "":
		return "token_invalid", ""
	// Its tenant is the destination's.
	case c.token.tenant != table.GetTenant():
		return "cross_tenant", ""
	}
	// A rule that names the asker allows it.
	for _, r := range dest.GetRules() {
		if slices.Contains(askers[r.GetName()], asker) && twinCovers(dest, r.GetMethods(), r.GetPaths(), c) && twinRole(dest, r.GetRoles(), c) {
			return "allowed", r.GetName()
		}
	}
	return "no_rule", ""
}

// Every rule out of a small space, with every call through every asker.
func TestBearerAgainstDumbTwinCompletely(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.now.Truncate(time.Second).Add(5 * time.Minute)
	type bearer struct {
		name, text, subject string
		dumb                twinToken
	}
	good := twinToken{present: true, tenant: "acme", expires: end}
	clerk := good
	clerk.roles = []string{"clerk"}
	bearers := []bearer{
		{name: "none"},
		{"malformed", "a.b.c", "", twinToken{present: true, problem: "token_invalid"}},
		{"plain", w.bearer(t, end, nil), "alice", good},
		{"clerk", w.bearer(t, end, map[string]any{"roles": []string{"clerk"}}), "alice", clerk},
		{"of nobody", w.bearer(t, end, map[string]any{"sub": nil, "roles": []string{"clerk"}}), "", clerk},
		{"for others", w.bearer(t, end, map[string]any{"aud": "x"}), "", twinToken{present: true, problem: "token_invalid"}},
		{"of globex", w.bearer(t, end, map[string]any{"tenant": "globex"}), "", twinToken{present: true, problem: "issuer_not_allowed"}},
		{"of a stranger", w.bearer(t, end, map[string]any{"iss": "https://idp.globex.example.com"}), "", twinToken{present: true, problem: "issuer_not_allowed"}},
	}
	web := w.acme.SVID(acmeWeb).Cert.Raw
	calls, allowed := 0, 0
	for _, mode := range []string{"none", "optional", "required"} {
		for _, from := range [][2]string{{"", ""}, {"web", ""}, {"", "edge"}, {"", "other"}, {"web", "edge"}, {"", "edge, other"}, {"web", "strong"}, {"", "nobody"}} {
			for _, roles := range []string{"", "clerk", "manager"} {
				for _, to := range []string{"{methods: [GET], paths: [/orders]}", `{methods: [POST, GET], paths: ["/a/*", "/orders/**"]}`} {
					if mode == "none" && (from[1] != "" || roles != "") {
						continue // the documents are refused
					}
					rule := "    - name: r\n      from: {services: [" + from[0] + "], askers: [" + from[1] + "], roles: [" + roles + "]}\n      to: " + to + "\n"
					rule = strings.NewReplacer("services: [], ", "", "askers: [], ", "", ", roles: []", "", "roles: []", "", "services: []", "").Replace(rule)
					table, id := w.edgeTable(t, mode, rule)
					encoded, err := table.For(id, "v1")
					if err != nil {
						t.Fatal(err)
					}
					var m tableMsg
					if err := proto.Unmarshal(encoded, &m); err != nil {
						t.Fatal(err)
					}
					askers := map[string][]string{"orders/r": strings.Split(from[1], ", ")}
					for _, asker := range []string{"edge", "other"} {
						for _, b := range bearers {
							token := authz.Token{}
							if b.dumb.present {
								token = table.Token(b.text, w.now)
							}
							for _, dest := range []string{"acme/orders", "acme/other"} {
								in := authz.Input{Caller: edge(t, table, asker).Bearer(), Token: token}
								in.Service, _ = table.Service("acme", strings.TrimPrefix(dest, "acme/"))
								for _, in.Method = range []string{"GET", "POST", "get"} {
									for _, in.Path = range []string{"/orders", "/orders/7?q", "/a/b", "/orders/../x", ""} {
										for _, in.Now = range []time.Time{w.now, end} {
											d := authz.Decide(table, in)
											reason, name := twinBearer(&m, askers, asker, b.subject, twinCall{token: b.dumb, service: dest, method: in.Method, path: in.Path, now: in.Now})
											if d.Reason().String() != reason || d.Rule() != name || d.Allowed() != (reason == "allowed") {
												t.Fatalf("token %s through %s, %s %s %s at %v, mode %s\n%s%v %s %q, the twin says %s %q",
													b.name, asker, in.Method, in.Path, dest, in.Now, mode, rule, d.Allowed(), d.Reason(), d.Rule(), reason, name)
											}
											explained(t, authz.Explain(table, in), d)
											if calls++; d.Allowed() {
												allowed++
											}
										}
									}
								}
							}
						}
					}
					// What a rule opens to the bearers of an asker it opens to no workload, and the other way round.
					in := authz.Input{
						Caller: table.Caller(web, nil, w.now), Token: table.Token(bearers[3].text, w.now), Service: service(t, table, "acme", "orders"),
						Method: "GET", Path: "/orders", Now: w.now,
					}
					if d := authz.Decide(table, in); d.Reason() == authz.Allowed {
						t.Errorf("a certificate that nobody here vouches for is believed: %s", d.Rule())
					}
				}
			}
		}
	}
	t.Logf("%d calls, %d allowed", calls, allowed)
	if calls < 90_000 || allowed < 100 {
		t.Errorf("only %d calls compared, %d allowed", calls, allowed)
	}
}

// A bearer counts only where the Mesh says so, for the Table that it came from, and opens nothing that is another's.
func TestBearer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rule := func(from string) string {
		return fmt.Sprintf("    - name: r\n      from: {%s}\n      to: {methods: [GET], paths: [/orders]}\n", from)
	}
	table, id := w.edgeTable(t, "required", rule("askers: [edge, strong]"))
	in := authz.Input{
		Caller: edge(t, table, "edge").Bearer(), Token: table.Token(w.bearer(t, w.now.Add(time.Minute), nil), w.now),
		Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders", Now: w.now,
	}
	if d := authz.Decide(table, in); !d.Allowed() || d.Rule() != "orders/r" {
		t.Fatalf("%s", d.Reason())
	}
	e := authz.Explain(table, in)
	if text := e.Steps[0].Text; text != "whom the token names, through asker edge" {
		t.Errorf("%q", text)
	}
	if !in.Caller.IsKnown() || !in.Caller.ID().IsZero() {
		t.Error("a bearer is nobody, or a workload")
	}
	another, _ := w.edgeTable(t, "optional", rule("askers: [edge]"))
	for name, caller := range map[string]authz.Caller{
		"an asker by certificate": edge(t, table, "strong").Bearer(),
		"no asker":                authz.AskerRef{}.Bearer(),
		"a name":                  edge(t, table, "edge").Caller(acmeWeb),
		"another Table's":         edge(t, another, "edge").Bearer(),
	} {
		wrong := in
		if wrong.Caller = caller; authz.Decide(table, wrong).Allowed() {
			t.Errorf("%s is believed", name)
		}
	}
	elsewhere := in
	elsewhere.Service = service(t, another, "acme", "orders")
	if d := authz.Decide(table, elsewhere); d.Allowed() || d.Reason() != authz.UnknownDestination {
		t.Errorf("another Table's service: %s", d.Reason())
	}
	wrong := in
	wrong.Token = another.Token(w.bearer(t, w.now.Add(time.Minute), nil), w.now)
	if d := authz.Decide(table, wrong); d.Reason() != authz.TokenInvalid {
		t.Errorf("another Table's token: %s", d.Reason())
	}
	// An agent's Table knows neither the asker nor what its rules say of it: the rule lets nobody in there.
	encoded, err := table.For(id, "v1")
	if err != nil {
		t.Fatal(err)
	}
	agents, err := authz.DecodeTable(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if s := service(t, agents, "acme", "orders"); len(s.RuleAskers("orders/r")) > 0 || len(agents.Askers()) > 0 {
		t.Error("an agent learns of askers")
	}
	if got := in.Service.RuleAskers("orders/r"); !slices.Equal(got, []string{"edge", "strong"}) || in.Service.RuleAskers("orders/none") != nil {
		t.Errorf("the rule names %v", got)
	}
	if same, _ := w.edgeTable(t, "required", rule("askers: [edge]")); same.Version() == table.Version() {
		t.Error("the version does not say whom a rule names")
	}
}

// A token that is revoked names nobody.
func TestRevokedBearer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + edges
	files["platform/acme-jwks.json"] = string(w.jwks)
	files["tenants/acme/orders.yaml"] += "    - {name: r, from: {askers: [edge]}, to: {methods: [GET], paths: [/orders]}}\n"
	files["tenants/acme/revoked.yaml"] = versioned(strings.Split(ofTenants, "---\n")[0])
	table, err := authz.Compile(tenancytest.Tenant(t, tenancytest.Model(t, files), "acme"))
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]authz.Reason{"alice": authz.Revoked, "bob": authz.Allowed} {
		in := authz.Input{
			Caller: edge(t, table, "edge").Bearer(), Token: table.Token(w.bearer(t, w.now.Add(time.Minute), map[string]any{"sub": subject}), w.now),
			Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders", Now: w.now,
		}
		d := authz.Decide(table, in)
		if d.Reason() != want || d.TokenRevoked() != (want == authz.Revoked) {
			t.Errorf("%s: %s, of the token: %v", subject, d.Reason(), d.TokenRevoked())
		}
		if step := authz.Explain(table, in).Steps[2]; (step.Outcome == authz.Failed) != (want == authz.Revoked) || want == authz.Revoked && !strings.Contains(step.Text, "revoked by acme/token until") {
			t.Errorf("%s: %+v", subject, step)
		}
		// The reason, not the token alone, says that it is revoked.
		in.Now = w.now.Add(time.Hour)
		if d := authz.Decide(table, in); d.Reason() != authz.TokenExpired || d.TokenRevoked() {
			t.Errorf("%s, later: %s, revoked: %v", subject, d.Reason(), d.TokenRevoked())
		}
		// Without a good token nobody knows of which tenant the caller is.
		if e := authz.Explain(table, in); e.Steps[2].Outcome != authz.Failed || e.Steps[3].Outcome != authz.NotReached {
			t.Errorf("%s, later: %+v", subject, e.Steps)
		}
	}
}

// What the service's class of data demands of a token it demands of one that comes alone, too.
func TestBearerStepsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + "\n  sensitivity:\n    restricted: {token: required, acr: [mfa]}" + edges
	files["platform/acme-jwks.json"] = string(w.jwks)
	files["tenants/acme/orders.yaml"] = strings.Replace(files["tenants/acme/orders.yaml"], "token: required", "sensitivity: restricted", 1) +
		"    - {name: r, from: {askers: [edge]}, to: {methods: [GET], paths: [/orders]}}\n"
	table, err := authz.Compile(tenancytest.Tenant(t, tenancytest.Model(t, files), "acme"))
	if err != nil {
		t.Fatal(err)
	}
	for acr, want := range map[string]authz.Reason{"pwd": authz.StepUpRequired, "mfa": authz.Allowed} {
		d := authz.Decide(table, authz.Input{
			Caller: edge(t, table, "edge").Bearer(), Token: table.Token(w.bearer(t, w.now.Add(time.Minute), map[string]any{"acr": acr}), w.now),
			Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders", Now: w.now,
		})
		if d.Reason() != want {
			t.Errorf("%s: %s, want %s", acr, d.Reason(), want)
		}
	}
}

// No documents let an asker by token ask about a shared service. If they did, a Grant would open nothing to a token of the
// tenant that has it: only workloads have Grants.
func TestBearerHasNoGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + edges
	askers := tenancytest.Tenant(t, tenancytest.Model(t, files), "acme").Askers()
	table := decode(t, w.billing(tokenOptional, nil, &grantMsg{
		Name: "g", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/**"}, NotAfter: w.now.Add(time.Hour).Unix(),
	}))
	authz.AddAsker(table, tenancy.KeyOfSocket("/edge"), askers[0])
	in := authz.Input{
		Caller: edge(t, table, "edge").Bearer(), Token: table.Token(w.acmeToken(t), w.now), Service: service(t, table, "platform", "billing"),
		Method: "GET", Path: "/", Now: w.now,
	}
	if d := authz.Decide(table, in); in.Token.Claims().IsZero() || d.Reason() != authz.CrossTenant {
		t.Errorf("%s", d.Reason())
	}
	if e := authz.Explain(table, in); e.Steps[2].Outcome != authz.Failed {
		t.Errorf("%+v", e.Steps)
	}
}
