package filters

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
)

// InboundTCP is what one tenant's callers meet at a TCP service.
type InboundTCP struct {
	Sidecar Sidecar
	Name    string // of the chain, and of the secret that brings roots and callers
	SNI     string // the label that its callers send
	App     string // the application's cluster
	// ServerFirst lets the application send before the client does.
	ServerFirst bool
}

// InboundTCPChain is the filter chain for the callers that send the label. Guard 1 is the handshake: mutual TLS with exact
// identities, which come with the roots in one secret, so a changed caller changes no listener. Guard 2 asks the decision point with
// the client's first byte.
//
// The application sees no connection before guard 1 has passed, and where the client speaks first none before guard 2 has.
// Where the server speaks first, its greeting comes before guard 2.
func InboundTCPChain(c InboundTCP) (*listenerv3.FilterChain, error) {
	if c.Name == "" || c.SNI == "" {
		return nil, errNoCaller
	}
	if c.App == "" {
		return nil, errNoService
	}
	socket, err := downstreamTLS(c.Sidecar, c.Name)
	if err != nil {
		return nil, err
	}
	proxy := tcpProxy("inbound", c.App)
	proxy.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
	if c.ServerFirst {
		proxy.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	}
	proxy.MaxEarlyDataBytes = number(maxEarlyData)
	filters, err := networkFilters(networkFilter{tcpAuthzName, tcpExtAuthz(c.Sidecar)}, networkFilter{tcpProxyName, proxy})
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{
		Name:                          c.Name,
		FilterChainMatch:              &listenerv3.FilterChainMatch{ServerNames: []string{c.SNI}, TransportProtocol: "tls"},
		TransportSocket:               socket,
		TransportSocketConnectTimeout: seconds(handshakeTimeout),
		Filters:                       filters,
	}, nil
}

// OutboundTCPChain takes the application's own connections to one TCP service, from loopback.
func OutboundTCPChain(name, cluster string) (*listenerv3.FilterChain, error) {
	if name == "" || cluster == "" {
		return nil, errNoService
	}
	filters, err := networkFilters(networkFilter{tcpProxyName, tcpProxy("outbound", cluster)})
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{Name: name, Filters: filters}, nil
}

type networkFilter struct {
	name   string
	config proto.Message
}

func networkFilters(order ...networkFilter) ([]*listenerv3.Filter, error) {
	var out []*listenerv3.Filter
	for _, f := range order {
		config, err := pack(f.config)
		if err != nil {
			return nil, err
		}
		out = append(out, &listenerv3.Filter{Name: f.name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}})
	}
	return out, nil
}

// tcpExtAuthz is guard 2 of a TCP service. No answer, a late one or an error closes the connection. The filter can write
// no context: where Envoy took the connection tells the destination.
func tcpExtAuthz(s Sidecar) *extauthzv3.ExtAuthz {
	return &extauthzv3.ExtAuthz{
		StatPrefix:             "inbound",
		TransportApiVersion:    corev3.ApiVersion_V3,
		GrpcService:            ask(s),
		IncludePeerCertificate: true,
	}
}

func tcpProxy(prefix, cluster string) *tcpproxyv3.TcpProxy {
	return &tcpproxyv3.TcpProxy{
		StatPrefix:                      prefix,
		ClusterSpecifier:                &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster},
		IdleTimeout:                     seconds(tcpIdle),
		MaxDownstreamConnectionDuration: seconds(connectionLife),
	}
}

// CallersSecret is the SDS secret of one chain of a TCP service: the roots of the callers' trust domain, and exactly who of
// them may connect. Without callers nobody may.
func CallersSecret(name string, roots identity.Bundle, ids []identity.WorkloadID) (*tlsv3.Secret, error) {
	if roots.IsZero() {
		return nil, errNoBundle
	}
	if name == "" {
		return nil, errNoCaller
	}
	sans, err := exactURIs(ids)
	if err != nil {
		return nil, err
	}
	validation := trusted(roots)
	validation.MatchTypedSubjectAltNames = sans
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: validation}}, nil
}
