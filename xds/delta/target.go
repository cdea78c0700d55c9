package delta

import (
	"slices"

	"github.com/ringfence-mesh/ringfence/xds"
)

// Order is the order in which new resources are sent; removals come in reverse. The table comes first, so that an agent
// demands more before its Envoy admits more.
func Order() []string {
	return []string{xds.TableType, xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType}
}

// Target is everything that one client may see at a time. It is immutable; the zero value is "nothing is known yet", for
// which nothing is said, and differs from an empty set, for which what the client has is removed.
type Target struct {
	id     string
	byType map[string]resources
}

type resources struct {
	names  []string // sorted
	byName map[string]xds.Resource
}

// NewTarget makes a target. id names it in reports; targets of one id hold the same. Where two resources have one type and
// name, the later one counts.
func NewTarget(id string, rs ...xds.Resource) Target {
	t := Target{id: id, byType: map[string]resources{}}
	for _, r := range rs {
		of := t.byType[r.TypeURL()]
		if of.byName == nil {
			of.byName = map[string]xds.Resource{}
		}
		if _, again := of.byName[r.Name()]; !again {
			of.names = append(of.names, r.Name())
		}
		of.byName[r.Name()] = r
		t.byType[r.TypeURL()] = of
	}
	for _, of := range t.byType {
		slices.Sort(of.names)
	}
	return t
}

// ID is the name that the target was given.
func (t Target) ID() string { return t.id }

// IsZero reports whether nothing is known yet.
func (t Target) IsZero() bool { return t.byType == nil }

// Get is a resource of the target; false where it has none of that type and name.
func (t Target) Get(typeURL, name string) (xds.Resource, bool) {
	r, ok := t.byType[typeURL].byName[name]
	return r, ok
}

// Names of a type's resources, sorted. The caller must not change the slice.
func (t Target) Names(typeURL string) []string { return t.byType[typeURL].names }
