package authz_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/authz"
)

// moments are points in time, which no test can write down.
var moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// told is an Explanation as people read it: each step that is reached, then each rule.
func told(e authz.Explanation) string {
	var b strings.Builder
	for _, s := range e.Steps {
		if s.Outcome != authz.NotReached {
			fmt.Fprintf(&b, "%s %s: %s\n", s.Name, s.Outcome, s.Text)
		}
	}
	for _, r := range e.Rules {
		fmt.Fprintf(&b, "%s grant=%v %s: %s\n", r.Name, r.Grant, r.Fails, r.Text)
	}
	return moments.ReplaceAllString(b.String(), "TIME")
}

func TestExplainTexts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := w.now.Add(time.Hour).Unix()
	rule := func(name, path string, roles ...string) *ruleMsg {
		return &ruleMsg{Name: name, From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{path}, Roles: roles}
	}
	classed := func(c *classMsg) *tableMsg {
		m := w.orders(tokenRequired, rule("p/r", "/x"))
		m.Services[0].Sensitivity = c
		return m
	}
	revoked := w.orders(tokenRequired, rule("p/r", "/x"))
	revoked.Revocations = []*revocationMsg{{Name: "acme/lost", Tenant: "acme", Workload: acmeWeb, NotAfter: far}}
	granted := &grantMsg{Name: "g", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/x"}, NotAfter: far}
	over := &grantMsg{Name: "over", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/x"}, NotAfter: w.now.Unix() - 60}
	const caller = "caller passed: " + acmeWeb + " is proved, a workload of acme\n"
	const orders = "destination passed: acme/orders is a service, port http\n"
	const within = caller + orders + "tenant passed: caller and destination are of one tenant\n"
	const issued = "https://idp.acme.example.com asserts tenant acme, "
	for name, tt := range map[string]struct {
		table  *tableMsg
		claims map[string]any // nil: no token
		method string
		path   string
		change func(table *authz.Table, in *authz.Input)
		want   string
	}{
		"allowed": {table: w.orders(tokenRequired, rule("p/r", "/x")), claims: map[string]any{"roles": []string{"a", "b"}}, want: within +
			"token passed: required; " + issued + "roles a, b, until TIME\nsensitivity passed: the service is of no class\nrules passed: p/r covers the call\np/r grant=false : \n"},
		"without roles": {table: w.orders(tokenOptional, rule("p/r", "/x", "clerk")), claims: map[string]any{}, want: within +
			"token passed: optional; " + issued + "no roles, until TIME\nsensitivity passed: the service is of no class\nrules failed: none covers the call\n" +
			"p/r grant=false role: it asks for a token with one of the roles clerk\n"},
		"no token needed": {table: w.orders(tokenOptional, rule("p/r", "/x")), want: within +
			"token passed: none, and none is required\nsensitivity passed: the service is of no class\nrules passed: p/r covers the call\np/r grant=false : \n"},
		"no token read, no rule": {table: w.orders(tokenNone), want: within +
			"token passed: the service reads no tokens\nsensitivity passed: the service is of no class\nrules failed: the service has no rule and no Grant\n"},
		"method and paths": {table: w.orders(tokenNone, rule("p/r", "/y")), method: "PUT", want: within +
			"token passed: the service reads no tokens\nsensitivity passed: the service is of no class\nrules failed: none covers the call\np/r grant=false method: it is for GET\n"},
		"path": {table: w.orders(tokenNone, rule("p/r", "/y"), rule("p/open", "/z/**")), want: within +
			"token passed: the service reads no tokens\nsensitivity passed: the service is of no class\nrules failed: none covers the call\np/r grant=false path: it is for /y\np/open grant=false path: it is for /z/**\n"},
		"a path in two ways": {table: w.orders(tokenNone, rule("p/r", "/**")), path: "/a/../x", want: within +
			"token passed: the service reads no tokens\nsensitivity passed: the service is of no class\nrules failed: none covers the call\np/r grant=false path: the path can be read in more than one way, so no pattern matches it\n"},
		"a Grant that is over beside one": {table: w.billing(tokenNone, nil, over, granted), want: caller +
			"destination passed: platform/billing is a service, port http\ntenant passed: a Grant lets acme call until TIME\n" +
			"token passed: the service reads no tokens\nsensitivity passed: the service is of no class\nrules passed: g covers the call\nover grant=true notAfter: it is void since TIME\ng grant=true : \n"},
		"TCP": {table: w.db("web"), method: "-", want: caller + "destination passed: acme/db takes TCP connections, port sql\ntenant passed: caller and destination are of one tenant\n" +
			"token passed: a TCP connection carries none\nsensitivity passed: the service is of no class\nrules passed: db/web covers the call\ndb/web grant=false : \n"},
		"a request to TCP": {table: w.db("web"), want: caller + "destination passed: acme/db takes TCP connections, port sql\ntenant passed: caller and destination are of one tenant\n" +
			"token passed: a TCP connection carries none\nsensitivity passed: the service is of no class\nrules failed: none covers the call\ndb/web grant=false method: it is for TCP connections, which have none\n"},
		"a class that demands nothing": {table: classed(&classMsg{Name: "plain"}), claims: map[string]any{}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity passed: class plain demands nothing of how the user authenticated\nrules passed: p/r covers the call\np/r grant=false : \n"},
		"a class that is met": {
			table:  classed(&classMsg{Name: "secret", Acr: []string{"mfa", "phr"}, Amr: []string{"hwk", "pwd"}, MaxAuthAgeSeconds: 60}),
			claims: map[string]any{"acr": "phr", "amr": []string{"pwd", "hwk"}, "auth_time": w.now.Unix()}, want: within +
				"token passed: required; " + issued + "no roles, until TIME\nsensitivity passed: the token meets class secret: acr mfa or phr, amr hwk and pwd, authenticated within 1m0s\nrules passed: p/r covers the call\np/r grant=false : \n",
		},
		"no acr": {table: classed(&classMsg{Name: "secret", Acr: []string{"mfa", "phr"}}), claims: map[string]any{}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity failed: class secret demands acr mfa or phr; the token does not say it\n"},
		"another acr": {table: classed(&classMsg{Name: "secret", Acr: []string{"mfa"}}), claims: map[string]any{"acr": "pwd"}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity failed: class secret demands acr mfa; the token's is pwd\n"},
		"amr": {table: classed(&classMsg{Name: "secret", Amr: []string{"hwk", "pwd"}}), claims: map[string]any{"amr": []string{"pwd"}}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity failed: class secret demands amr hwk and pwd; the token does not name all of them\n"},
		"no auth_time": {table: classed(&classMsg{Name: "secret", MaxAuthAgeSeconds: 60}), claims: map[string]any{}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity failed: class secret demands that the user authenticated within 1m0s; the token does not say it\n"},
		"long ago": {table: classed(&classMsg{Name: "secret", MaxAuthAgeSeconds: 60}), claims: map[string]any{"auth_time": w.now.Unix() - 600}, want: within +
			"token passed: required; " + issued + "no roles, until TIME\nsensitivity failed: class secret demands that the user authenticated within 1m0s; the token's user did so at TIME\n"},
		"revoked":  {table: revoked, claims: map[string]any{}, want: "caller failed: the caller is revoked by acme/lost until TIME\n"},
		"no token": {table: w.orders(tokenRequired, rule("p/r", "/x")), want: within + "token failed: " + authz.TokenMissing.Words() + "\n"},
		"another tenant, told from the roots": {
			table: w.orders(tokenNone, rule("p/r", "/x")), change: func(table *authz.Table, in *authz.Input) {
				in.Caller = table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now)
			}, want: "caller failed: " + authz.CrossTenant.Words() + "\n",
		},
		"another tenant, without a Grant": {
			table: w.billing(tokenNone, nil, granted, &grantMsg{Name: "h", Tenant: "globex", From: []string{globexWeb}, Methods: []string{"GET"}, Paths: []string{"/x"}, NotAfter: w.now.Unix() - 1}),
			change: func(table *authz.Table, in *authz.Input) {
				in.Caller = table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now)
			}, want: "caller passed: " + globexWeb + " is proved, a workload of globex\ndestination passed: platform/billing is a service, port http\ntenant failed: " + authz.GrantExpired.Words() + "\n",
		},
		"no destination": {
			table: w.orders(tokenNone), change: func(_ *authz.Table, in *authz.Input) { in.Service = authz.ServiceRef{} },
			want: caller + "destination failed: " + authz.UnknownDestination.Words() + "\n",
		},
	} {
		table := decode(t, tt.table)
		in := authz.Input{Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Service: table.Services()[0], Method: "GET", Path: "/x", Now: w.now}
		if tt.claims != nil {
			in.Token = table.Token(w.tokenWith(t, "https://idp.acme.example.com", "acme", w.now.Add(5*time.Minute), tt.claims), w.now)
		}
		switch {
		case tt.method == "-":
			in.Method, in.Path = "", ""
		case tt.method != "":
			in.Method = tt.method
		}
		if tt.path != "" {
			in.Path = tt.path
		}
		if tt.change != nil {
			tt.change(table, &in)
		}
		if diff := cmp.Diff(tt.want, told(authz.Explain(table, in))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
