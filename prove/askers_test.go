package prove_test

import (
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// A Table that lets others ask than the Mesh says is found, whatever else is right.
func TestProveFindsOtherAskers(t *testing.T) {
	t.Parallel()
	asking := func(askers string) generation {
		t.Helper()
		files := tenancytest.TwoTenantsFiles(t)
		files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + "\n  askers:\n" + askers
		return compile(t, files)
	}
	const named = "    - {name: a, socket: /a, services: [acme/orders]}\n"
	right := asking(named)
	ruled := func(askers string) generation {
		t.Helper()
		files := tenancytest.TwoTenantsFiles(t)
		files["mesh.yaml"] = strings.TrimRight(files["mesh.yaml"], "\n") + "\n  askers:\n" + strings.Replace(named, "services", "identityFrom: token, services", 1)
		files["tenants/acme/orders.yaml"] += "    - {name: r, from: {askers: [" + askers + "]}, to: {methods: [GET], paths: [/]}}\n"
		return compile(t, files)
	}
	edge, other := ruled("a"), ruled("a, b")
	if _, c := prove.Prove(edge.m, edge.parts, edge.tables); c != nil {
		t.Fatal(c)
	}
	if _, c := prove.Prove(edge.m, edge.parts, other.tables); c == nil || !strings.Contains(c.Text, "rule orders/r of orders is for other askers than it names") {
		t.Errorf("a rule that lets another asker's callers in: %v", c)
	}
	if _, c := prove.Prove(right.m, right.parts, right.tables); c != nil {
		t.Fatal(c)
	}
	for name, tc := range map[string]struct {
		askers, says string
	}{
		"believed":        {strings.Replace(named, "services", "identityFrom: principal, services", 1), "something else"},
		"another name":    {strings.Replace(named, "name: a", "name: b", 1), "something else"},
		"another socket":  {strings.Replace(named, "/a", "/b", 1), "something else"},
		"another service": {strings.Replace(named, "acme/orders", "acme/none", 1), "may ask about orders"},
		"one more":        {named + "    - {name: b, socket: /b, services: [acme/orders]}\n", "2 askers, not 1"},
	} {
		wrong := asking(tc.askers)
		if _, c := prove.Prove(right.m, right.parts, wrong.tables); c == nil || c.Tenant.Name() != "acme" || !strings.Contains(c.Text, tc.says) {
			t.Errorf("%s: %v", name, c)
		}
	}
}
