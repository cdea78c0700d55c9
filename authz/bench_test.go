package authz_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
)

// hundred is a Table with 100 rules for one caller, of which the last one matches the returned call.
func hundred(t testing.TB) (*authz.Table, authz.Input) {
	t.Helper()
	w := newWorld(t)
	var rules []*ruleMsg
	for i := range 99 {
		r := webReads("clerk")
		r.Name, r.Paths = fmt.Sprintf("orders/r%d", i), []string{fmt.Sprintf("/orders/%d/lines/*", i), fmt.Sprintf("/v%d/**", i)}
		rules = append(rules, r)
	}
	table := decode(t, w.orders(tokenRequired, append(rules, webReads("manager", "clerk"))...))
	return table, authz.Input{
		Caller: table.Caller(w.acme.SVID(acmeWeb).Cert.Raw, nil, w.now), Token: table.Token(w.acmeToken(t, "clerk"), w.now),
		Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/orders/4711?expand=lines", Now: w.now,
	}
}

func TestDecideAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts the allocations of the whole process
	table, in := hundred(t)
	cross := in
	cross.Caller = authz.InvalidCaller()
	for name, in := range map[string]authz.Input{"allowed": in, "refused": cross} {
		var d authz.Decision
		n := testing.AllocsPerRun(1000, func() { d = authz.Decide(table, in) })
		if n != 0 || d.Allowed() != (name == "allowed") {
			t.Errorf("%s: %v allocations, %s", name, n, d.Reason())
		}
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = table.Service("acme", "orders") }); n != 0 {
		t.Errorf("Service: %v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	table, in := hundred(b)
	b.ReportAllocs()
	for b.Loop() {
		if d := authz.Decide(table, in); !d.Allowed() {
			b.Fatal(d.Reason())
		}
	}
}

func BenchmarkDecideRefused(b *testing.B) {
	table, in := hundred(b)
	in.Path = "/secret"
	b.ReportAllocs()
	for b.Loop() {
		if d := authz.Decide(table, in); d.Reason() != authz.NoRule {
			b.Fatal(d.Reason())
		}
	}
}

func BenchmarkDecodeTable(b *testing.B) {
	w := newWorld(b)
	data, err := proto.Marshal(w.orders(tokenRequired, webReads("clerk")))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := authz.DecodeTable(data); err != nil {
			b.Fatal(err)
		}
	}
}
