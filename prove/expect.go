package prove

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

type resourceID struct{ typeURL, name string }

// expectations are the resources that a workload gets, each with what must be true of it.
type expectations map[resourceID]func(xds.Resource) error

// expect says, from the Model alone, what a workload gets. Names are written out here, not asked of the compiler's source.
func (w *world) expect(t tenancy.Tenant, workload tenancy.Workload) expectations {
	want := expectations{}
	calls := false
	for _, s := range workload.Services() {
		if port, ok := s.Port(); ok {
			w.expectInbound(want, t, s, port)
		}
		if port, ok := s.Outbound(); ok {
			calls = true
			want[resourceID{xds.ListenerType, name("outbound", t, s.Name())}] = outboundListener(t, s.Name(), port)
			want[resourceID{xds.RouteType, name("routes", t, s.Name())}] = w.outboundRoutes(t)
		}
		for _, o := range s.OutboundTCP() {
			w.expectTCP(want, t, s, o)
		}
	}
	if calls {
		w.expectDestinations(want, t)
	}
	return want
}

func (w *world) expectInbound(want expectations, t tenancy.Tenant, s tenancy.Service, port tenancy.Port) {
	callers := w.callers(t, s)
	want[resourceID{xds.ListenerType, name("inbound", t, s.Name())}] = inboundListener(t, s, port, callers)
	want[resourceID{xds.ClusterType, name("app", t, s.Name())}] = appCluster(port)
	for _, c := range callers {
		if port.Protocol == tenancy.TCP {
			want[resourceID{xds.SecretType, name("callers", t, s.Name(), c.t.ID().Name())}] = w.callersSecret(c)
			continue
		}
		want[resourceID{xds.RouteType, name("callers", t, s.Name(), c.t.ID().Name())}] = callersRoutes(t, s, port, c)
		w.expectBundle(want, c.t.ID().TrustDomain())
	}
}

func (w *world) expectDestinations(want expectations, t tenancy.Tenant) {
	for _, s := range t.Services() {
		if p, ok := s.Port(); !ok || p.Protocol == tenancy.TCP {
			continue
		}
		w.expectService(want, t, s)
	}
	for _, i := range t.Imports() {
		if i.Protocol() == tenancy.TCP {
			continue
		}
		w.expectImport(want, t, i)
	}
}

// expectService: the way to a service of the tenant's own.
func (w *world) expectService(want expectations, t tenancy.Tenant, s tenancy.Service) {
	n := name("service", t, s.Name())
	want[resourceID{xds.ClusterType, n}] = meshCluster(t, s, s.SNI(t.ID()))
	want[resourceID{xds.EndpointType, n}] = endpoints(s.Endpoints())
	w.expectBundle(want, t.ID().TrustDomain())
}

// expectImport: the way to a shared service that is granted to the tenant.
func (w *world) expectImport(want expectations, t tenancy.Tenant, i tenancy.Import) {
	n := name("import", t, i.Name())
	s, err := w.granted(i)
	if err != nil {
		want[resourceID{xds.ClusterType, n}] = func(xds.Resource) error { return err }
		return
	}
	want[resourceID{xds.ClusterType, n}] = meshCluster(w.platform, s, s.SNI(t.ID()))
	want[resourceID{xds.EndpointType, n}] = endpoints(s.Endpoints())
	w.expectBundle(want, w.platform.ID().TrustDomain())
}

// expectTCP: a loopback port and the way to the one TCP service behind it. There is none to a shared service that is not
// granted.
func (w *world) expectTCP(want expectations, t tenancy.Tenant, s tenancy.Service, o tenancy.OutboundTCP) {
	owner, cluster, epoch := t, name("service", t, o.Service), ""
	if o.Shared {
		granted := slices.IndexFunc(t.Imports(), func(i tenancy.Import) bool {
			return i.Name() == o.Service && i.Protocol() == tenancy.TCP
		})
		if granted < 0 {
			return
		}
		owner, cluster, epoch = w.platform, name("import", t, o.Service), t.Imports()[granted].Epoch()
		w.expectImport(want, t, t.Imports()[granted])
	} else if own, ok := t.Service(o.Service); ok {
		epoch = own.Epoch()
		w.expectService(want, t, own)
	}
	n := name("tcp", t, s.Name(), owner.ID().Name(), o.Service)
	want[resourceID{xds.ListenerType, n}] = func(r xds.Resource) error {
		f, err := readListener(r)
		if err != nil {
			return err
		}
		if err := onLoopback(f, o.Port); err != nil {
			return err
		}
		if len(f.chains) != 1 || f.chains[0].tcp.cluster != cluster {
			return at("filter_chains", "it does not lead to %s", cluster)
		}
		if f.chains[0].epoch != epoch {
			return at("filter_chains", "its epoch is not that of %s", cluster)
		}
		return nil
	}
}

