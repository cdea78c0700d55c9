package extauthz_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// The SPIFFE IDs of other meshes, read by the Mesh's mapping: all tenants share one root, and the path says the tenant.
func TestShapesOfOtherMeshes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, domain, path string
		id                 func(tenant, account string) string // within the trust domain
		odd                []string                            // IDs of the trust domain that are nobody's
	}{
		{
			"Istio: a namespace is a tenant", "cluster.local", "/ns/{tenant}/sa/{serviceAccount}",
			func(tenant, account string) string { return "/ns/" + tenant + "/sa/" + account },
			[]string{"/ns/acme/sa/web/x", "/ns/acme/pod/web", "/sa/web/ns/acme", "/ns/ACME/sa/web", "/ns/acme.x/sa/web"},
		},
		{
			"SPIRE: entries by tenant", "prod.example.com", "/tenant/{tenant}/{serviceAccount}",
			func(tenant, account string) string { return "/tenant/" + tenant + "/" + account },
			[]string{"/spire/server", "/spire/agent/x509pop/0a1b", "/tenant/acme", "/acme/web"},
		},
		{
			"SPIRE: Kubernetes workloads of several namespaces", "prod.example.com", "/{tenant}/ns/{namespace}/sa/{serviceAccount}",
			func(tenant, account string) string { return "/" + tenant + "/ns/" + tenant + "/sa/" + account },
			[]string{"/ns/acme/sa/web", "/acme/ns/acme/sa/", "/acme//ns/acme/sa/web"},
		},
		{
			"Consul: a namespace is a tenant", "11111111-2222-3333-4444-555555555555.consul", "/ns/{tenant}/dc/dc1/svc/{serviceAccount}",
			func(tenant, account string) string { return "/ns/" + tenant + "/dc/dc1/svc/" + account },
			[]string{"/ns/acme/dc/dc2/svc/web", "/agent/client/dc/dc1/id/web", "/gateway/mesh/dc/dc1"},
		},
		{
			"Consul: a partition is a tenant", "11111111-2222-3333-4444-555555555555.consul", "/ap/{tenant}/ns/{namespace}/dc/dc1/svc/{serviceAccount}",
			func(tenant, account string) string {
				return "/ap/" + tenant + "/ns/" + tenant + "/dc/dc1/svc/" + account
			},
			[]string{"/ns/acme/dc/dc1/svc/web", "/ap/acme/ns/default/dc/dc1/svc/web"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			ca := testca.Constrained(t, tc.domain)
			m.edit("mesh.yaml", `"{tenant}.demo.test"`, tc.domain)
			m.edit("mesh.yaml", "/ns/{namespace}/sa/{serviceAccount}\n  # The platform", tc.path+"\n  # The platform")
			m.files["mesh.yaml"] = strings.TrimRight(m.files["mesh.yaml"], "\n") + "\n" + strings.Replace(askers, gateway, "spiffe://gateways.example.com/g", 1)
			in := tenancytest.Input(t, m.files)
			bundles, err := identity.NewBundles(ca.Bundle(tc.domain), m.platform.Bundle("platform.demo.test"))
			if err != nil {
				t.Fatal(err)
			}
			in.Bundles = bundles
			model, problems := tenancy.Build(in)
			if model == nil {
				t.Fatal(problems)
			}
			all := namedTables{}
			for _, name := range []string{"acme", "globex", "platform"} {
				if all[name], err = authz.Compile(tenancytest.Tenant(t, model, name)); err != nil {
					t.Fatal(err)
				}
			}
			uri := func(tenant, account string) string { return "spiffe://" + tc.domain + tc.id(tenant, account) }
			orders, err := model.Mapping().Parse(uri("acme", "orders"))
			if err != nil {
				t.Fatal(err)
			}
			sidecar := &point{
				tables:  &tables{current: map[string]*authz.Table{orders.String(): all["acme"]}},
				entries: &entries{}, registry: prometheus.NewRegistry(), clock: newClock(m.now),
			}
			sidecar.serve(t, extauthz.New(sidecar.tables, extauthz.Fixed(orders), sidecar.entries, metrics(t, sidecar.registry), sidecar.clock.Now))
			many, proxy, whole := startNamed(t, m, all, "/run/many.sock"), startNamed(t, m, all, "/run/proxy.sock"), startNamed(t, m, all, "/run/whole.sock")
			wants := map[string]string{
				uri("acme", "web"): "allowed", uri("acme", "orders"): "no_rule", uri("globex", "web"): "cross_tenant", uri("nobody", "web"): "cross_tenant",
			}
			for _, path := range tc.odd {
				wants["spiffe://"+tc.domain+path] = ""
			}
			for id, want := range wants {
				svid := ca.SVID("", testca.RawURIs(id))
				got := []string{}
				for _, p := range []*point{sidecar, whole, many, proxy} {
					req := call(svid, id, "acme/orders", "GET", "/orders/7", "Bearer "+m.clerk())
					switch p {
					case many:
						req = asPrincipal(req)
					case proxy:
						req = asXFCC(req)
					}
					got = append(got, reason(p.check(t, req)))
				}
				for _, g := range got {
					if g != got[0] || (want != "" && g != want) || g == "allowed" && want != "allowed" {
						t.Errorf("%s: %v, want %s from all", id, got, want)
					}
				}
			}
		})
	}
}
