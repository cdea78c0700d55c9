package pipeline_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	r, err := pipeline.Check(t.Context(), s, bundles(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := pipeline.Report{Files: 10, Tenants: 2, Services: 5, Workloads: 5}
	if diff := cmp.Diff(want, r); diff != "" || !r.Clean() {
		t.Errorf("report (-want +got):\n%s", diff)
	}

	m := mesh{t: t, shelf: s}
	spoil(t, m, acmeWeb)
	s.edit(t, globexOrders, "services: [web]", "services: [nobody]")
	s.edit(t, billing, "tenant: acme", "tenant: initech")
	s.put("stray.yaml", "kind: Service")
	r, err = pipeline.Check(t.Context(), s, bundles(t), nil)
	if err != nil || r.Clean() {
		t.Fatalf("clean, %v", err)
	}
	if diff := cmp.Diff([]string{"", "acme", "globex", "platform"}, owners(r.Problems)); diff != "" {
		t.Errorf("owners (-want +got):\n%s%v", diff, r.Problems)
	}
	seen := map[string]bool{}
	for _, p := range r.Problems {
		if seen[p.String()] {
			t.Errorf("told twice: %s", p)
		}
		seen[p.String()] = true
	}
}

func TestCheckCannotLook(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	trouble := errors.New("trouble")
	none := func(...identity.TrustDomain) (identity.Bundles, error) { return identity.Bundles{}, trouble }
	if _, err := pipeline.Check(t.Context(), s, none, nil); !errors.Is(err, trouble) {
		t.Errorf("bundles: %v", err)
	}
	s.fail(trouble)
	if _, err := pipeline.Check(t.Context(), s, bundles(t), nil); !errors.Is(err, trouble) {
		t.Errorf("source: %v", err)
	}
}
