package pipeline_test

import (
	"slices"
	"strings"
	"testing"
)

// A class that demands more than a tenant's Service says cuts that tenant off until it follows; nobody is served with less
// than the class demands, and nobody else is touched. A Service that leaves the token out follows by itself.
func TestAClassThatATenantDoesNotMeet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, token, from, to string
		dropped               bool
	}{
		{"more than the Service says", "token: optional\n  sensitivity: open", "open: {}", "open: {token: required}", true},
		{"a class removed", "token: optional\n  sensitivity: open", "open: {}", "other: {}", true},
		{"more than a Service that follows", "sensitivity: open", "open: {}", "open: {token: required, acr: [mfa]}", false},
	} {
		m := started(t)
		mesh := m.shelf.files["mesh.yaml"]
		m.shelf.put("mesh.yaml", mesh+"\n  sensitivity: {open: {}}\n")
		globex := m.shelf.files["tenants/globex/orders.yaml"]
		m.shelf.put("tenants/globex/orders.yaml", strings.Replace(globex, "token: optional", tc.token, 1))
		if e := m.Reload(t.Context()); !e.Published || len(e.Problems) > 0 {
			t.Fatalf("%s, before: %v", tc.name, e.Problems)
		}
		before := m.everything()
		m.shelf.edit(t, "mesh.yaml", tc.from, tc.to)
		e := m.Reload(t.Context())
		after := m.everything()
		if !e.Published || slices.Contains(e.Dropped, "globex") != tc.dropped || (after["globex/orders"] == "") != tc.dropped {
			t.Errorf("%s: dropped %v, globex gets %q", tc.name, e.Dropped, after["globex/orders"])
		}
		if after["globex/orders"] == before["globex/orders"] || after["acme/orders"] != before["acme/orders"] {
			t.Errorf("%s: globex is as before, or acme is not", tc.name)
		}
	}
}
