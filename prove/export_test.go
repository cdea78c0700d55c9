package prove

import (
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Checker is Prove for one snapshot at a time, which a test can put together as a hostile or broken compiler would. What
// was accepted once is not looked at again.
type Checker struct {
	m       *tenancy.Model
	w       *world
	checked map[key]bool
}

// NewChecker makes a Checker.
func NewChecker(m *tenancy.Model) (*Checker, error) {
	w, err := newWorld(m)
	return &Checker{m: m, w: w, checked: map[key]bool{}}, err
}

// Snapshot checks one.
func (c *Checker) Snapshot(s xds.Snapshot) *Counterexample {
	workload, t, ok := c.m.Workload(s.Workload())
	if !ok {
		return &Counterexample{Text: "nobody"}
	}
	return c.w.snapshot(t, workload, s, c.checked)
}

// Table is Prove for one Table.
func Table(m *tenancy.Model, table *authz.Table) error {
	w, err := newWorld(m)
	if err != nil {
		return err
	}
	id, _ := table.Workload()
	workload, t, ok := m.Workload(id)
	if !ok {
		return errShape
	}
	return w.table(t, workload, table, table.SnapshotVersion())
}

// Owned is Relayed without the linter, which a test can put a resource past that the linter should have found.
func Owned(w identity.WorkloadID, mapping identity.Mapping, r xds.Resource) error {
	return relay{w: w, own: w.Tenant(), mapping: mapping}.owned(r)
}
