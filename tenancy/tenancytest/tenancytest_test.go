package tenancytest_test

import (
	"testing"

	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestTwoTenantsBuildsTheSameModelTwice(t *testing.T) {
	t.Parallel()
	one, two := tenancytest.TwoTenants(t), tenancytest.TwoTenants(t)
	for _, name := range []string{"platform", "acme", "globex"} {
		a, b := tenancytest.Tenant(t, one, name), tenancytest.Tenant(t, two, name)
		if a.Digest() != b.Digest() {
			t.Errorf("%s: two builds of the same files have different digests", name)
		}
		if len(a.Services()) == 0 || len(a.Workloads()) == 0 {
			t.Errorf("%s: no services or no workloads", name)
		}
	}
}
