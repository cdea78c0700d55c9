package extauthz_test

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// Whatever bytes arrive: an answer, no fault, and none that allows but to who holds acme/web's certificate and a token.
func FuzzCheck(f *testing.F) {
	m := newTCPMesh(f)
	// acme/orders takes connections too, so that every shape of check may be allowed to somebody.
	m.files["tenants/acme/more.yaml"] = ordersTCP
	web := m.acme.SVID(acmeWeb)
	bearer := "Bearer " + m.clerk()
	allowed := call(web, acmeWeb, "acme/orders", "GET", "/orders", bearer)
	twice := call(web, acmeWeb, "acme/orders", "GET", "/orders", bearer, bearer)
	merged := call(web, acmeWeb, "acme/orders", "GET", "/orders?x")
	merged.GetAttributes().GetRequest().GetHttp().Headers = map[string]string{"authorization": "Basic x,y"}
	for _, req := range []*authv3.CheckRequest{
		{},
		allowed, twice, merged,
		call(web, acmeOrders, "acme/orders", "POST", "/../%2f", "bearer"),
		call(m.globex.SVID(globexWeb), globexWeb, "globex/orders/x", "", "*", "Bearer a.b.c"),
		call(nil, "", "/", "GET", "/orders", ""),
		connection(web, acmeWeb, acmeOrders, 20430), connection(web, acmeWeb, acmeOrders, 20081), connection(nil, "", acmeOrders, 20430),
		connection(m.globex.SVID(globexWeb), globexWeb, acmeOrders, 20430), connection(web, acmeWeb, acmeWeb, 1<<17),
	} {
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{0x0a, 0xff})
	tables := &tables{current: map[string]*authz.Table{acmeOrders: m.agents(acmeOrders)}}
	registry := prometheus.NewRegistry()
	server := extauthz.New(tables, extauthz.Fixed(m.id(acmeOrders)), &last{}, metrics(f, registry), newClock(m.now).Now)
	f.Fuzz(func(t *testing.T, data []byte) {
		var req authv3.CheckRequest
		unreadable := proto.Unmarshal(data, &req) != nil
		resp, err := decode(t, server, data)
		if err != nil && unreadable {
			return
		}
		a := req.GetAttributes()
		http, ok := a.GetRequest().GetHttp() != nil, resp.GetStatus().GetCode() == 0
		if err != nil || http != (resp.GetHttpResponse() != nil) || (resp.GetOkResponse() != nil) != (ok && http) ||
			(resp.GetDeniedResponse() != nil) != (!ok && http) {
			t.Fatalf("%v, %v", resp, err)
		}
		if n := counter(t, registry, "ringfence_authz_faults_total", nil); n != 0 {
			t.Error("the server broke")
		}
		if unreadable {
			return // by the whole type; FuzzScan compares what is read
		}
		request := http && a.GetContextExtensions()["service"] == "acme/orders" && a.GetRequest().GetHttp().GetMethod() == "GET"
		connected := !http && a.GetContextExtensions() == nil && a.GetDestination().GetPrincipal() == acmeOrders &&
			a.GetDestination().GetAddress().GetSocketAddress().GetPortValue() == 20430
		if ok && (a.GetSource().GetPrincipal() != acmeWeb || !request && !connected) {
			t.Errorf("allowed: %v", &req)
		}
	})
}

// last keeps nothing.
type last struct{}

func (*last) Record(extauthz.Entry) {}
