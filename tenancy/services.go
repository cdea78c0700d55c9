package tenancy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// What one owner may have. Every other owner waits while it is compiled, and one resource that Envoy would not take stops
// the whole generation.
const (
	maxServices  = 1_000
	maxAccounts  = 2_000
	maxRuleBytes = 32 << 20
)

// readServices drafts every owner's services.
func (b *builder) readServices() {
	for _, doc := range ofKind[*v1alpha1.Service](b, "") {
		name := doc.Metadata.Name
		if !name.IsSet() || !identity.ValidName(name.Value) {
			continue
		}
		d := b.draft[doc.Head().Owner()]
		s := &draftService{doc: doc, broken: broken(doc)}
		if len(d.services) == maxServices {
			b.reportAt(name.Pos, v1alpha1.CodeTooMuch, "", "these are more than %d services", maxServices)
		}
		d.services[name.Value] = s
		if s.broken {
			continue
		}
		before := len(b.problems)
		s.service = service{name: name.Value, owner: d.id}
		s.ids = b.accounts(d, doc)
		if before := d.accounts; before <= maxAccounts {
			if d.accounts += len(s.ids); d.accounts > maxAccounts {
				b.reportAt(name.Pos, v1alpha1.CodeTooMuch, "", "with this service these are more than %d service accounts", maxAccounts)
			}
		}
		b.readPort(s)
		b.readEndpoints(s)
		b.readOutbound(s)
		b.readStreams(s)
		b.readToken(s)
		if doc.Spec.Proxy.Value == v1alpha1.ProxyDirect {
			s.proxy = ProxyDirect
		}
		s.broken = len(b.problems) > before
	}
	b.refuseSharedIdentities()
	b.refuseTwoProxies()
}

// accounts are the SPIFFE IDs of a service. A service can only run in a namespace of its owner.
func (b *builder) accounts(d *draft, doc *v1alpha1.Service) []identity.WorkloadID {
	ns := doc.Spec.Namespace
	valid := b.name(ns, "a namespace") && !b.reservedNamespace(ns, d.doc == nil) && b.ownNamespace(d, ns)
	b.unique(doc.Spec.ServiceAccounts, "service account")
	var ids []identity.WorkloadID
	for _, account := range doc.Spec.ServiceAccounts {
		if !b.name(account, "a service account") || !valid || d.id.IsZero() {
			continue
		}
		id, err := b.mapping.ID(d.id, ns.Value, account.Value)
		if err != nil {
			b.reportAt(account.Pos, v1alpha1.CodeIdentityClash, "", "%s", err)
			continue
		}
		ids = append(ids, id)
	}
	return sortIDs(ids)
}

func (b *builder) ownNamespace(d *draft, ns v1alpha1.String) bool {
	if d.doc == nil {
		for _, other := range b.draft {
			if other.namespaces[ns.Value] {
				b.reportAt(ns.Pos, v1alpha1.CodeNamespaceClash, "", "namespace %s belongs to a tenant", v1alpha1.Quote(ns.Value))
				return false
			}
		}
		return true
	}
	if d.namespaces[ns.Value] || d.broken {
		return d.namespaces[ns.Value]
	}
	own := keys(d.namespaces)
	hint := v1alpha1.Suggest(ns.Value, own)
	if hint == "" && len(own) > 0 {
		hint = "the tenant's namespaces: " + strings.Join(own, ", ")
	}
	b.reportAt(ns.Pos, v1alpha1.CodeNotYours, hint, "namespace %s is none of this tenant's", v1alpha1.Quote(ns.Value))
	return false
}

// refuseSharedIdentities reports accounts of different namespaces that the Mesh's rules give one SPIFFE ID.
func (b *builder) refuseSharedIdentities() {
	type place struct {
		namespace string
		at        v1alpha1.Pos
	}
	for _, owner := range keys(b.draft) {
		first := map[identity.WorkloadID]place{}
		for _, name := range keys(b.draft[owner].services) {
			s := b.draft[owner].services[name]
			for _, id := range s.ids {
				here := place{s.doc.Spec.Namespace.Value, s.doc.Spec.Namespace.Pos}
				if p, ok := first[id]; ok && p.namespace != here.namespace {
					b.reportAt(here.at, v1alpha1.CodeIdentityClash, "give the rules of the Mesh a {namespace}, or rename the account",
						"service account %s of this namespace has the same SPIFFE ID as that of namespace %s at %s", v1alpha1.Quote(id.ServiceAccount()), p.namespace, p.at)
					continue
				}
				first[id] = here
			}
		}
	}
}

