package authz_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// A TCP service lets in whom a rule names, by the same guard; a request is no connection, and a connection no request.
func TestDecideTCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.db("reports-connects")
	m.Services = append(m.Services, &serviceMsg{Name: "orders", Port: "http", Accounts: []string{acmeOrders}, Rules: []*ruleMsg{webReads()}})
	table := decode(t, m)
	db, orders := service(t, table, "acme", "db"), service(t, table, "acme", "orders")
	web, batch := table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), table.Caller(w.acme.SVID(acmeBatch).Cert.Raw, nil, w.now)
	globex := table.Caller(w.globex.SVID(globexWeb).Cert.Raw, nil, w.now)
	for name, tc := range map[string]struct {
		in     authz.Input
		reason authz.Reason
	}{
		"connects":                        {authz.Input{Caller: web, Service: db}, authz.Allowed},
		"a token is not looked at":        {authz.Input{Caller: web, Service: db, Token: authz.InvalidToken()}, authz.Allowed},
		"whom no rule names":              {authz.Input{Caller: batch, Service: db}, authz.NoRule},
		"another tenant":                  {authz.Input{Caller: globex, Service: db}, authz.CrossTenant},
		"nobody":                          {authz.Input{Service: db}, authz.UnknownCaller},
		"a request to a TCP service":      {authz.Input{Caller: web, Service: db, Method: "GET", Path: "/orders"}, authz.NoRule},
		"a method alone":                  {authz.Input{Caller: web, Service: db, Method: "GET"}, authz.NoRule},
		"a path alone":                    {authz.Input{Caller: web, Service: db, Path: "/"}, authz.NoRule},
		"a connection to an HTTP service": {authz.Input{Caller: web, Service: orders}, authz.NoRule},
		"a request to an HTTP service":    {authz.Input{Caller: web, Service: orders, Method: "GET", Path: "/orders"}, authz.Allowed},
	} {
		tc.in.Now = w.now
		e := authz.Explain(table, tc.in)
		if d := authz.Decide(table, tc.in); d.Reason() != tc.reason || d.Allowed() != (tc.reason == authz.Allowed) || e.Decision != d {
			t.Errorf("%s: %s", name, d.Reason())
		}
	}
	own, _ := table.Workload()
	for port, want := range map[uint16]string{9000: "db", 9001: "", 0: ""} {
		if s, ok := table.TCPService(own, port); s.Name() != want || ok != (want != "") || s.TCP() != ok {
			t.Errorf("port %d is of %q", port, s.Name())
		}
	}
	var none *authz.Table
	if _, ok := none.TCPService(own, 9000); ok || orders.TCP() || !db.TCP() {
		t.Error("a TCP service is found where none is")
	}
	if _, ok := table.TCPService(globex.ID(), 9000); ok {
		t.Error("nobody runs a service")
	}
}

// Grants of a shared TCP service end by the clock, and the words say what a connection is.
func TestExplainTCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.billing(tokenNone, nil, &grantMsg{Name: "g", Tenant: "acme", From: []string{acmeWeb}, NotAfter: w.now.Add(time.Minute).Unix()})
	m.Services[0].TcpPort = 9000
	table := decode(t, m)
	in := authz.Input{Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Service: service(t, table, "platform", "billing"), Now: w.now}
	e := authz.Explain(table, in)
	if !e.Decision.Allowed() || e.Decision.Rule() != "g" || !strings.Contains(e.Steps[1].Text, "TCP connections") || !strings.Contains(e.Steps[3].Text, "TCP") {
		t.Errorf("%+v", e)
	}
	in.Now = w.now.Add(time.Minute)
	if d := authz.Decide(table, in); d.Reason() != authz.GrantExpired {
		t.Error(d.Reason())
	}
	in.Now, in.Method, in.Path = w.now, "GET", "/"
	if e = authz.Explain(table, in); e.Decision.Reason() != authz.NoRule || e.Rules[0].Fails != "method" || !strings.Contains(e.Rules[0].Text, "TCP") {
		t.Errorf("%+v", e)
	}
}

// What documents say of TCP services arrives in the Table.
func TestCompileTCP(t *testing.T) {
	t.Parallel()
	model := tenancytest.Model(t, tenancytest.TCPFiles(t))
	for tenant, want := range map[string]map[string]uint16{
		"acme": {"db": 20412, "mail": 20414}, "globex": {"db": 20422, "mail": 20424}, "platform": {"ledger": 20402},
	} {
		owner := tenancytest.Tenant(t, model, tenant)
		table, err := authz.Compile(owner)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range owner.Services() {
			ref, _ := table.Service(tenant, s.Name())
			port, tcp := want[s.Name()]
			if ref.TCP() != tcp {
				t.Errorf("%s/%s: %t", tenant, s.Name(), ref.TCP())
			}
			for _, w := range s.IDs() {
				if at, ok := table.TCPService(w, port); ok != tcp || tcp && at != ref {
					t.Errorf("%s/%s is not found at port %d", tenant, s.Name(), port)
				}
			}
		}
	}
}

// A Grant that is over lets nobody connect, though another one of its tenant still holds.
func TestDecideTCPGrantsThatAreOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.billing(tokenNone, nil,
		&grantMsg{Name: "over", Tenant: "acme", From: []string{acmeWeb}, NotAfter: w.now.Unix()},
		&grantMsg{Name: "holds", Tenant: "acme", From: []string{acmeBatch}, NotAfter: w.now.Unix() + 60},
	)
	m.Services[0].TcpPort = 9000
	table := decode(t, m)
	for id, want := range map[string]authz.Reason{acmeWeb: authz.NoRule, acmeBatch: authz.Allowed} {
		d := authz.Decide(table, authz.Input{Caller: table.Caller(w.acme.SVID(id).Cert.Raw, nil, w.now), Service: table.Services()[0], Now: w.now})
		if d.Reason() != want {
			t.Errorf("%s: %s, want %s", id, d.Reason(), want)
		}
	}
}
