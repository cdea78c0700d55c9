package pipeline

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Generation is one proved state of the whole mesh: the model, what was compiled from it, and the proof. It never changes.
type Generation struct {
	number   uint64
	label    string
	revision string
	at       time.Time
	model    *tenancy.Model
	bundles  identity.Bundles
	verifier identity.Verifier
	tenants  map[identity.TenantID]*compiled
	asked    map[tenancy.AskerKey][]identity.TenantID
	proof    prove.Proof
}

// compiled is one tenant's share, kept from generation to generation while the tenant's digest is the same.
type compiled struct {
	digest [32]byte
	// state counts the tenant's own states.
	state uint64
	part  xds.Part
	table *authz.Table
	// tables are the table's extracts, one for each workload that has a snapshot.
	tables map[identity.WorkloadID][]byte
}

var errUnproved = errors.New("the proof is not of this configuration")

// newGeneration is the only maker of a Generation. It takes nothing that the proof does not cover.
func newGeneration(number uint64, revision string, at time.Time, b build, proof prove.Proof) (*Generation, error) {
	if !proof.Covers(b.model, b.parts(), b.tables()) {
		return nil, errUnproved
	}
	return &Generation{
		number: number, label: strconv.FormatUint(number, 10), revision: revision, at: at, model: b.model, tenants: b.tenants, proof: proof,
		bundles: b.bundles, verifier: identity.NewVerifier(b.model.Mapping(), b.bundles), asked: asked(b.model),
	}, nil
}

// compileTenant does the work that belongs to one tenant.
func compileTenant(t tenancy.Tenant) (*compiled, error) {
	part, err := xds.Compile(t)
	if err != nil {
		return nil, fmt.Errorf("xDS: %w", err)
	}
	table, err := authz.Compile(t)
	if err != nil {
		return nil, fmt.Errorf("authorization: %w", err)
	}
	c := &compiled{digest: t.Digest(), part: part, table: table, tables: map[identity.WorkloadID][]byte{}}
	for _, w := range part.Workloads() {
		snapshot, ok := part.Snapshot(w)
		if !ok {
			return nil, fmt.Errorf("xDS: %s has no snapshot", w)
		}
		if c.tables[w], err = table.For(w, snapshot.Version()); err != nil {
			return nil, fmt.Errorf("authorization: %w", err)
		}
	}
	return c, nil
}

// Number counts the generations of this process, from 1. It is 0 for nil.
func (g *Generation) Number() uint64 {
	if g == nil {
		return 0
	}
	return g.number
}

// Label is Number as text, made once.
func (g *Generation) Label() string {
	if g == nil {
		return "0"
	}
	return g.label
}

// Revision is the source's revision that it was made from.
func (g *Generation) Revision() string { return g.revision }

// At is when it was published.
func (g *Generation) At() time.Time { return g.at }

// Model is the validated whole.
func (g *Generation) Model() *tenancy.Model { return g.model }

// Revokes reports whether a revocation of the workload, or of its certificate with that serial number, holds at that time.
func (g *Generation) Revokes(w identity.WorkloadID, serial string, now time.Time) bool {
	if g == nil {
		return false
	}
	t, ok := g.model.Tenant(w.Tenant())
	return ok && t.Revokes(w, serial, now)
}

// Proof is what allows it to be served.
func (g *Generation) Proof() prove.Proof { return g.proof }

// Snapshot is what a workload's Envoy gets, with the table that its agent decides by. It is false for a workload that no
// document names.
func (g *Generation) Snapshot(w identity.WorkloadID) (xds.Snapshot, []byte, bool) {
	if g == nil || w.IsZero() {
		return xds.Snapshot{}, nil, false
	}
	c, ok := g.tenants[w.Tenant()]
	if !ok {
		return xds.Snapshot{}, nil, false
	}
	s, ok := c.part.Snapshot(w)
	table, decided := c.tables[w]
	if !ok || !decided {
		return xds.Snapshot{}, nil, false
	}
	return s, table, true
}

// State counts the states that the tenant's configuration has had in this process, from 1, and 0 where there is no such
// tenant. Unlike Number it says nothing of other tenants.
func (g *Generation) State(t identity.TenantID) uint64 {
	if g == nil {
		return 0
	}
	c, ok := g.tenants[t]
	if !ok {
		return 0
	}
	return c.state
}

// Table holds all rules of one tenant; nil where there is no such tenant, and nil denies.
func (g *Generation) Table(t identity.TenantID) *authz.Table {
	if g == nil {
		return nil
	}
	c, ok := g.tenants[t]
	if !ok {
		return nil
	}
	return c.table
}

// Askers are the askers of the Mesh.
func (g *Generation) Askers() []tenancy.Asker {
	if g == nil {
		return nil
	}
	return g.model.Askers()
}

// Names reports whether the Mesh names an asker of that key.
func (g *Generation) Names(key tenancy.AskerKey) bool { return g != nil && len(g.asked[key]) > 0 }

// TableFor holds all rules of the tenant of that name, if the asker may ask about one of its services. It is nil, which
// denies, where it may not, and where there is no such tenant. The empty name is the only tenant that there is for the
// asker.
func (g *Generation) TableFor(key tenancy.AskerKey, tenant string) *authz.Table {
	if g == nil {
		return nil
	}
	tenants := g.asked[key]
	if tenant == "" && len(tenants) == 1 {
		return g.Table(tenants[0])
	}
	for _, id := range tenants {
		if id.Name() == tenant {
			return g.Table(id)
		}
	}
	return nil
}

// asked are the tenants about whose services each asker may ask.
func asked(m *tenancy.Model) map[tenancy.AskerKey][]identity.TenantID {
	by := map[tenancy.AskerKey][]identity.TenantID{}
	for _, id := range m.Tenants() {
		t, _ := m.Tenant(id)
		for _, a := range t.Askers() {
			for _, key := range a.Keys() {
				by[key] = append(by[key], id)
			}
		}
	}
	return by
}

// Workload is the workload of that SPIFFE ID, byte for byte, if a document names it.
func (g *Generation) Workload(uri string) (identity.WorkloadID, bool) {
	if g == nil {
		return identity.WorkloadID{}, false
	}
	id, err := g.model.Mapping().Parse(uri)
	if err != nil {
		return identity.WorkloadID{}, false
	}
	if _, _, ok := g.model.Workload(id); !ok {
		return identity.WorkloadID{}, false
	}
	return id, true
}

// Verifier proves who presents a certificate, by the roots of the tenants that there are. For nil it proves nobody.
func (g *Generation) Verifier() identity.Verifier {
	if g == nil {
		return identity.Verifier{}
	}
	return g.verifier
}

// Mapping is how the mesh reads SPIFFE IDs; zero for nil.
func (g *Generation) Mapping() identity.Mapping {
	if g == nil {
		return identity.Mapping{}
	}
	return g.model.Mapping()
}