// refuseTwoProxies reports services that run as one account, which is one Envoy, and say different things of what is beside it.
func (b *builder) refuseTwoProxies() {
	for _, owner := range keys(b.draft) {
		first := map[identity.WorkloadID]*draftService{}
		for _, name := range keys(b.draft[owner].services) {
			s := b.draft[owner].services[name]
			for _, id := range s.ids {
				before, ok := first[id]
				if !ok {
					first[id] = s
					continue
				}
				if before.proxy != s.proxy {
					b.reportAt(s.doc.Metadata.Name.Pos, v1alpha1.CodeTwoProxies, "write the same proxy for both, or give one of them an account of its own",
						"service account %s has one Envoy; this service says proxy: %s and service %s proxy: %s", v1alpha1.Quote(id.ServiceAccount()), s.proxy, before.name, before.proxy)
				}
			}
		}
	}
}

func (b *builder) readPort(s *draftService) {
	ports := s.doc.Spec.Ports
	if len(ports) > 1 {
		b.reportAt(ports[1].Pos, v1alpha1.CodeNotYet, "", "several ports of one service are not built yet")
	}
	if len(ports) == 0 {
		return
	}
	p := ports[0]
	b.name(p.Name, "the name of a port")
	s.port = Port{Name: p.Name.Value, Number: b.port(p.Port), AppPort: b.port(p.AppPort), Protocol: HTTP}
	switch p.Protocol.Value {
	case v1alpha1.ProtocolGRPC:
		s.port.Protocol = GRPC
	case v1alpha1.ProtocolTCP:
		s.port.Protocol = TCP
		s.port.ServerFirst = p.SpeaksFirst.Value == v1alpha1.SpeaksFirstServer
	}
	if p.SpeaksFirst.IsSet() && s.port.Protocol != TCP {
		b.reportAt(p.SpeaksFirst.Pos, v1alpha1.CodeNotTCP, "remove speaksFirst", "over %s the client speaks first", p.Protocol.Value)
	}
	if len(s.doc.Spec.Endpoints) == 0 {
		b.reportAt(p.Pos, v1alpha1.CodeIncompleteService, "", "a service with a port has endpoints")
	}
}

// maxStream is the longest that a request may go on, whatever a Service asks for.
const maxStream = 12 * time.Hour

func (b *builder) readStreams(s *draftService) {
	d := s.doc.Spec.MaxStreamDuration
	if !d.IsSet() {
		return
	}
	switch {
	case d.Value < time.Second || d.Value > maxStream || d.Value%time.Second != 0:
		b.reportAt(d.Pos, v1alpha1.CodeStreams, "", "maxStreamDuration is whole seconds, at most %dh", maxStream/time.Hour)
	case s.port.Protocol != HTTP && s.port.Protocol != GRPC:
		b.reportAt(d.Pos, v1alpha1.CodeStreams, "remove maxStreamDuration", "only a service with an HTTP or GRPC port has streams")
	case d.Value > b.connectionLife():
		b.warnAt(d.Pos, v1alpha1.CodeLongStreams, "",
			"a stream may outlive the SVID that it was opened with: only a revocation ends it before %s have passed", d.Value)
	}
	s.stream = d.Value
}

// port is a port number, 0 where it is none.
func (b *builder) port(i v1alpha1.Int) uint16 {
	if i.Value < 1 || i.Value > 65535 {
		b.reportAt(i.Pos, v1alpha1.CodePort, "", "a port is 1 to 65535, not %d", i.Value)
		return 0
	}
	return uint16(i.Value)
}

func (b *builder) readEndpoints(s *draftService) {
	endpoints := s.doc.Spec.Endpoints
	if len(endpoints) > 0 && len(s.doc.Spec.Ports) == 0 {
		b.reportAt(endpoints[0].Pos, v1alpha1.CodeIncompleteService, "", "a service with endpoints has a port")
	}
	for i, e := range endpoints {
		addr, ok := b.address(e.Address)
		ap := netip.AddrPortFrom(addr, b.port(e.Port))
		switch {
		case !ok || ap.Port() == 0:
		case slices.Contains(s.endpoints, ap):
			b.reportAt(e.Pos, v1alpha1.CodeRepeated, "", "endpoint %s stands here twice", ap)
		case i > 0 && e.Port.Value != endpoints[0].Port.Value:
			b.reportAt(e.Port.Pos, v1alpha1.CodePortClash, "", "the endpoints of one service have one port: its sidecars listen on it at every address")
		default:
			s.endpoints = append(s.endpoints, ap)
		}
	}
	s.listed = slices.Clone(s.endpoints)
	slices.SortFunc(s.endpoints, netip.AddrPort.Compare)
}

// address is the address of an endpoint, which must be one that a sidecar can have.
func (b *builder) address(text v1alpha1.String) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text.Value)
	if err != nil {
		b.reportAt(text.Pos, v1alpha1.CodeAddress, "write for example 10.0.0.7",
			"an endpoint is an IP address, not %s", v1alpha1.Quote(text.Value))
		return netip.Addr{}, false
	}
	var what string
	switch {
	case addr.Zone() != "":
		what = "an address with a zone"
	case addr.Is4In6():
		what = "an IPv4 address written as IPv6"
	case addr.IsUnspecified() || netip.PrefixFrom(netip.IPv4Unspecified(), 8).Contains(addr):
		what = "no address of a machine"
	case addr.IsMulticast():
		what = "a multicast address"
	case addr.IsLinkLocalUnicast():
		what = "a link-local address"
	case netip.MustParsePrefix("240.0.0.0/4").Contains(addr):
		what = "a reserved or broadcast address"
	default:
		return addr, true
	}
	b.reportAt(text.Pos, v1alpha1.CodeAddress, "", "%s is %s", addr, what)
	return netip.Addr{}, false
}

