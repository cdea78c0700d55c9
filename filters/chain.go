package filters

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
)

// RefusalBody is the body of every refusal that Envoy itself makes; the decision point writes the same text, so no answer
// tells which of the two refused.
const (
	RefusalBody        = `{"type":"about:blank","title":"request refused","status":%RESPONSE_CODE%}`
	RefusalContentType = "application/problem+json"
)

type httpFilter struct {
	name   string
	config proto.Message
}

// inboundFilters is the one order of the filters in front of a service. Guard 1 comes first: it needs nobody's answer.
// Guard 2 follows. Nothing stands between it and the router, so nothing changes a request after the decision.
func inboundFilters(s Sidecar) []httpFilter {
	return []httpFilter{
		{rbacName, denyAll()},
		{extAuthzName, extAuthz(s)},
		{routerName, router()},
	}
}

// outboundFilters is the same for the application's own calls, which the destination judges.
func outboundFilters() []httpFilter {
	return []httpFilter{
		{routerName, router()},
	}
}

// router keeps Envoy's x-envoy- headers out of requests and answers.
func router() *routerv3.Router { return &routerv3.Router{SuppressEnvoyHeaders: true} }

// InboundChain is the filter chain for the callers that send the SNI label: mutual TLS against the bundle of their trust
// domain, and the two guards. routes names its route configuration, which brings the callers.
func InboundChain(s Sidecar, sni string, callers identity.TrustDomain, routes string) (*listenerv3.FilterChain, error) {
	if sni == "" {
		return nil, errNoCaller
	}
	socket, err := DownstreamTLS(s, callers)
	if err != nil {
		return nil, err
	}
	manager := connectionManager("inbound", routes)
	manager.CodecType = hcmv3.HttpConnectionManager_HTTP2
	filter, err := managerFilter(manager, inboundFilters(s))
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{
		Name:                          routes,
		FilterChainMatch:              &listenerv3.FilterChainMatch{ServerNames: []string{sni}, TransportProtocol: "tls"},
		TransportSocket:               socket,
		TransportSocketConnectTimeout: seconds(handshakeTimeout),
		Filters:                       []*listenerv3.Filter{filter},
	}, nil
}

// OutboundChain takes the application's own calls, in plaintext from loopback, as an HTTP proxy.
func OutboundChain(routes string) (*listenerv3.FilterChain, error) {
	manager := connectionManager("outbound", routes)
	manager.CodecType = hcmv3.HttpConnectionManager_AUTO
	filter, err := managerFilter(manager, outboundFilters())
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{Name: routes, Filters: []*listenerv3.Filter{filter}}, nil
}

// InboundListener is the listener of a service's sidecar, without its chains and its address. A connection without TLS, or
// without a label that a chain has, is closed: there is no default chain.
func InboundListener(name string) (*listenerv3.Listener, error) {
	inspector, err := pack(&inspectorv3.TlsInspector{CloseConnectionOnClientHelloParsingErrors: true})
	if err != nil {
		return nil, err
	}
	l := listener(name, corev3.TrafficDirection_INBOUND)
	l.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name:       tlsInspectorName,
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspector},
	}}
	l.ListenerFiltersTimeout = seconds(inspectTimeout)
	return l, nil
}

// OutboundListener is the listener for the application's own calls, without its chain and its address.
func OutboundListener(name string) *listenerv3.Listener {
	return listener(name, corev3.TrafficDirection_OUTBOUND)
}

// listener has no SO_REUSEPORT: with it another process of the same user could take connections of an open port.
func listener(name string, direction corev3.TrafficDirection) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                          name,
		TrafficDirection:              direction,
		PerConnectionBufferLimitBytes: number(connectionBuffer),
		EnableReusePort:               no(),
	}
}

// connectionManager has every setting that both directions share. Requests are brought into one form before anything
// reads them, and what has more than one reading is refused.
func connectionManager(prefix, routes string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: prefix,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: ADS(), RouteConfigName: routes,
		}},
		CommonHttpProtocolOptions:    serverProtocol(),
		Http2ProtocolOptions:         http2(),
		MaxRequestHeadersKb:          number(maxRequestHeadersKB),
		RequestHeadersTimeout:        seconds(headersTimeout),
		StreamIdleTimeout:            seconds(streamIdle),
		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		UseRemoteAddress:             yes(),
		SkipXffAppend:                true,
		InternalAddressConfig:        nothingInternal(),
		ForwardClientCertDetails:     hcmv3.HttpConnectionManager_SANITIZE,
		NormalizePath:                yes(),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		StripPortMode:                &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
		StripTrailingHostDot:         true,
		LocalReplyConfig:             uniformRefusal(),
	}
}

func managerFilter(m *hcmv3.HttpConnectionManager, order []httpFilter) (*listenerv3.Filter, error) {
	if m.GetRds().GetRouteConfigName() == "" {
		return nil, errNoRoutes
	}
	early, err := extension(headerMutName, stripForged())
	if err != nil {
		return nil, err
	}
	m.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{early}
	for _, f := range order {
		config, err := pack(f.config)
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.GetHttpFilters(), &hcmv3.HttpFilter{
			Name: f.name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config},
		})
	}
	config, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: hcmName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}, nil
}

// nothingInternal makes no address internal. Envoy's default, and an empty message, make private and loopback addresses
// internal, whose x-envoy- headers are believed.
func nothingInternal() *hcmv3.HttpConnectionManager_InternalAddressConfig {
	return &hcmv3.HttpConnectionManager_InternalAddressConfig{
		CidrRanges: []*corev3.CidrRange{{AddressPrefix: "255.255.255.255", PrefixLen: number(32)}},
	}
}

// stripForged removes what a client may not say, before any filter reads it.
func stripForged() *earlyv3.HeaderMutation {
	prefix := func(p string) *mutationv3.HeaderMutation {
		return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: p}},
			},
		}}
	}
	return &earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{
		prefix("x-ringfence-"),
		prefix("x-envoy-"),
		{Action: &mutationv3.HeaderMutation_Remove{Remove: "x-forwarded-for"}},
	}}
}

// uniformRefusal gives every answer that Envoy makes itself one body.
func uniformRefusal() *hcmv3.LocalReplyConfig {
	return &hcmv3.LocalReplyConfig{BodyFormat: &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: RefusalBody},
		}},
		ContentType: RefusalContentType,
	}}
}
