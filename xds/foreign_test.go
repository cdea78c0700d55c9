package xds

import (
	"errors"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// The builder of acme's snapshots refuses whatever is globex's, though nothing in Compile could hand it over.
func TestNothingForeignGetsIn(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	acme, globex := tenancytest.Tenant(t, m, "acme"), tenancytest.Tenant(t, m, "globex")
	platform := tenancytest.Tenant(t, m, identity.PlatformName)
	made := &pieces{t: acme, done: map[sharedKey]Resource{}}
	b := &builder{made: made, w: acme.Workloads()[0], resources: map[pieceKey]Resource{}}
	foreign, _ := globex.Service("orders")
	own, _ := acme.Service("orders")
	billing, _ := platform.Service("billing")
	port, _ := foreign.Port()
	tests := map[string]func() error{
		"workload": func() error { _, err := snapshot(made, globex.Workloads()[0]); return err },
		"inbound":  func() error { return b.inbound(foreign) },
		"outbound": func() error { return b.outbound(foreign) },
		"shared":   func() error { return b.inbound(billing) },
		"nobody's": func() error { return b.inbound(tenancy.Service{}) },
		"caller":   func() error { _, err := b.chain(own, port, globex.Callers("orders")[0]); return err },
		"nobody":   func() error { _, err := b.chain(own, port, tenancy.Caller{}); return err },
		"import":   func() error { return b.shared(tenancy.Import{}) },
	}
	for name, try := range tests {
		if err := try(); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v, want ErrForeign", name, err)
		}
	}
	if len(b.resources) != 0 {
		t.Errorf("%d resources got in", len(b.resources))
	}
}
