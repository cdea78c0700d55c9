package authz_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func compile(t testing.TB, m *tenancy.Model, tenant string) *authz.Table {
	t.Helper()
	table, err := authz.Compile(tenancytest.Tenant(t, m, tenant))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func workload(t testing.TB, m *tenancy.Model, id string) identity.WorkloadID {
	t.Helper()
	w, err := m.Mapping().Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func forWorkload(t testing.TB, table *authz.Table, w identity.WorkloadID) *agentv1alpha1.Table {
	t.Helper()
	data, err := table.For(w, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authz.DecodeTable(data); err != nil {
		t.Fatalf("an agent refuses it: %v", err)
	}
	var m agentv1alpha1.Table
	if err := proto.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

func TestCompileTwoTenants(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	acme, globex, platform := compile(t, m, "acme"), compile(t, m, "globex"), compile(t, m, "platform")
	for name, table := range map[string]*authz.Table{"acme": acme, "globex": globex, "platform": platform} {
		if table.Tenant().Name() != name || table.SnapshotVersion() != "" {
			t.Errorf("%s: it is %s's, of snapshot %q", name, table.Tenant(), table.SnapshotVersion())
		}
		if _, ok := table.Workload(); ok {
			t.Errorf("%s: a whole Table is of no one workload", name)
		}
		if compile(t, m, name).Version() != table.Version() {
			t.Errorf("%s: compiled twice, two versions", name)
		}
	}
	orders := forWorkload(t, acme, workload(t, m, acmeOrders))
	if got := orders.GetServices(); len(got) != 1 || got[0].GetName() != "orders" ||
		got[0].GetToken() != tokenRequired || len(got[0].GetRules()) != 2 {
		t.Fatalf("acme/orders: %v", got)
	}
	r := orders.GetServices()[0].GetRules()[0]
	if r.GetName() != "orders/web-reads" || !strings.HasPrefix(r.GetPosition(), "tenants/acme/orders.yaml:") ||
		!slices.Equal(r.GetFrom(), []string{acmeWeb}) {
		t.Errorf("%v", r)
	}
	if len(orders.GetBundles()) != 1 || len(orders.GetIssuers()) != 1 || orders.GetIssuers()[0].GetName() != "acme-idp" {
		t.Error("acme/orders trusts others than acme's root and issuer")
	}
	web := forWorkload(t, acme, workload(t, m, acmeWeb))
	if len(web.GetServices()) != 0 || len(web.GetIssuers()) != 0 || len(web.GetBundles()) != 1 {
		t.Errorf("acme/web runs nothing that can be called: %v", web)
	}
	billing := forWorkload(t, platform, workload(t, m, platformBill))
	if g := billing.GetServices()[0].GetGrants(); len(g) != 1 || g[0].GetTenant() != "acme" ||
		g[0].GetNotAfter() == 0 || !slices.Contains(g[0].GetFrom(), acmeWeb) {
		t.Errorf("billing: %v", g)
	}
	domains := []string{}
	for _, b := range billing.GetBundles() {
		domains = append(domains, b.GetTrustDomain())
	}
	if slices.Sort(domains); !slices.Equal(domains, []string{"acme.demo.test", "platform.demo.test"}) {
		t.Errorf("billing trusts %v", domains)
	}
	if text := billing.String() + orders.String(); strings.Contains(text, "globex") {
		t.Error("globex is named where it has no business")
	}
}

// Change only globex: every byte that acme's agents get stays the same.
func TestCompileNonInterference(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	before := tenancytest.Model(t, files)
	files["tenants/globex/orders.yaml"] = strings.NewReplacer(
		"optional", "required", "/orders/**", "/x/**",
	).Replace(files["tenants/globex/orders.yaml"])
	after := tenancytest.Model(t, files)
	for _, tc := range []struct {
		tenant, id string
		same       bool
	}{
		{"acme", acmeOrders, true},
		{"acme", acmeWeb, true},
		{"platform", platformBill, true},
		{"globex", "spiffe://globex.demo.test/ns/globex/sa/orders", false},
	} {
		one, err := compile(t, before, tc.tenant).For(workload(t, before, tc.id), "v1")
		if err != nil {
			t.Fatal(err)
		}
		two, err := compile(t, after, tc.tenant).For(workload(t, after, tc.id), "v1")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(one, two) != tc.same {
			t.Errorf("%s: the same bytes: %v", tc.id, !tc.same)
		}
	}
}

// An issuer that speaks for two callers of a shared service is verified once, and stands in no tenant's Table with the other.
func TestCompileSharedIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := tenancytest.TwoTenantsFiles(t)
	delete(files, "platform/token-issuers.yaml")
	files["platform/token-issuers.yaml"] = `apiVersion: ringfence.dev/v1alpha1
kind: TokenIssuer
metadata: {name: shared-idp}
spec:
  issuer: https://idp.example.com
  jwks: {file: shared.json}
  audiences: [api]
  tenants: [acme, globex]
`
	files["platform/shared.json"] = string(w.jwks)
	files["platform/second.yaml"] = `apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: globex-billing}
spec: {tenant: globex, service: billing, to: {methods: [GET], paths: [/]}, notAfter: "2036-01-01T00:00:00Z"}
`
	m := tenancytest.Model(t, files)
	billing := forWorkload(t, compile(t, m, "platform"), workload(t, m, platformBill))
	if i := billing.GetIssuers(); len(i) != 1 || !slices.Equal(i[0].GetTenants(), []string{"acme", "globex"}) {
		t.Errorf("billing: %v", i)
	}
	orders := forWorkload(t, compile(t, m, "acme"), workload(t, m, acmeOrders))
	if i := orders.GetIssuers(); len(i) != 1 || !slices.Equal(i[0].GetTenants(), []string{"acme"}) {
		t.Errorf("acme/orders: %v", i)
	}
}

func TestCompileRefusesNobody(t *testing.T) {
	t.Parallel()
	if table, err := authz.Compile(tenancy.Tenant{}); err == nil || table != nil {
		t.Error("the zero Tenant has a Table")
	}
	m := tenancytest.TwoTenants(t)
	if _, err := compile(t, m, "acme").For(workload(t, m, globexWeb), "v1"); err == nil {
		t.Error("globex gets a Table of acme's")
	}
	if _, err := compile(t, m, "acme").For(identity.WorkloadID{}, "v1"); err == nil {
		t.Error("nobody gets a Table of acme's")
	}
}

// The example's key sets have no private halves here, so the example is tried with a set of this test's own.
func TestCompiledTableDecides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.jwks, &set); err != nil || len(set.Keys) != 1 {
		t.Fatal(err)
	}
	files := tenancytest.TwoTenantsFiles(t)
	files["platform/acme-jwks.json"], files["platform/globex-jwks.json"] = string(w.jwks), string(w.jwks)
	in := tenancytest.Input(t, files)
	bundles, err := identity.NewBundles(
		w.acme.Bundle("acme.demo.test"), w.globex.Bundle("globex.demo.test"), w.platform.Bundle("platform.demo.test"),
	)
	if err != nil {
		t.Fatal(err)
	}
	in.Bundles = bundles
	m, problems := tenancy.Build(in)
	if m == nil {
		t.Fatal(problems)
	}
	acme := w.acme.SVID(acmeWeb).Cert.Raw
	globex := w.globex.SVID(globexWeb).Cert.Raw
	for _, tc := range []struct {
		name, tenant, service, workload string
		leaf                            []byte
		method, path                    string
		reason                          authz.Reason
	}{
		{"own service, no token", "acme", "orders", acmeOrders, acme, "GET", "/orders", authz.TokenMissing},
		{"another tenant", "acme", "orders", acmeOrders, globex, "GET", "/orders", authz.CrossTenant},
		{
			"own service, no token needed", "globex", "orders", "spiffe://globex.demo.test/ns/globex/sa/orders", globex,
			"GET", "/orders/7", authz.Allowed,
		},
		{
			"another tenant, no token needed", "globex", "orders", "spiffe://globex.demo.test/ns/globex/sa/orders", acme,
			"GET", "/orders/7", authz.CrossTenant,
		},
		{"granted", "platform", "billing", platformBill, acme, "POST", "/invoices", authz.Allowed},
		{"not granted", "platform", "billing", platformBill, globex, "POST", "/invoices", authz.GrantMissing},
	} {
		whole := compile(t, m, tc.tenant)
		data, err := whole.For(workload(t, m, tc.workload), "v1")
		if err != nil {
			t.Fatal(err)
		}
		part, err := authz.DecodeTable(data)
		if err != nil {
			t.Fatal(err)
		}
		for kind, table := range map[string]*authz.Table{"whole": whole, "agent's": part} {
			d := authz.Decide(
				table,
				authz.Input{
					Caller: table.Caller(tc.leaf, nil, w.now), Service: service(t, table, tc.tenant, tc.service),
					Method: tc.method, Path: tc.path, Now: w.now,
				},
			)
			if d.Reason() != tc.reason || d.Allowed() != (tc.reason == authz.Allowed) {
				t.Errorf("%s, %s Table: %s, want %s", tc.name, kind, d.Reason(), tc.reason)
			}
		}
	}
}
