package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

const (
	serverConnectTimeout = 5 * time.Second
	// A dead server is noticed by its silence. Both servers take pings that often.
	keepaliveInterval = 30 * time.Second
	keepaliveTimeout  = 10 * time.Second
	// connectionShare is how many connections fit into the life of an SVID, one after the other.
	connectionShare = 4
	minSVIDTTL      = 20 * time.Second

	// noSPIFFEValidator asks SPIRE's agent for roots as Envoy's default validator takes them; its own is not hardened.
	noSPIFFEValidator = "disable_spiffe_cert_validation"
)

// DirectConfig is what an Envoy has to know that has SPIRE's agent beside it, and not Ringfence's.
type DirectConfig struct {
	// Workload is who the Envoy is: SPIRE's agent gives it the SVID of that name, and nobody takes its word for it.
	Workload identity.SPIFFEID
	// SPIRESocket is the path of the Unix socket of SPIRE's agent.
	SPIRESocket string
	// ControlPlane serves the configuration, Authz decides the calls.
	ControlPlane, Authz Server
	// StateOfTheWorld asks for configuration by that form of the protocol; incrementally where it is not set.
	StateOfTheWorld bool
	// SVIDTTL is how long SVIDs of SPIRE's live. A server looks at the SVID when a connection is made and refuses it once it has
	// ended, so a connection to one is used for a quarter of that, at most as long as one to another sidecar.
	SVIDTTL time.Duration
	// AdminSocket is the path where Envoy opens its admin interface, mode 0600; empty: there is none.
	AdminSocket string
	// MaxConnections and MaxHeapBytes are those of BootstrapConfig.
	MaxConnections uint32
	MaxHeapBytes   uint64
}

// Server is a server of Ringfence's as an Envoy knows it.
type Server struct {
	// Host is an IP address, or a name that Envoy resolves again and again; Port is not 0.
	Host string
	Port uint16
	// ID is who it must be.
	ID identity.SPIFFEID
	// Roots vouch for it. Where they are zero, SPIRE's agent gives those of the ID's trust domain.
	Roots identity.Bundle
}

// DirectBootstrap is the start configuration of a sidecar without an agent, as JSON: where Bootstrap names the agent, it names
// SPIRE's agent, the control plane and the decision point.
func DirectBootstrap(c DirectConfig) ([]byte, error) {
	if c.Workload.IsZero() {
		return nil, errors.New("bootstrap: Envoy needs the SPIFFE ID of its workload")
	}
	if c.SVIDTTL < minSVIDTTL {
		return nil, fmt.Errorf("bootstrap: SVIDs that live for %v leave no time to replace a connection: %v is the least", c.SVIDTTL, minSVIDTTL)
	}
	if err := socketPath(c.SPIRESocket); err != nil {
		return nil, err
	}
	spire, err := socketCluster(filters.SPIRECluster, c.SPIRESocket)
	if err != nil {
		return nil, err
	}
	plane, err := c.server(filters.ControlPlaneCluster, "control plane", c.ControlPlane)
	if err != nil {
		return nil, err
	}
	authz, err := c.server(filters.AuthzCluster, "decision point", c.Authz)
	if err != nil {
		return nil, err
	}
	overload, err := overloadManager(c.MaxConnections, c.MaxHeapBytes)
	if err != nil {
		return nil, err
	}
	kind := corev3.ApiConfigSource_DELTA_GRPC
	if c.StateOfTheWorld {
		kind = corev3.ApiConfigSource_GRPC
	}
	m := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{
			Id: c.Workload.String(), Cluster: c.Workload.TrustDomain().String(),
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{noSPIFFEValidator: structpb.NewBoolValue(true)}},
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{spire, plane, authz}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: adsSource(kind, filters.ControlPlaneCluster),
			CdsConfig: filters.ADS(),
			LdsConfig: filters.ADS(),
		},
		LayeredRuntime:  staticRuntime(),
		OverloadManager: overload,
		StatsConfig:     smallStats(),
	}
	if c.AdminSocket != "" {
		if err := socketPath(c.AdminSocket); err != nil {
			return nil, err
		}
		m.Admin = &bootstrapv3.Admin{Address: pipe(c.AdminSocket, adminSocketMode), IgnoreGlobalConnLimit: true}
	}
	return stableJSON(m)
}

// server is the cluster of one server: mutual TLS with the workload's SVID, to exactly that identity.
func (c DirectConfig) server(name, what string, s Server) (*clusterv3.Cluster, error) {
	if s.ID.IsZero() {
		return nil, fmt.Errorf("bootstrap: the SPIFFE ID of the %s is missing: any server would do", what)
	}
	if !s.Roots.IsZero() && s.Roots.TrustDomain() != s.ID.TrustDomain() {
		return nil, fmt.Errorf("bootstrap: the roots of the %s are of %s, and it is %s", what, s.Roots.TrustDomain(), s.ID)
	}
	if s.Host == "" || s.Port == 0 {
		return nil, fmt.Errorf("bootstrap: the address of the %s is missing", what)
	}
	transport, err := anypb.New(&tlsv3.UpstreamTlsContext{CommonTlsContext: c.serverTLS(s), MaxSessionKeys: wrapperspb.UInt32(0)})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	life := min(c.SVIDTTL/connectionShare, tenancy.MaxConnectionLife)
	options, err := http2Options(&upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{MaxConnectionDuration: durationpb.New(life)},
	}, &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
		Interval: durationpb.New(keepaliveInterval), Timeout: durationpb.New(keepaliveTimeout),
	}})
	if err != nil {
		return nil, err
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(s.Host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:                durationpb.New(serverConnectTimeout),
		TypedExtensionProtocolOptions: options,
		LoadAssignment:                oneEndpoint(name, hostAddress(s.Host, s.Port)),
		TransportSocket: &corev3.TransportSocket{
			Name:       "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: transport},
		},
	}, nil
}

func (c DirectConfig) serverTLS(s Server) *tlsv3.CommonTlsContext {
	peer := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
		SanType: tlsv3.SubjectAltNameMatcher_URI,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s.ID.String()}},
	}}}
	common := &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{filters.SPIRESecret(c.Workload.String())},
		AlpnProtocols:                  []string{"h2"},
	}
	if !s.Roots.IsZero() {
		peer.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(s.Roots.PEM())}}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: peer}
		return common
	}
	common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         peer,
			ValidationContextSdsSecretConfig: filters.SPIRESecret(s.ID.TrustDomain().ID()),
		},
	}
	return common
}

func oneEndpoint(cluster string, a *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
		}}}},
	}
}
