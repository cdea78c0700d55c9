package tenancy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	acmeOncall   = "spiffe://acme.demo.test/ns/acme/sa/oncall"
	globexOncall = "spiffe://globex.demo.test/ns/globex/sa/oncall"
	oncall       = "spiffe://platform.demo.test/ns/platform/sa/oncall"
)

// operated is an edit of the Mesh: these operators, each in a line, the first in line 14.
func operated(lines ...string) edits {
	return edits{mesh + ": platformTrustDomain: platform.demo.test": "platformTrustDomain: platform.demo.test\n  operators:\n    - " + strings.Join(lines, "\n    - ")}
}

func TestOperatorProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edit edits
		want []string
		says string
	}{
		{"good ones", operated(
			`{name: a, spiffeIDs: ["`+acmeOncall+`"], tenants: [acme]}`,
			`{name: b, spiffeIDs: ["`+oncall+`"], tenants: [acme, platform]}`,
			`{name: c, spiffeIDs: ["`+oncall+`2"], tenants: ["*"]}`,
		), nil, ""},
		{
			"names", operated(`{name: A, spiffeIDs: ["`+oncall+`"], tenants: [acme]}`, `{name: b, spiffeIDs: ["`+oncall+`2"], tenants: [acme]}`, `{name: b, spiffeIDs: ["`+oncall+`3"], tenants: [acme]}`),
			[]string{"platform RF2003 mesh.yaml:14:14", "platform RF2018 mesh.yaml:16:14"},
			"",
		},
		{
			"one identity for two", operated(`{name: a, spiffeIDs: ["`+oncall+`"], tenants: [acme]}`, `{name: b, spiffeIDs: ["`+oncall+`"], tenants: ["*"]}`),
			[]string{"platform RF2018 mesh.yaml:15:29"},
			"stands here twice",
		},
		{
			"no identities of the mesh", operated(`{name: a, spiffeIDs: ["spiffe://cluster.local/ns/x/sa/y", "oncall"], tenants: [acme]}`),
			[]string{"platform RF2050 mesh.yaml:14:29", "platform RF2050 mesh.yaml:14:65"},
			"",
		},
		{
			"of a tenant that is not there", operated(`{name: a, spiffeIDs: ["spiffe://acne.demo.test/ns/acme/sa/oncall"], tenants: [acme]}`),
			[]string{"platform RF2007 mesh.yaml:14:29"},
			`did you mean "acme"?`,
		},
		{"the control plane's", operated(`{name: a, spiffeIDs: ["spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"], tenants: [acme]}`), []string{"platform RF2004 mesh.yaml:14:29"}, ""},
		{
			"a tenant's identity for another tenant", operated(`{name: a, spiffeIDs: ["`+acmeOncall+`"], tenants: [acme, globex]}`, `{name: b, spiffeIDs: ["`+globexOncall+`"], tenants: ["*"]}`, `{name: c, spiffeIDs: ["`+acmeOncall+`2"], tenants: [platform]}`),
			[]string{"platform RF2050 mesh.yaml:14:29", "platform RF2050 mesh.yaml:15:29", "platform RF2050 mesh.yaml:16:29"},
			"could sign it for anybody",
		},
		{"a tenant to look at that is not there", operated(`{name: a, spiffeIDs: ["` + oncall + `"], tenants: [acmee]}`), []string{"platform RF2007 mesh.yaml:14:93"}, `did you mean "acme"?`},
		{"everything and more", operated(`{name: a, spiffeIDs: ["` + oncall + `"], tenants: ["*", acme]}`), []string{"platform RF2017 mesh.yaml:14:93"}, "leave the others out"},
		{"a tenant twice", operated(`{name: a, spiffeIDs: ["` + oncall + `"], tenants: [acme, acme]}`), []string{"platform RF2018 mesh.yaml:14:99"}, ""},
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

// Every pair of somebody and a tenant: only what the Mesh says, and no tenant's handle is changed by it.
func TestOperates(t *testing.T) {
	t.Parallel()
	without := tenancytest.TwoTenants(t)
	m := tenancytest.Model(t, operated(
		`{name: a, spiffeIDs: ["`+acmeOncall+`"], tenants: [acme]}`,
		`{name: b, spiffeIDs: ["`+oncall+`"], tenants: [globex, platform]}`,
		`{name: c, spiffeIDs: ["`+oncall+`2"], tenants: ["*"]}`,
	).apply(t))
	may := map[string]string{acmeOncall: "acme", oncall: "globex platform", oncall + "2": "acme globex platform"}
	for _, who := range []string{acmeOncall, oncall, oncall + "2", globexOncall, acmeOncall + "2", ""} {
		w, _ := m.Mapping().Parse(who)
		var got []string
		for _, id := range m.Tenants() {
			if m.Operates(w, id) {
				got = append(got, id.Name())
			}
			if without.Operates(w, id) {
				t.Errorf("%s operates %s and nobody says so", who, id)
			}
			if tenancytest.Tenant(t, m, id.Name()).Digest() != tenancytest.Tenant(t, without, id.Name()).Digest() {
				t.Errorf("%s sees who looks at it", id)
			}
		}
		if strings.Join(got, " ") != may[who] {
			t.Errorf("%q operates %v", who, got)
		}
		if m.Operates(w, identity.TenantID{}) || (*tenancy.Model)(nil).Operates(w, m.Tenants()[0]) {
			t.Errorf("%q operates nothing", who)
		}
	}
	if !m.SameOperators(m) || m.SameOperators(without) || without.SameOperators(m) {
		t.Error("the same and others are not told apart")
	}
}
