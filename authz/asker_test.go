package authz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// Of a tenant with two services: who may ask about which, who is believed, and in front of which Envoy an asker stands.
func TestAskersOfSeveralServices(t *testing.T) {
	t.Parallel()
	const gateway = "spiffe://cluster.local/ns/istio/sa/gateway"
	table := func(change func(files map[string]string)) *authz.Table {
		t.Helper()
		files := tenancytest.TwoTenantsFiles(t)
		files["tenants/acme/more.yaml"] = strings.NewReplacer("name: orders}", "name: more}", "[orders]", "[more]", "8080", "8081", "20281", "20391", "20181", "20392", "20081", "20393").Replace(strings.Split(files["tenants/acme/orders.yaml"], "---")[0])
		files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + `
  askers:
    - {name: one, socket: /one, services: [acme/orders]}
    - {name: cert, spiffeIDs: ["` + gateway + `"], identityFrom: xfcc, services: [acme/orders, acme/more]}
    - {name: told, socket: /told, identityFrom: principal, services: [acme/more]}
`
		change(files)
		got, err := authz.Compile(tenancytest.Tenant(t, tenancytest.Model(t, files), "acme"))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	acme := table(func(map[string]string) {})
	id, err := identity.ParseSPIFFEID(gateway)
	if err != nil {
		t.Fatal(err)
	}
	askers := map[string]authz.AskerRef{}
	for _, a := range acme.Askers() {
		askers[a.Name()] = a
		if same, ok := acme.Asker(a.Key()); !ok || same.Name() != a.Name() {
			t.Errorf("%s is not known by its key", a.Name())
		}
	}
	if _, ok := acme.Asker(tenancy.KeyOfID(id)); len(askers) != 3 || !ok {
		t.Fatalf("askers: %v", askers)
	}
	orders, more := service(t, acme, "acme", "orders"), service(t, acme, "acme", "more")
	for name, want := range map[string][2]bool{"one": {true, false}, "cert": {true, true}, "told": {false, true}} {
		if got := [2]bool{askers[name].MayAsk(orders), askers[name].MayAsk(more)}; got != want {
			t.Errorf("%s may ask about orders and more: %v, want %v", name, got, want)
		}
	}
	const ordersID, moreID = acmeOrders, "spiffe://acme.demo.test/ns/acme/sa/more"
	for _, tt := range []struct {
		asker, principal string
		want             bool
	}{
		{"one", ordersID, true},
		{"one", moreID, false},
		{"one", globexWeb, true},
		{"one", gateway, true},
		{"one", "", true},
		{"cert", gateway, true},
		{"cert", ordersID, true},
		{"cert", moreID, false},
		{"cert", globexWeb, false},
		{"cert", "spiffe://unknown.test/x", true},
	} {
		if got := askers[tt.asker].Agrees(orders, tt.principal); got != tt.want {
			t.Errorf("%s in front of orders, shown as %q: %v", tt.asker, tt.principal, got)
		}
	}
	// An asker may be a workload that the mesh knows, and then serves as itself.
	const edgeID = "spiffe://acme.demo.test/ns/acme/sa/edge"
	mapped := table(func(files map[string]string) {
		files["mesh.yaml"] = strings.Replace(files["mesh.yaml"], gateway, edgeID, 1)
	})
	for _, a := range mapped.Askers() {
		if got := a.Agrees(service(t, mapped, "acme", "orders"), edgeID); got != (a.Name() == "cert") {
			t.Errorf("%s in front of orders, shown as %q: %v", a.Name(), edgeID, got)
		}
	}
	for name, believed := range map[string]bool{"one": false, "cert": true, "told": true} {
		c := askers[name].Caller(acmeWeb)
		if c.IsKnown() != believed || (c.ID().String() == acmeWeb) != believed {
			t.Errorf("%s is believed: %v", name, !believed)
		}
		if askers[name].Bearer().IsKnown() {
			t.Errorf("%s has bearers", name)
		}
	}
	// What the asker says is read as any identity is: nobody, no SPIFFE ID, one that the mesh does not map.
	for uri, want := range map[string]authz.Reason{
		"": authz.UnknownCaller, "nonsense": authz.InvalidIdentity, "spiffe://acme.demo.test/x": authz.UnknownCaller, acmeWeb + "#": authz.InvalidIdentity,
	} {
		c := askers["told"].Caller(uri)
		d := authz.Decide(acme, authz.Input{Caller: c, Service: more, Method: "GET", Path: "/", Now: time.Now()})
		if c.IsKnown() || d.Allowed() || d.Reason() != want {
			t.Errorf("%q: %v, want %v", uri, d.Reason(), want)
		}
	}
	// Who is asserted does not expire, and the service demands a token.
	e := authz.Explain(acme, authz.Input{Caller: askers["told"].Caller(acmeWeb), Service: more, Method: "GET", Path: "/", Now: time.Now()})
	if e.Decision.Reason() != authz.TokenMissing || e.Steps[0].Text != acmeWeb+" is asserted by the asker, a workload of acme" {
		t.Errorf("whom an asker asserts: %v, %+v", e.Decision.Reason(), e.Steps[0])
	}
	var zero authz.AskerRef
	if zero.Bearer().IsKnown() || zero.Caller(acmeWeb).IsKnown() || (authz.Caller{}).IsKnown() {
		t.Error("nobody makes somebody known")
	}
	// Whatever an asker is, is part of the version.
	versions := map[string]bool{acme.Version(): true}
	for _, change := range [][2]string{
		{"name: one,", "name: two,"}, {"identityFrom: xfcc", "identityFrom: principal"}, {"socket: /told", "socket: /other"}, {"[acme/more]", "[acme/orders]"}, {gateway, gateway + "2"},
	} {
		versions[table(func(files map[string]string) {
			files["mesh.yaml"] = strings.Replace(files["mesh.yaml"], change[0], change[1], 1)
		}).Version()] = true
	}
	versions[table(func(files map[string]string) {
		files["tenants/acme/orders.yaml"] = strings.Replace(files["tenants/acme/orders.yaml"], "token: required", "token: optional", 1)
	}).Version()] = true
	if len(versions) != 7 {
		t.Errorf("7 tables have %d versions", len(versions))
	}
}

func TestAskerRef(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + `
  askers:
    - {name: weak, socket: /weak, identityFrom: principal, services: [acme/orders]}
    - {name: strong, socket: /strong, services: [acme/orders, acme/none]}
`
	m := tenancytest.Model(t, files)
	compile := func(tenant string) *authz.Table {
		t.Helper()
		table, err := authz.Compile(tenancytest.Tenant(t, m, tenant))
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	acme, globex := compile("acme"), compile("globex")
	weak, ok := acme.Asker(tenancy.KeyOfSocket("/weak"))
	strong, also := acme.Asker(tenancy.KeyOfSocket("/strong"))
	if !ok || !also || weak.Name() != "weak" || weak.IdentityFrom() != tenancy.FromPrincipal {
		t.Fatalf("%v, %v", weak, strong)
	}
	orders, _ := acme.Service("acme", "orders")
	others, _ := globex.Service("globex", "orders")
	if !weak.MayAsk(orders) || weak.MayAsk(others) || weak.MayAsk(authz.ServiceRef{}) {
		t.Error("it may ask about the wrong services")
	}
	if s, ok := weak.Only(); !ok || s != orders {
		t.Error("its only service is another")
	}
	if _, ok := strong.Only(); ok {
		t.Error("one of two is the only one")
	}
	var nobody authz.AskerRef
	if _, ok := nobody.Only(); ok || nobody.MayAsk(orders) || nobody.Agrees(orders, "") || !nobody.Caller("spiffe://acme.demo.test/ns/acme/sa/web").ID().IsZero() {
		t.Error("the zero value may ask")
	}
	const web = "spiffe://acme.demo.test/ns/acme/sa/web"
	if c := weak.Caller(web); c.ID().String() != web || !c.Peer().IsZero() {
		t.Errorf("%v", c)
	}
	if !strong.Caller(web).ID().IsZero() {
		t.Error("an asker is believed of which the Mesh does not say so")
	}
	// What one Table believes counts for that Table only.
	in := authz.Input{Caller: weak.Caller(web), Service: others, Method: "GET", Path: "/orders", Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}
	if d := authz.Decide(globex, in); d.Allowed() || d.Reason() != authz.UnknownCaller {
		t.Errorf("another Table takes it: %v", d.Reason())
	}
	if d := authz.NoDestination(); d.Allowed() || d.Reason() != authz.UnknownDestination {
		t.Errorf("%v", d)
	}
	if _, ok := globex.Asker(tenancy.KeyOfSocket("/weak")); ok {
		t.Error("globex knows acme's asker")
	}
	if _, ok := (*authz.Table)(nil).Asker(tenancy.KeyOfSocket("/weak")); ok {
		t.Error("no Table knows an asker")
	}
	if _, ok := acme.Asker(tenancy.AskerKey{}); ok {
		t.Error("nobody is an asker")
	}
	plain, err := authz.Compile(tenancytest.Tenant(t, tenancytest.TwoTenants(t), "acme"))
	if err != nil || plain.Version() == acme.Version() || compile("globex").Version() != globex.Version() {
		t.Errorf("the version does not say who may ask: %v", err)
	}
}
