package filters

import "google.golang.org/protobuf/reflect/protoreflect"

// generated is the closed list: every message that Ringfence generates and, of each, every field that it ever sets. What is
// not here is refused by the linter, whatever Envoy would make of it. The values of these fields are judged in
// lint_*.go.
//
// Nothing changes it.
//
//nolint:goconst,lll // the names of Envoy's API, one row for each message
var generated = map[protoreflect.FullName][]protoreflect.Name{
	// Listeners.
	"envoy.config.listener.v3.Listener": {
		"name", "address", "filter_chains", "per_connection_buffer_limit_bytes", "listener_filters", "listener_filters_timeout",
		"traffic_direction", "enable_reuse_port",
	},
	"envoy.config.listener.v3.ListenerFilter":                         {"name", "typed_config"},
	"envoy.config.listener.v3.FilterChain":                            {"name", "filter_chain_match", "filters", "transport_socket", "transport_socket_connect_timeout", "metadata"},
	"envoy.config.listener.v3.FilterChainMatch":                       {"server_names", "transport_protocol"},
	"envoy.config.listener.v3.Filter":                                 {"name", "typed_config"},
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": {"close_connection_on_client_hello_parsing_errors"},

	// TCP services.
	"envoy.extensions.filters.network.ext_authz.v3.ExtAuthz": {
		"stat_prefix", "grpc_service", "transport_api_version", "include_peer_certificate",
	},
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": {
		"stat_prefix", "cluster", "idle_timeout", "max_downstream_connection_duration", "upstream_connect_mode", "max_early_data_bytes",
	},
	"envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions": {"idle_timeout"},

	// The connection manager.
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": {
		"codec_type", "stat_prefix", "rds", "http_filters", "common_http_protocol_options", "http2_protocol_options",
		"server_header_transformation", "max_request_headers_kb", "stream_idle_timeout", "request_headers_timeout",
		"use_remote_address", "skip_xff_append", "early_header_mutation_extensions", "internal_address_config",
		"forward_client_cert_details", "normalize_path", "merge_slashes", "path_with_escaped_slashes_action",
		"local_reply_config", "strip_any_host_port", "strip_trailing_host_dot",
	},
	"envoy.extensions.filters.network.http_connection_manager.v3.Rds":                                         {"config_source", "route_config_name"},
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                                  {"name", "typed_config"},
	"envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig":                            {"body_format"},
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig": {"cidr_ranges"},
	"envoy.config.core.v3.SubstitutionFormatString":                                                           {"text_format_source", "content_type"},
	"envoy.config.core.v3.DataSource":                                                                         {"inline_string", "inline_bytes"},
	"envoy.config.core.v3.CidrRange":                                                                          {"address_prefix", "prefix_len"},
	"envoy.config.core.v3.HttpProtocolOptions": {
		"idle_timeout", "max_connection_duration", "max_stream_duration", "max_headers_count", "headers_with_underscores_action",
	},
	"envoy.config.core.v3.Http1ProtocolOptions": {},
	"envoy.config.core.v3.Http2ProtocolOptions": {
		"max_concurrent_streams", "initial_stream_window_size", "initial_connection_window_size",
	},
	"envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation": {"mutations"},
	"envoy.config.common.mutation_rules.v3.HeaderMutation":                          {"remove", "remove_on_match"},
	"envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch":            {"key_matcher"},
	"envoy.type.matcher.v3.StringMatcher":                                           {"exact", "prefix"},

	// HTTP filters.
	"envoy.extensions.filters.http.rbac.v3.RBAC":                    {"rules"},
	"envoy.extensions.filters.http.rbac.v3.RBACPerRoute":            {"rbac"},
	"envoy.config.rbac.v3.RBAC":                                     {"action", "policies"},
	"envoy.config.rbac.v3.Policy":                                   {"permissions", "principals"},
	"envoy.config.rbac.v3.Permission":                               {"any"},
	"envoy.config.rbac.v3.Principal":                                {"custom"},
	"envoy.extensions.rbac.principals.mtls_authenticated.v3.Config": {"san_matcher"},
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthz": {
		"grpc_service", "transport_api_version", "status_on_error", "validate_mutations", "deny_at_disable",
		"include_peer_certificate", "include_tls_session", "encode_raw_headers", "decoder_header_mutation_rules",
		"max_denied_response_body_bytes", "enforce_response_header_limits",
	},
	"envoy.config.core.v3.GrpcService":                            {"envoy_grpc", "timeout"},
	"envoy.config.core.v3.GrpcService.EnvoyGrpc":                  {"cluster_name", "retry_policy"},
	"envoy.type.v3.HttpStatus":                                    {"code"},
	"envoy.config.core.v3.RuntimeFeatureFlag":                     {"default_value", "runtime_key"},
	"envoy.config.common.mutation_rules.v3.HeaderMutationRules":   {"disallow_all", "allow_expression", "disallow_is_error"},
	"envoy.type.matcher.v3.RegexMatcher":                          {"regex"},
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute": {"check_settings"},
	"envoy.extensions.filters.http.ext_authz.v3.CheckSettings":    {"context_extensions"},
	"envoy.extensions.filters.http.router.v3.Router":              {"suppress_envoy_headers"},

	// TLS and secrets.
	"envoy.config.core.v3.TransportSocket": {"name", "typed_config"},
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": {
		"common_tls_context", "require_client_certificate", "disable_stateless_session_resumption", "disable_stateful_session_resumption",
	},
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": {"common_tls_context", "sni", "max_session_keys"},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": {
		"tls_params", "tls_certificate_sds_secret_configs", "combined_validation_context", "alpn_protocols",
	},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": {
		"default_validation_context", "validation_context_sds_secret_config",
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters":                {"tls_minimum_protocol_version", "tls_maximum_protocol_version"},
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":              {"name", "sds_config"},
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": {"trusted_ca", "match_typed_subject_alt_names", "suppress_client_ca_list"},
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":        {"san_type", "matcher"},
	"envoy.extensions.transport_sockets.tls.v3.Secret":                       {"name", "validation_context"},

	// Routes.
	"envoy.config.route.v3.RouteConfiguration":            {"name", "virtual_hosts", "request_headers_to_remove", "typed_per_filter_config"},
	"envoy.config.route.v3.VirtualHost":                   {"name", "domains", "routes"},
	"envoy.config.route.v3.Route":                         {"match", "route", "direct_response"},
	"envoy.config.route.v3.RouteMatch":                    {"prefix"},
	"envoy.config.route.v3.RouteAction":                   {"cluster", "timeout", "max_stream_duration"},
	"envoy.config.route.v3.RouteAction.MaxStreamDuration": {"max_stream_duration"},
	"envoy.config.route.v3.DirectResponseAction":          {"status"},

	// Clusters and endpoints.
	"envoy.config.cluster.v3.Cluster": {
		"name", "type", "eds_cluster_config", "connect_timeout", "per_connection_buffer_limit_bytes", "load_assignment",
		"circuit_breakers", "typed_extension_protocol_options", "transport_socket",
	},
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":   {"eds_config"},
	"envoy.config.cluster.v3.CircuitBreakers":            {"thresholds"},
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds": {"max_connections", "max_pending_requests", "max_requests", "max_retries"},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
		"common_http_protocol_options", "explicit_http_config",
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": {"http_protocol_options", "http2_protocol_options"},
	"envoy.config.endpoint.v3.ClusterLoadAssignment":                            {"cluster_name", "endpoints"},
	"envoy.config.endpoint.v3.LocalityLbEndpoints":                              {"lb_endpoints"},
	"envoy.config.endpoint.v3.LbEndpoint":                                       {"endpoint"},
	"envoy.config.endpoint.v3.Endpoint":                                         {"address"},

	// Everywhere.
	"envoy.config.core.v3.Address":                {"socket_address"},
	"envoy.config.core.v3.SocketAddress":          {"address", "port_value", "ipv4_compat"},
	"envoy.config.core.v3.ConfigSource":           {"ads", "api_config_source", "initial_fetch_timeout", "resource_api_version"},
	"envoy.config.core.v3.AggregatedConfigSource": {},
	"envoy.config.core.v3.ApiConfigSource":        {"api_type", "transport_api_version", "grpc_services"},
	"envoy.config.core.v3.RetryPolicy":            {"retry_back_off"},
	"envoy.config.core.v3.BackoffStrategy":        {"base_interval", "max_interval"},
	"envoy.config.core.v3.TypedExtensionConfig":   {"name", "typed_config"},
	"envoy.config.core.v3.Metadata":               {"filter_metadata"},
	"google.protobuf.Struct":                      {"fields"},
	"google.protobuf.Value":                       {"string_value"},
	"google.protobuf.Any":                         {"type_url", "value"},
	"google.protobuf.BoolValue":                   {"value"},
	"google.protobuf.UInt32Value":                 {"value"},
	"google.protobuf.Duration":                    {"seconds", "nanos"},
}
