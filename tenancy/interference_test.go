package tenancy_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// drawTenant draws the documents of a tenant with its namespace and a port range of its own. The names are few, so that
// two tenants use the same ones.
func drawTenant(t *rapid.T, tenant string, base int) string {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"orders", "web", "billing", "db", "jobs"}), 1, 5, rapid.ID).Draw(t, "services")
	accounts := rapid.SampledFrom([]string{"orders", "web", "shared", "billing"})
	var b strings.Builder
	var callees []string
	tokens, tcp := map[string]bool{}, map[string]bool{}
	var ports []string // on loopback, to TCP services
	for i, name := range names {
		if tcp[name] = rapid.Bool().Draw(t, "tcp"); tcp[name] {
			ports = append(ports, fmt.Sprintf("{port: %d, service: %s}", base+100+i, name))
		}
	}
	ports = append(ports, fmt.Sprintf("{port: %d, service: platform/ledger}", base+110), fmt.Sprintf("{port: %d, service: platform/billing}", base+111))
	caller := rapid.SampledFrom(names).Draw(t, "connects")
	for i, name := range names {
		port := base + 10*i
		fmt.Fprintf(&b, "---\nkind: Service\nmetadata: {name: %s}\nspec:\n  namespace: %s\n", name, tenant)
		fmt.Fprintf(&b, "  serviceAccounts: [%s]\n", strings.Join(rapid.SliceOfNDistinct(accounts, 1, 3, rapid.ID).Draw(t, "accounts"), ", "))
		calls := rapid.Bool().Draw(t, "calls")
		switch {
		case name == caller && calls:
			fmt.Fprintf(&b, "  outbound: {port: %d, tcp: [%s]}\n", port+1, strings.Join(ports, ", "))
		case name == caller:
			fmt.Fprintf(&b, "  outbound: {tcp: [%s]}\n", strings.Join(ports, ", "))
		case calls:
			fmt.Fprintf(&b, "  outbound: {port: %d}\n", port+1)
		}
		if !tcp[name] && !rapid.Bool().Draw(t, "called") {
			continue
		}
		callees = append(callees, name)
		protocol := rapid.SampledFrom([]string{"HTTP", "GRPC"}).Draw(t, "protocol")
		if tcp[name] {
			protocol = rapid.SampledFrom([]string{"TCP", "TCP, speaksFirst: client", "TCP, speaksFirst: server"}).Draw(t, "first")
		}
		fmt.Fprintf(&b, "  ports: [{name: main, port: %d, protocol: %s, appPort: %d}]\n", rapid.IntRange(1, 9000).Draw(t, "port"), protocol, port+2)
		address := rapid.SampledFrom([]string{"127.0.0.1", "10.0.0.1", "10.0.0.2"}).Draw(t, "address")
		fmt.Fprintf(&b, "  endpoints: [{address: %s, port: %d}]\n", address, port)
		if tcp[name] {
			continue
		}
		if mode := rapid.SampledFrom([]string{"", "none", "optional", "required"}).Draw(t, "token"); mode != "" {
			fmt.Fprintf(&b, "  token: %s\n", mode)
			tokens[name] = mode != "none"
		}
	}
	for i, name := range callees {
		if !rapid.Bool().Draw(t, "policy") {
			continue
		}
		fmt.Fprintf(&b, "---\nkind: AccessPolicy\nmetadata: {name: p%d}\nspec:\n  service: %s\n  rules:\n", i, name)
		for r := range rapid.IntRange(1, 3).Draw(t, "rules") {
			from := []string{}
			if rapid.Bool().Draw(t, "some") {
				from = append(from, "services: ["+strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID).Draw(t, "from"), ", ")+"]")
			}
			if tokens[name] && rapid.Bool().Draw(t, "roles") {
				from = append(from, "roles: [clerk]")
			}
			path := rapid.SampledFrom([]string{"/", "/a", "/a/*", "/**"}).Draw(t, "path")
			if tcp[name] {
				fmt.Fprintf(&b, "    - {name: r%d, from: {%s}}\n", r, strings.Join(from, ", "))
				continue
			}
			fmt.Fprintf(&b, "    - {name: r%d, from: {%s}, to: {methods: [GET], paths: [\"%s\"]}}\n", r, strings.Join(from, ", "), path)
		}
	}
	return b.String()
}