func (b *builder) readOutbound(s *draftService) {
	out := s.doc.Spec.Outbound
	if out == nil {
		return
	}
	if out.Port.IsSet() {
		s.outbound = b.port(out.Port)
	} else if len(out.TCP) == 0 {
		b.reportAt(out.Pos, v1alpha1.CodeMissingField, "write port: for HTTP and GRPC services, tcp: for TCP services", "outbound has neither port nor tcp")
	}
	seen := map[string]bool{}
	for _, o := range out.TCP {
		if seen[o.Service.Value] {
			b.reportAt(o.Service.Pos, v1alpha1.CodeRepeated, "", "service %s has a port already", v1alpha1.Quote(o.Service.Value))
		}
		seen[o.Service.Value] = true
		s.tcp = append(s.tcp, OutboundTCP{Port: b.port(o.Port)})
	}
}

// readDestinations finds the services behind the loopback ports for TCP. Of a shared service it says the same whether it
// exists, is granted or speaks TCP: a tenant learns of them by Grants alone, and a change of the platform's must not hold
// up its documents.
func (b *builder) readDestinations() {
	const who = "a loopback port"
	for _, owner := range keys(b.draft) {
		d := b.draft[owner]
		for _, name := range keys(d.services) {
			s := d.services[name]
			if s.broken || len(s.tcp) == 0 {
				continue
			}
			for i, o := range s.doc.Spec.Outbound.TCP {
				shared, qualified := strings.CutPrefix(o.Service.Value, v1alpha1.PlatformOwner+"/")
				if qualified && owner != v1alpha1.PlatformOwner && identity.ValidName(shared) {
					s.tcp[i].Shared, s.tcp[i].Service = true, shared
					to := b.draft[v1alpha1.PlatformOwner].services[shared]
					if len(d.grants[shared]) == 0 || to == nil || !to.broken && to.port.Protocol != TCP {
						b.warnAt(o.Service.Pos, v1alpha1.CodeIdlePort, "", "no shared TCP service %s is granted to the tenant: nothing listens at port %d",
							v1alpha1.Quote(shared), s.tcp[i].Port)
					}
					continue
				}
				s.tcp[i].Service = o.Service.Value
				to := b.ownService(d, owner, o.Service, who)
				if to != nil && !to.broken && to.port.Protocol != TCP {
					b.reportAt(o.Service.Pos, v1alpha1.CodeNotTCP, "call it by name through the HTTP proxy at outbound.port",
						"service %s takes no TCP connections", v1alpha1.Quote(o.Service.Value))
				}
			}
		}
	}
}

func (b *builder) readToken(s *draftService) {
	s.token = tokenMode(s.doc.Spec.Token.Value)
	b.readSensitivity(s)
	switch t := s.doc.Spec.Token; {
	case s.token == TokenNone:
	case len(s.doc.Spec.Ports) == 0:
		b.reportAt(t.Pos, v1alpha1.CodeNoEffect, "", "token: %s has no effect on a service without ports", t.Value)
	case s.port.Protocol != TCP:
	case tokenMode(t.Value) != TokenNone:
		b.reportAt(t.Pos, v1alpha1.CodeNotOfTCP, "remove token", "token: %s: a TCP connection carries no token", t.Value)
	case s.sensitivity.Class != "": // else its class has problems
		class := s.doc.Spec.Sensitivity
		b.reportAt(class.Pos, v1alpha1.CodeNotOfTCP, "name a class that demands none, or let the service speak HTTP or GRPC",
			"class %s demands a token, and a TCP connection carries none", class.Value)
	}
	forward := s.doc.Spec.ForwardToken
	if !forward.IsSet() {
		return
	}
	switch {
	case s.doc.Head().Owner() != v1alpha1.PlatformOwner:
		b.reportAt(forward.Pos, v1alpha1.CodeNoEffect, "", "forwardToken is for shared services: the tenant's own always get the token")
	case s.token == TokenNone:
		b.reportAt(forward.Pos, v1alpha1.CodeNoEffect, "", "forwardToken has no effect where token is none: the header is not touched")
	}
	s.forward = forward.Value
}

func tokenMode(text string) TokenMode {
	switch text {
	case v1alpha1.TokenOptional:
		return TokenOptional
	case v1alpha1.TokenRequired:
		return TokenRequired
	default:
		return TokenNone
	}
}

func sortIDs(ids []identity.WorkloadID) []identity.WorkloadID {
	slices.SortFunc(ids, compareIDs)
	return slices.CompactFunc(ids, identity.WorkloadID.Same)
}
