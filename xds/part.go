package xds

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Part is one tenant's share of a generation: a Snapshot for each of its workloads. The zero value holds nothing.
type Part struct {
	tenant    identity.TenantID
	snapshots []Snapshot // by workload
	digest    [32]byte
}

// Compile makes the Part of a tenant. It sees that tenant and what is granted to it, and nothing else.
func Compile(t tenancy.Tenant) (Part, error) {
	if t.ID().IsZero() {
		return Part{}, fmt.Errorf("%w: nobody to compile for", identity.ErrInvalidID)
	}
	p := Part{tenant: t.ID()}
	made := &pieces{t: t, done: map[sharedKey]Resource{}}
	digest := sha256.New()
	for _, w := range t.Workloads() {
		s, err := snapshot(made, w)
		if err != nil {
			return Part{}, fmt.Errorf("compiling for %s: %w", w.ID(), err)
		}
		p.snapshots = append(p.snapshots, s)
		digest.Write([]byte(hash([]byte(w.ID().String()), []byte(s.Version()))))
	}
	slices.SortFunc(p.snapshots, func(a, b Snapshot) int { return compareWorkloads(a.Workload(), b.Workload()) })
	p.digest = [32]byte(digest.Sum(nil))
	return p, nil
}

// Tenant is whose part it is.
func (p Part) Tenant() identity.TenantID { return p.tenant }

// IsZero reports whether p is nobody's.
func (p Part) IsZero() bool { return p.tenant.IsZero() }

// Digest covers every workload and the version of its Snapshot.
func (p Part) Digest() [32]byte { return p.digest }

// Workloads are those that have a Snapshot, sorted by SPIFFE ID.
func (p Part) Workloads() []identity.WorkloadID {
	ids := make([]identity.WorkloadID, len(p.snapshots))
	for i, s := range p.snapshots {
		ids[i] = s.Workload()
	}
	return ids
}

// Snapshot is what the workload's Envoy gets.
func (p Part) Snapshot(w identity.WorkloadID) (Snapshot, bool) {
	i, ok := slices.BinarySearchFunc(p.snapshots, w, func(s Snapshot, w identity.WorkloadID) int {
		return compareWorkloads(s.Workload(), w)
	})
	if !ok || !p.snapshots[i].Workload().Same(w) {
		return Snapshot{}, false
	}
	return p.snapshots[i], true
}

func compareWorkloads(a, b identity.WorkloadID) int { return strings.Compare(a.String(), b.String()) }
