package filters

import "slices"

// Setting is one thing that the linter demands of the generated configuration.
type Setting struct {
	// ID names the setting in a Finding.
	ID string
	// Text says what is demanded, and why where it is not plain.
	Text string
}

// The settings' IDs.
const (
	setScope      = "scope"
	setType       = "type"
	setSize       = "size"
	setBytes      = "bytes"
	setUnknown    = "unknown_field"
	setClosed     = "closed_list"
	setEnum       = "enum"
	setAny        = "any"
	setName       = "resource_name"
	setInnerName  = "inner_name"
	setExtName    = "extension_name"
	setADS        = "config_source"
	setSDSTimeout = "sds_initial_fetch_timeout"
	setSPIRE      = "sds_spire"

	setListenerAddress   = "listener_address"
	setDirection         = "listener_direction"
	setReusePort         = "listener_reuse_port"
	setListenerBuffer    = "listener_buffer"
	setInspector         = "listener_tls_inspector"
	setInspectorTimeout  = "listener_filters_timeout"
	setChains            = "listener_chains"
	setChainName         = "chain_name"
	setChainEpoch        = "chain_epoch"
	setSNI               = "chain_sni"
	setTransportProtocol = "chain_transport_protocol"
	setChainFilters      = "chain_filters"
	setChainTLS          = "chain_tls"
	setHandshakeTimeout  = "chain_handshake_timeout"

	setTLSVersion      = "tls_version"
	setALPN            = "tls_alpn"
	setOwnCertificate  = "tls_own_certificate"
	setBundle          = "tls_bundle"
	setClientCert      = "tls_require_client_certificate"
	setStateless       = "tls_no_stateless_resumption"
	setStateful        = "tls_no_stateful_resumption"
	setClientCAList    = "tls_suppress_client_ca_list"
	setDownstreamSANs  = "tls_downstream_sans"
	setUpstreamSANs    = "tls_upstream_sans"
	setUpstreamSNI     = "tls_upstream_sni"
	setUpstreamSession = "tls_upstream_sessions"
	setExactIdentity   = "exact_identity"

	setCodec             = "hcm_codec"
	setRDS               = "hcm_rds"
	setStatPrefix        = "hcm_stat_prefix"
	setNormalizePath     = "hcm_normalize_path"
	setMergeSlashes      = "hcm_merge_slashes"
	setEscapedSlashes    = "hcm_escaped_slashes"
	setUnderscores       = "hcm_headers_with_underscores"
	setStripPort         = "hcm_strip_port"
	setStripDot          = "hcm_strip_trailing_dot"
	setXFCC              = "hcm_forward_client_cert"
	setInternal          = "hcm_internal_addresses"
	setRemoteAddress     = "hcm_remote_address"
	setXFF               = "hcm_x_forwarded_for"
	setEarlyMutation     = "hcm_early_header_mutation"
	setLocalReply        = "hcm_local_reply"
	setServerHeader      = "hcm_server_header"
	setHeadersKB         = "hcm_request_headers_kb"
	setHeadersCount      = "hcm_headers_count"
	setHeadersTimeout    = "hcm_request_headers_timeout"
	setStreamIdle        = "hcm_stream_idle_timeout"
	setIdle              = "hcm_idle_timeout"
	setConnectionLife    = "hcm_max_connection_duration"
	setStreamLife        = "hcm_max_stream_duration"
	setHTTP2Streams      = "http2_max_concurrent_streams"
	setHTTP2StreamWindow = "http2_stream_window"
	setHTTP2Window       = "http2_connection_window"
	setFilterOrder       = "hcm_filter_order"

	setRBACBase       = "rbac_base_denies"
	setRBACPresent    = "rbac_per_route_present"
	setRBACAction     = "rbac_action"
	setRBACPolicy     = "rbac_policy"
	setRBACPermission = "rbac_permission"
	setRBACPrincipal  = "rbac_principal"

	setAuthzCluster      = "ext_authz_cluster"
	setAuthzVersion      = "ext_authz_api_version"
	setAuthzTimeout      = "ext_authz_timeout"
	setAuthzStatus       = "ext_authz_status_on_error"
	setAuthzDeny         = "ext_authz_deny_at_disable"
	setAuthzCertificate  = "ext_authz_peer_certificate"
	setAuthzSession      = "ext_authz_tls_session"
	setAuthzRaw          = "ext_authz_raw_headers"
	setAuthzMutations    = "ext_authz_validate_mutations"
	setAuthzHeaderLimits = "ext_authz_header_limits"
	setAuthzBody         = "ext_authz_denied_body"
	setAuthzRules        = "ext_authz_mutation_rules"
	setAuthzContext      = "ext_authz_context"

	setTCPTarget  = "tcp_cluster"
	setTCPConnect = "tcp_connect_mode"
	setTCPEarly   = "tcp_early_data"
	setTCPIdle    = "tcp_idle_timeout"
	setTCPLife    = "tcp_max_connection_duration"

	setRouter = "router_suppress_envoy_headers"

	setPerRoute      = "routes_per_filter_config"
	setVirtualHosts  = "routes_virtual_hosts"
	setDomains       = "routes_domains"
	setRouteMatch    = "routes_match"
	setRouteTarget   = "routes_cluster"
	setRouteTimeout  = "routes_timeout"
	setRouteStream   = "routes_max_stream_duration"
	setRefusal       = "routes_refusal"
	setHeadersToDrop = "routes_headers_to_remove"

	setClusterType     = "cluster_type"
	setClusterTLS      = "cluster_tls"
	setClusterProtocol = "cluster_protocol"
	setClusterIdle     = "cluster_idle_timeout"
	setClusterLife     = "cluster_max_connection_duration"
	setClusterHeaders  = "cluster_headers_count"
	setConnectTimeout  = "cluster_connect_timeout"
	setClusterBuffer   = "cluster_buffer"
	setBreakers        = "cluster_circuit_breakers"
	setAppLoopback     = "cluster_app_loopback"
	setEndpointAddress = "endpoint_address"

	setSecretKind  = "secret_kind"
	setSecretRoots = "secret_roots"
	setSecretNames = "secret_callers"
)

