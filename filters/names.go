package filters

// Names that the generated configuration and the bootstrap share.
const (
	// AgentCluster is the bootstrap's cluster of the agent's socket: discovery and ext_authz.
	AgentCluster = "ringfence_agent"
	// SPIRECluster, AuthzCluster and ControlPlaneCluster are the bootstrap's clusters where there is no agent: SPIRE's agent, which
	// gives the SVID; the decision point; discovery.
	SPIRECluster        = "spire_agent"
	AuthzCluster        = "ringfence_authz"
	ControlPlaneCluster = "ringfence_control_plane"
	// SVIDSecret is the SDS name of the workload's own key and certificate, as SPIRE names it. Only the agent makes it.
	SVIDSecret = "default"
)

// Envoy's extension names. A filter's name is also the key of its per-route configuration.
const (
	tcpAuthzName      = "envoy.filters.network.ext_authz"
	tcpProxyName      = "envoy.filters.network.tcp_proxy"
	hcmName           = "envoy.filters.network.http_connection_manager"
	rbacName          = "envoy.filters.http.rbac"
	extAuthzName      = "envoy.filters.http.ext_authz"
	routerName        = "envoy.filters.http.router"
	tlsInspectorName  = "envoy.filters.listener.tls_inspector"
	tlsSocketName     = "envoy.transport_sockets.tls"
	headerMutName     = "envoy.http.early_header_mutation.header_mutation"
	mtlsPrincipalName = "envoy.rbac.principals.mtls_authenticated"
	httpProtocolsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	tcpProtocolsName  = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions"
)
