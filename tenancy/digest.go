package tenancy

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// digest covers every field of a tenant that its handle can reach. Each list is preceded by its length and each text by
// its own, so two different tenants never give the same bytes. A test changes every field and expects another digest.
func digest(t *tenant) [32]byte {
	d := digester{sha256.New()}
	d.text("ringfence-tenant/1")
	d.tenant(t.id)
	d.mapping(t.mapping)
	d.bundle(t.bundle)
	d.number(uint64(t.life))     //nolint:gosec // not negative
	d.number(uint64(t.rootLife)) //nolint:gosec // not negative
	list(d, t.services, d.service)
	list(d, t.workloads, func(w Workload) {
		d.text(w.id.String())
		list(d, w.services, func(s Service) { d.text(s.Name()) })
	})
	list(d, t.imports, d.imported)
	list(d, keys(t.callers), func(service string) {
		d.text(service)
		list(d, t.callers[service], d.caller)
	})
	list(d, keys(t.rules), func(service string) {
		d.text(service)
		list(d, t.rules[service], d.rule)
	})
	list(d, t.issuers, d.issuer)
	list(d, t.askers, d.asker)
	list(d, t.revocations, d.revocation)
	return [32]byte(d.h.Sum(nil))
}

type digester struct{ h hash.Hash }

func list[T any](d digester, items []T, each func(T)) {
	d.number(uint64(len(items)))
	for _, item := range items {
		each(item)
	}
}

func (d digester) number(n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	d.h.Write(b[:])
}

func (d digester) text(s string) {
	d.number(uint64(len(s)))
	d.h.Write([]byte(s))
}

func (d digester) flag(b bool) {
	if b {
		d.number(1)
	} else {
		d.number(0)
	}
}

func (d digester) texts(s []string) { list(d, s, d.text) }
func (d digester) ids(ids []identity.WorkloadID) {
	list(d, ids, func(w identity.WorkloadID) { d.text(w.String()) })
}
func (d digester) time(t time.Time) { d.text(t.UTC().Format(time.RFC3339Nano)) }

func (d digester) tenant(id identity.TenantID) {
	d.text(id.Name())
	d.text(id.TrustDomain().String())
	d.flag(id.IsPlatform())
}

func (d digester) mapping(m identity.Mapping) {
	d.text(m.Platform().String())
	list(d, m.Rules(), func(r identity.MappingRule) {
		d.text(r.TrustDomain)
		d.text(r.Path)
	})
}

func (d digester) bundle(b identity.Bundle) {
	sum := b.Digest()
	d.h.Write(sum[:])
	list(d, b.Withdrawn(), func(root [32]byte) { d.h.Write(root[:]) })
}

func (d digester) endpoints(aps []netip.AddrPort) {
	list(d, aps, func(ap netip.AddrPort) { d.text(ap.String()) })
}

func (d digester) service(s Service) {
	d.text(s.s.name)
	d.tenant(s.s.owner)
	d.ids(s.s.ids)
	d.text(s.s.port.Name)
	d.number(uint64(s.s.port.Number))
	d.number(uint64(s.s.port.AppPort))
	d.number(uint64(s.s.port.Protocol))
	d.flag(s.s.port.ServerFirst)
	d.endpoints(s.s.endpoints)
	d.number(uint64(s.s.outbound))
	list(d, s.s.tcp, func(o OutboundTCP) {
		d.number(uint64(o.Port))
		d.flag(o.Shared)
		d.text(o.Service)
	})
	d.number(uint64(s.s.token))
	d.flag(s.s.forward)
	d.number(uint64(s.s.stream)) //nolint:gosec // not negative
	d.ids(s.s.servers)
	d.text(s.s.epoch)
	d.number(uint64(s.s.proxy))
	d.sensitivity(s.s.sensitivity)
	list(d, s.s.routes, func(r Route) {
		d.texts(r.Methods)
		d.texts(r.Paths)
		d.flag(r.TokenRequired)
		d.sensitivity(r.Sensitivity)
	})
}

func (d digester) sensitivity(s Sensitivity) {
	d.text(s.Class)
	d.texts(s.ACR)
	d.texts(s.AMR)
	d.number(uint64(s.MaxAuthAge)) //nolint:gosec // never negative
}

func (d digester) imported(i Import) {
	d.text(i.i.name)
	d.ids(i.i.ids)
	d.endpoints(i.i.endpoints)
	d.number(uint64(i.i.protocol))
	d.bundle(i.i.bundle)
	d.text(i.i.sni)
	d.ids(i.i.servers)
	d.text(i.i.epoch)
}

func (d digester) caller(c Caller) {
	d.tenant(c.c.id)
	d.ids(c.c.ids)
	d.bundle(c.c.bundle)
	d.text(c.c.sni)
	list(d, c.c.grants, func(g Grant) {
		d.text(g.Name)
		d.texts(g.Methods)
		d.texts(g.Paths)
		d.time(g.NotAfter)
	})
	list(d, c.c.issuers, d.issuer)
	list(d, c.c.revocations, d.revocation)
	d.text(c.c.epoch)
}

func (d digester) revocation(r Revocation) {
	d.text(r.Name)
	d.text(r.Workload.String())
	d.text(r.Serial)
	d.text(r.Issuer)
	d.text(r.JTI)
	d.text(r.Subject)
	d.text(r.Session)
	d.text(r.Reason)
	d.time(r.NotAfter)
	d.flag(r.Over)
	d.text(r.Pos)
}

func (d digester) rule(r Rule) {
	d.text(r.Name)
	d.text(r.Policy)
	d.ids(r.From)
	d.texts(r.Askers)
	d.texts(r.Roles)
	d.texts(r.Methods)
	d.texts(r.Paths)
	d.text(r.Pos)
}

func (d digester) asker(a Asker) {
	d.text(a.a.name)
	list(d, a.a.keys, func(k AskerKey) {
		d.text(k.id.String())
		d.text(k.socket)
	})
	d.number(uint64(a.a.from))
	d.texts(a.a.services)
}

func (d digester) issuer(i identity.TokenIssuer) {
	c := i.Config()
	d.text(c.Name)
	d.number(uint64(c.Format)) //nolint:gosec // one of a few
	d.text(c.Issuer)
	d.texts(c.Audiences)
	list(d, c.Tenants, d.tenant)
	d.text(c.TenantClaim)
	d.text(c.RolesClaim)
	d.mapping(c.Mapping)
	d.text(c.MaxLifetime.String())
	d.text(string(c.JWKS))
}
