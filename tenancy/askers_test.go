package tenancy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// asking is an edit of the Mesh: these askers, each in a line, the first in line 14.
func asking(lines ...string) edits {
	return edits{mesh + ": platformTrustDomain: platform.demo.test": "platformTrustDomain: platform.demo.test\n  askers:\n    - " + strings.Join(lines, "\n    - ")}
}

// and adds edits.
func (e edits) and(more edits) edits {
	maps.Copy(e, more)
	return e
}

func kept(problems []v1alpha1.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, fmt.Sprintf("%s %s %s:%d:%d", p.Owner, p.Code, p.File, p.Line, p.Col))
	}
	return all
}

func TestAskerProblems(t *testing.T) {
	t.Parallel()
	const gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"
	for _, c := range []struct {
		name string
		edit edits
		want []string
		says string
	}{
		{"good ones", asking(
			`{name: a, spiffeIDs: ["`+gateway+`", "spiffe://x.test/y"], services: [acme/orders, globex/orders]}`,
			`{name: b, socket: /run/b.sock, services: [platform/billing]}`,
			`{name: c, spiffeIDs: ["spiffe://acme.demo.test/ns/acme/sa/gateway"], services: [acme/orders]}`,
			`{name: d, spiffeIDs: ["spiffe://platform.demo.test/ns/platform/sa/gateway"], services: [acme/orders, globex/orders]}`,
		), nil, ""},
		{"neither", asking(`{name: a, services: [acme/orders]}`), []string{"platform RF2027 mesh.yaml:14:7"}, "one of the two"},
		{"both", asking(`{name: a, spiffeIDs: ["` + gateway + `"], socket: /s, services: [acme/orders]}`), []string{"platform RF2027 mesh.yaml:14:7"}, "one of the two"},
		{
			"names", asking(`{name: A, socket: /s, services: [acme/orders]}`, `{name: b, socket: /t, services: [acme/orders]}`, `{name: b, socket: /u, services: [acme/orders]}`),
			[]string{"platform RF2003 mesh.yaml:14:14", "platform RF2018 mesh.yaml:16:14"},
			"",
		},
		{
			"sockets", asking(`{name: a, socket: run/s, services: [acme/orders]}`, `{name: b, socket: /run/../s, services: [acme/orders]}`, `{name: c, socket: "/run/a b", services: [acme/orders]}`,
				`{name: d, socket: /`+strings.Repeat("a", 90)+`, services: [acme/orders]}`, `{name: e, socket: /, services: [acme/orders]}`),
			[]string{"platform RF2027 mesh.yaml:14:25", "platform RF2027 mesh.yaml:15:25", "platform RF2027 mesh.yaml:16:25", "platform RF2027 mesh.yaml:17:25", "platform RF2027 mesh.yaml:18:25"},
			"absolute path",
		},
		{
			"no SPIFFE IDs", asking(`{name: a, spiffeIDs: [gateway.example.com, "SPIFFE://a.test/x", "spiffe://a.test"], services: [acme/orders]}`),
			[]string{"platform RF2027 mesh.yaml:14:29", "platform RF2027 mesh.yaml:14:50", "platform RF2027 mesh.yaml:14:71"},
			"",
		},
		{"one socket for two", asking(`{name: a, socket: /s, services: [acme/orders]}`, `{name: b, socket: /s, services: [globex/orders]}`), []string{"platform RF2028 mesh.yaml:15:25"}, "at mesh.yaml:14:25"},
		{"one identity for two", asking(`{name: a, spiffeIDs: ["`+gateway+`"], services: [acme/orders]}`, `{name: b, spiffeIDs: ["`+gateway+`"], services: [globex/orders]}`), []string{"platform RF2028 mesh.yaml:15:29"}, ""},
		{
			"no services", asking(`{name: a, socket: /s, services: [orders, acme/orders/x, "*/orders"]}`),
			[]string{"platform RF2027 mesh.yaml:14:40", "platform RF2027 mesh.yaml:14:48", "platform RF2027 mesh.yaml:14:63"},
			"tenant/service",
		},
		{"a tenant that is not there", asking(`{name: a, socket: /s, services: [acmee/orders]}`), []string{"platform RF2007 mesh.yaml:14:40"}, `did you mean "acme"?`},
		{"a shared service that is not there", asking(`{name: a, socket: /s, services: [platform/biling]}`), []string{"platform RF2007 mesh.yaml:14:40"}, `did you mean "billing"?`},
		{"a service twice", asking(`{name: a, socket: /s, services: [acme/orders, acme/orders]}`), []string{"platform RF2018 mesh.yaml:14:53"}, ""},
		{
			"a tenant's identity for another tenant's service", asking(`{name: a, spiffeIDs: ["spiffe://acme.demo.test/ns/acme/sa/gateway", "spiffe://acme.demo.test/other"], services: [globex/orders]}`),
			[]string{"platform RF2027 mesh.yaml:14:29", "platform RF2027 mesh.yaml:14:75"},
			"tenant acme cannot ask about services of globex",
		},
		{"the control plane's", asking(`{name: a, spiffeIDs: ["spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"], services: [acme/orders]}`), []string{"platform RF2004 mesh.yaml:14:29"}, ""},
		{
			"who runs a service already", asking(`{name: a, spiffeIDs: ["spiffe://acme.demo.test/ns/acme/sa/orders"], services: [acme/orders]}`),
			[]string{"acme RF2028 tenants/acme/orders.yaml:6:21"},
			"its proxy asks about them by its own certificate already",
		},
		{
			"who runs a shared service already", asking(`{name: a, spiffeIDs: ["spiffe://platform.demo.test/ns/platform/sa/billing"], services: [acme/orders]}`),
			[]string{"platform RF2028 mesh.yaml:14:29"},
			"runs service billing",
		},
		{
			"a shared service by token", asking(`{name: a, socket: /s, identityFrom: token, services: [acme/orders, platform/billing]}`),
			[]string{"platform RF2027 mesh.yaml:14:74"},
			"no token asserts the platform",
		},
		{
			"a rule for an asker without tokens",
			asking(`{name: a, socket: /s, identityFrom: token, services: [acme/orders]}`).and(edits{
				orders + ": token: required": "token: none", orders + ": {services: [web], roles: [clerk, manager]}": "{askers: [a]}", orders + ": {services: [web], roles: [manager]}": "{services: [web]}",
			}),
			[]string{"acme RF2021 tenants/acme/orders.yaml:20:23"},
			"an asker's callers have nothing else",
		},
		{
			"a rule for an asker twice, and for none", asking(`{name: a, socket: /s, identityFrom: token, services: [acme/orders]}`).and(edits{
				orders + ": {services: [web], roles: [manager]}": "{askers: [a, a, A]}",
			}),
			[]string{"acme RF2018 tenants/acme/orders.yaml:23:26", "acme RF2003 tenants/acme/orders.yaml:23:29"},
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, problems := tenancy.Build(input(t, c.edit.apply(t)))
			if diff := cmp.Diff(c.want, kept(problems)); diff != "" || (m == nil) != (len(c.want) > 0) {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if c.says != "" && !strings.Contains(problems[0].Render(), c.says) {
				t.Errorf("%s does not say %q", problems[0].Render(), c.says)
			}
		})
	}
}

