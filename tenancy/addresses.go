package tenancy

import (
	"net/netip"
	"slices"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// holder is the service that has an address and port.
type holder struct {
	owner   identity.TenantID
	service string
}

func (h holder) same(o holder) bool { return h.owner.Same(o.owner) && h.service == o.service }

// claim is a service's wish for an address and port.
type claim struct {
	holder
	at v1alpha1.Pos
}

// claimAddresses gives every address and port to one service of the mesh. The platform goes before the tenants, so that
// no tenant can take a shared service's place or hold up the platform by sitting on an address; after that, who held it
// in the previous model keeps it; otherwise nobody gets it, because the order of names or files must not decide who
// receives whose calls.
func (b *builder) claimAddresses() {
	claims := map[netip.AddrPort][]claim{}
	for _, owner := range keys(b.draft) {
		d := b.draft[owner]
		for _, name := range keys(d.services) {
			b.wishes(claims, d.services[name])
		}
	}
	b.claims = map[netip.AddrPort]holder{}
	for ap, wanting := range claims {
		winner := b.winner(ap, wanting)
		for _, c := range wanting {
			if winner.same(c.holder) {
				b.claims[ap] = winner
				continue
			}
			b.reportAt(c.at, v1alpha1.CodeEndpointClaimed, "choose another port", "%s is claimed by another service", ap)
		}
	}
}

// wishes adds what a service wants to have for itself: its endpoints, and where these are on loopback, so that services
// of other tenants live on the same machine, also the ports of its application and of its outbound listener there.
func (b *builder) wishes(claims map[netip.AddrPort][]claim, s *draftService) {
	if s.broken || s.owner.IsZero() {
		return
	}
	add := func(ap netip.AddrPort, at v1alpha1.Pos) {
		h := holder{s.owner, s.name}
		if !slices.ContainsFunc(claims[ap], func(c claim) bool { return c.same(h) }) {
			claims[ap] = append(claims[ap], claim{h, at})
		}
	}
	for i, ap := range s.listed {
		add(ap, s.doc.Spec.Endpoints[i].Pos)
	}
	if !slices.ContainsFunc(s.endpoints, func(ap netip.AddrPort) bool { return ap.Addr().IsLoopback() }) {
		return
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	add(netip.AddrPortFrom(loopback, s.port.AppPort), s.doc.Spec.Ports[0].AppPort.Pos)
	if s.outbound != 0 {
		add(netip.AddrPortFrom(loopback, s.outbound), s.doc.Spec.Outbound.Port.Pos)
	}
	for i, o := range s.tcp {
		add(netip.AddrPortFrom(loopback, o.Port), s.doc.Spec.Outbound.TCP[i].Port.Pos)
	}
}

func (b *builder) winner(ap netip.AddrPort, wanting []claim) holder {
	first := slices.DeleteFunc(slices.Clone(wanting), func(c claim) bool { return !c.owner.IsPlatform() })
	if len(first) == 0 {
		first = wanting
	}
	if len(first) == 1 {
		return first[0].holder
	}
	if b.in.Previous != nil {
		before := b.in.Previous.claims[ap]
		if slices.ContainsFunc(first, func(c claim) bool { return c.same(before) }) {
			return before
		}
	}
	return holder{}
}

// shareLoopback reports ports that two listeners of one workload would want: the sidecar's, its outbound proxies and the
// applications share the workload's loopback.
func (b *builder) shareLoopback() {
	type listener struct{ service, what string }
	for _, owner := range keys(b.draft) {
		taken := map[identity.WorkloadID]map[uint16]listener{}
		for _, name := range keys(b.draft[owner].services) {
			s := b.draft[owner].services[name]
			for _, id := range s.ids {
				if taken[id] == nil {
					taken[id] = map[uint16]listener{}
				}
				for _, p := range s.local() {
					before, ok := taken[id][p.port]
					if !ok {
						taken[id][p.port] = listener{name, p.what}
						continue
					}
					b.reportAt(p.at, v1alpha1.CodePortClash, "choose another port", "port %d is also the %s of service %s on the same workload", p.port, before.what, before.service)
				}
			}
		}
	}
}

type localPort struct {
	port uint16
	what string
	at   v1alpha1.Pos
}

// local are the ports that a service's workload listens on at loopback.
func (s *draftService) local() []localPort {
	var ports []localPort
	if s.broken {
		return nil
	}
	if s.onLoopback() {
		ports = append(ports, localPort{s.endpoints[0].Port(), "endpoint", s.doc.Spec.Endpoints[0].Port.Pos})
	}
	if s.port.AppPort != 0 {
		ports = append(ports, localPort{s.port.AppPort, "appPort", s.doc.Spec.Ports[0].AppPort.Pos})
	}
	if s.outbound != 0 {
		ports = append(ports, localPort{s.outbound, "outbound port", s.doc.Spec.Outbound.Port.Pos})
	}
	for i, o := range s.tcp {
		at := s.doc.Spec.Outbound.TCP[i]
		ports = append(ports, localPort{o.Port, "outbound port to " + at.Service.Value, at.Port.Pos})
	}
	return ports
}

// partPorts reports TCP services of one workload whose sidecars listen at one port, though at other addresses: what the
// decision point is told of a TCP connection names its destination by that port.
func (b *builder) partPorts() {
	type at struct {
		id   identity.WorkloadID
		port uint16
	}
	for _, owner := range keys(b.draft) {
		first := map[at]*draftService{}
		for _, name := range keys(b.draft[owner].services) {
			s := b.draft[owner].services[name]
			if s.broken || s.port.Protocol != TCP || len(s.endpoints) == 0 {
				continue
			}
			for _, id := range s.ids {
				here := at{id, s.endpoints[0].Port()}
				other, taken := first[here]
				if !taken {
					first[here] = s
				} else if !other.onLoopback() || !s.onLoopback() { // else shareLoopback has said it
					b.reportAt(s.doc.Spec.Endpoints[0].Port.Pos, v1alpha1.CodePortClash, "choose another port",
						"port %d is also that of TCP service %s on the same workload: TCP services are told apart by their port", here.port, other.name)
					break
				}
			}
		}
	}
}

// onLoopback reports whether its sidecar takes connections at loopback: one with several addresses listens on all of them.
func (s *draftService) onLoopback() bool {
	return len(s.endpoints) > 1 || len(s.endpoints) == 1 && s.endpoints[0].Addr().IsLoopback()
}
