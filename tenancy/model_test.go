package tenancy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func ids(list []identity.WorkloadID) []string {
	var texts []string
	for _, id := range list {
		texts = append(texts, id.String())
	}
	return texts
}

// dump writes out everything that a handle reaches, through its accessors alone.
func dump(t tenancy.Tenant) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("tenant %s of %s, platform %t, bundle of %s, mapping %v", t.ID(), t.ID().TrustDomain(), t.ID().IsPlatform(), t.Bundle().TrustDomain(), t.Mapping().Rules())
	for _, s := range t.Services() {
		port, called := s.Port()
		out, calls := s.Outbound()
		line("service %s of %s: %v, port %+v %t, at %v, outbound %d %t %v, token %s, forward %t, shared %t",
			s.Name(), s.Owner(), ids(s.IDs()), port, called, s.Endpoints(), out, calls, s.OutboundTCP(), s.Token(), s.ForwardToken(), s.Shared())
		for _, c := range t.Callers(s.Name()) {
			line("  caller %s: %v, bundle of %s, sni is the service's %t", c.Tenant(), ids(c.IDs()), c.Bundle().TrustDomain(), c.SNI() == s.SNI(c.Tenant()))
			for _, g := range c.Grants() {
				line("    grant %s: %v %v until %s", g.Name, g.Methods, g.Paths, g.NotAfter.Format(time.RFC3339))
			}
			for _, r := range c.Revocations() {
				line("    revocation %+v", r)
			}
			for _, i := range c.Issuers() {
				line("    issuer %s: %s for %v", i.Config().Name, i.Config().Issuer, i.Config().Tenants)
			}
		}
		for _, r := range t.Rules(s.Name()) {
			line("  rule %s/%s at %s: %v %v %v %v", r.Policy, r.Name, r.Pos, ids(r.From), r.Roles, r.Methods, r.Paths)
		}
	}
	for _, w := range t.Workloads() {
		line("workload %s", w.ID())
		for _, s := range w.Services() {
			line("  runs %s", s.Name())
		}
	}
	for _, i := range t.Imports() {
		line("import %s: %v at %v, %s, bundle of %s, sni %d", i.Name(), ids(i.IDs()), i.Endpoints(), i.Protocol(), i.Bundle().TrustDomain(), len(i.SNI()))
	}
	for _, i := range t.Issuers() {
		line("issuer %s", i.Config().Name)
	}
	for _, r := range t.Revocations() {
		line("revocation %+v", r)
	}
	return b.String()
}

