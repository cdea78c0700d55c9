package filters

import (
	"fmt"
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/tcp/v3"

	"github.com/ringfence-mesh/ringfence/tenancy"
)

func (l *linter) cluster(m *clusterv3.Cluster) {
	kind, _, ok := l.resourceName(m.GetName(), "name", tenancy.KindService, tenancy.KindImport, tenancy.KindApp)
	if !ok {
		return
	}
	l.limited(m.GetConnectTimeout(), lintConnect, setConnectTimeout, "connect_timeout")
	l.bounded(m.GetPerConnectionBufferLimitBytes(), 1, lintBuffer, setClusterBuffer, "per_connection_buffer_limit_bytes")
	l.breakers(m.GetCircuitBreakers().GetThresholds())
	if kind == tenancy.KindApp {
		l.appCluster(m)
	} else {
		l.meshCluster(m)
	}
}

func (l *linter) meshCluster(m *clusterv3.Cluster) {
	l.need(m.GetType() == clusterv3.Cluster_EDS && m.GetLoadAssignment() == nil, setClusterType, "type", "not found by EDS")
	l.ads(m.GetEdsClusterConfig().GetEdsConfig(), "eds_cluster_config")
	l.protocol(m, true)
	if l.need(m.GetTransportSocket() != nil, setClusterTLS, "transport_socket", "plaintext to another sidecar") {
		_, tcp := m.GetTypedExtensionProtocolOptions()[tcpProtocolsName]
		l.upstreamTLS(m.GetTransportSocket(), tcp, "transport_socket")
	}
}

func (l *linter) appCluster(m *clusterv3.Cluster) {
	_, explicit := m.GetClusterDiscoveryType().(*clusterv3.Cluster_Type)
	fixed := explicit && m.GetType() == clusterv3.Cluster_STATIC && m.GetEdsClusterConfig() == nil
	l.need(fixed, setClusterType, "type", "not at a fixed address")
	l.protocol(m, false)
	l.need(m.GetTransportSocket() == nil, setClusterTLS, "transport_socket", "the application is spoken to in plaintext")
	assignment := m.GetLoadAssignment()
	l.need(assignment.GetClusterName() == m.GetName(), setInnerName, "load_assignment", "for cluster %q", clip(assignment.GetClusterName()))
	addresses := l.addresses(assignment, "load_assignment")
	local := len(addresses) == 1 && addresses[0].Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1})
	l.need(local, setAppLoopback, "load_assignment", "not one address on 127.0.0.1")
}

func (l *linter) breakers(ts []*clusterv3.CircuitBreakers_Thresholds) {
	const path = "circuit_breakers"
	if !l.need(len(ts) == 1, setBreakers, path, "%d sets of bounds", len(ts)) {
		return
	}
	ok := between(ts[0].GetMaxConnections(), 1, lintBreaker) && between(ts[0].GetMaxPendingRequests(), 1, lintBreaker) &&
		between(ts[0].GetMaxRequests(), 1, lintBreaker) && between(ts[0].GetMaxRetries(), 0, lintBreaker)
	l.need(ok, setBreakers, path, "a bound is missing or too high")
}

func (l *linter) protocol(m *clusterv3.Cluster, mesh bool) {
	const path = "typed_extension_protocol_options"
	options := m.GetTypedExtensionProtocolOptions()
	if packed, tcp := options[tcpProtocolsName]; tcp && len(options) == 1 {
		var o tcpv3.TcpProtocolOptions
		if l.unpack(packed, &o, path) {
			l.limited(o.GetIdleTimeout(), lintIdle, setClusterIdle, path)
		}
		return
	}
	packed, ok := options[httpProtocolsName]
	if !l.need(ok && len(options) == 1, setClusterProtocol, path, "not exactly the HTTP options, or the TCP options") {
		return
	}
	var o upstreamsv3.HttpProtocolOptions
	if !l.unpack(packed, &o, path) {
		return
	}
	common := o.GetCommonHttpProtocolOptions()
	l.limited(common.GetIdleTimeout(), lintIdle, setClusterIdle, path)
	longest := lintConnectionLife
	if mesh {
		longest = lintMeshLife
	}
	l.limited(common.GetMaxConnectionDuration(), longest, setClusterLife, path)
	l.bounded(common.GetMaxHeadersCount(), 1, lintHeadersCount, setClusterHeaders, path)
	none := common.GetMaxStreamDuration() == nil && common.GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_ALLOW
	l.need(none, setClusterProtocol, path, "options that are for requests from outside")
	explicit := o.GetExplicitHttpConfig()
	switch {
	case explicit.GetHttp2ProtocolOptions() != nil:
		l.http2(explicit.GetHttp2ProtocolOptions(), path)
	case explicit.GetHttpProtocolOptions() != nil && !mesh:
	default:
		l.reportf(setClusterProtocol, path, "not the protocol that is spoken here")
	}
}

func (l *linter) endpoints(m *endpointv3.ClusterLoadAssignment) {
	if _, _, ok := l.resourceName(m.GetClusterName(), "cluster_name", tenancy.KindService, tenancy.KindImport); ok {
		l.addresses(m, "")
	}
}

// addresses judges and returns every endpoint's address.
func (l *linter) addresses(m *endpointv3.ClusterLoadAssignment, path string) []netip.AddrPort {
	var out []netip.AddrPort
	for i, locality := range m.GetEndpoints() {
		for j, e := range locality.GetLbEndpoints() {
			at := join(path, fmt.Sprintf("endpoints[%d].lb_endpoints[%d]", i, j))
			a, ok := address(e.GetEndpoint().GetAddress())
			if l.need(ok && reachable(a.Addr()), setEndpointAddress, at, "not an IP address and a port that an endpoint may have") {
				out = append(out, a)
			}
		}
	}
	return out
}
