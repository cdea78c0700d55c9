package xds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ringfence-mesh/ringfence/identity"
)

// ErrDuplicate says that two resources of a Snapshot bear the same type and name.
var ErrDuplicate = errors.New("two resources of one type and name")

// Snapshot is everything that one workload's Envoy gets, sorted and frozen. The zero value holds nothing.
type Snapshot struct {
	workload  identity.WorkloadID
	version   string
	resources []Resource // by type and name
}

// NewSnapshot puts a workload's resources together.
//
// In a Snapshot the version of endpoints also covers the cluster of the same name: Envoy warms a changed cluster until its
// endpoints are sent again, and does not ask for them.
func NewSnapshot(w identity.WorkloadID, rs ...Resource) (Snapshot, error) {
	if w.IsZero() {
		return Snapshot{}, fmt.Errorf("%w: a snapshot belongs to a workload", identity.ErrInvalidID)
	}
	s := Snapshot{workload: w, resources: slices.Clone(rs)}
	clusters := map[string]string{}
	for _, r := range rs {
		if r.typeURL == ClusterType {
			clusters[r.name] = r.version
		}
	}
	for i, r := range s.resources {
		if cluster, ok := clusters[r.name]; ok && r.typeURL == EndpointType {
			content := hash([]byte(r.typeURL), []byte(r.name), r.value)
			s.resources[i].version = hash([]byte(cluster), []byte(content))
		}
	}
	slices.SortFunc(s.resources, compare)
	parts := make([][]byte, 0, 3*len(rs)+1)
	parts = append(parts, []byte(w.String()))
	for i, r := range s.resources {
		if r.IsZero() {
			return Snapshot{}, errors.New("a snapshot holds no empty resource")
		}
		if i > 0 && compare(s.resources[i-1], r) == 0 {
			return Snapshot{}, fmt.Errorf("%w: %s %s", ErrDuplicate, r.typeURL, r.name)
		}
		parts = append(parts, []byte(r.typeURL), []byte(r.name), []byte(r.version))
	}
	s.version = hash(parts...)
	return s, nil
}

func compare(a, b Resource) int {
	return cmp.Or(cmp.Compare(a.typeURL, b.typeURL), cmp.Compare(a.name, b.name))
}

// Workload is whose snapshot it is.
func (s Snapshot) Workload() identity.WorkloadID { return s.workload }

// Version is a hash over the workload and over type, name and version of every resource; empty for the zero value.
func (s Snapshot) Version() string { return s.version }

// IsZero reports whether s is nobody's.
func (s Snapshot) IsZero() bool { return s.workload.IsZero() }

// All are the resources, sorted by type and name; they must not be changed.
func (s Snapshot) All() []Resource { return s.resources }

// Resources are those of one type, sorted by name; they must not be changed.
func (s Snapshot) Resources(typeURL string) []Resource {
	first, _ := slices.BinarySearchFunc(s.resources, typeURL, func(r Resource, t string) int { return cmp.Compare(r.typeURL, t) })
	last := first
	for last < len(s.resources) && s.resources[last].typeURL == typeURL {
		last++
	}
	return s.resources[first:last:last]
}

// Types are the types that the snapshot holds, sorted.
func (s Snapshot) Types() []string {
	var types []string
	for _, r := range s.resources {
		if len(types) == 0 || types[len(types)-1] != r.typeURL {
			types = append(types, r.typeURL)
		}
	}
	return types
}
