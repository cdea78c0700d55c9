package prove

import (
	"fmt"
	"slices"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// askers checks that the Table lets those ask, and believes those, of whom the Mesh says so, about these services, and that
// none of them is a workload that runs services.
func (w *world) askers(t tenancy.Tenant, table *authz.Table) error {
	wanted := map[tenancy.AskerKey]tenancy.Asker{}
	for _, a := range t.Askers() {
		for _, key := range a.Keys() {
			wanted[key] = a
		}
	}
	refs := table.Askers()
	if len(refs) != len(wanted) {
		return fmt.Errorf("%d askers, not %d", len(refs), len(wanted))
	}
	for _, ref := range refs {
		a, ok := wanted[ref.Key()]
		if !ok || a.Name() != ref.Name() || a.IdentityFrom() != ref.IdentityFrom() {
			return fmt.Errorf("%s is an asker of which the mesh says something else", ref.Key())
		}
		for _, s := range table.Services() {
			if ref.MayAsk(s) != slices.Contains(a.Services(), s.Name()) {
				return fmt.Errorf("asker %s: the mesh says otherwise whether it may ask about %s", a.Name(), s.Name())
			}
		}
		if w.runs(ref.Key().ID()) {
			return fmt.Errorf("asker %s: %s runs services", a.Name(), ref.Key())
		}
	}
	for _, s := range table.Services() {
		for _, r := range t.Rules(s.Name()) {
			want := r.Askers
			if len(refs) == 0 { // then the names let nobody in, and the Table need not know them
				want = nil
			}
			if name := r.Policy + "/" + r.Name; !slices.Equal(s.RuleAskers(name), want) {
				return fmt.Errorf("rule %s of %s is for other askers than it names", name, s.Name())
			}
		}
	}
	return nil
}

// runs reports whether a workload of the mesh bears the identity.
func (w *world) runs(id identity.SPIFFEID) bool {
	parsed, err := w.mapping.Parse(id.String())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(w.tenants[parsed.Tenant()].Workloads(), func(other tenancy.Workload) bool { return other.ID().Same(parsed) })
}
