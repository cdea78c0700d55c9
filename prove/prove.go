package prove

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Prove checks the whole compiled mesh against its Model: every resource of every workload, and every Table. There is one
// part and one Table for each tenant of the Model, and nothing else.
func Prove(m *tenancy.Model, parts []xds.Part, tables []*authz.Table) (Proof, *Counterexample) {
	return Proof{}.Extend(m, parts, tables)
}

// Extend is Prove for a configuration that follows another one, at the price of what changed: a tenant whose handle, part
// and Table are those that p covers is not looked at again. What holds between tenants is always looked at.
func (p Proof) Extend(m *tenancy.Model, parts []xds.Part, tables []*authz.Table) (Proof, *Counterexample) {
	w, err := newWorld(m)
	if err != nil {
		return Proof{}, &Counterexample{Text: err.Error()}
	}
	byTenant, c := w.sort(parts, tables)
	if c != nil {
		return Proof{}, c
	}
	proved := make(map[identity.TenantID]cover, len(byTenant))
	for _, id := range m.Tenants() {
		s := byTenant[id]
		now := cover{w.tenants[id].Digest(), s.part.Digest(), s.table.Version()}
		if p.tenants[id] != now {
			if c := w.tenant(w.tenants[id], s.part, s.table); c != nil {
				return Proof{}, c
			}
		}
		proved[id] = now
	}
	return Proof{digest: digest(m, parts, tables), method: method, tenants: proved}, nil
}

// share is what one tenant has of a generation.
type share struct {
	part   xds.Part
	table  *authz.Table
	tables int
	parts  int
}

// sort gives each tenant its part and its Table, and demands exactly one of each.
func (w *world) sort(parts []xds.Part, tables []*authz.Table) (map[identity.TenantID]share, *Counterexample) {
	byTenant := map[identity.TenantID]share{}
	for _, p := range parts {
		s := byTenant[p.Tenant()]
		s.part, s.parts = p, s.parts+1
		byTenant[p.Tenant()] = s
	}
	for _, t := range tables {
		if t == nil {
			return nil, &Counterexample{Text: "a table is missing"}
		}
		s := byTenant[t.Tenant()]
		s.table, s.tables = t, s.tables+1
		byTenant[t.Tenant()] = s
	}
	for id := range byTenant {
		if _, ok := w.tenants[id]; !ok {
			return nil, &Counterexample{Tenant: id, Text: "the model has no such tenant"}
		}
	}
	for id := range w.tenants {
		if s := byTenant[id]; s.parts != 1 || s.tables != 1 {
			return nil, &Counterexample{Tenant: id, Text: fmt.Sprintf("%d parts and %d tables, not one of each", s.parts, s.tables)}
		}
	}
	return byTenant, nil
}

// tenant checks one tenant's part and Table. What several of its workloads share is checked once.
func (w *world) tenant(t tenancy.Tenant, part xds.Part, table *authz.Table) *Counterexample {
	checked := map[key]bool{}
	workloads := t.Workloads()
	if got := part.Workloads(); len(got) != len(workloads) {
		return &Counterexample{Tenant: t.ID(), Text: fmt.Sprintf("snapshots for %d workloads, not for %d", len(got), len(workloads))}
	}
	if err := w.askers(t, table); err != nil {
		return &Counterexample{Tenant: t.ID(), Text: err.Error()}
	}
	for _, workload := range workloads {
		s, ok := part.Snapshot(workload.ID())
		if !ok || !s.Workload().Same(workload.ID()) {
			return &Counterexample{Tenant: t.ID(), Workload: workload.ID(), Text: "it has no snapshot of its own"}
		}
		if c := w.snapshot(t, workload, s, checked); c != nil {
			return c
		}
		if err := w.table(t, workload, table, s.Version()); err != nil {
			return fault(t, workload, xds.TableType, workload.ID().String(), err)
		}
	}
	return nil
}

// key names one exact resource.
type key struct {
	typeURL, name, version string
	direct                 identity.WorkloadID // whose sidecar has no agent; zero: there is one
}

// snapshot checks that a workload gets exactly what the Model says it gets.
func (w *world) snapshot(t tenancy.Tenant, workload tenancy.Workload, s xds.Snapshot, checked map[key]bool) *Counterexample {
	want, scope := w.expect(t, workload), filters.Scope{Tenant: t.ID()}
	if workload.Proxy() == tenancy.ProxyDirect {
		scope.Direct = workload.ID()
	}
	for _, r := range s.All() {
		check, ok := want[resourceID{r.TypeURL(), r.Name()}]
		if !ok {
			return fault(t, workload, r.TypeURL(), r.Name(), errors.New("nothing in the model gives the workload this resource"))
		}
		delete(want, resourceID{r.TypeURL(), r.Name()})
		k := key{r.TypeURL(), r.Name(), r.Version(), scope.Direct}
		if checked[k] {
			continue
		}
		for _, f := range filters.Lint(r.TypeURL(), r.Name(), r.Value(), scope) {
			return fault(t, workload, r.TypeURL(), r.Name(), at(f.Path, "%s [%s]", f.Text, f.Setting))
		}
		if err := check(r); err != nil {
			return fault(t, workload, r.TypeURL(), r.Name(), err)
		}
		checked[k] = true
	}
	if len(want) == 0 {
		return nil
	}
	first := slices.MinFunc(slices.Collect(maps.Keys(want)), func(a, b resourceID) int {
		return cmp.Or(cmp.Compare(a.typeURL, b.typeURL), cmp.Compare(a.name, b.name))
	})
	return fault(t, workload, first.typeURL, first.name, errors.New("the workload does not get it"))
}

// fieldError is something wrong in one field.
type fieldError struct{ field, text string }

func (e *fieldError) Error() string { return e.field + ": " + e.text }

func at(field, format string, args ...any) error {
	return &fieldError{field: field, text: fmt.Sprintf(format, args...)}
}

func fault(t tenancy.Tenant, w tenancy.Workload, typeURL, name string, err error) *Counterexample {
	c := &Counterexample{Tenant: t.ID(), Workload: w.ID(), TypeURL: typeURL, Resource: name, Text: err.Error()}
	if f, ok := errors.AsType[*fieldError](err); ok {
		c.Field, c.Text = f.field, f.text
	}
	return c
}
