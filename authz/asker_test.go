package authz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

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