// callersSecret: exactly those who may connect, by their own roots.
func (w *world) callersSecret(c caller) func(xds.Resource) error {
	td, ids := c.t.ID().TrustDomain(), c.ids
	if len(ids) == 0 {
		ids = []string{nobody}
	}
	return func(r xds.Resource) error {
		_, got, err := readSecret(r)
		if err != nil {
			return err
		}
		if !sameSet(got, ids) {
			return at("validation_context.match_typed_subject_alt_names", "it lets in %s, the model %s", list(got), list(ids))
		}
		return w.rootsOf(r, td)
	}
}

func (w *world) expectBundle(want expectations, td identity.TrustDomain) {
	want[resourceID{xds.SecretType, td.ID()}] = func(r xds.Resource) error { return w.rootsOf(r, td) }
}

// rootsOf: exactly the roots of the trust domain.
func (w *world) rootsOf(r xds.Resource, td identity.TrustDomain) error {
	pem, _, err := readSecret(r)
	if err != nil {
		return err
	}
	b, err := identity.ParseBundlePEM(td, pem)
	if err != nil {
		return err
	}
	if b.Digest() != w.bundles[td].Digest() {
		return at("validation_context.trusted_ca", "not the roots of %s", td)
	}
	return nil
}

func name(kind string, t tenancy.Tenant, parts ...string) string {
	return strings.Join(append([]string{kind, t.ID().Name()}, parts...), "/")
}

// inboundListener: the service's own address; for each tenant that may call one chain, with that tenant's label and roots,
// or the secret that holds them, and of the port's protocol.
func inboundListener(t tenancy.Tenant, s tenancy.Service, port tenancy.Port, callers []caller) func(xds.Resource) error {
	return func(r xds.Resource) error {
		f, err := readListener(r)
		if err != nil {
			return err
		}
		if !listensFor(f, s.Endpoints()) {
			return at("address", "%s is not where %s/%s is", f.address, t.ID(), s.Name())
		}
		want, epochs := map[string]chainFacts{}, map[string]string{}
		for _, c := range t.Callers(s.Name()) {
			epochs[c.Tenant().Name()] = c.Epoch()
		}
		for _, c := range callers {
			routes := name("callers", t, s.Name(), c.t.ID().Name())
			want[routes] = chainFacts{
				routes: routes, sni: s.SNI(c.t.ID()), bundle: c.t.ID().TrustDomain().ID(), epoch: epochs[c.t.ID().Name()],
			}
			if port.Protocol == tenancy.TCP {
				want[routes] = chainFacts{
					routes: routes, sni: s.SNI(c.t.ID()), bundle: routes, epoch: epochs[c.t.ID().Name()],
					tcp: tcpFacts{cluster: name("app", t, s.Name()), serverFirst: port.ServerFirst},
				}
			}
		}
		for _, c := range f.chains {
			expected, ok := want[c.routes]
			switch {
			case !ok:
				return at("filter_chains", "%s: its callers have no business here", clip(c.routes))
			case c.sni != expected.sni:
				return at("filter_chains", "%s: the label %q is not that of its callers", c.routes, clip(c.sni))
			case c.epoch != expected.epoch:
				return at("filter_chains", "%s: its epoch is not that of its callers", c.routes)
			case c.bundle != expected.bundle:
				return at("filter_chains", "%s: it trusts %q, not %q", c.routes, clip(c.bundle), expected.bundle)
			case c.tcp != expected.tcp:
				return at("filter_chains", "%s: not the protocol of the port, or not to its application", c.routes)
			}
			delete(want, c.routes)
		}
		for missing := range want {
			return at("filter_chains", "%s: missing", missing)
		}
		return nil
	}
}

// listensFor reports whether an address is the one endpoint, or all addresses at the port of several.
func listensFor(f listenerFacts, endpoints []netip.AddrPort) bool {
	if len(endpoints) == 1 {
		return f.address == endpoints[0] && !f.compat
	}
	any6 := false
	for _, e := range endpoints {
		any6 = any6 || e.Addr().Is6()
		if e.Port() != f.address.Port() {
			return false
		}
	}
	if any6 {
		return f.address.Addr() == netip.IPv6Unspecified() && f.compat
	}
	return len(endpoints) > 0 && f.address.Addr() == netip.IPv4Unspecified() && !f.compat
}

