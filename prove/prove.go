package prove

import (
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Prove checks the whole compiled mesh against its Model: every resource of every workload, and every Table.
func Prove(m *tenancy.Model, parts []xds.Part, tables []*authz.Table) (Proof, *Counterexample) {
	if m == nil {
		return Proof{}, &Counterexample{Text: "there is no model"}
	}
	for _, p := range parts {
		for _, w := range p.Workloads() {
			s, _ := p.Snapshot(w)
			for _, r := range s.All() {
				for _, f := range filters.Lint(r.TypeURL(), r.Name(), r.Value(), filters.Scope{Tenant: p.Tenant()}) {
					return Proof{}, &Counterexample{Tenant: p.Tenant(), Workload: w, TypeURL: r.TypeURL(), Resource: r.Name(), Field: f.Path, Text: f.Text}
				}
			}
		}
	}
	return Proof{digest: digest(m, parts, tables), method: method}, nil
}