// drawGrants draws what the platform grants to a tenant, in a file of its own.
func drawGrants(t *rapid.T, tenant string) string {
	var b strings.Builder
	for i := range rapid.IntRange(0, 3).Draw(t, "grants") {
		fmt.Fprintf(&b, "---\nkind: Grant\nmetadata: {name: %s-%d}\nspec: {tenant: %s, service: %s, to: {methods: [GET], paths: [/%d]}, notAfter: \"203%d-01-01T00:00:00Z\"}\n",
			tenant, i, tenant, rapid.SampledFrom([]string{"billing", "orders"}).Draw(t, "service"), rapid.IntRange(0, 9).Draw(t, "path"), i)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "revocations") {
		who := rapid.SampledFrom([]string{
			fmt.Sprintf("workload: \"spiffe://%s.test/%s/x\"", tenant, tenant), fmt.Sprintf("certificate: {trustDomain: %s.test, serial: \"1\"}", tenant),
			fmt.Sprintf("tenant: %s, token: {jti: a}", tenant), fmt.Sprintf("tenant: %s, token: {subject: a}", tenant),
		}).Draw(t, "revoked")
		fmt.Fprintf(&b, "---\nkind: Revocation\nmetadata: {name: %s-%d}\nspec: {%s, reason: r, notAfter: \"203%d-01-01T00:00:00Z\"}\n", tenant, i, who, i)
	}
	if rapid.Bool().Draw(t, "ledger") {
		fmt.Fprintf(&b, "---\nkind: Grant\nmetadata: {name: %s-ledger}\nspec: {tenant: %s, service: ledger, notAfter: \"203%d-01-01T00:00:00Z\"}\n",
			tenant, tenant, rapid.IntRange(0, 9).Draw(t, "until"))
	}
	return b.String()
}

// drawMesh draws two tenants and a platform whose shared HTTP services bear names that the tenants use too, and which has a
// TCP service.
func drawMesh(t *rapid.T) map[string]string {
	shared := func(name string, port int) string {
		return fmt.Sprintf("---\nkind: Service\nmetadata: {name: %s}\nspec:\n  namespace: platform\n  serviceAccounts: [%s]\n  token: optional\n"+
			"  ports: [{name: http, port: 80, protocol: HTTP, appPort: %d}]\n  endpoints: [{address: 127.0.0.1, port: %d}]\n", name, name, port+1, port)
	}
	const ledger = "---\nkind: Service\nmetadata: {name: ledger}\nspec:\n  namespace: platform\n  serviceAccounts: [ledger]\n" +
		"  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 30021}]\n  endpoints: [{address: 127.0.0.1, port: 30020}]\n"
	return map[string]string{
		"mesh.yaml":                 "kind: Mesh\nmetadata: {name: m}\nspec:\n  identities: [{trustDomain: \"{tenant}.test\", path: \"/{namespace}/{serviceAccount}\"}]\n  platformTrustDomain: platform.m\n",
		"platform/tenants.yaml":     "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a]}\n---\nkind: Tenant\nmetadata: {name: b}\nspec: {namespaces: [b]}\n",
		"platform/shared.yaml":      shared("billing", 30000) + shared("orders", 30010) + ledger,
		"platform/grants-a.yaml":    drawGrants(t, "a"),
		"platform/grants-b.yaml":    drawGrants(t, "b"),
		"tenants/a/everything.yaml": drawTenant(t, "a", 10000),
		"tenants/b/everything.yaml": drawTenant(t, "b", 20000),
	}
}

