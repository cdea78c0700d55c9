package tenancy

import (
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// draftAsker is an asker in the making, with its services by owner.
type draftAsker struct {
	asker
	services map[string][]string
}

// readAskers drafts the Mesh's askers. The Mesh is the platform's, and no tenant may hold it up: what a tenant's services
// lack is a warning, and a tenant's workload that takes an asker's identity is that tenant's problem.
func (b *builder) readAskers() {
	meshes := ofKind[*v1alpha1.Mesh](b, v1alpha1.PlatformOwner)
	if len(meshes) == 0 || broken(meshes[0]) || b.mapping.IsZero() {
		return
	}
	names, taken := []v1alpha1.String{}, map[AskerKey]v1alpha1.Pos{}
	for _, doc := range meshes[0].Spec.Askers {
		names = append(names, doc.Name)
		b.name(doc.Name, "the name of an asker")
		d := draftAsker{asker: asker{name: doc.Name.Value, from: b.identityFrom(doc)}, services: map[string][]string{}}
		for _, s := range doc.Services {
			b.askedService(&d, s)
		}
		b.unique(doc.Services, "service")
		b.askerKeys(&d, doc, taken)
		b.askers = append(b.askers, d)
	}
	b.unique(names, "asker")
}

func (b *builder) identityFrom(doc v1alpha1.Asker) IdentityFrom {
	from, weak, hint := FromCertificate, "", "let the proxy send the caller's certificate, if it can"
	switch doc.IdentityFrom.Value {
	case v1alpha1.IdentityFromPrincipal:
		from, weak = FromPrincipal, "what Envoy read from a certificate that is not verified again"
	case v1alpha1.IdentityFromXFCC:
		from, weak = FromXFCC, "a header, which only a proxy that replaces it may be believed"
	case v1alpha1.IdentityFromToken:
		from, weak = FromToken, "whoever holds a token, without any certificate"
		hint = "only for an ingress whose callers have no certificates; keep their tokens short-lived"
	}
	if weak != "" {
		b.warnAt(doc.IdentityFrom.Pos, v1alpha1.CodeWeakAsker, hint,
			"identityFrom: %s believes %s", doc.IdentityFrom.Value, weak)
	}
	return from
}

// askedService adds a service that the asker may ask about. One that a tenant does not have, or not yet, is kept out.
func (b *builder) askedService(d *draftAsker, ref v1alpha1.String) {
	owner, name, ok := strings.Cut(ref.Value, "/")
	if !ok || !identity.ValidName(owner) || !identity.ValidName(name) {
		b.reportAt(ref.Pos, v1alpha1.CodeAsker, "write for example acme/orders",
			"a service is tenant/service, not %s", v1alpha1.Quote(ref.Value))
		return
	}
	tenant := b.draft[owner]
	if tenant == nil {
		b.reportAt(ref.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(owner, keys(b.draft)),
			"there is no tenant %s", v1alpha1.Quote(owner))
		return
	}
	s := tenant.services[name]
	switch {
	case owner == v1alpha1.PlatformOwner && d.from == FromToken:
		b.reportAt(ref.Pos, v1alpha1.CodeAsker, "let workloads of tenants call shared services",
			"no token asserts the platform, so nobody could call %s", v1alpha1.Quote(ref.Value))
	case s != nil && (s.broken || s.port.Number != 0):
		d.services[owner] = append(d.services[owner], name)
		if !s.broken && d.from == FromToken && s.token == TokenNone {
			b.warnAt(ref.Pos, v1alpha1.CodeIdleAsker, "", "service %s of tenant %s reads no tokens, so nobody can call it through this asker", v1alpha1.Quote(name), owner)
		}
	case owner == v1alpha1.PlatformOwner:
		b.reportAt(ref.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name, keys(tenant.services)),
			"the platform has no service %s that takes calls", v1alpha1.Quote(name))
	default:
		d.services[owner] = append(d.services[owner], name) // so that a key of a foreign identity is judged all the same
		b.warnAt(ref.Pos, v1alpha1.CodeIdleAsker, v1alpha1.Suggest(name, keys(tenant.services)),
			"tenant %s has no service %s that takes calls", owner, v1alpha1.Quote(name))
	}
}

