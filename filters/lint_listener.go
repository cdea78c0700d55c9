package filters

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/ringfence-mesh/ringfence/tenancy"
)

func (l *linter) listener(m *listenerv3.Listener) {
	kind, parts, ok := l.resourceName(m.GetName(), "name", tenancy.KindInbound, tenancy.KindOutbound, tenancy.KindTCP)
	if !ok {
		return
	}
	l.need(m.GetEnableReusePort() != nil && !m.GetEnableReusePort().GetValue(), setReusePort, "enable_reuse_port", "the port is shared")
	l.bounded(m.GetPerConnectionBufferLimitBytes(), 1, lintBuffer, setListenerBuffer, "per_connection_buffer_limit_bytes")
	switch kind {
	case tenancy.KindInbound:
		l.inbound(m, parts[0])
	case tenancy.KindTCP:
		l.outboundTCP(m, parts)
	default:
		l.outbound(m, parts[0])
	}
}

func (l *linter) inbound(m *listenerv3.Listener, service string) {
	a, ok := address(m.GetAddress())
	ok = ok && (a.Addr().IsUnspecified() || reachable(a.Addr()))
	l.need(ok, setListenerAddress, "address", "not an IP address and a port to listen on")
	demand(l, m.GetTrafficDirection(), corev3.TrafficDirection_INBOUND, setDirection, "traffic_direction")
	l.limited(m.GetListenerFiltersTimeout(), lintHandshake, setInspectorTimeout, "listener_filters_timeout")
	l.inspector(m.GetListenerFilters())
	l.need(len(m.GetFilterChains()) > 0, setChains, "filter_chains", "none")
	names, labels := map[string]bool{}, map[string]bool{}
	tcp := len(m.GetFilterChains()) > 0 && isTCP(m.GetFilterChains()[0])
	for i, c := range m.GetFilterChains() {
		path := fmt.Sprintf("filter_chains[%d]", i)
		l.chainName(c, tenancy.KindCallers, service, names, path)
		l.epoch(c, path)
		match := c.GetFilterChainMatch()
		if l.need(len(match.GetServerNames()) == 1, setSNI, path, "%d SNI labels", len(match.GetServerNames())) {
			label := match.GetServerNames()[0]
			l.need(hostName(label), setSNI, path, "%q is no whole label", clip(label))
			l.need(!labels[label], setSNI, path, "another chain has the label %q", clip(label))
			labels[label] = true
		}
		l.need(match.GetTransportProtocol() == "tls", setTransportProtocol, path, "%q", clip(match.GetTransportProtocol()))
		l.limited(c.GetTransportSocketConnectTimeout(), lintHandshake, setHandshakeTimeout, path)
		if tcp {
			l.downstreamTLS(c.GetTransportSocket(), c.GetName(), path+".transport_socket")
			l.inboundTCP(c, service, path)
			continue
		}
		l.downstreamTLS(c.GetTransportSocket(), "", path+".transport_socket")
		l.manager(c, path, func(h *hcmv3.HttpConnectionManager, path string) {
			demand(l, h.GetCodecType(), hcmv3.HttpConnectionManager_HTTP2, setCodec, path)
			l.need(h.GetStatPrefix() == "inbound", setStatPrefix, path, "%q", clip(h.GetStatPrefix()))
			l.inboundFilters(h.GetHttpFilters(), path)
		})
	}
}

func (l *linter) outbound(m *listenerv3.Listener, service string) {
	const path = "filter_chains[0]"
	c := l.loopback(m)
	if c == nil {
		return
	}
	l.chainName(c, tenancy.KindRoutes, service, map[string]bool{}, path)
	l.manager(c, path, func(h *hcmv3.HttpConnectionManager, path string) {
		demand(l, h.GetCodecType(), hcmv3.HttpConnectionManager_AUTO, setCodec, path)
		l.need(h.GetStatPrefix() == "outbound", setStatPrefix, path, "%q", clip(h.GetStatPrefix()))
		l.outboundFilters(h.GetHttpFilters(), path)
	})
}

// loopback judges a listener for the application's own calls, and returns its one chain.
func (l *linter) loopback(m *listenerv3.Listener) *listenerv3.FilterChain {
	a, ok := address(m.GetAddress())
	l.need(ok && a.Addr().IsLoopback(), setListenerAddress, "address", "not an IP address on loopback and a port")
	demand(l, m.GetTrafficDirection(), corev3.TrafficDirection_OUTBOUND, setDirection, "traffic_direction")
	none := len(m.GetListenerFilters()) == 0 && m.GetListenerFiltersTimeout() == nil
	l.need(none, setInspector, "listener_filters", "an outbound listener has none")
	if !l.need(len(m.GetFilterChains()) == 1, setChains, "filter_chains", "%d of them", len(m.GetFilterChains())) {
		return nil
	}
	c := m.GetFilterChains()[0]
	l.epoch(c, "filter_chains[0]")
	bare := c.GetFilterChainMatch() == nil && c.GetTransportSocket() == nil && c.GetTransportSocketConnectTimeout() == nil
	l.need(bare, setChains, "filter_chains[0]", "a match or a transport socket")
	return c
}

func (l *linter) epoch(c *listenerv3.FilterChain, path string) {
	l.need(c.GetMetadata() == nil || ChainEpoch(c) != "", setChainEpoch, path+".metadata", "no epoch, or something beside it")
}

// chainName judges the name of a chain, which is that of its route configuration: of this listener's service.
func (l *linter) chainName(c *listenerv3.FilterChain, kind tenancy.Kind, service string, seen map[string]bool, path string) {
	_, parts, ok := l.ownName(c.GetName(), setChainName, path+".name", kind)
	if ok {
		l.need(parts[0] == service, setChainName, path+".name", "%q is of another service", clip(c.GetName()))
	}
	l.need(!seen[c.GetName()], setChainName, path+".name", "another chain is called %q", clip(c.GetName()))
	seen[c.GetName()] = true
}

func (l *linter) inspector(fs []*listenerv3.ListenerFilter) {
	const path = "listener_filters"
	if !l.need(len(fs) == 1, setInspector, path, "%d listener filters", len(fs)) {
		return
	}
	l.need(fs[0].GetName() == tlsInspectorName, setExtName, path, "%q", clip(fs[0].GetName()))
	var c inspectorv3.TlsInspector
	if l.unpack(fs[0].GetTypedConfig(), &c, path) {
		l.need(c.GetCloseConnectionOnClientHelloParsingErrors(), setInspector, path, "what is no TLS is taken for plaintext")
	}
}

// manager judges that a chain is one connection manager, and what both directions demand of it.
func (l *linter) manager(c *listenerv3.FilterChain, path string, direction func(*hcmv3.HttpConnectionManager, string)) {
	if !l.need(len(c.GetFilters()) == 1, setChainFilters, path, "%d network filters", len(c.GetFilters())) {
		return
	}
	f := c.GetFilters()[0]
	path += ".filters[0]"
	l.need(f.GetName() == hcmName, setExtName, path, "%q", clip(f.GetName()))
	var h hcmv3.HttpConnectionManager
	if !l.unpack(f.GetTypedConfig(), &h, path) {
		return
	}
	l.need(h.GetRds().GetRouteConfigName() == c.GetName(), setRDS, path, "the routes are %q", clip(h.GetRds().GetRouteConfigName()))
	l.ads(h.GetRds().GetConfigSource(), path+".rds")
	l.managerSettings(&h, path)
	direction(&h, path)
}