// TestOneTenantsChangeIsNoOthersBusiness changes everything that is tenant b's, and expects everything that tenant a's
// handle reaches to stay, digest included; and that a digest tells every change of what can be reached.
func TestOneTenantsChangeIsNoOthersBusiness(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		files := drawMesh(r)
		before := tenancytest.Model(t, files)
		for range 10 {
			changed := maps.Clone(files)
			changed["tenants/b/everything.yaml"] = drawTenant(r, "b", 20000)
			changed["platform/grants-b.yaml"] = drawGrants(r, "b")
			after := tenancytest.Model(t, changed)
			a, again := tenancytest.Tenant(t, before, "a"), tenancytest.Tenant(t, after, "a")
			if diff := cmp.Diff(dump(a), dump(again)); diff != "" || a.Digest() != again.Digest() {
				r.Fatalf("b's change is seen by a:\n%s", diff)
			}
			for _, name := range []string{"b", "platform"} {
				x, y := tenancytest.Tenant(t, before, name), tenancytest.Tenant(t, after, name)
				if (dump(x) == dump(y)) != (x.Digest() == y.Digest()) {
					r.Fatalf("the digest of %s does not tell what changed:\n%s", name, cmp.Diff(dump(x), dump(y)))
				}
			}
			if dump(a) == dump(tenancytest.Tenant(t, after, "b")) {
				r.Fatal("a and b are one")
			}
		}
	})
}

// TestHandlesHoldOnlyTheirOwn looks at every value that a handle reaches, in many meshes.
func TestHandlesHoldOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		m := tenancytest.Model(t, drawMesh(r))
		for _, id := range m.Tenants() {
			tenant, _ := m.Tenant(id)
			own := func(what string, owners ...fmt.Stringer) {
				for _, o := range owners {
					if o.String() != id.String() {
						r.Fatalf("%s reaches a %s of %s", id, what, o)
					}
				}
			}
			for _, w := range tenant.Workloads() {
				own("workload", w.ID().Tenant())
				for _, s := range w.Services() {
					own("service of a workload", s.Owner())
				}
			}
			for _, s := range tenant.Services() {
				own("service", s.Owner())
				for _, w := range s.IDs() {
					own("account", w.Tenant())
				}
				for _, rule := range tenant.Rules(s.Name()) {
					for _, w := range rule.From {
						own("caller in a rule", w.Tenant())
					}
				}
				callers := tenant.Callers(s.Name())
				for i, c := range callers {
					if i == 0 || !id.IsPlatform() {
						own("caller", c.Tenant())
					}
					for _, w := range c.IDs() {
						if !w.Tenant().Same(c.Tenant()) {
							r.Fatalf("%s: caller %s has the workload %s", id, c.Tenant(), w)
						}
					}
					if i > 0 && len(c.Grants()) == 0 {
						r.Fatalf("%s is a caller without a grant", c.Tenant())
					}
					if c.Bundle().TrustDomain() != c.Tenant().TrustDomain() {
						r.Fatalf("caller %s comes with the bundle of %s", c.Tenant(), c.Bundle().TrustDomain())
					}
				}
			}
			for _, i := range tenant.Imports() {
				if id.IsPlatform() {
					r.Fatal("the platform imports something")
				}
				for _, w := range i.IDs() {
					if !w.Tenant().IsPlatform() {
						r.Fatalf("%s imports %s", id, w)
					}
				}
			}
		}
	})
}

// TestBlamedOwnersStepBack plays the pipeline: owners with problems lose what they changed, and after that there is a
// model. Nobody's problem can be one that only another tenant could mend.
func TestBlamedOwnersStepBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		good := drawMesh(r)
		previous := tenancytest.Model(t, good)
		bad := maps.Clone(good)
		// b takes names, namespaces and addresses that are a's or the platform's, beside what is its own.
		bad["tenants/b/everything.yaml"] = strings.NewReplacer(
			"namespace: b", "namespace: "+rapid.SampledFrom([]string{"a", "b", "platform"}).Draw(r, "namespace"),
			": 200", ": "+rapid.SampledFrom([]string{"100", "200", "300"}).Draw(r, "ports"),
		).Replace(drawTenant(r, "b", 20000))
		in := input(t, bad)
		in.Previous = previous
		m, problems := tenancy.Build(in)
		for _, p := range problems {
			if p.Owner != "b" {
				r.Fatalf("%s is blamed for b's documents: %s", p.Owner, p)
			}
		}
		if m == nil {
			in = input(t, good)
			in.Previous = previous
			if m, problems = tenancy.Build(in); m == nil {
				r.Fatalf("the last good documents are none any more: %v", problems)
			}
		}
		a, before := tenancytest.Tenant(t, m, "a"), tenancytest.Tenant(t, previous, "a")
		if a.Digest() != before.Digest() {
			r.Fatal("b's attempt is seen by a")
		}
	})
}