func TestTwoTenants(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	const mapping = "mapping [{{tenant}.demo.test /ns/{namespace}/sa/{serviceAccount}}]"
	want := map[string]string{
		"acme": `tenant acme of acme.demo.test, platform false, bundle of acme.demo.test, ` + mapping + `
service orders of acme: [spiffe://acme.demo.test/ns/acme/sa/orders], port {Name:http Number:8080 AppPort:20281 Protocol:HTTP ServerFirst:false} true, at [127.0.0.1:20081], outbound 20181 true [], token required, forward false, shared false
  caller acme: [spiffe://acme.demo.test/ns/acme/sa/web], bundle of acme.demo.test, sni is the service's true
    issuer acme-idp: https://idp.acme.example.com for [acme]
  rule orders/web-reads at tenants/acme/orders.yaml:19:7: [spiffe://acme.demo.test/ns/acme/sa/web] [clerk manager] [GET] [/orders /orders/*]
  rule orders/managers-order at tenants/acme/orders.yaml:22:7: [spiffe://acme.demo.test/ns/acme/sa/web] [manager] [POST] [/orders]
service web of acme: [spiffe://acme.demo.test/ns/acme/sa/web], port {Name: Number:0 AppPort:0 Protocol:unknown ServerFirst:false} false, at [], outbound 20182 true [], token none, forward false, shared false
workload spiffe://acme.demo.test/ns/acme/sa/orders
  runs orders
workload spiffe://acme.demo.test/ns/acme/sa/web
  runs web
import billing: [spiffe://platform.demo.test/ns/platform/sa/billing] at [127.0.0.1:20080], HTTP, bundle of platform.demo.test, sni 46
issuer acme-idp
`,
		"globex": `tenant globex of globex.demo.test, platform false, bundle of globex.demo.test, ` + mapping + `
service orders of globex: [spiffe://globex.demo.test/ns/globex/sa/orders], port {Name:http Number:8080 AppPort:20283 Protocol:HTTP ServerFirst:false} true, at [127.0.0.1:20083], outbound 20183 true [], token optional, forward false, shared false
  caller globex: [spiffe://globex.demo.test/ns/globex/sa/web], bundle of globex.demo.test, sni is the service's true
    issuer globex-idp: https://idp.globex.example.com for [globex]
  rule orders/web-reads at tenants/globex/orders.yaml:19:7: [spiffe://globex.demo.test/ns/globex/sa/web] [] [GET] [/orders /orders/**]
service web of globex: [spiffe://globex.demo.test/ns/globex/sa/web], port {Name: Number:0 AppPort:0 Protocol:unknown ServerFirst:false} false, at [], outbound 20184 true [], token none, forward false, shared false
workload spiffe://globex.demo.test/ns/globex/sa/orders
  runs orders
workload spiffe://globex.demo.test/ns/globex/sa/web
  runs web
issuer globex-idp
`,
		"platform": `tenant platform of platform.demo.test, platform true, bundle of platform.demo.test, ` + mapping + `
service billing of platform: [spiffe://platform.demo.test/ns/platform/sa/billing], port {Name:http Number:8080 AppPort:20280 Protocol:HTTP ServerFirst:false} true, at [127.0.0.1:20080], outbound 0 false [], token optional, forward false, shared true
  caller platform: [], bundle of platform.demo.test, sni is the service's true
  caller acme: [spiffe://acme.demo.test/ns/acme/sa/orders spiffe://acme.demo.test/ns/acme/sa/web], bundle of acme.demo.test, sni is the service's true
    grant acme-billing: [GET POST] [/invoices /invoices/*] until 2036-01-01T00:00:00Z
    issuer acme-idp: https://idp.acme.example.com for [acme]
workload spiffe://platform.demo.test/ns/platform/sa/billing
  runs billing
`,
	}
	if len(m.Tenants()) != len(want) {
		t.Errorf("tenants %v", m.Tenants())
	}
	for name, text := range want {
		if diff := cmp.Diff(text, dump(tenancytest.Tenant(t, m, name))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestModelFindsWorkloads(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	parse := func(uri string) identity.WorkloadID {
		id, err := m.Mapping().Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	w, tenant, ok := m.Workload(parse("spiffe://acme.demo.test/ns/acme/sa/web"))
	if !ok || tenant.ID().Name() != "acme" || len(w.Services()) != 1 || w.Services()[0].Name() != "web" {
		t.Errorf("found %v of %v, %t", w, tenant.ID(), ok)
	}
	for _, uri := range []string{"spiffe://acme.demo.test/ns/acme/sa/none", "spiffe://nobody.demo.test/ns/acme/sa/web", "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"} {
		if _, tenant, ok := m.Workload(parse(uri)); ok || !tenant.IsZero() {
			t.Errorf("%s was found", uri)
		}
	}
	if _, _, ok := m.Workload(identity.WorkloadID{}); ok {
		t.Error("nobody was found")
	}
	if _, ok := m.Tenant(identity.TenantID{}); ok {
		t.Error("nobody is a tenant")
	}
	other, err := identity.ParseTenantID("acme", identity.MustTrustDomain("other.test"))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := m.Tenant(other); ok || !got.IsZero() {
		t.Error("a tenant of the same name in another trust domain was found")
	}
}

func TestTenantFindsServices(t *testing.T) {
	t.Parallel()
	acme := tenancytest.Tenant(t, tenancytest.TwoTenants(t), "acme")
	if s, ok := acme.Service("orders"); !ok || s.Name() != "orders" {
		t.Errorf("orders: %v, %t", s.Name(), ok)
	}
	for _, name := range []string{"billing", "", "orders2", "acme/orders"} {
		if s, ok := acme.Service(name); ok || s.Name() != "" {
			t.Errorf("%q was found", name)
		}
		if len(acme.Callers(name)) > 0 || len(acme.Rules(name)) > 0 {
			t.Errorf("%q has callers or rules", name)
		}
	}
	if len(acme.Callers("web")) > 0 {
		t.Error("a service without ports has callers")
	}
}

func TestZeroValuesReachNothing(t *testing.T) {
	t.Parallel()
	var (
		tenant   tenancy.Tenant
		service  tenancy.Service
		imported tenancy.Import
		caller   tenancy.Caller
		workload tenancy.Workload
	)
	if got := dump(tenant); got != "tenant  of , platform false, bundle of , mapping []\n" || !tenant.IsZero() || tenant.Digest() != [32]byte{} {
		t.Errorf("the zero tenant reaches %q", got)
	}
	if _, ok := tenant.Service("orders"); ok || tenant.ResourceName(tenancy.KindService, "orders") != "" {
		t.Error("the zero tenant has a service or a name")
	}
	if _, ok := service.Port(); ok || service.Name() != "" || len(service.IDs())+len(service.Endpoints()) > 0 || service.SNI(identity.TenantID{}) != "" || service.Shared() {
		t.Error("the zero service is something")
	}
	if imported.Name()+imported.SNI() != "" || len(imported.IDs())+len(imported.Endpoints()) > 0 || !imported.Bundle().IsZero() || imported.Protocol() != 0 {
		t.Error("the zero import is something")
	}
	if !caller.Tenant().IsZero() || len(caller.IDs())+len(caller.Grants())+len(caller.Issuers()) > 0 || caller.SNI() != "" || !caller.Bundle().IsZero() {
		t.Error("the zero caller is somebody")
	}
	if !workload.ID().IsZero() || len(workload.Services()) > 0 {
		t.Error("the zero workload is something")
	}
	if got := fmt.Sprint(tenancy.TokenMode(9), tenancy.Protocol(9), tenancy.Protocol(0), tenancy.GRPC, tenancy.TokenNone); got != "unknown unknown unknown GRPC none" {
		t.Error(got)
	}
}

// TestWhatAccessorsReturnIsTheCallers changes every slice that comes out of a model and expects the model unchanged.
func TestWhatAccessorsReturnIsTheCallers(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	before := map[string]string{}
	for _, id := range m.Tenants() {
		tenant, _ := m.Tenant(id)
		before[id.Name()] = dump(tenant)
	}
	spoil := func(tenant tenancy.Tenant) {
		for _, s := range tenant.Services() {
			clear(s.IDs())
			clear(s.Endpoints())
			for _, c := range tenant.Callers(s.Name()) {
				clear(c.IDs())
				clear(c.Issuers())
				for _, g := range c.Grants() {
					clear(g.Methods)
					clear(g.Paths)
				}
				clear(c.Grants())
			}
			for _, r := range tenant.Rules(s.Name()) {
				clear(r.From)
				clear(r.Roles)
				clear(r.Methods)
				clear(r.Paths)
			}
			clear(tenant.Callers(s.Name()))
			clear(tenant.Rules(s.Name()))
		}
		for _, w := range tenant.Workloads() {
			clear(w.Services())
		}
		for _, i := range tenant.Imports() {
			clear(i.IDs())
			clear(i.Endpoints())
		}
		clear(tenant.Services())
		clear(tenant.Workloads())
		clear(tenant.Imports())
		clear(tenant.Issuers())
	}
	for _, id := range m.Tenants() {
		tenant, _ := m.Tenant(id)
		spoil(tenant)
	}
	clear(m.Tenants())
	for _, id := range m.Tenants() {
		tenant, _ := m.Tenant(id)
		if diff := cmp.Diff(before[id.Name()], dump(tenant)); diff != "" {
			t.Errorf("%s was changed from outside:\n%s", id, diff)
		}
	}
}

func TestBuildDoesNotDependOnTheOrderOfDocuments(t *testing.T) {
	t.Parallel()
	in := tenancytest.Input(t, tenancytest.TwoTenantsFiles(t))
	one, problems := tenancy.Build(in)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	slices.Reverse(in.Documents)
	two, problems := tenancy.Build(in)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, id := range one.Tenants() {
		a, _ := one.Tenant(id)
		b, _ := two.Tenant(id)
		if a.Digest() != b.Digest() || dump(a) != dump(b) {
			t.Errorf("%s differs", id)
		}
	}
}

// TestSharing is about what the example has not: several grants, services, accounts, addresses and rules.
func TestSharing(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["platform/more.yaml"] = `
kind: Service
metadata: {name: search}
spec:
  namespace: shared-things
  serviceAccounts: [search-b, search-a]
  token: required
  forwardToken: true
  ports: [{name: grpc, port: 9000, protocol: GRPC, appPort: 9001}]
  endpoints: [{address: 10.0.0.2, port: 9100}, {address: 10.0.0.1, port: 9100}, {address: "fd00::1", port: 9100}]
---
kind: Grant
metadata: {name: b-second}
spec: {tenant: globex, service: search, to: {methods: [POST], paths: [/**]}, notAfter: "2036-01-01T01:00:00+01:00"}
---
kind: Grant
metadata: {name: a-first}
spec: {tenant: globex, service: search, to: {methods: [GET], paths: [/]}, notAfter: "2030-01-01T00:00:00Z"}
---
kind: AccessPolicy
metadata: {name: search}
spec:
  service: search
  rules:
    - {name: anybody, from: {}, to: {methods: [GET], paths: [/]}}
---
kind: AccessPolicy
metadata: {name: again}
spec:
  service: search
  rules:
    - {name: anybody, from: {services: [billing]}, to: {methods: [GET], paths: [/]}}
`
	m := tenancytest.Model(t, files)
	platform, globex, acme := tenancytest.Tenant(t, m, "platform"), tenancytest.Tenant(t, m, "globex"), tenancytest.Tenant(t, m, "acme")
	callers := platform.Callers("search")
	if len(callers) != 2 || !callers[0].Tenant().IsPlatform() || callers[1].Tenant().Name() != "globex" {
		t.Fatalf("callers of search: %v", callers)
	}
	all := []string{"spiffe://platform.demo.test/ns/platform/sa/billing", "spiffe://platform.demo.test/ns/shared-things/sa/search-a", "spiffe://platform.demo.test/ns/shared-things/sa/search-b"}
	if diff := cmp.Diff(all, ids(callers[0].IDs())); diff != "" {
		t.Errorf("the rule without services admits everybody of the platform:\n%s", diff)
	}
	if g := callers[1].Grants(); len(g) != 2 || g[0].Name != "a-first" || g[1].NotAfter != time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC) {
		t.Errorf("grants: %v", g)
	}
	if r := platform.Rules("search"); len(r) != 2 || r[0].Policy != "search" || r[1].Policy != "again" {
		t.Errorf("rules: %v", r)
	}
	imports := globex.Imports()
	if len(imports) != 1 || imports[0].Name() != "search" || imports[0].Protocol() != tenancy.GRPC || imports[0].SNI() != callers[1].SNI() {
		t.Fatalf("globex imports %v", imports)
	}
	addresses := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:9100"), netip.MustParseAddrPort("10.0.0.2:9100"), netip.MustParseAddrPort("[fd00::1]:9100")}
	if !slices.Equal(imports[0].Endpoints(), addresses) || len(acme.Imports()) != 1 {
		t.Errorf("endpoints %v", imports[0].Endpoints())
	}
	if s, _ := platform.Service("search"); s.Token() != tenancy.TokenRequired || !s.ForwardToken() {
		t.Errorf("search: token %s, forward %t", s.Token(), s.ForwardToken())
	}
	w := platform.Workloads()
	if len(w) != 3 || w[1].Services()[0].Name() != "search" || w[2].Services()[0].Name() != "search" {
		t.Errorf("workloads: %v", w)
	}
}

// TestPathMappedTenants share a trust domain and still are two.
func TestPathMappedTenants(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = "kind: Mesh\nmetadata: {name: m}\nspec:\n  identities: [{trustDomain: cluster.local, path: \"/t/{tenant}/{namespace}/{serviceAccount}\"}]\n  platformTrustDomain: platform.test\n"
	m := tenancytest.Model(t, files)
	acme, globex := tenancytest.Tenant(t, m, "acme"), tenancytest.Tenant(t, m, "globex")
	if acme.ID().Same(globex.ID()) || acme.Bundle().Digest() != globex.Bundle().Digest() {
		t.Error("they are one tenant, or have two bundles")
	}
	if got := acme.Workloads()[1].ID().String(); got != "spiffe://cluster.local/t/acme/acme/web" {
		t.Error(got)
	}
}

func TestIssuersAreNarrowed(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["platform/token-issuers.yaml"] = strings.Replace(files["platform/token-issuers.yaml"], "tenants: [acme] ", "tenants: [globex, acme] ", 1)
	m := tenancytest.Model(t, files)
	for name, want := range map[string]int{"acme": 1, "globex": 2, "platform": 0} {
		tenant := tenancytest.Tenant(t, m, name)
		issuers := tenant.Issuers()
		if len(issuers) != want {
			t.Errorf("%s has %d issuers, want %d", name, len(issuers), want)
		}
		for _, i := range issuers {
			if ts := i.Config().Tenants; len(ts) != 1 || !ts[0].Same(tenant.ID()) {
				t.Errorf("an issuer of %s speaks of %v", name, ts)
			}
		}
	}
}

func TestTrustDomains(t *testing.T) {
	t.Parallel()
	in := tenancytest.Input(t, tenancytest.TwoTenantsFiles(t))
	var got []string
	for _, td := range tenancy.TrustDomains(in.Documents) {
		got = append(got, td.String())
	}
	if diff := cmp.Diff([]string{"acme.demo.test", "globex.demo.test", "platform.demo.test"}, got); diff != "" {
		t.Error(diff)
	}
	if got := tenancy.TrustDomains(nil); got != nil {
		t.Errorf("no documents need %v", got)
	}
}

// A Tenant's word counts before the Mesh's; without any a root has no end.
func TestRootLife(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		e            edits
		acme, globex time.Duration
	}{
		"nobody says": {edits{}, 0, 0},
		"the Mesh":    {edits{"mesh.yaml: platformTrustDomain:": "rootLife: 90d\n  platformTrustDomain:"}, 90 * day, 90 * day},
		"one Tenant":  {edits{"platform/tenants.yaml: namespaces: [acme]": "namespaces: [acme]\n  rootLife: 720h"}, 30 * day, 0},
		"both": {edits{
			"mesh.yaml: platformTrustDomain:": "rootLife: 90d\n  platformTrustDomain:", "platform/tenants.yaml: namespaces: [acme]": "namespaces: [acme]\n  rootLife: 0s",
		}, 0, 90 * day},
	} {
		m := tenancytest.Model(t, c.e.apply(t))
		acme, globex := tenancytest.Tenant(t, m, "acme").RootLife(), tenancytest.Tenant(t, m, "globex").RootLife()
		if acme != c.acme || globex != c.globex {
			t.Errorf("%s: %v and %v", name, acme, globex)
		}
	}
	if (tenancy.Tenant{}).RootLife() != 0 {
		t.Error("nobody's root ends")
	}
}
