package filters

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ringfence-mesh/ringfence/tenancy"
)

// isTCP reports whether a chain ends in a TCP proxy, so that its listener has to be a TCP service's.
func isTCP(c *listenerv3.FilterChain) bool {
	fs := c.GetFilters()
	return len(fs) > 0 && fs[len(fs)-1].GetName() == tcpProxyName
}

// inboundTCP judges the filters before a TCP service. Guard 1 is in the chain's TLS.
func (l *linter) inboundTCP(c *listenerv3.FilterChain, service, path string) {
	fs := c.GetFilters()
	if !l.need(len(fs) == 2, setChainFilters, path, "%d network filters, not ext_authz and the TCP proxy", len(fs)) {
		return
	}
	at := [...]string{path + ".filters[0]", path + ".filters[1]"}
	l.need(fs[0].GetName() == tcpAuthzName, setChainFilters, at[0], "%q", clip(fs[0].GetName()))
	var authz extauthzv3.ExtAuthz
	if l.unpack(fs[0].GetTypedConfig(), &authz, at[0]) {
		l.need(authz.GetStatPrefix() == "inbound", setStatPrefix, at[0], "%q", clip(authz.GetStatPrefix()))
		l.asks(authz.GetGrpcService(), at[0])
		demand(l, authz.GetTransportApiVersion(), corev3.ApiVersion_V3, setAuthzVersion, at[0])
		l.need(authz.GetIncludePeerCertificate(), setAuthzCertificate, at[0], "the certificate is left out")
	}
	proxy, ok := l.tcpProxy(fs[1], "inbound", at[1])
	if !ok {
		return
	}
	_, parts, ok := l.ownName(proxy.GetCluster(), setTCPTarget, at[1], tenancy.KindApp)
	l.need(!ok || parts[0] == service, setTCPTarget, at[1], "the application of another service")
	mode := proxy.GetUpstreamConnectMode()
	later := mode == tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA || mode == tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	l.need(later, setTCPConnect, at[1], "the application sees connections of whoever has not shown a certificate")
	l.bounded(proxy.GetMaxEarlyDataBytes(), 1, lintEarlyData, setTCPEarly, at[1])
}

// outboundTCP judges the listener for connections to one TCP service: its name says which.
func (l *linter) outboundTCP(m *listenerv3.Listener, parts []string) {
	const path = "filter_chains[0]"
	c := l.loopback(m)
	if c == nil {
		return
	}
	l.need(c.GetName() == m.GetName(), setChainName, path+".name", "%q is not the listener's", clip(c.GetName()))
	if !l.need(len(c.GetFilters()) == 1, setChainFilters, path, "%d network filters", len(c.GetFilters())) {
		return
	}
	proxy, ok := l.tcpProxy(c.GetFilters()[0], "outbound", path+".filters[0]")
	if !ok {
		return
	}
	kind := tenancy.KindImport
	if parts[1] == l.scope.Tenant.Name() {
		kind = tenancy.KindService
	} else {
		l.need(parts[1] == "platform", setName, "name", "a service of %q, which is neither this tenant nor the platform", clip(parts[1]))
	}
	_, to, ok := l.ownName(proxy.GetCluster(), setTCPTarget, path, kind)
	l.need(!ok || to[0] == parts[2], setTCPTarget, path, "%q is another service", clip(proxy.GetCluster()))
	l.need(proxy.GetUpstreamConnectMode() == tcpproxyv3.UpstreamConnectMode_IMMEDIATE, setTCPConnect, path, "it waits for the client")
	l.need(proxy.GetMaxEarlyDataBytes() == nil, setTCPEarly, path, "set where it means nothing")
}

func (l *linter) tcpProxy(f *listenerv3.Filter, prefix, path string) (*tcpproxyv3.TcpProxy, bool) {
	l.need(f.GetName() == tcpProxyName, setChainFilters, path, "%q", clip(f.GetName()))
	proxy := &tcpproxyv3.TcpProxy{}
	if !l.unpack(f.GetTypedConfig(), proxy, path) {
		return nil, false
	}
	l.need(proxy.GetStatPrefix() == prefix, setStatPrefix, path, "%q", clip(proxy.GetStatPrefix()))
	l.limited(proxy.GetIdleTimeout(), lintIdle, setTCPIdle, path)
	l.limited(proxy.GetMaxDownstreamConnectionDuration(), lintConnectionLife, setTCPLife, path)
	return proxy, true
}

// callersSecret judges who may connect to a TCP service: at least one entry, each of which is one identity; or one that
// nobody is.
func (l *linter) callersSecret(v *tlsv3.CertificateValidationContext) {
	const path = "validation_context.match_typed_subject_alt_names"
	sans := v.GetMatchTypedSubjectAltNames()
	l.need(len(sans) > 0, setSecretNames, path, "none: everybody whom the roots vouch for may connect")
	l.exactURIs(sans, path)
}