// A workload that was there first keeps its identity, and the platform its last documents.
func TestAskerComesLater(t *testing.T) {
	t.Parallel()
	before := tenancytest.TwoTenants(t)
	in := input(t, asking(`{name: a, spiffeIDs: ["spiffe://acme.demo.test/ns/acme/sa/orders"], services: [acme/orders]}`).apply(t))
	in.Previous = before
	_, problems := tenancy.Build(in)
	if diff := cmp.Diff([]string{"platform RF2028 mesh.yaml:14:29"}, kept(problems)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is weak, and what a tenant does not have, is said and refused to nobody: no tenant can hold up the Mesh.
func TestAskerWarnings(t *testing.T) {
	t.Parallel()
	files := asking(
		`{name: a, socket: /a, identityFrom: principal, services: [acme/orders]}`,
		`{name: b, socket: /b, identityFrom: xfcc, services: [acme/orders]}`,
		`{name: c, socket: /c, identityFrom: certificate, services: [acme/order, acme/web]}`,
		`{name: d, socket: /d, identityFrom: token, services: [acme/orders]}`,
		`{name: e, socket: /e, identityFrom: token, services: [globex/orders]}`,
	).and(edits{
		orders + ": {services: [web], roles: [manager]}": "{askers: [d, b, e, dd]}",
		"tenants/globex/orders.yaml: token: optional":    "token: none",
	}).apply(t)
	m := tenancytest.Model(t, files)
	want := []string{
		"platform RF2501 mesh.yaml:14:43", "platform RF2501 mesh.yaml:15:43", "platform RF2502 mesh.yaml:16:67", "platform RF2502 mesh.yaml:16:79",
		"platform RF2501 mesh.yaml:17:43", "platform RF2501 mesh.yaml:18:43", "platform RF2502 mesh.yaml:18:61",
		"acme RF2504 tenants/acme/orders.yaml:23:26", "acme RF2504 tenants/acme/orders.yaml:23:29", "acme RF2504 tenants/acme/orders.yaml:23:32",
	}
	if diff := cmp.Diff(want, kept(m.Warnings())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What the rule names besides is nobody's, and it is for no workload.
	rules := tenancytest.Tenant(t, m, "acme").Rules("orders")
	if got := rules[1]; len(got.From) > 0 || !slices.Equal(got.Askers, []string{"d", "b", "e", "dd"}) || len(rules[0].Askers) > 0 {
		t.Errorf("%+v", got)
	}
	// A tenant is told the names of its own service's askers, and of no others.
	for _, w := range m.Warnings() {
		if w.Code == v1alpha1.CodeIdleRule && strings.Contains(w.Hint, `"e"`) {
			t.Errorf("acme is told of globex's asker: %s", w.Render())
		}
	}
	if len(tenancytest.TwoTenants(t).Warnings()) != 0 {
		t.Error("the example warns")
	}
}

// A tenant's handle holds the askers of its own services, and nothing of what else they may ask about.
func TestAskersByTenant(t *testing.T) {
	t.Parallel()
	const both = `{name: a, socket: /a, identityFrom: xfcc, services: [acme/orders, globex/orders]}`
	m := tenancytest.Model(t, asking(both, `{name: b, spiffeIDs: ["spiffe://x.test/y"], services: [acme/orders]}`).apply(t))
	for tenant, want := range map[string][]string{"acme": {"a [orders]", "b [orders]"}, "globex": {"a [orders]"}, "platform": nil} {
		var got []string
		for _, a := range tenancytest.Tenant(t, m, tenant).Askers() {
			got = append(got, fmt.Sprintf("%s %v", a.Name(), a.Services()))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tenant, diff)
		}
	}
	all := m.Askers()
	if len(all) != 2 || len(all[0].Services()) != 0 || all[0].Keys()[0] != tenancy.KeyOfSocket("/a") || all[0].IdentityFrom() != tenancy.FromXFCC {
		t.Errorf("%v", all)
	}
	id, err := identity.ParseSPIFFEID("spiffe://x.test/y")
	if err != nil || all[1].Keys()[0] != tenancy.KeyOfID(id) || all[1].IdentityFrom() != tenancy.FromCertificate {
		t.Errorf("%v, %v", all[1], err)
	}
	// What concerns globex alone changes nothing of acme.
	alone := tenancytest.Model(t, asking(strings.Replace(both, ", globex/orders", "", 1), `{name: b, spiffeIDs: ["spiffe://x.test/y"], services: [acme/orders]}`).apply(t))
	if tenancytest.Tenant(t, m, "acme").Digest() != tenancytest.Tenant(t, alone, "acme").Digest() {
		t.Error("acme sees what else an asker may ask about")
	}
	if tenancytest.Tenant(t, m, "globex").Digest() == tenancytest.Tenant(t, alone, "globex").Digest() {
		t.Error("globex does not see its asker")
	}
}
