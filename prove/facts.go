package prove

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// What a resource says about whose it is. The linter has judged its shape before, so these readers look only for that.
type (
	listenerFacts struct {
		address netip.AddrPort
		compat  bool // IPv4 on the unspecified IPv6 address
		chains  []chainFacts
	}
	chainFacts struct {
		epoch  string
		routes string // the name of the route configuration; of a TCP service's chain, of the secret with its callers
		sni    string
		bundle string // the SDS name
		tcp    tcpFacts
	}
	tcpFacts struct {
		cluster     string // empty: the chain takes requests
		serverFirst bool   // the application may send before the client does
	}
	callersFacts struct {
		principals    []string
		service, port string // of the check context
		app           string // the cluster
		dropsToken    bool
		stream        time.Duration
	}
	hostFacts struct {
		hosts   []string
		cluster string // empty: the refusal
	}
	clusterFacts struct {
		sans        []string
		sni, bundle string
		addresses   []netip.AddrPort
		http2, tcp  bool
	}
)

var errShape = errors.New("not the shape that was linted")

func decode[M proto.Message](r xds.Resource, m M) error {
	if err := proto.Unmarshal(r.Value(), m); err != nil {
		return fmt.Errorf("%w: %w", errShape, err)
	}
	return nil
}

func readListener(r xds.Resource) (listenerFacts, error) {
	var m listenerv3.Listener
	if err := decode(r, &m); err != nil {
		return listenerFacts{}, err
	}
	f := listenerFacts{compat: m.GetAddress().GetSocketAddress().GetIpv4Compat()}
	var err error
	if f.address, err = readAddress(m.GetAddress()); err != nil {
		return listenerFacts{}, err
	}
	for _, c := range m.GetFilterChains() {
		chain := chainFacts{routes: c.GetName(), epoch: filters.ChainEpoch(c)}
		if socket := c.GetTransportSocket(); socket != nil {
			var tls tlsv3.DownstreamTlsContext
			if err := socket.GetTypedConfig().UnmarshalTo(&tls); err != nil {
				return listenerFacts{}, fmt.Errorf("%w: %w", errShape, err)
			}
			chain.bundle = bundleName(tls.GetCommonTlsContext())
		}
		if names := c.GetFilterChainMatch().GetServerNames(); len(names) > 0 {
			chain.sni = names[0]
		}
		if chain.tcp, err = readTCP(c); err != nil {
			return listenerFacts{}, err
		}
		f.chains = append(f.chains, chain)
	}
	return f, nil
}

// readTCP reads the TCP proxy of a chain, which is the last filter where there is one.
func readTCP(c *listenerv3.FilterChain) (tcpFacts, error) {
	fs := c.GetFilters()
	var m tcpproxyv3.TcpProxy
	if len(fs) == 0 || !fs[len(fs)-1].GetTypedConfig().MessageIs(&m) {
		return tcpFacts{}, nil
	}
	if err := fs[len(fs)-1].GetTypedConfig().UnmarshalTo(&m); err != nil {
		return tcpFacts{}, fmt.Errorf("%w: %w", errShape, err)
	}
	return tcpFacts{
		cluster: m.GetCluster(), serverFirst: m.GetUpstreamConnectMode() != tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA,
	}, nil
}

func readCallers(r xds.Resource) (callersFacts, error) {
	var m routev3.RouteConfiguration
	if err := decode(r, &m); err != nil {
		return callersFacts{}, err
	}
	f := callersFacts{dropsToken: len(m.GetRequestHeadersToRemove()) > 0}
	var guard1 rbacv3.RBACPerRoute
	var guard2 extauthzv3.ExtAuthzPerRoute
	err := errors.Join(
		m.GetTypedPerFilterConfig()["envoy.filters.http.rbac"].UnmarshalTo(&guard1),
		m.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"].UnmarshalTo(&guard2),
	)
	if err != nil || len(m.GetVirtualHosts()) != 1 || len(m.GetVirtualHosts()[0].GetRoutes()) != 1 {
		return callersFacts{}, fmt.Errorf("%w: %w", errShape, err)
	}
	for _, p := range guard1.GetRbac().GetRules().GetPolicies() {
		for _, principal := range p.GetPrincipals() {
			var c mtlsv3.Config
			if err := principal.GetCustom().GetTypedConfig().UnmarshalTo(&c); err != nil {
				return callersFacts{}, fmt.Errorf("%w: %w", errShape, err)
			}
			f.principals = append(f.principals, c.GetSanMatcher().GetMatcher().GetExact())
		}
	}
	context := guard2.GetCheckSettings().GetContextExtensions()
	f.service, f.port = context["service"], context["port"]
	action := m.GetVirtualHosts()[0].GetRoutes()[0].GetRoute()
	f.app, f.stream = action.GetCluster(), action.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration()
	return f, nil
}

