package xds_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

const (
	// meshes times the pairs of variants of one mesh: more than 10,000 pairs.
	meshes     = 20
	variants   = 33
	longMeshes = 200
	longEnv    = "RINGFENCE_LONG"
	grantsFile = "platform/globex-grants.yaml"
)

// Non-interference: in a mesh where only globex's documents and Grants differ, every byte that acme's workloads can get is
// the same: their xDS resources and their Tables. Each variant of globex is compared with every other one.
func TestNonInterference(t *testing.T) {
	t.Parallel()
	n := meshes
	if os.Getenv(longEnv) != "" {
		n = longMeshes
	}
	var domains []identity.TrustDomain
	for _, name := range []string{"acme.demo.test", "globex.demo.test", "platform.demo.test"} {
		domains = append(domains, identity.MustTrustDomain(name))
	}
	bundles := tenancytest.Bundles(t, domains...)
	pairs, globexes := 0, map[[32]byte]bool{}
	for i := range n {
		acme := genTenant("acme", "10.1").Example(i)
		var first [32]byte
		for j := range variants {
			files := xdstest.Files()
			for name := range files {
				if strings.HasPrefix(name, "tenants/") {
					delete(files, name)
				}
			}
			maps.Copy(files, acme)
			maps.Copy(files, genTenant("globex", "10.2").Example(i*variants+j))
			files["platform/grants.yaml"] = strings.Split(files["platform/grants.yaml"], "---")[0]
			files[grantsFile] = genGrants().Example(i*variants + j)
			m := build(t, files, bundles)
			seen := everything(t, m, "acme")
			globexes[everything(t, m, "globex")] = true
			if j == 0 {
				first = seen
			}
			if seen != first {
				t.Fatalf("a change of globex's documents changed acme's bytes; the documents:\n%v", files)
			}
			pairs += j
		}
	}
	if pairs < 10_000 {
		t.Errorf("only %d pairs", pairs)
	}
	if len(globexes) < variants {
		t.Errorf("globex was only %d different ones", len(globexes))
	}
}

// everything is a hash over every byte that a tenant's workloads can get.
func everything(tb testing.TB, m *tenancy.Model, tenant string) [32]byte {
	tb.Helper()
	t := tenancytest.Tenant(tb, m, tenant)
	part, err := xds.Compile(t)
	if err != nil {
		tb.Fatal(err)
	}
	table, err := authz.Compile(t)
	if err != nil {
		tb.Fatal(err)
	}
	h := sha256.New()
	for _, w := range part.Workloads() {
		s, _ := part.Snapshot(w)
		fmt.Fprintf(h, "%s %s\n", w, s.Version())
		for _, r := range s.All() {
			fmt.Fprintf(h, "%s %s %s %x\n", r.TypeURL(), r.Name(), r.Version(), r.Value())
		}
		encoded, err := table.For(w, s.Version())
		if err != nil {
			tb.Fatal(err)
		}
		fmt.Fprintf(h, "%x\n", encoded)
	}
	return [32]byte(h.Sum(nil))
}

func build(tb testing.TB, files map[string]string, bundles identity.Bundles) *tenancy.Model {
	tb.Helper()
	in := tenancy.Input{Bundles: bundles}
	for name, text := range files {
		docs, problems := v1alpha1.Decode(v1alpha1.File{Path: name, Data: []byte(text)})
		for _, p := range problems {
			tb.Fatalf("%s\n%s", p.Render(), text)
		}
		in.Documents = append(in.Documents, docs...)
	}
	m, problems := tenancy.Build(in)
	for _, p := range problems {
		tb.Fatal(p.Render())
	}
	return m
}

var serviceNames = []string{"orders", "web", "ledger", "billing", "reports", "acme"}

