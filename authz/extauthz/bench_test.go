package extauthz_test

import (
	"testing"

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
