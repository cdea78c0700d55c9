package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// AskerRef is a proxy that may ask about services of one Table without running them. The zero value may ask nothing. No
// Table that an agent gets knows any.
type AskerRef struct {
	table *Table
	key   tenancy.AskerKey
	asker tenancy.Asker
}

// Asker finds who asks by that key.
func (t *Table) Asker(key tenancy.AskerKey) (AskerRef, bool) {
	if t == nil || key.IsZero() {
		return AskerRef{}, false
	}
	a, ok := t.askers[key]
	return AskerRef{table: t, key: key, asker: a}, ok
}

// Askers are all ways in which an asker of the Table is known, in no order.
func (t *Table) Askers() []AskerRef {
	refs := make([]AskerRef, 0, len(t.askers))
	for key, a := range t.askers {
		refs = append(refs, AskerRef{table: t, key: key, asker: a})
	}
	return refs
}

// addAskers makes the tenant's askers, and the rules that name them, a part of the Table and of its version.
func (t *Table) addAskers(of tenancy.Tenant) error {
	askers := of.Askers()
	if len(askers) == 0 {
		return nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", t.version)
	t.askers = make(map[tenancy.AskerKey]tenancy.Asker)
	for _, a := range askers {
		for _, key := range a.Keys() {
			if _, dup := t.askers[key]; dup {
				return fmt.Errorf("asker %s: it is known by what another one is", a.Name())
			}
			t.askers[key] = a
			fmt.Fprintf(h, "%q %d %q %q %q\n", a.Name(), a.IdentityFrom(), key.ID(), key.Socket(), a.Services())
		}
	}
	for _, s := range t.Services() {
		for i, r := range of.Rules(s.Name()) { // in the same order as the message's, before the Grants
			s.s.rules[i].askers = r.Askers
			fmt.Fprintf(h, "%q %q %q\n", s.Name(), s.s.rules[i].name, r.Askers)
		}
	}
	t.version = hex.EncodeToString(h.Sum(nil))
	return nil
}

// Key is by what the asker is known.
func (a AskerRef) Key() tenancy.AskerKey { return a.key }

// Name is the asker's name in the Mesh.
func (a AskerRef) Name() string { return a.asker.Name() }

// IdentityFrom says what names the caller when it asks.
func (a AskerRef) IdentityFrom() tenancy.IdentityFrom { return a.asker.IdentityFrom() }

// MayAsk reports whether the asker may ask about the service.
func (a AskerRef) MayAsk(s ServiceRef) bool {
	return a.table != nil && s.s != nil && s.s.table == a.table && slices.Contains(a.asker.Services(), s.Name())
}

// Agrees reports whether an Envoy that shows principal to its callers may be the asker, and in front of the service: it is
// the asker's own identity, or that of a workload that runs the service, or none that the mesh knows.
func (a AskerRef) Agrees(s ServiceRef, principal string) bool {
	if a.table == nil {
		return false
	}
	w, err := a.table.mapping.Parse(principal)
	switch {
	case err != nil, principal == a.key.ID().String(), s.RunBy(w):
		return true
	case a.key.ID().IsZero(): // a socket does not say under which identity its Envoy serves
		return !w.Tenant().Same(a.table.tenant)
	}
	return false
}

// Only is the one service that the asker may ask about; false where there are several or none.
func (a AskerRef) Only() (ServiceRef, bool) {
	services := a.asker.Services()
	if a.table == nil || len(services) != 1 {
		return ServiceRef{}, false
	}
	return a.table.Service(a.table.tenant.Name(), services[0])
}

// Caller believes the asker that uri, byte for byte, calls. It is believed only of an asker of which the Mesh says so; how
// long the identity holds is then known to nobody but the asker. An empty text is nobody.
func (a AskerRef) Caller(uri string) Caller {
	switch {
	case a.table == nil || a.IdentityFrom() != tenancy.FromPrincipal && a.IdentityFrom() != tenancy.FromXFCC:
		return InvalidCaller()
	case uri == "":
		return Caller{}
	}
	id, err := a.table.mapping.Parse(uri)
	if err != nil {
		return Caller{reason: identityReason(err)}
	}
	return Caller{asserted: id, proof: a.table.version}
}

// Bearer is the caller of a call that only its token names: whoever is the token's subject. There is one only where the Mesh
// says identityFrom: token of the asker. It is no workload, so the rules that name workloads are not for it.
func (a AskerRef) Bearer() Caller {
	if a.table == nil || a.IdentityFrom() != tenancy.FromToken {
		return InvalidCaller()
	}
	return Caller{bearer: a.Name(), proof: a.table.version}
}

// IsKnown reports whether somebody is proved or asserted, or is whom the token names.
func (c Caller) IsKnown() bool { return !c.ID().IsZero() || c.bearer != "" }

// ID is who calls, proved or, by an asker that is believed, asserted; zero where that is not known, and for whom only the
// token names.
func (c Caller) ID() identity.WorkloadID {
	if c.peer.IsZero() {
		return c.asserted
	}
	return c.peer.ID()
}

// NoDestination is the refusal of a call to a service that the asker may not ask about, where no Table answers for it.
func NoDestination() Decision { return deny(UnknownDestination, false, nil) }