// askerKeys reads by what the asker is known, and lets nobody else be known by it.
func (b *builder) askerKeys(d *draftAsker, doc v1alpha1.Asker, taken map[AskerKey]v1alpha1.Pos) {
	if doc.Socket.IsSet() == (len(doc.SPIFFEIDs) > 0) {
		b.reportAt(doc.Pos, v1alpha1.CodeAsker, "", "an asker is known by spiffeIDs or by a socket, one of the two")
		return
	}
	add := func(key AskerKey, at v1alpha1.Pos) {
		if first, ok := taken[key]; ok {
			b.reportAt(at, v1alpha1.CodeAskerClash, "", "this asks already, at %s", first)
			return
		}
		taken[key] = at
		d.keys = append(d.keys, key)
	}
	if doc.Socket.IsSet() {
		if !validSocket(doc.Socket.Value) {
			b.reportAt(doc.Socket.Pos, v1alpha1.CodeAsker, "write for example /run/ringfence/gateway.sock",
				"a socket is an absolute path without dot segments, at most %d bytes, not %s", maxSocket, v1alpha1.Quote(doc.Socket.Value))
			return
		}
		add(KeyOfSocket(doc.Socket.Value), doc.Socket.Pos)
		return
	}
	for _, text := range doc.SPIFFEIDs {
		id, err := identity.ParseSPIFFEID(text.Value)
		if err != nil {
			b.reportAt(text.Pos, v1alpha1.CodeAsker, "", "%s", err)
			continue
		}
		if b.mayVouch(d, id, text) && !b.runsServices(id, text) {
			add(KeyOfID(id), text.Pos)
		}
	}
}

// mayVouch keeps a tenant's root from making an asker of another tenant's services: it could sign itself that certificate.
func (b *builder) mayVouch(d *draftAsker, id identity.SPIFFEID, at v1alpha1.String) bool {
	if control, err := b.mapping.ControlPlaneID(); err == nil && control.String() == id.String() {
		b.reportAt(at.Pos, v1alpha1.CodeReservedName, "", "%s is the control plane's own", id)
		return false
	}
	of := b.vouches(id)
	if of == "" || of == v1alpha1.PlatformOwner {
		return true
	}
	for _, owner := range keys(d.services) {
		if owner != of {
			b.reportAt(at.Pos, v1alpha1.CodeAsker, "give the asker an identity that belongs to no tenant",
				"an identity of tenant %s cannot ask about services of %s: the tenant's root could sign it for anybody", of, owner)
			return false
		}
	}
	return true
}

// vouches is the owner whose identity it is, by the mapping, or by a trust domain that is one owner's alone.
func (b *builder) vouches(id identity.SPIFFEID) string {
	if w, err := b.mapping.Parse(id.String()); err == nil {
		if d := b.draft[w.Tenant().Name()]; d != nil && d.id.Same(w.Tenant()) {
			return w.Tenant().Name()
		}
	}
	var owners []string
	for _, owner := range keys(b.draft) {
		if b.draft[owner].id.TrustDomain() == id.TrustDomain() {
			owners = append(owners, owner)
		}
	}
	if len(owners) == 1 {
		return owners[0]
	}
	return ""
}

// runsServices reports an identity that runs services. Whose problem it is depends on who came later; where nobody can
// know that, the platform goes first.
func (b *builder) runsServices(id identity.SPIFFEID, at v1alpha1.String) bool {
	w, err := b.mapping.Parse(id.String())
	if err != nil {
		return false
	}
	owner := b.draft[w.Tenant().Name()]
	if owner == nil {
		return false
	}
	for _, name := range keys(owner.services) {
		s := owner.services[name]
		for _, other := range s.ids {
			if !other.Same(w) {
				continue
			}
			const why = "its proxy asks about them by its own certificate already, and an asker would be a second, weaker way"
			held := s.owner.IsPlatform()
			if b.in.Previous != nil {
				_, _, before := b.in.Previous.Workload(w)
				held = held || before
			}
			if held {
				b.reportAt(at.Pos, v1alpha1.CodeAskerClash, "",
					"%s runs service %s, at %s: %s", id, name, s.doc.Spec.ServiceAccounts[0].Pos, why)
			} else {
				b.reportAt(s.doc.Spec.ServiceAccounts[0].Pos, v1alpha1.CodeAskerClash, "choose another service account, or ask the platform's team",
					"service %s runs as an identity that the Mesh names as an asker: %s", name, why)
			}
			return true
		}
	}
	return false
}

// shareAskers gives each tenant its share of the askers, and tells what they are known by.
func (b *builder) shareAskers(m *Model) (all []Asker) {
	for _, d := range b.askers {
		known := d.asker
		known.services = nil
		all = append(all, Asker{a: &known})
		for _, id := range m.ids {
			names := d.services[id.Name()]
			if len(names) == 0 {
				continue
			}
			share := d.asker
			share.services = names
			m.tenants[id].askers = append(m.tenants[id].askers, Asker{a: &share})
		}
	}
	return all
}
