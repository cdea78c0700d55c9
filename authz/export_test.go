package authz

import "github.com/ringfence-mesh/ringfence/tenancy"

// AddAsker makes a Table know an asker that no documents give it, to test what holds even then.
func AddAsker(t *Table, key tenancy.AskerKey, a tenancy.Asker) {
	t.askers = map[tenancy.AskerKey]tenancy.Asker{key: a}
}

// CanonicalPath is what rules match of a request's target, and whether it can be read in one way only.
func CanonicalPath(target string) (string, bool) { return canonicalPath(target) }
