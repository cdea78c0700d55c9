package tenancy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// A service says what is beside its Envoys; without a word it is the agent.
func TestProxy(t *testing.T) {
	t.Parallel()
	files := edits{orders + ": serviceAccounts: [orders]": "serviceAccounts: [orders]\n  proxy: Direct"}.apply(t)
	acme := tenancytest.Tenant(t, tenancytest.Model(t, files), "acme")
	got := map[string]string{}
	for _, w := range acme.Workloads() {
		got[w.ID().ServiceAccount()] = w.Proxy().String()
	}
	if diff := cmp.Diff(map[string]string{"orders": "Direct", "web": "Agent"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if (tenancy.Workload{}).Proxy() != tenancy.ProxyAgent || (tenancy.Service{}).Proxy() != tenancy.ProxyAgent {
		t.Error("the zero value is not the agent's")
	}
}

func TestProxyProblems(t *testing.T) {
	t.Parallel()
	direct := service("orders2", "  proxy: Direct\n")
	for name, tc := range map[string]struct {
		edit edits
		want []string
		says string
	}{
		"in another case":  {edits{extra: service("x", "  proxy: direct\n")}, []string{"acme RF1010 tenants/acme/extra.yaml:6:10"}, "Direct"},
		"nothing":          {edits{extra: service("x", "  proxy: \"\"\n")}, []string{"acme RF1010 tenants/acme/extra.yaml:6:10"}, "Agent"},
		"an account twice": {edits{extra: strings.Replace(direct, "[orders2]", "[orders]", 1)}, []string{"acme RF2080 tenants/acme/extra.yaml:2:18"}, `service account "orders"`},
		"of two accounts": {
			edits{extra: strings.Replace(direct, "[orders2]", "[other, orders, web]", 1)},
			[]string{"acme RF2080 tenants/acme/extra.yaml:2:18", "acme RF2080 tenants/acme/web.yaml:4:18"},
			"proxy: Direct",
		},
		"both alike": {
			edits{extra: strings.Replace(direct, "[orders2]", "[orders]", 1), orders + ": serviceAccounts: [orders]": "serviceAccounts: [orders]\n  proxy: Direct"},
			nil, "",
		},
	} {
		_, problems := tenancy.Build(input(t, tc.edit.apply(t)))
		if diff := cmp.Diff(tc.want, kept(problems)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if len(problems) > 0 && !strings.Contains(problems[0].Render(), tc.says) {
			t.Errorf("%s: %s", name, problems[0].Render())
		}
	}
}

// Tenants that share a trust domain share its root. It is said once, and nobody is refused for it.
func TestSharedRoot(t *testing.T) {
	t.Parallel()
	const own = ": {tenant}.demo.test\"\n      path: /ns/{namespace}/sa/{serviceAccount}"
	one, _, _ := strings.Cut(tenancytest.TwoTenantsFiles(t)["platform/tenants.yaml"], "---")
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"a root for each": {tenancytest.TwoTenantsFiles(t), nil},
		"one for both":    {edits{mesh + own: "prod.test\"\n      path: /ns/{tenant}/sa/{serviceAccount}"}.apply(t), []string{"platform RF2580 mesh.yaml:9:7"}},
		"an older way": {
			edits{mesh + own: "{tenant}.demo.test\"\n      path: /ns/{namespace}/sa/{serviceAccount}\n    - {trustDomain: prod.test, path: \"/ns/{tenant}/sa/{serviceAccount}\"}"}.apply(t), nil,
		},
		"of one tenant": {map[string]string{
			"mesh.yaml":             "kind: Mesh\nmetadata: {name: x}\nspec:\n  identities: [{trustDomain: prod.test, path: \"/ns/{tenant}/sa/{serviceAccount}\"}]\n  platformTrustDomain: platform.test\n",
			"platform/tenants.yaml": one,
		}, nil},
	} {
		m := tenancytest.Model(t, tc.files)
		if diff := cmp.Diff(tc.want, kept(m.Warnings())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, w := range m.Warnings() {
			if !strings.Contains(w.Text, "2 tenants") || !strings.Contains(w.Text, "prod.test") {
				t.Errorf("%s: %s", name, w.Text)
			}
		}
	}
}
