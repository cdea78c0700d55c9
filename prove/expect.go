package prove

import (
	"net/netip"
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
		if port, ok := s.Port(); ok && port.Protocol != tenancy.TCP {
			w.expectInbound(want, t, s, port)
		}
		if port, ok := s.Outbound(); ok {
			calls = true
			want[resourceID{xds.ListenerType, name("outbound", t, s.Name())}] = outboundListener(t, s.Name(), port)
			want[resourceID{xds.RouteType, name("routes", t, s.Name())}] = w.outboundRoutes(t)
		}
	}
	if calls {
		w.expectDestinations(want, t)
	}
	return want
}

func (w *world) expectInbound(want expectations, t tenancy.Tenant, s tenancy.Service, port tenancy.Port) {
	callers := w.callers(t, s)
	want[resourceID{xds.ListenerType, name("inbound", t, s.Name())}] = inboundListener(t, s, callers)
	want[resourceID{xds.ClusterType, name("app", t, s.Name())}] = appCluster(port)
	for _, c := range callers {
		want[resourceID{xds.RouteType, name("callers", t, s.Name(), c.t.ID().Name())}] = callersRoutes(t, s, port, c)
		w.expectBundle(want, c.t.ID().TrustDomain())
	}
}

func (w *world) expectDestinations(want expectations, t tenancy.Tenant) {
	for _, s := range t.Services() {
		if p, ok := s.Port(); !ok || p.Protocol == tenancy.TCP {
			continue
		}
		n := name("service", t, s.Name())
		want[resourceID{xds.ClusterType, n}] = meshCluster(t.ID(), texts(s.IDs()), s.SNI(t.ID()))
		want[resourceID{xds.EndpointType, n}] = endpoints(s.Endpoints())
		w.expectBundle(want, t.ID().TrustDomain())
	}
	for _, i := range t.Imports() {
		if i.Protocol() == tenancy.TCP {
			continue
		}
		n := name("import", t, i.Name())
		s, err := w.granted(i)
		if err != nil {
			want[resourceID{xds.ClusterType, n}] = func(xds.Resource) error { return err }
			continue
		}
		want[resourceID{xds.ClusterType, n}] = meshCluster(w.platform.ID(), texts(s.IDs()), s.SNI(t.ID()))
		want[resourceID{xds.EndpointType, n}] = endpoints(s.Endpoints())
		w.expectBundle(want, w.platform.ID().TrustDomain())
	}
}

func (w *world) expectBundle(want expectations, td identity.TrustDomain) {
	want[resourceID{xds.SecretType, td.ID()}] = func(r xds.Resource) error {
		pem, err := readRoots(r)
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
}

func name(kind string, t tenancy.Tenant, parts ...string) string {
	return strings.Join(append([]string{kind, t.ID().Name()}, parts...), "/")
}

// inboundListener: the service's own address; for each tenant that may call one chain, with that tenant's label and roots.
func inboundListener(t tenancy.Tenant, s tenancy.Service, callers []caller) func(xds.Resource) error {
	return func(r xds.Resource) error {
		f, err := readListener(r)
		if err != nil {
			return err
		}
		if !listensFor(f, s.Endpoints()) {
			return at("address", "%s is not where %s/%s is", f.address, t.ID(), s.Name())
		}
		want := map[string]chainFacts{}
		for _, c := range callers {
			routes := name("callers", t, s.Name(), c.t.ID().Name())
			want[routes] = chainFacts{routes: routes, sni: s.SNI(c.t.ID()), bundle: c.t.ID().TrustDomain().ID()}
		}
		for _, c := range f.chains {
			expected, ok := want[c.routes]
			switch {
			case !ok:
				return at("filter_chains", "%s: its callers have no business here", clip(c.routes))
			case c.sni != expected.sni:
				return at("filter_chains", "%s: the label %q is not that of its callers", c.routes, clip(c.sni))
			case c.bundle != expected.bundle:
				return at("filter_chains", "%s: it trusts %q, not %q", c.routes, clip(c.bundle), expected.bundle)
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
		want := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		if f.address != want || f.compat {
			return at("address", "%s, not %s", f.address, want)
		}
		if len(f.chains) != 1 || f.chains[0].routes != name("routes", t, service) {
			return at("filter_chains", "not the routes of %s", service)
		}
		return nil
	}
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

// meshCluster: the identities of the service and no other, by its owner's roots.
func meshCluster(owner identity.TenantID, ids []string, sni string) func(xds.Resource) error {
	return func(r xds.Resource) error {
		f, err := readCluster(r)
		switch {
		case err != nil:
			return err
		case !sameSet(f.sans, ids):
			return at("transport_socket", "pinned to %s, not to %s", list(f.sans), list(ids))
		case f.bundle != owner.TrustDomain().ID():
			return at("transport_socket", "verified by %q, not by %q", clip(f.bundle), owner.TrustDomain().ID())
		case f.sni != sni:
			return at("transport_socket", "the label is %q, not %q", clip(f.sni), sni)
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
		if f.http2 != (port.Protocol == tenancy.GRPC) {
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
