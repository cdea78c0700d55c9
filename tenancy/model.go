package tenancy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Input is what a Model is built from.
type Input struct {
	// Documents of all owners, in any order.
	Documents []v1alpha1.Document
	// Files are the JWKS files that the documents may name, by path from the configuration directory.
	Files map[string][]byte
	// KeySets are the published key sets that are known, by URI. An issuer whose set is not among them has no keys yet,
	// which is no problem: nothing that it signs is believed.
	KeySets map[string]identity.KeySet
	// Revocations are those that operators have made beside the documents. What of them does not fit the mesh has no effect,
	// and is no problem.
	Revocations []*v1alpha1.Revocation
	// Bundles are the roots of the platform's trust domain and of every tenant's; see TrustDomains.
	Bundles identity.Bundles
	// Previous is the model before, which says who held an address first; nil for the first model.
	Previous *Model
	// ConnectionLife is how long a sidecar uses a connection to another one before it makes a new one; see
	// Tenant.ConnectionLife. Zero, and more than MaxConnectionLife, is MaxConnectionLife.
	ConnectionLife time.Duration
	// Now says which revocations are over, so that callers may meet a workload again. Zero: none is.
	Now time.Time
}

// MaxConnectionLife is the longest that a sidecar uses a connection to another one.
const MaxConnectionLife = 5 * time.Minute

// Model is the validated whole: every tenant and what belongs to it. It comes only from Build and never changes.
type Model struct {
	mapping identity.Mapping
	ids     []identity.TenantID
	tenants map[identity.TenantID]*tenant
	claims  map[netip.AddrPort]holder
	askers  []Asker
	// operators are the tenants that each may look at.
	operators map[identity.WorkloadID][]identity.TenantID

	warnings []v1alpha1.Problem
}

// Askers are the askers of the Mesh, in its order, without the services that they may ask about: those are in the handles
// of the services' tenants.
func (m *Model) Askers() []Asker { return slices.Clone(m.askers) }

// Operates reports whether the Mesh lets the workload look at the tenant's sidecars. It is no part of any tenant's handle:
// who looks changes nothing of what is looked at.
func (m *Model) Operates(w identity.WorkloadID, t identity.TenantID) bool {
	return m != nil && slices.ContainsFunc(m.operators[w], t.Same)
}

// SameOperators reports whether the same workloads may look at the same tenants in both.
func (m *Model) SameOperators(o *Model) bool {
	return maps.EqualFunc(m.operators, o.operators, func(x, y []identity.TenantID) bool {
		return slices.EqualFunc(x, y, identity.TenantID.Same)
	})
}

// Warnings are what the documents say that is accepted, and weaker or emptier than it looks. Nothing is refused for them.
func (m *Model) Warnings() []v1alpha1.Problem { return slices.Clone(m.warnings) }

// Tenants are all tenants by name, the platform included.
func (m *Model) Tenants() []identity.TenantID { return slices.Clone(m.ids) }

// Tenant is the handle on one tenant.
func (m *Model) Tenant(id identity.TenantID) (Tenant, bool) {
	t, ok := m.tenants[id]
	return Tenant{t: t}, ok
}

// Mapping reads SPIFFE IDs as the Mesh says.
func (m *Model) Mapping() identity.Mapping { return m.mapping }

// Workload finds an account that a service names, and its tenant.
func (m *Model) Workload(id identity.WorkloadID) (Workload, Tenant, bool) {
	t, ok := m.tenants[id.Tenant()]
	if !ok || id.IsZero() {
		return Workload{}, Tenant{}, false
	}
	i, ok := slices.BinarySearchFunc(t.workloads, id, func(w Workload, id identity.WorkloadID) int { return compareIDs(w.id, id) })
	if !ok {
		return Workload{}, Tenant{}, false
	}
	return t.workloads[i], Tenant{t: t}, true
}

func compareText(a, b string) int { return strings.Compare(a, b) }

func compareIDs(a, b identity.WorkloadID) int { return strings.Compare(a.String(), b.String()) }

func compareTenants(a, b identity.TenantID) int { return strings.Compare(a.Name(), b.Name()) }