// genTenant draws a tenant's documents: some services, each with its own endpoints and rules for the others.
func genTenant(tenant, network string) *rapid.Generator[map[string]string] {
	return rapid.Custom(func(t *rapid.T) map[string]string {
		const tcpOffset = 50
		names := rapid.SliceOfNDistinct(rapid.SampledFrom(serviceNames), 1, len(serviceNames), rapid.ID[string]).Draw(t, "services")
		var services, policies []string
		tcp := map[string]bool{}
		to := []string{fmt.Sprintf("{port: %d, service: platform/store}", portOf(tenant)+tcpOffset)}
		for i, name := range names {
			if tcp[name] = rapid.Bool().Draw(t, "tcp"); tcp[name] {
				to = append(to, fmt.Sprintf("{port: %d, service: %s}", portOf(tenant)+tcpOffset+1+i, name))
			}
		}
		connects := rapid.SampledFrom(names).Draw(t, "connects")
		for i, name := range names {
			port := 21000 + i
			doc := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: Service\nmetadata: {name: %s}\nspec:\n  namespace: %s\n  serviceAccounts: [%s]\n", name, tenant, rapid.SampledFrom([]string{name, name + ", batch", "shared"}).Draw(t, "accounts"))
			if name == connects {
				doc += fmt.Sprintf("  outbound: {tcp: [%s]}\n", strings.Join(to, ", "))
			} else if rapid.Bool().Draw(t, "outbound") {
				doc += fmt.Sprintf("  outbound: {port: %d}\n", portOf(tenant)+i)
			}
			if rapid.Bool().Draw(t, "called") || tcp[name] {
				protocol := rapid.SampledFrom([]string{"HTTP", "GRPC"}).Draw(t, "protocol")
				if tcp[name] {
					protocol = rapid.SampledFrom([]string{"TCP", "TCP, speaksFirst: server"}).Draw(t, "first")
				}
				doc += fmt.Sprintf("  ports: [{name: http, port: 8080, protocol: %s, appPort: %d}]\n", protocol, portOf(tenant)+100+i)
				doc += fmt.Sprintf("  endpoints: [{address: %s.0.%d, port: %d}, {address: %s.1.%d, port: %d}]\n", network, rapid.IntRange(1, 200).Draw(t, "host"), port, network, i+1, port)
				policies = append(policies, genPolicy(t, name, names, tcp[name]))
			}
			services = append(services, doc)
		}
		files := map[string]string{"tenants/" + tenant + "/services.yaml": strings.Join(services, "---\n")}
		if len(policies) > 0 {
			files["tenants/"+tenant+"/policy.yaml"] = strings.Join(policies, "---\n")
		}
		return files
	})
}

func portOf(tenant string) int {
	if tenant == "acme" {
		return 30000
	}
	return 40000
}

func genPolicy(t *rapid.T, service string, callers []string, tcp bool) string {
	doc := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: %s}\nspec:\n  service: %s\n  rules:\n", service, service)
	for i := range rapid.IntRange(1, 3).Draw(t, "rules") {
		from := "{}"
		if rapid.Bool().Draw(t, "named") {
			from = fmt.Sprintf("{services: [%s]}", rapid.SampledFrom(callers).Draw(t, "caller"))
		}
		if tcp {
			doc += fmt.Sprintf("    - {name: r%d, from: %s}\n", i, from)
			continue
		}
		doc += fmt.Sprintf("    - {name: r%d, from: %s, to: {methods: [%s], paths: [%q]}}\n", i, from,
			rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"), rapid.SampledFrom([]string{"/x", "/x/*", "/**"}).Draw(t, "path"))
	}
	return doc
}

// genGrants draws globex's Grants of the shared services, possibly none.
func genGrants() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		var docs []string
		for _, service := range []string{"billing", "ledger"} {
			if rapid.Bool().Draw(t, service) {
				docs = append(docs, fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: Grant\nmetadata: {name: globex-%s}\nspec: {tenant: globex, service: %s, to: {methods: [GET], paths: [%s]}, notAfter: \"20%d-01-01T00:00:00Z\"}\n",
					service, service, rapid.SampledFrom([]string{"/a", "/b"}).Draw(t, "path"), rapid.IntRange(40, 60).Draw(t, "year")))
			}
		}
		if rapid.Bool().Draw(t, "store") {
			docs = append(docs, "apiVersion: ringfence.dev/v1alpha1\nkind: Grant\nmetadata: {name: globex-store}\nspec: {tenant: globex, service: store, notAfter: \"2040-01-01T00:00:00Z\"}\n")
		}
		return strings.Join(docs, "---\n")
	})
}