func readHosts(r xds.Resource) ([]hostFacts, error) {
	var m routev3.RouteConfiguration
	if err := decode(r, &m); err != nil {
		return nil, err
	}
	var hosts []hostFacts
	for _, h := range m.GetVirtualHosts() {
		if len(h.GetRoutes()) != 1 {
			return nil, errShape
		}
		hosts = append(hosts, hostFacts{hosts: h.GetDomains(), cluster: h.GetRoutes()[0].GetRoute().GetCluster()})
	}
	return hosts, nil
}

func readCluster(r xds.Resource) (clusterFacts, error) {
	var m clusterv3.Cluster
	if err := decode(r, &m); err != nil {
		return clusterFacts{}, err
	}
	var f clusterFacts
	_, f.tcp = m.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions"]
	var protocol upstreamsv3.HttpProtocolOptions
	if f.tcp {
		// nothing in them tells one service from another
	} else if err := m.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].UnmarshalTo(&protocol); err != nil {
		return clusterFacts{}, fmt.Errorf("%w: %w", errShape, err)
	}
	f.http2 = protocol.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil
	if socket := m.GetTransportSocket(); socket != nil {
		var tls tlsv3.UpstreamTlsContext
		if err := socket.GetTypedConfig().UnmarshalTo(&tls); err != nil {
			return clusterFacts{}, fmt.Errorf("%w: %w", errShape, err)
		}
		f.sni, f.bundle = tls.GetSni(), bundleName(tls.GetCommonTlsContext())
		pinned := tls.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext()
		for _, san := range pinned.GetMatchTypedSubjectAltNames() {
			f.sans = append(f.sans, san.GetMatcher().GetExact())
		}
	}
	var err error
	f.addresses, err = readAssignment(m.GetLoadAssignment())
	return f, err
}

func readEndpoints(r xds.Resource) ([]netip.AddrPort, error) {
	var m endpointv3.ClusterLoadAssignment
	if err := decode(r, &m); err != nil {
		return nil, err
	}
	return readAssignment(&m)
}

func readAssignment(m *endpointv3.ClusterLoadAssignment) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, locality := range m.GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			a, err := readAddress(e.GetEndpoint().GetAddress())
			if err != nil {
				return nil, err
			}
			out = append(out, a)
		}
	}
	return out, nil
}

func readAddress(a *corev3.Address) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(a.GetSocketAddress().GetAddress())
	port := a.GetSocketAddress().GetPortValue()
	if err != nil || port > 65_535 {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errShape, err)
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

// readSecret is the PEM text of a secret's roots, and the callers that it lists.
func readSecret(r xds.Resource) (roots []byte, callers []string, err error) {
	var m tlsv3.Secret
	if err := decode(r, &m); err != nil {
		return nil, nil, err
	}
	for _, san := range m.GetValidationContext().GetMatchTypedSubjectAltNames() {
		callers = append(callers, san.GetMatcher().GetExact())
	}
	return m.GetValidationContext().GetTrustedCa().GetInlineBytes(), callers, nil
}

// nobody is how a secret and a cluster say that none of those whom the roots vouch for will do.
const nobody = "ringfence:nobody"

func bundleName(c *tlsv3.CommonTlsContext) string {
	return c.GetCombinedValidationContext().GetValidationContextSdsSecretConfig().GetName()
}

// nameOf takes the name of a resource apart. The linter has seen to it that it is one.
func nameOf(name string) (kind tenancy.Kind, service, caller string) {
	kind, _, parts, err := tenancy.ParseResourceName(name)
	if err != nil || len(parts) == 0 {
		return "", "", ""
	}
	if len(parts) > 1 {
		caller = parts[1]
	}
	return kind, parts[0], caller
}

// hostOf reports whether a host of the outbound proxy is a name of that service: SERVICE or SERVICE.OWNER.mesh.
func hostOf(host, service, owner string) bool {
	return host == service || host == strings.Join([]string{service, owner, "mesh"}, ".")
}