// callersRoutes: exactly those who may call, for exactly this service.
func callersRoutes(t tenancy.Tenant, s tenancy.Service, port tenancy.Port, c caller) func(xds.Resource) error {
	drops := s.Shared() && s.Token() != tenancy.TokenNone && !s.ForwardToken()
	return func(r xds.Resource) error {
		f, err := readCallers(r)
		if err != nil {
			return err
		}
		switch {
		case !sameSet(f.principals, c.ids):
			return at("typed_per_filter_config", "it lets in %s, the model %s", list(f.principals), list(c.ids))
		case f.service != t.ID().Name()+"/"+s.Name() || f.port != port.Name:
			return at("typed_per_filter_config", "the decision point is asked about %q port %q", clip(f.service), clip(f.port))
		case f.app != name("app", t, s.Name()):
			return at("virtual_hosts", "it leads to %q", clip(f.app))
		case f.stream != s.MaxStreamDuration():
			return at("virtual_hosts", "a stream may go on for %s, not %s", f.stream, s.MaxStreamDuration())
		case f.dropsToken != drops:
			return at("request_headers_to_remove", "the caller's token reaches the application: %t", !f.dropsToken)
		}
		return nil
	}
}

func outboundListener(t tenancy.Tenant, service string, port uint16) func(xds.Resource) error {
	return func(r xds.Resource) error {
		f, err := readListener(r)
		if err != nil {
			return err
		}
		if err := onLoopback(f, port); err != nil {
			return err
		}
		if len(f.chains) != 1 || f.chains[0].routes != name("routes", t, service) {
			return at("filter_chains", "not the routes of %s", service)
		}
		if f.chains[0].epoch != t.Epoch() {
			return at("filter_chains", "its epoch is not that of the tenant's destinations")
		}
		return nil
	}
}

func onLoopback(f listenerFacts, port uint16) error {
	want := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	if f.address != want || f.compat {
		return at("address", "%s, not %s", f.address, want)
	}
	return nil
}

// outboundRoutes: the tenant's own services and what is granted to it, each under its own names and no other.
func (w *world) outboundRoutes(t tenancy.Tenant) func(xds.Resource) error {
	want := map[string]string{} // host to cluster
	for _, i := range t.Imports() {
		if i.Protocol() == tenancy.TCP {
			continue
		}
		cluster := name("import", t, i.Name())
		want[i.Name()], want[i.Name()+"."+identity.PlatformName+".mesh"] = cluster, cluster
	}
	for _, s := range t.Services() { // an own service keeps its short name before a shared one
		if p, ok := s.Port(); ok && p.Protocol != tenancy.TCP {
			cluster := name("service", t, s.Name())
			want[s.Name()], want[s.Name()+"."+t.ID().Name()+".mesh"] = cluster, cluster
		}
	}
	return func(r xds.Resource) error {
		hosts, err := readHosts(r)
		if err != nil {
			return err
		}
		seen := 0
		for _, h := range hosts {
			for _, host := range h.hosts {
				cluster, ok := want[host]
				switch {
				case h.cluster == "" && host == "*":
					continue
				case !ok || cluster != h.cluster:
					return at("virtual_hosts", "host %q leads to %q", clip(host), clip(h.cluster))
				}
				seen++
			}
		}
		if seen != len(want) {
			return at("virtual_hosts", "%d hosts, not %d", seen, len(want))
		}
		return nil
	}
}

// meshCluster: the identities of the service that are not revoked and no other, by its owner's roots.
func meshCluster(owner tenancy.Tenant, s tenancy.Service, sni string) func(xds.Resource) error {
	ids := servers(owner, s)
	port, _ := s.Port()
	return func(r xds.Resource) error {
		f, err := readCluster(r)
		switch {
		case err != nil:
			return err
		case !sameSet(f.sans, ids):
			return at("transport_socket", "pinned to %s, not to %s", list(f.sans), list(ids))
		case f.bundle != owner.ID().TrustDomain().ID():
			return at("transport_socket", "verified by %q, not by %q", clip(f.bundle), owner.ID().TrustDomain().ID())
		case f.sni != sni:
			return at("transport_socket", "the label is %q, not %q", clip(f.sni), sni)
		case f.tcp != (port.Protocol == tenancy.TCP):
			return at("typed_extension_protocol_options", "not the protocol of the port")
		}
		return nil
	}
}

func appCluster(port tenancy.Port) func(xds.Resource) error {
	return func(r xds.Resource) error {
		f, err := readCluster(r)
		if err != nil {
			return err
		}
		want := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port.AppPort)
		if len(f.addresses) != 1 || f.addresses[0] != want {
			return at("load_assignment", "not at %s", want)
		}
		if f.http2 != (port.Protocol == tenancy.GRPC) || f.tcp != (port.Protocol == tenancy.TCP) {
			return at("typed_extension_protocol_options", "not the protocol of the port")
		}
		return nil
	}
}

func endpoints(addresses []netip.AddrPort) func(xds.Resource) error {
	return func(r xds.Resource) error {
		got, err := readEndpoints(r)
		if err != nil {
			return err
		}
		if !sameAddresses(got, addresses) {
			return at("endpoints", "%v, not %v", got, addresses)
		}
		return nil
	}
}