// Settings are all the settings that Lint enforces, in the order of the configuration.
func Settings() []Setting { return slices.Clone(settings) }

var settings = []Setting{
	{setScope, "somebody is named whose resource it is"},
	{setType, "the type is listener, route configuration, cluster, endpoints or secret"},
	{setSize, "a resource is at most 4 MiB"},
	{setBytes, "the bytes are one message of that type"},
	{setUnknown, "no field that Envoy's API does not know, at any depth: an older or newer reader would see another configuration"},
	{setClosed, "no field and no message that Ringfence does not generate, at any depth"},
	{setEnum, "no enum value that the API does not define"},
	{setAny, "every typed configuration is of the type that belongs in its place"},
	{setName, "the name is one that the mesh gives, fits the type, and is of the tenant whose resource it is"},
	{setInnerName, "the name inside the resource is the name it is delivered under; Envoy does not compare them for listeners"},
	{setExtName, "a filter bears Envoy's own name for it: per-route configuration is found by that name"},
	{setADS, "everything dynamic comes by the one stream of the bootstrap; only the SVID of a sidecar without an agent does not"},
	{setSDSTimeout, "a secret is waited for without end: a listener that went live without it would reset connections"},
	{setSPIRE, "the SVID of a sidecar without an agent comes from SPIRE's agent, in one fixed form"},

	{setListenerAddress, "one IP address and port; a listener for the application's own calls is on loopback"},
	{setDirection, "the direction is the one that the name says"},
	{setReusePort, "no SO_REUSEPORT: another process of the same user could take connections"},
	{setListenerBuffer, "the buffer of a connection is bounded"},
	{setInspector, "an inbound listener reads the SNI label, and closes what is no TLS; an outbound one has no listener filter"},
	{setInspectorTimeout, "a connection that sends no ClientHello is closed"},
	{setChains, "an inbound listener has at least one chain, an outbound one exactly one, without a match and without TLS"},
	{setChainEpoch, "a chain bears an epoch or no metadata"},
	{setChainName, "a chain bears the name of its route configuration, which belongs to this listener; no two are alike"},
	{setSNI, "an inbound chain is chosen by exactly one SNI label, whole, that no other chain has"},
	{setTransportProtocol, "an inbound chain takes TLS only"},
	{setChainFilters, "a chain is one HTTP connection manager, or at a TCP service ext_authz and the TCP proxy, in this order; all chains of a listener are alike"},
	{setChainTLS, "an inbound chain speaks mutual TLS"},
	{setHandshakeTimeout, "a handshake has a time limit"},

	{setTLSVersion, "TLS 1.3 only"},
	{setALPN, "HTTP/2 is negotiated, nothing else; to a TCP service nothing is"},
	{setOwnCertificate, "the certificate is the workload's own SVID, by SDS; without an agent it is asked for by its SPIFFE ID"},
	{setBundle, "the peer is verified against the bundle of exactly one trust domain, by SDS; at a TCP service by the secret of the chain's own name, which holds the callers too"},
	{setClientCert, "a client certificate is required"},
	{setStateless, "no session tickets: a resumed session keeps an old trust decision"},
	{setStateful, "no session cache, for the same reason"},
	{setClientCAList, "the names of trusted roots are not told before the caller is known"},
	{setDownstreamSANs, "callers are not in the chain: a changed one would drain connections; they come with the routes"},
	{setUpstreamSANs, "a destination is pinned to its identities; an empty list would accept every server"},
	{setUpstreamSNI, "the destination is told by a label which tenant calls"},
	{setUpstreamSession, "no session is kept for resumption"},
	{setExactIdentity, "an identity is one whole SPIFFE ID in a URI SAN: no prefix, no suffix, no expression, no case folding"},

	{setCodec, "inbound HTTP/2 only; outbound what the application speaks"},
	{setRDS, "routes come by discovery, under the name of the chain"},
	{setStatPrefix, "statistics have one of two fixed names"},
	{setNormalizePath, "paths are normalised before anything reads them"},
	{setMergeSlashes, "slashes are merged before anything reads the path"},
	{setEscapedSlashes, "an escaped slash is refused"},
	{setUnderscores, "a header with an underscore is refused: applications read it as a hyphen"},
	{setStripPort, "the port of the host is dropped before routing and authorization"},
	{setStripDot, "the trailing dot of the host is dropped, too"},
	{setXFCC, "x-forwarded-client-cert of a client is dropped and none is made"},
	{setInternal, "no address is internal: x-envoy- headers are never believed"},
	{setRemoteAddress, "the connection's address is the client's address"},
	{setXFF, "no address of this host is told to others"},
	{setEarlyMutation, "what clients may not say is removed first: x-ringfence-*, x-envoy-*, x-forwarded-for"},
	{setLocalReply, "every refusal of Envoy's has one body"},
	{setServerHeader, "answers do not name Envoy"},
	{setHeadersKB, "request headers are at most 60 KiB"},
	{setHeadersCount, "at most 200 headers"},
	{setHeadersTimeout, "headers arrive within a minute"},
	{setStreamIdle, "a stream on which nothing moves ends"},
	{setIdle, "an idle connection ends"},
	{setConnectionLife, "a connection is used for at most 12 hours: certificates are verified when it is made"},
	{setStreamLife, "a stream lives at most 12 hours"},
	{setHTTP2Streams, "HTTP/2: streams of a connection are bounded"},
	{setHTTP2StreamWindow, "HTTP/2: what a stream may send unread is bounded"},
	{setHTTP2Window, "HTTP/2: what a connection may send unread is bounded"},
	{setFilterOrder, "inbound: RBAC, ext_authz, router; outbound: router; nothing else and in this order"},

	{setRBACBase, "the listener's own RBAC lets nobody in: ALLOW without a policy"},
	{setRBACPresent, "RBACPerRoute holds rules: without them it switches RBAC off"},
	{setRBACAction, "rules allow; DENY or LOG would let everybody else in"},
	{setRBACPolicy, "there is at most one policy, with callers"},
	{setRBACPermission, "the policy is for every request; what may be asked is decided by ext_authz"},
	{setRBACPrincipal, "a caller is proved by the connection's validated certificate"},

	{setAuthzCluster, "the agent decides, or where there is none the bootstrap's decision point, and nobody else"},
	{setAuthzVersion, "version 3 of the protocol"},
	{setAuthzTimeout, "an answer comes within 2 seconds or the call is refused"},
	{setAuthzStatus, "an outage answers 503, told from a refusal"},
	{setAuthzDeny, "a filter that is switched off denies"},
	{setAuthzCertificate, "the decision sees the caller's certificate"},
	{setAuthzSession, "the decision sees the TLS session"},
	{setAuthzRaw, "the decision sees headers byte for byte and one by one"},
	{setAuthzMutations, "invalid changes of the decision point are refused"},
	{setAuthzHeaderLimits, "the decision point cannot exceed header limits"},
	{setAuthzBody, "the body of a refusal is bounded"},
	{setAuthzRules, "the decision point may set three headers and no other; an attempt is an error"},
	{setAuthzContext, "the destination of a call is told by the configuration: service of this route configuration, and port"},

	{setTCPTarget, "a TCP proxy leads to this service's application, or to the one service that its listener is named after"},
	{setTCPConnect, "the application sees no connection before the handshake is over; outbound connects at once"},
	{setTCPEarly, "what a client may send before that is bounded"},
	{setTCPIdle, "a TCP connection on which nothing moves ends"},
	{setTCPLife, "a TCP connection lives at most 12 hours: certificates are verified when it is made"},

	{setRouter, "no x-envoy- header leaves"},

	{setPerRoute, "inbound routes carry both guards' configuration, at the top and nowhere else; outbound routes none"},
	{setVirtualHosts, "inbound: one virtual host; outbound: one for each destination, then the refusal"},
	{setDomains, "hosts are whole lower-case names, each once; * stands last and alone"},
	{setRouteMatch, "a virtual host has one route, for every path"},
	{setRouteTarget, "inbound routes lead to the application; outbound routes to a service or an import of this tenant"},
	{setRouteStream, "an inbound route ends streams, after 12 hours at most; an outbound one leaves it to the destination"},
	{setRouteTimeout, "no timeout of the route: it would cut streams; idle and long ones have limits of their own"},
	{setRefusal, "a host that is not known gets 403"},
	{setHeadersToDrop, "inbound routes may keep the Authorization header from the application; nothing else is removed"},

	{setClusterType, "a service is found by EDS under the cluster's own name; the application has a fixed address"},
	{setClusterTLS, "calls to services use mutual TLS; calls to the application use none"},
	{setClusterProtocol, "HTTP/2 between sidecars, one fixed protocol to the application"},
	{setClusterIdle, "an idle connection ends"},
	{setClusterLife, "a connection is used for at most 12 hours, one to another sidecar for at most 5 minutes: its SVID must outlive it"},
	{setClusterHeaders, "at most 200 headers in an answer"},
	{setConnectTimeout, "connecting has a time limit"},
	{setClusterBuffer, "the buffer of a connection is bounded"},
	{setBreakers, "connections, pending requests, requests and retries are bounded"},
	{setAppLoopback, "the application is on 127.0.0.1"},
	{setEndpointAddress, "an endpoint is an IP address and a port; not unspecified, multicast, broadcast or link-local"},

	{setSecretKind, "a secret that the control plane sends holds public roots and nothing else, under the name of their trust domain; or, under the name of a TCP service's chain, also its callers"},
	{setSecretNames, "the callers of a TCP service are listed, each with one whole SPIFFE ID, or there is one entry that nobody is: an empty list would let in everybody whom the roots vouch for"},
	{setSecretRoots, "the roots are CA certificates in PEM, inline, and nothing else"},
}
