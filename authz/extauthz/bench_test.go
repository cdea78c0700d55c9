package extauthz_test

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// A check without gRPC around it: a certificate and a token that were seen before, and ones that were not.
func BenchmarkCheck(b *testing.B) {
	for _, warm := range []bool{true, false} {
		name := map[bool]string{true: "warm", false: "cold"}[warm]
		b.Run(name, func(b *testing.B) {
			m := newMesh(b)
			tables := &tables{current: map[string]*authz.Table{acmeOrders: m.agents(acmeOrders)}}
			asker := extauthz.Fixed(m.id(acmeOrders))
			x := metrics(b, prometheus.NewRegistry())
			server := extauthz.New(tables, asker, &last{}, x, newClock(m.now).Now)
			wire := encode(b, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer "+m.clerk()))
			b.ReportAllocs()
			for b.Loop() {
				if !warm {
					server = extauthz.New(tables, asker, &last{}, x, newClock(m.now).Now)
				}
				if _, err := server.Check(b.Context(), wire); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// From the bytes of a request to its decision nothing is allocated: what is, is the decision's ID and the answer.
func TestCheckAllocatesLittle(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts the allocations of the whole process
	m := newMesh(t)
	tables := &tables{current: map[string]*authz.Table{acmeOrders: m.agents(acmeOrders)}}
	server := extauthz.New(tables, extauthz.Fixed(m.id(acmeOrders)), &last{}, metrics(t, prometheus.NewRegistry()), newClock(m.now).Now)
	web := m.acme.SVID(acmeWeb)
	for name, req := range map[string]*authv3.CheckRequest{
		"allowed":        call(web, acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer "+m.clerk()),
		"refused":        call(web, acmeWeb, "acme/orders", "DELETE", "/orders/7", "Bearer "+m.clerk()),
		"another tenant": call(m.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders/7"),
		"nobody":         call(nil, "", "acme/orders", "GET", "/orders/7"),
	} {
		wire := encode(t, req)
		n := testing.AllocsPerRun(200, func() {
			if _, err := server.Check(t.Context(), wire); err != nil {
				t.Fatal(err)
			}
		})
		if n > 2 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
