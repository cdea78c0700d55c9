package filters_test

import (
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// broken is, for each setting, what a mistake or a hostile control plane could make of it.
func broken() map[string]map[string]edit {
	prefix := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://acme.demo.test/"}}
	regex := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: ".*"}}}
	return map[string]map[string]edit{
		"unknown_field": {
			"at the top":        cluster(func(c *clusterv3.Cluster) { unknown(c) }),
			"in a Duration":     cluster(func(c *clusterv3.Cluster) { unknown(c.GetConnectTimeout()) }),
			"in what is packed": authz(func(a *extauthzv3.ExtAuthz) { unknown(a) }),
			"in an Any":         cluster(func(c *clusterv3.Cluster) { unknown(c.GetTransportSocket().GetTypedConfig()) }),
		},
		"sds_spire": {
			"the discovery stream": directUp(func(s *tlsv3.SdsSecretConfig) { s.SdsConfig = filters.ADS() }),
			"another cluster": directUp(func(s *tlsv3.SdsSecretConfig) {
				s.GetSdsConfig().GetApiConfigSource().GetGrpcServices()[0].GetEnvoyGrpc().ClusterName = "ringfence_authz"
			}),
			"a second source": directUp(func(s *tlsv3.SdsSecretConfig) {
				a := s.GetSdsConfig().GetApiConfigSource()
				a.GrpcServices = append(a.GetGrpcServices(), a.GetGrpcServices()[0])
			}),
			"delta": directUp(func(s *tlsv3.SdsSecretConfig) {
				s.GetSdsConfig().GetApiConfigSource().ApiType = corev3.ApiConfigSource_DELTA_GRPC
			}),
			"not waited for": directUp(func(s *tlsv3.SdsSecretConfig) { s.GetSdsConfig().InitialFetchTimeout = nil }),
			"its own back-off": directUp(func(s *tlsv3.SdsSecretConfig) {
				s.GetSdsConfig().GetApiConfigSource().GetGrpcServices()[0].GetEnvoyGrpc().RetryPolicy = nil
			}),
		},
		"chain_epoch": {
			"another namespace": chain(func(c *listenerv3.FilterChain) {
				c.GetMetadata().FilterMetadata["envoy.lb"] = &structpb.Struct{}
			}),
			"another key": chain(func(c *listenerv3.FilterChain) {
				c.GetMetadata().GetFilterMetadata()["dev.ringfence"].Fields["x"] = structpb.NewStringValue("1")
			}),
			"empty": chain(func(c *listenerv3.FilterChain) { c.Metadata = &corev3.Metadata{} }),
			"no epoch": chain(func(c *listenerv3.FilterChain) {
				c.GetMetadata().GetFilterMetadata()["dev.ringfence"].Fields["epoch"] = structpb.NewStringValue("X")
			}),
			"on loopback": out(func(l *listenerv3.Listener) { l.GetFilterChains()[0].Metadata = &corev3.Metadata{} }),
		},
		"closed_list": {
			"failure mode allow": authz(func(a *extauthzv3.ExtAuthz) { a.FailureModeAllow = true }),
			"shadow mode":        authz(func(a *extauthzv3.ExtAuthz) { a.ShadowMode = true }),
			"filter enabled":     authz(func(a *extauthzv3.ExtAuthz) { a.FilterEnabled = &corev3.RuntimeFractionalPercent{} }),
			"clear route cache":  authz(func(a *extauthzv3.ExtAuthz) { a.ClearRouteCache = true }),
			"request body": authz(func(a *extauthzv3.ExtAuthz) {
				a.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: 1}
			}),
			"HTTP service": authz(func(a *extauthzv3.ExtAuthz) {
				a.Services = &extauthzv3.ExtAuthz_HttpService{HttpService: &extauthzv3.HttpService{}}
			}),
			"ext_authz off for a route": check(func(p *extauthzv3.ExtAuthzPerRoute) {
				p.Override = &extauthzv3.ExtAuthzPerRoute_Disabled{Disabled: true}
			}),
			"service override": check(func(p *extauthzv3.ExtAuthzPerRoute) {
				p.GetCheckSettings().ServiceOverride = &extauthzv3.CheckSettings_GrpcService{GrpcService: &corev3.GrpcService{}}
			}),
			"shadow rules":         perRoute(func(p *rbacv3.RBACPerRoute) { p.Rbac.ShadowRules = &rbacconfigv3.RBAC{} }),
			"RBAC matcher":         perRoute(func(p *rbacv3.RBACPerRoute) { p.Rbac.RulesStatPrefix = "x" }),
			"anybody":              principal(&rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_Any{Any: true}}),
			"any TLS connection":   principal(&rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_Authenticated_{Authenticated: &rbacconfigv3.Principal_Authenticated{}}}),
			"not somebody":         principal(&rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_NotId{NotId: &rbacconfigv3.Principal{}}}),
			"an address":           principal(&rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_RemoteIp{RemoteIp: &corev3.CidrRange{}}}),
			"any certificate":      mtls(func(c *mtlsv3.Config) { c.AnyValidatedClientCertificate = true }),
			"identity by regex":    mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = regex }),
			"identity in any case": mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher.IgnoreCase = true }),
			"upgrade": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.UpgradeConfigs = []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}}
			}),
			"extended CONNECT": hcm(func(h *hcmv3.HttpConnectionManager) { h.Http2ProtocolOptions.AllowConnect = true }),
			"HTTP/1.0": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
			}),
			"trusted hops": hcm(func(h *hcmv3.HttpConnectionManager) { h.XffNumTrustedHops = 1 }),
			"client certificate details": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
			}),
			"routes in the listener": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{}}
			}),
			"filter off by default": hcm(func(h *hcmv3.HttpConnectionManager) { h.GetHttpFilters()[1].Disabled = true }),
			"optional filter":       hcm(func(h *hcmv3.HttpConnectionManager) { h.GetHttpFilters()[1].IsOptional = true }),
			"filter by discovery": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.GetHttpFilters()[1].ConfigType = &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{}}
			}),
			"default chain": in(func(l *listenerv3.Listener) {
				l.DefaultFilterChain = &listenerv3.FilterChain{}
			}),
			"original destination":                  in(func(l *listenerv3.Listener) { l.UseOriginalDst = wrapperspb.Bool(true) }),
			"timeout of listener filters lets pass": in(func(l *listenerv3.Listener) { l.ContinueOnListenerFiltersTimeout = true }),
			"second address": in(func(l *listenerv3.Listener) {
				l.AdditionalAddresses = []*listenerv3.AdditionalAddress{{}}
			}),
			"socket option": in(func(l *listenerv3.Listener) { l.SocketOptions = []*corev3.SocketOption{{}} }),
			"match by source": chain(func(c *listenerv3.FilterChain) {
				c.FilterChainMatch.SourceType = listenerv3.FilterChainMatch_EXTERNAL
			}),
			"untrusted certificates": down(func(d *tlsv3.DownstreamTlsContext) {
				downValidation(d).TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
			}),
			"expired certificates": down(func(d *tlsv3.DownstreamTlsContext) { downValidation(d).AllowExpiredCertificate = true }),
			"shared ticket keys": down(func(d *tlsv3.DownstreamTlsContext) {
				d.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{}}
			}),
			"key log":         up(func(u *tlsv3.UpstreamTlsContext) { u.CommonTlsContext.KeyLog = &tlsv3.TlsKeyLog{Path: "/tmp/keys"} }),
			"renegotiation":   up(func(u *tlsv3.UpstreamTlsContext) { u.AllowRenegotiation = true }),
			"pinned by regex": upSAN(func(s *tlsv3.SubjectAltNameMatcher) { s.Matcher = regex }),
			"mirror": routes(func(r *routev3.RouteConfiguration) {
				r.RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: "x"}}
			}),
			"cluster by header": routes(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: "x"}
			}),
			"weighted clusters": routes(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_WeightedClusters{}
			}),
			"redirect": routes(func(r *routev3.RouteConfiguration) {
				r.GetVirtualHosts()[0].GetRoutes()[0].Action = &routev3.Route_Redirect{}
			}),
			"host rewrite": routes(func(r *routev3.RouteConfiguration) {
				action(r).HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: "x"}
			}),
			"guard off for a host": callers(func(r *routev3.RouteConfiguration) {
				r.GetVirtualHosts()[0].TypedPerFilterConfig = map[string]*anypb.Any{"envoy.filters.http.rbac": packed(&rbacv3.RBACPerRoute{})}
			}),
			"guard off for a route": callers(func(r *routev3.RouteConfiguration) {
				r.GetVirtualHosts()[0].GetRoutes()[0].TypedPerFilterConfig = map[string]*anypb.Any{"envoy.filters.http.rbac": packed(&routev3.FilterConfig{Disabled: true})}
			}),
			"header added": callers(func(r *routev3.RouteConfiguration) { r.RequestHeadersToAdd = []*corev3.HeaderValueOption{{}} }),
			"CONNECT": callers(func(r *routev3.RouteConfiguration) {
				r.GetVirtualHosts()[0].GetRoutes()[0].Match.PathSpecifier = &routev3.RouteMatch_ConnectMatcher_{}
			}),
			"DNS": cluster(func(c *clusterv3.Cluster) { c.DnsLookupFamily = clusterv3.Cluster_V4_ONLY }),
			"socket by match": cluster(func(c *clusterv3.Cluster) {
				c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{{Name: "x"}}
			}),
			"other load assignment": endpoints(func(a *endpointv3.ClusterLoadAssignment) {
				a.NamedEndpoints = map[string]*endpointv3.Endpoint{"x": {}}
			}),
			"endpoint on a Unix socket": endpoints(func(a *endpointv3.ClusterLoadAssignment) {
				a.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/x"}}}
			}),
			"private key": secret(func(s *tlsv3.Secret) {
				s.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{}}
			}),
			"roots from a file": secret(func(s *tlsv3.Secret) {
				s.GetValidationContext().TrustedCa.Specifier = &corev3.DataSource_Filename{Filename: "/etc/ssl/certs/ca.pem"}
			}),
			"TCP: failure mode allow": tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.FailureModeAllow = true }),
			"TCP: shadow mode":        tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.ShadowMode = true }),
			"TCP: only some":          tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.FilterEnabledMetadata = &matcherv3.MetadataMatcher{} }),
			"TCP: alert":              tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.SendTlsAlertOnDenial = true }),
			"TCP: weighted clusters": tcpProxy(func(p *tcpproxyv3.TcpProxy) {
				p.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpproxyv3.TcpProxy_WeightedCluster{}}
			}),
			"TCP: tunnel":    tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.TunnelingConfig = &tcpproxyv3.TcpProxy_TunnelingConfig{} }),
			"TCP: on demand": tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { p.OnDemand = &tcpproxyv3.TcpProxy_OnDemand{} }),
			"TCP: untrusted": tcpCallers(func(v *tlsv3.CertificateValidationContext) {
				v.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
			}),
		},
		"enum": {
			"action": rules(func(r *rbacconfigv3.RBAC) { r.Action = 99 }),
		},
		"any": {
			"Lua": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.GetHttpFilters()[1].ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&luav3.Lua{})}
			}),
			"wrong place": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.GetHttpFilters()[1].ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}
			}),
			"no type": chain(func(c *listenerv3.FilterChain) { c.GetTransportSocket().GetTypedConfig().TypeUrl = "" }),
			"other prefix": chain(func(c *listenerv3.FilterChain) {
				c.GetTransportSocket().GetTypedConfig().TypeUrl = "x/" + c.GetTransportSocket().GetTypedConfig().GetTypeUrl()
			}),
			"bad bytes": chain(func(c *listenerv3.FilterChain) { c.GetTransportSocket().GetTypedConfig().Value = []byte{0xff} }),
			"upstream context": chain(func(c *listenerv3.FilterChain) {
				c.GetTransportSocket().ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: packed(&tlsv3.UpstreamTlsContext{})}
			}),
		},
		"inner_name": {
			"another listener": in(func(l *listenerv3.Listener) { l.Name = "inbound/platform/ledger" }),
			"another cluster":  app(func(c *clusterv3.Cluster) { c.LoadAssignment.ClusterName = "app/acme/ledger" }),
		},
		"extension_name": {
			"RBAC's principal": policy(func(p *rbacconfigv3.Policy) { p.GetPrincipals()[0].GetCustom().Name = "x" }),
			"socket":           chain(func(c *listenerv3.FilterChain) { c.TransportSocket.Name = "envoy.transport_sockets.raw_buffer" }),
			"network filter":   chain(func(c *listenerv3.FilterChain) { c.GetFilters()[0].Name = "x" }),
			"inspector":        in(func(l *listenerv3.Listener) { l.GetListenerFilters()[0].Name = "x" }),
			"early mutation":   hcm(func(h *hcmv3.HttpConnectionManager) { h.GetEarlyHeaderMutationExtensions()[0].Name = "x" }),
		},
		"config_source": {
			"routes without a version": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.GetRds().GetConfigSource().ResourceApiVersion = corev3.ApiVersion_AUTO
			}),
			"endpoints with a timeout": cluster(func(c *clusterv3.Cluster) {
				c.GetEdsClusterConfig().GetEdsConfig().InitialFetchTimeout = day()
			}),
			"secret from nowhere": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.TlsCertificateSdsSecretConfigs[0].SdsConfig.ConfigSourceSpecifier = nil
			}),
		},
		"sds_initial_fetch_timeout": {
			"absent": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.TlsCertificateSdsSecretConfigs[0].SdsConfig.InitialFetchTimeout = nil
			}),
			"15 s": up(func(u *tlsv3.UpstreamTlsContext) {
				u.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.SdsConfig.InitialFetchTimeout = durationpb.New(15 * time.Second)
			}),
		},

		"listener_address": {
			"a name": in(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Address = "localhost" }),
			"port 0": in(func(l *listenerv3.Listener) {
				l.GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{}
			}),
			"multicast":                in(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Address = "224.0.0.1" }),
			"outbound for all":         out(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Address = "0.0.0.0" }),
			"a loopback port for all":  tcpOut(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Address = "0.0.0.0" }),
			"outbound for the network": out(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Address = "10.0.0.1" }),
			"both families":            in(func(l *listenerv3.Listener) { l.GetAddress().GetSocketAddress().Ipv4Compat = true }),
		},
		"listener_direction": {
			"inbound":  in(func(l *listenerv3.Listener) { l.TrafficDirection = corev3.TrafficDirection_OUTBOUND }),
			"outbound": out(func(l *listenerv3.Listener) { l.TrafficDirection = corev3.TrafficDirection_INBOUND }),
		},
		"listener_reuse_port": {
			"default": in(func(l *listenerv3.Listener) { l.EnableReusePort = nil }),
			"on":      out(func(l *listenerv3.Listener) { l.EnableReusePort = wrapperspb.Bool(true) }),
		},
		"listener_buffer": {
			"default": in(func(l *listenerv3.Listener) { l.PerConnectionBufferLimitBytes = nil }),
			"huge":    in(func(l *listenerv3.Listener) { l.PerConnectionBufferLimitBytes = wrapperspb.UInt32(1 << 30) }),
		},
		"listener_tls_inspector": {
			"none": in(func(l *listenerv3.Listener) { l.ListenerFilters = nil }),
			"two": in(func(l *listenerv3.Listener) {
				l.ListenerFilters = append(l.GetListenerFilters(), l.GetListenerFilters()[0])
			}),
			"takes plaintext": in(func(l *listenerv3.Listener) {
				l.ListenerFilters[0].ConfigType = &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed(&inspectorv3.TlsInspector{})}
			}),
			"outbound has some": out(func(l *listenerv3.Listener) { l.ListenerFilters = []*listenerv3.ListenerFilter{{Name: "x"}} }),
		},
		"listener_filters_timeout": {
			"default": in(func(l *listenerv3.Listener) { l.ListenerFiltersTimeout = nil }),
			"never":   in(func(l *listenerv3.Listener) { l.ListenerFiltersTimeout = &durationpb.Duration{} }),
		},
		"listener_chains": {
			"none": in(func(l *listenerv3.Listener) { l.FilterChains = nil }),
			"outbound with TLS": out(func(l *listenerv3.Listener) {
				l.FilterChains[0].TransportSocket = &corev3.TransportSocket{Name: "x"}
			}),
			"TCP outbound with TLS": tcpOut(func(l *listenerv3.Listener) { l.FilterChains[0].TransportSocket = &corev3.TransportSocket{Name: "x"} }),
			"TCP without any":       tcpIn(func(l *listenerv3.Listener) { l.FilterChains = nil }),
			"two outbound": out(func(l *listenerv3.Listener) {
				l.FilterChains = append(l.GetFilterChains(), l.GetFilterChains()[0])
			}),
		},
		"chain_name": {
			"another service": chain(func(c *listenerv3.FilterChain) { c.Name = "callers/platform/ledger/acme" }),
			"another tenant":  chain(func(c *listenerv3.FilterChain) { c.Name = "callers/acme/billing/acme" }),
			"outbound TCP":    tcpOut(func(l *listenerv3.Listener) { l.FilterChains[0].Name = "tcp/acme/tool/acme/db" }),
			"twice":           in(func(l *listenerv3.Listener) { l.FilterChains[0].Name = l.GetFilterChains()[1].GetName() }),
		},
		"chain_sni": {
			"none":     chain(func(c *listenerv3.FilterChain) { c.FilterChainMatch.ServerNames = nil }),
			"no match": chain(func(c *listenerv3.FilterChain) { c.FilterChainMatch = nil }),
			"two": chain(func(c *listenerv3.FilterChain) {
				c.FilterChainMatch.ServerNames = append(c.FilterChainMatch.GetServerNames(), "x.example")
			}),
			"wildcard":   chain(func(c *listenerv3.FilterChain) { c.FilterChainMatch.ServerNames = []string{"*.mesh.internal"} }),
			"upper case": chain(func(c *listenerv3.FilterChain) { c.FilterChainMatch.ServerNames = []string{"ABC.mesh.internal"} }),
			"another's": in(func(l *listenerv3.Listener) {
				l.FilterChains[0].FilterChainMatch.ServerNames = l.GetFilterChains()[1].GetFilterChainMatch().GetServerNames()
			}),
		},
		"chain_transport_protocol": {"any": chain(func(c *listenerv3.FilterChain) { c.FilterChainMatch.TransportProtocol = "" })},
		"chain_filters": {
			"none": chain(func(c *listenerv3.FilterChain) { c.Filters = nil }),
			"two":  chain(func(c *listenerv3.FilterChain) { c.Filters = append(c.GetFilters(), c.GetFilters()[0]) }),

			"TCP without guard 2": tcpIn(func(l *listenerv3.Listener) {
				for _, c := range l.GetFilterChains() {
					c.Filters = c.GetFilters()[1:]
				}
			}),
			"TCP without guard 2 for one": tcpChain(func(c *listenerv3.FilterChain) { c.Filters = c.GetFilters()[1:] }),
			"TCP with guard 2 behind":     tcpChain(func(c *listenerv3.FilterChain) { slices.Reverse(c.GetFilters()) }),
			"guard 2 twice":               tcpChain(func(c *listenerv3.FilterChain) { c.Filters = slices.Insert(c.GetFilters(), 1, c.GetFilters()[0]) }),
			"another name":                tcpChain(func(c *listenerv3.FilterChain) { c.GetFilters()[0].Name = "x" }),
			"outbound with more": tcpOut(func(l *listenerv3.Listener) {
				l.FilterChains[0].Filters = append(l.GetFilterChains()[0].GetFilters(), l.GetFilterChains()[0].GetFilters()...)
			}),
		},
		"tcp_cluster": {
			"another service's application": tcpProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "app/platform/ledger") }),
			"another service":               tcpProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "service/platform/store") }),
			"the agent":                     tcpProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "ringfence_agent") }),
			"another tenant's":              tcpProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "app/acme/store") }),
			"another shared service":        tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "import/acme/billing") }),
			"an own one of that name":       tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "service/acme/store") }),
			"an application":                tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { to(p, "app/acme/store") }),
		},
		"tcp_connect_mode": {
			"before the handshake": tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_IMMEDIATE }),
			"outbound waits": tcpOutProxy(func(p *tcpproxyv3.TcpProxy) {
				p.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
			}),
		},
		"tcp_early_data": {
			"none":     tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.MaxEarlyDataBytes = nil }),
			"much":     tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.MaxEarlyDataBytes = wrapperspb.UInt32(1 << 20) }),
			"outbound": tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { p.MaxEarlyDataBytes = wrapperspb.UInt32(1) }),
		},
		"tcp_idle_timeout": {
			"default":  tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.IdleTimeout = nil }),
			"never":    tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.IdleTimeout = &durationpb.Duration{} }),
			"outbound": tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { p.IdleTimeout = day() }),
		},
		"tcp_max_connection_duration": {
			"none": tcpProxy(func(p *tcpproxyv3.TcpProxy) { p.MaxDownstreamConnectionDuration = nil }),
			"long": tcpOutProxy(func(p *tcpproxyv3.TcpProxy) { p.MaxDownstreamConnectionDuration = day() }),
		},
		"chain_tls": {
			"plaintext":      chain(func(c *listenerv3.FilterChain) { c.TransportSocket = nil }),
			"TCP, plaintext": tcpChain(func(c *listenerv3.FilterChain) { c.TransportSocket = nil }),
		},
		"chain_handshake_timeout": {"none": chain(func(c *listenerv3.FilterChain) { c.TransportSocketConnectTimeout = nil })},

		"tls_version": {
			"1.2": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.TlsParams.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_2
			}),
			"default": up(func(u *tlsv3.UpstreamTlsContext) { u.CommonTlsContext.TlsParams = nil }),
		},
		"tls_alpn": {"TCP": tcpDown(func(d *tlsv3.DownstreamTlsContext) { d.CommonTlsContext.AlpnProtocols = []string{"h2"} }), "TCP, upstream": tcpUp(func(u *tlsv3.UpstreamTlsContext) { u.CommonTlsContext.AlpnProtocols = []string{"h2"} }), "none": down(func(d *tlsv3.DownstreamTlsContext) { d.CommonTlsContext.AlpnProtocols = nil }), "h1": up(func(u *tlsv3.UpstreamTlsContext) { u.CommonTlsContext.AlpnProtocols = []string{"h2", "http/1.1"} })},
		"tls_own_certificate": {
			"another workload's":   directUp(func(s *tlsv3.SdsSecretConfig) { s.Name = xdstest.GlobexWeb }),
			"whoever SPIRE thinks": directUp(func(s *tlsv3.SdsSecretConfig) { s.Name = "default" }),
			"none":                 up(func(u *tlsv3.UpstreamTlsContext) { u.CommonTlsContext.TlsCertificateSdsSecretConfigs = nil }),
			"another": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.TlsCertificateSdsSecretConfigs[0].Name = "other"
			}),
		},
		"tls_bundle": {
			"none": down(func(d *tlsv3.DownstreamTlsContext) { d.CommonTlsContext.ValidationContextType = nil }),
			"everybody": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name = "ALL"
			}),
			"ROOTCA": up(func(u *tlsv3.UpstreamTlsContext) {
				u.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name = "ROOTCA"
			}),
			"TCP: everybody of the tenant": tcpDown(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name = "spiffe://acme.demo.test"
			}),
			"TCP: another chain's callers": tcpDown(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name = "callers/platform/store/platform"
			}),
			"HTTP: a TCP service's callers": down(func(d *tlsv3.DownstreamTlsContext) {
				d.CommonTlsContext.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name = "callers/platform/billing/acme"
			}),
			"inline roots": down(func(d *tlsv3.DownstreamTlsContext) {
				downValidation(d).TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "x"}}
			}),
		},
		"tls_require_client_certificate": {
			"absent": down(func(d *tlsv3.DownstreamTlsContext) { d.RequireClientCertificate = nil }),
			"false":  down(func(d *tlsv3.DownstreamTlsContext) { d.RequireClientCertificate = wrapperspb.Bool(false) }),
		},
		"tls_no_stateless_resumption": {"on": down(func(d *tlsv3.DownstreamTlsContext) { d.SessionTicketKeysType = nil })},
		"tls_no_stateful_resumption":  {"on": down(func(d *tlsv3.DownstreamTlsContext) { d.DisableStatefulSessionResumption = false })},
		"tls_suppress_client_ca_list": {"told": down(func(d *tlsv3.DownstreamTlsContext) { downValidation(d).SuppressClientCaList = false })},
		"tls_downstream_sans": {"TCP": tcpDown(func(d *tlsv3.DownstreamTlsContext) {
			downValidation(d).MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{uri(xdstest.AcmeWeb)}
		}), "pinned": down(func(d *tlsv3.DownstreamTlsContext) {
			downValidation(d).MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{{}}
		})},
		"tls_upstream_sans":     {"empty list": up(func(u *tlsv3.UpstreamTlsContext) { upValidation(u).MatchTypedSubjectAltNames = nil })},
		"tls_upstream_sni":      {"none": up(func(u *tlsv3.UpstreamTlsContext) { u.Sni = "" })},
		"tls_upstream_sessions": {"default": up(func(u *tlsv3.UpstreamTlsContext) { u.MaxSessionKeys = nil }), "one": up(func(u *tlsv3.UpstreamTlsContext) { u.MaxSessionKeys = wrapperspb.UInt32(1) })},
		"exact_identity": {
			"pinned by prefix":     upSAN(func(s *tlsv3.SubjectAltNameMatcher) { s.Matcher = prefix }),
			"pinned by DNS name":   upSAN(func(s *tlsv3.SubjectAltNameMatcher) { s.SanType = tlsv3.SubjectAltNameMatcher_DNS }),
			"TCP caller by prefix": tcpCallers(func(v *tlsv3.CertificateValidationContext) { v.MatchTypedSubjectAltNames[0].Matcher = prefix }),
			"TCP caller by DNS name": tcpCallers(func(v *tlsv3.CertificateValidationContext) {
				v.MatchTypedSubjectAltNames[0].SanType = tlsv3.SubjectAltNameMatcher_DNS
			}),
			"TCP caller without a name": tcpCallers(func(v *tlsv3.CertificateValidationContext) { v.MatchTypedSubjectAltNames[0].Matcher = exact("") }),
			"nobody and somebody": tcpCallers(func(v *tlsv3.CertificateValidationContext) {
				v.MatchTypedSubjectAltNames = append(v.GetMatchTypedSubjectAltNames(), uri(xdstest.AcmeWeb))
			}),
			"caller by prefix":     mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = prefix }),
			"a whole trust domain": mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = exact("spiffe://acme.demo.test") }),
			"dot segments":         mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = exact("spiffe://acme.demo.test/ns/../sa/web") }),
			"upper-case scheme": mtls(func(c *mtlsv3.Config) {
				c.SanMatcher.Matcher = exact("SPIFFE://acme.demo.test/ns/acme/sa/web")
			}),
			"empty fragment": mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = exact(xdstest.AcmeWeb + "#") }),
			"NUL":            mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = exact(xdstest.AcmeWeb + "\x00") }),
			"empty":          mtls(func(c *mtlsv3.Config) { c.SanMatcher.Matcher = exact("") }),
		},

		"hcm_codec":          {"HTTP/1 inbound": hcm(func(h *hcmv3.HttpConnectionManager) { h.CodecType = hcmv3.HttpConnectionManager_AUTO }), "HTTP/3": outHCM(func(h *hcmv3.HttpConnectionManager) { h.CodecType = hcmv3.HttpConnectionManager_HTTP3 })},
		"hcm_rds":            {"others": hcm(func(h *hcmv3.HttpConnectionManager) { h.GetRds().RouteConfigName = "callers/platform/billing/globex" })},
		"hcm_stat_prefix":    {"free": hcm(func(h *hcmv3.HttpConnectionManager) { h.StatPrefix = "acme" })},
		"hcm_normalize_path": {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.NormalizePath = wrapperspb.Bool(false) }), "by runtime": outHCM(func(h *hcmv3.HttpConnectionManager) { h.NormalizePath = nil })},
		"hcm_merge_slashes":  {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.MergeSlashes = false })},
		"hcm_escaped_slashes": {"keep": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_KEEP_UNCHANGED
		}), "unescape": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
		})},
		"hcm_headers_with_underscores": {"allow": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_ALLOW
		}), "drop": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_DROP_HEADER
		})},
		"hcm_strip_port":         {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.StripPortMode = nil })},
		"hcm_strip_trailing_dot": {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.StripTrailingHostDot = false })},
		"hcm_forward_client_cert": {"forward": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.ForwardClientCertDetails = hcmv3.HttpConnectionManager_FORWARD_ONLY
		}), "always forward": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.ForwardClientCertDetails = hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY
		})},
		"hcm_internal_addresses": {
			"absent": hcm(func(h *hcmv3.HttpConnectionManager) { h.InternalAddressConfig = nil }),
			"empty": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.InternalAddressConfig = &hcmv3.HttpConnectionManager_InternalAddressConfig{}
			}),
			"wide": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.InternalAddressConfig.CidrRanges[0].PrefixLen = wrapperspb.UInt32(0)
			}),
		},
		"hcm_remote_address":  {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.UseRemoteAddress = nil })},
		"hcm_x_forwarded_for": {"append": outHCM(func(h *hcmv3.HttpConnectionManager) { h.SkipXffAppend = false })},
		"hcm_early_header_mutation": {
			"none":       hcm(func(h *hcmv3.HttpConnectionManager) { h.EarlyHeaderMutationExtensions = nil }),
			"keeps ours": early(func(m *earlyv3.HeaderMutation) { m.Mutations = m.GetMutations()[1:] }),
			"whole name only": early(func(m *earlyv3.HeaderMutation) {
				m.Mutations[0].Action = &mutationv3.HeaderMutation_Remove{Remove: "x-ringfence-"}
			}),
			"removes too much": early(func(m *earlyv3.HeaderMutation) {
				m.Mutations = append(m.GetMutations(), &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: "authorization"}})
			}),
		},
		"hcm_local_reply": {"Envoy's own": hcm(func(h *hcmv3.HttpConnectionManager) { h.LocalReplyConfig = nil })},
		"hcm_server_header": {"envoy": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.ServerHeaderTransformation = hcmv3.HttpConnectionManager_OVERWRITE
		})},
		"hcm_request_headers_kb":       {"default": hcm(func(h *hcmv3.HttpConnectionManager) { h.MaxRequestHeadersKb = nil }), "huge": hcm(func(h *hcmv3.HttpConnectionManager) { h.MaxRequestHeadersKb = wrapperspb.UInt32(8192) })},
		"hcm_headers_count":            {"default": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.MaxHeadersCount = nil })},
		"hcm_request_headers_timeout":  {"none": hcm(func(h *hcmv3.HttpConnectionManager) { h.RequestHeadersTimeout = nil })},
		"hcm_stream_idle_timeout":      {"default": hcm(func(h *hcmv3.HttpConnectionManager) { h.StreamIdleTimeout = nil }), "off": hcm(func(h *hcmv3.HttpConnectionManager) { h.StreamIdleTimeout = &durationpb.Duration{} })},
		"hcm_idle_timeout":             {"off": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.IdleTimeout = &durationpb.Duration{} })},
		"hcm_max_connection_duration":  {"none": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.MaxConnectionDuration = nil }), "a day": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.MaxConnectionDuration = day() })},
		"hcm_max_stream_duration":      {"none": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.MaxStreamDuration = nil }), "a day": hcm(func(h *hcmv3.HttpConnectionManager) { h.CommonHttpProtocolOptions.MaxStreamDuration = day() })},
		"http2_max_concurrent_streams": {"default": hcm(func(h *hcmv3.HttpConnectionManager) { h.Http2ProtocolOptions.MaxConcurrentStreams = nil }), "no options": hcm(func(h *hcmv3.HttpConnectionManager) { h.Http2ProtocolOptions = nil })},
		"http2_stream_window": {"256 MiB": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.Http2ProtocolOptions.InitialStreamWindowSize = wrapperspb.UInt32(256 << 20)
		})},
		"http2_connection_window": {"256 MiB": protocol(func(o *upstreamsv3.HttpProtocolOptions) {
			o.GetExplicitHttpConfig().GetHttp2ProtocolOptions().InitialConnectionWindowSize = wrapperspb.UInt32(256 << 20)
		})},
		"hcm_filter_order": {
			"no RBAC":      hcm(func(h *hcmv3.HttpConnectionManager) { h.HttpFilters = h.GetHttpFilters()[1:] }),
			"no ext_authz": hcm(func(h *hcmv3.HttpConnectionManager) { h.HttpFilters = slices.Delete(h.GetHttpFilters(), 1, 2) }),
			"swapped":      hcm(func(h *hcmv3.HttpConnectionManager) { f := h.GetHttpFilters(); f[0], f[1] = f[1], f[0] }),
			"other name":   hcm(func(h *hcmv3.HttpConnectionManager) { h.HttpFilters[0].Name = "rbac" }),
			"twice": hcm(func(h *hcmv3.HttpConnectionManager) {
				h.HttpFilters = append(h.GetHttpFilters(), h.GetHttpFilters()[2])
			}),
		},

		"rbac_base_denies": {
			"no rules":     base(func(r *rbacv3.RBAC) { r.Rules = nil }),
			"deny nothing": base(func(r *rbacv3.RBAC) { r.Rules.Action = rbacconfigv3.RBAC_DENY }),
			"log":          base(func(r *rbacv3.RBAC) { r.Rules.Action = rbacconfigv3.RBAC_LOG }),
			"a policy":     base(func(r *rbacv3.RBAC) { r.Rules.Policies = map[string]*rbacconfigv3.Policy{"x": {}} }),
		},
		"rbac_per_route_present": {
			"no rbac":  perRoute(func(p *rbacv3.RBACPerRoute) { p.Rbac = nil }),
			"no rules": perRoute(func(p *rbacv3.RBACPerRoute) { p.Rbac.Rules = nil }),
		},
		"rbac_action": {"deny": rules(func(r *rbacconfigv3.RBAC) { r.Action = rbacconfigv3.RBAC_DENY }), "log": rules(func(r *rbacconfigv3.RBAC) { r.Action = rbacconfigv3.RBAC_LOG })},
		"rbac_policy": {
			"second": rules(func(r *rbacconfigv3.RBAC) { r.Policies["more"] = r.GetPolicies()["callers"] }),
			"other name": rules(func(r *rbacconfigv3.RBAC) {
				r.Policies = map[string]*rbacconfigv3.Policy{"x": r.GetPolicies()["callers"]}
			}),
			"nobody": policy(func(p *rbacconfigv3.Policy) { p.Principals = nil }),
		},
		"rbac_permission": {"none": policy(func(p *rbacconfigv3.Policy) { p.Permissions = nil })},
		"rbac_principal": {
			"empty":           principal(&rbacconfigv3.Principal{}),
			"without matcher": mtls(func(c *mtlsv3.Config) { c.SanMatcher = nil }),
		},

		"ext_authz_cluster": {
			"asked again": authz(func(a *extauthzv3.ExtAuthz) {
				a.GetGrpcService().GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{}
			}),
			"an agent that is not there": directAuthz(func(a *extauthzv3.ExtAuthz) {
				a.GetGrpcService().GetEnvoyGrpc().ClusterName = "ringfence_agent"
			}),
			"TCP": tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.GetGrpcService().GetEnvoyGrpc().ClusterName = "app/platform/store" }), "another": authz(func(a *extauthzv3.ExtAuthz) { a.GetGrpcService().GetEnvoyGrpc().ClusterName = "service/acme/orders" }),
		},
		"ext_authz_api_version":        {"TCP": tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.TransportApiVersion = corev3.ApiVersion_AUTO }), "auto": authz(func(a *extauthzv3.ExtAuthz) { a.TransportApiVersion = corev3.ApiVersion_AUTO })},
		"ext_authz_timeout":            {"TCP": tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.GetGrpcService().Timeout = nil }), "none": authz(func(a *extauthzv3.ExtAuthz) { a.GetGrpcService().Timeout = nil }), "minute": authz(func(a *extauthzv3.ExtAuthz) { a.GetGrpcService().Timeout = durationpb.New(time.Minute) })},
		"ext_authz_status_on_error":    {"403": authz(func(a *extauthzv3.ExtAuthz) { a.StatusOnError = nil }), "200": authz(func(a *extauthzv3.ExtAuthz) { a.StatusOnError.Code = typev3.StatusCode_OK })},
		"ext_authz_deny_at_disable":    {"allow": authz(func(a *extauthzv3.ExtAuthz) { a.DenyAtDisable = nil }), "false": authz(func(a *extauthzv3.ExtAuthz) { a.DenyAtDisable.DefaultValue = wrapperspb.Bool(false) })},
		"ext_authz_peer_certificate":   {"TCP": tcpAuthz(func(a *networkauthzv3.ExtAuthz) { a.IncludePeerCertificate = false }), "off": authz(func(a *extauthzv3.ExtAuthz) { a.IncludePeerCertificate = false })},
		"ext_authz_tls_session":        {"off": authz(func(a *extauthzv3.ExtAuthz) { a.IncludeTlsSession = false })},
		"ext_authz_raw_headers":        {"off": authz(func(a *extauthzv3.ExtAuthz) { a.EncodeRawHeaders = false })},
		"ext_authz_validate_mutations": {"off": authz(func(a *extauthzv3.ExtAuthz) { a.ValidateMutations = false })},
		"ext_authz_header_limits":      {"off": authz(func(a *extauthzv3.ExtAuthz) { a.EnforceResponseHeaderLimits = false })},
		"ext_authz_denied_body":        {"unbounded": authz(func(a *extauthzv3.ExtAuthz) { a.MaxDeniedResponseBodyBytes = 0 })},
		"ext_authz_mutation_rules": {
			"none":         authz(func(a *extauthzv3.ExtAuthz) { a.DecoderHeaderMutationRules = nil }),
			"not all":      authz(func(a *extauthzv3.ExtAuthz) { a.DecoderHeaderMutationRules.DisallowAll = nil }),
			"silent":       authz(func(a *extauthzv3.ExtAuthz) { a.DecoderHeaderMutationRules.DisallowIsError = nil }),
			"more headers": authz(func(a *extauthzv3.ExtAuthz) { a.DecoderHeaderMutationRules.AllowExpression.Regex = "x-ringfence-.*" }),
		},
		"ext_authz_context": {
			"another service": check(func(p *extauthzv3.ExtAuthzPerRoute) {
				p.GetCheckSettings().ContextExtensions["service"] = "platform/ledger"
			}),
			"another tenant": check(func(p *extauthzv3.ExtAuthzPerRoute) {
				p.GetCheckSettings().ContextExtensions["service"] = "acme/billing"
			}),
			"no port": check(func(p *extauthzv3.ExtAuthzPerRoute) { delete(p.GetCheckSettings().GetContextExtensions(), "port") }),
			"more":    check(func(p *extauthzv3.ExtAuthzPerRoute) { p.GetCheckSettings().ContextExtensions["x"] = "y" }),
			"nothing": check(func(p *extauthzv3.ExtAuthzPerRoute) { p.Override = nil }),
		},
		"router_suppress_envoy_headers": {"added": hcm(func(h *hcmv3.HttpConnectionManager) {
			h.GetHttpFilters()[2].ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}
		})},

		"routes_per_filter_config": {
			"no guard 1": callers(func(r *routev3.RouteConfiguration) { delete(r.GetTypedPerFilterConfig(), "envoy.filters.http.rbac") }),
			"no guard 2": callers(func(r *routev3.RouteConfiguration) {
				delete(r.GetTypedPerFilterConfig(), "envoy.filters.http.ext_authz")
			}),
			"outbound has some": routes(func(r *routev3.RouteConfiguration) {
				r.TypedPerFilterConfig = map[string]*anypb.Any{"envoy.filters.http.router": packed(&routerv3.Router{})}
			}),
		},
		"routes_virtual_hosts": {
			"none": routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts = nil }),
			"two": callers(func(r *routev3.RouteConfiguration) {
				r.VirtualHosts = append(r.GetVirtualHosts(), &routev3.VirtualHost{Name: "x", Domains: []string{"x"}})
			}),
			"same name": routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Name = r.GetVirtualHosts()[1].GetName() }),
		},
		"routes_domains": {
			"twice":      routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = r.GetVirtualHosts()[1].GetDomains() }),
			"wildcard":   routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = []string{"*.mesh"} }),
			"upper case": routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = []string{"Orders"} }),
			"with port":  routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = []string{"orders:80"} }),
			"* first":    routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = []string{"*"} }),
			"no refusal": routes(func(r *routev3.RouteConfiguration) { r.VirtualHosts = r.GetVirtualHosts()[:1] }),
			"one host":   callers(func(r *routev3.RouteConfiguration) { r.VirtualHosts[0].Domains = []string{"billing"} }),
		},
		"routes_match": {
			"a path": callers(func(r *routev3.RouteConfiguration) {
				r.VirtualHosts[0].Routes[0].Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/x"}
			}),
			"two": callers(func(r *routev3.RouteConfiguration) {
				r.VirtualHosts[0].Routes = append(r.GetVirtualHosts()[0].GetRoutes(), r.GetVirtualHosts()[0].GetRoutes()[0])
			}),
		},
		"routes_cluster": {
			"another tenant's": routes(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "service/globex/orders"}
			}),
			"the agent": routes(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "ringfence_agent"}
			}),
			"the application": routes(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "app/acme/orders"}
			}),
			"another's application": callers(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "app/platform/ledger"}
			}),
			"a service": callers(func(r *routev3.RouteConfiguration) {
				action(r).ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "service/platform/billing"}
			}),
		},
		"routes_timeout": {"default": callers(func(r *routev3.RouteConfiguration) { action(r).Timeout = nil })},
		"routes_max_stream_duration": {
			"none": callers(func(r *routev3.RouteConfiguration) { action(r).MaxStreamDuration = nil }),
			"zero": callers(func(r *routev3.RouteConfiguration) { action(r).MaxStreamDuration.MaxStreamDuration = durationpb.New(0) }),
			"a day": callers(func(r *routev3.RouteConfiguration) {
				action(r).MaxStreamDuration.MaxStreamDuration = durationpb.New(24 * time.Hour)
			}),
			"outbound": routes(func(r *routev3.RouteConfiguration) {
				action(r).MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{}
			}),
		},
		"routes_refusal": {"200": routes(func(r *routev3.RouteConfiguration) {
			r.VirtualHosts[len(r.GetVirtualHosts())-1].Routes[0].GetDirectResponse().Status = 200
		})},
		"routes_headers_to_remove": {
			"another":  callers(func(r *routev3.RouteConfiguration) { r.RequestHeadersToRemove = []string{"x-ringfence-tenant"} }),
			"outbound": routes(func(r *routev3.RouteConfiguration) { r.RequestHeadersToRemove = []string{"authorization"} }),
			"twice": callers(func(r *routev3.RouteConfiguration) {
				r.RequestHeadersToRemove = []string{"authorization", "authorization"}
			}),
		},

		"cluster_type": {
			"DNS": cluster(func(c *clusterv3.Cluster) {
				c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
			}),
			"original dst": cluster(func(c *clusterv3.Cluster) {
				c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
			}),
			"app by EDS": app(func(c *clusterv3.Cluster) {
				c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
			}),
			"addresses beside EDS": cluster(func(c *clusterv3.Cluster) { c.LoadAssignment = &endpointv3.ClusterLoadAssignment{} }),
		},
		"cluster_tls": {
			"TCP in plaintext": tcpCluster(func(c *clusterv3.Cluster) { c.TransportSocket = nil }),
			"plaintext":        cluster(func(c *clusterv3.Cluster) { c.TransportSocket = nil }),
			"app by TLS":       app(func(c *clusterv3.Cluster) { c.TransportSocket = &corev3.TransportSocket{Name: "x"} }),
		},
		"cluster_protocol": {
			"none": cluster(func(c *clusterv3.Cluster) { c.TypedExtensionProtocolOptions = nil }),
			"HTTP/1": protocol(func(o *upstreamsv3.HttpProtocolOptions) {
				o.GetExplicitHttpConfig().ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
			}),
			"TCP and HTTP": tcpCluster(func(c *clusterv3.Cluster) {
				c.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"] = packed(&upstreamsv3.HttpProtocolOptions{})
			}),
			"TCP without": tcpCluster(func(c *clusterv3.Cluster) { c.TypedExtensionProtocolOptions = nil }),
			"stream duration": protocol(func(o *upstreamsv3.HttpProtocolOptions) {
				o.CommonHttpProtocolOptions.MaxStreamDuration = day()
			}),
		},
		"cluster_idle_timeout": {"none": protocol(func(o *upstreamsv3.HttpProtocolOptions) { o.CommonHttpProtocolOptions.IdleTimeout = nil })},
		"cluster_max_connection_duration": {
			"none": protocol(func(o *upstreamsv3.HttpProtocolOptions) { o.CommonHttpProtocolOptions.MaxConnectionDuration = nil }),
			"6m": protocol(func(o *upstreamsv3.HttpProtocolOptions) {
				o.CommonHttpProtocolOptions.MaxConnectionDuration = durationpb.New(6 * time.Minute)
			}),
		},
		"cluster_headers_count":   {"none": protocol(func(o *upstreamsv3.HttpProtocolOptions) { o.CommonHttpProtocolOptions.MaxHeadersCount = nil })},
		"cluster_connect_timeout": {"none": cluster(func(c *clusterv3.Cluster) { c.ConnectTimeout = nil })},
		"cluster_buffer":          {"none": cluster(func(c *clusterv3.Cluster) { c.PerConnectionBufferLimitBytes = nil })},
		"cluster_circuit_breakers": {
			"none":     cluster(func(c *clusterv3.Cluster) { c.CircuitBreakers = nil }),
			"no bound": app(func(c *clusterv3.Cluster) { c.CircuitBreakers.Thresholds[0].MaxRequests = nil }),
		},
		"cluster_app_loopback": {
			"another host": app(func(c *clusterv3.Cluster) { appAddress(c).Address = "10.0.0.1" }),
			"two": app(func(c *clusterv3.Cluster) {
				e := c.GetLoadAssignment().GetEndpoints()[0]
				e.LbEndpoints = append(e.GetLbEndpoints(), e.GetLbEndpoints()[0])
			}),
		},
		"endpoint_address": {
			"metadata service": endpointAt("169.254.169.254"),
			"link-local":       endpointAt("fe80::1"),
			"unspecified":      endpointAt("0.0.0.0"),
			"multicast":        endpointAt("ff02::1"),
			"broadcast":        endpointAt("255.255.255.255"),
			"a name":           endpointAt("globex.internal"),
			"mapped":           endpointAt("::ffff:169.254.169.254"),
			"zone":             endpointAt("fe80::1%eth0"),
		},
		"secret_kind": {
			"nothing": secret(func(s *tlsv3.Secret) { s.Type = nil }),
			"SANs": secret(func(s *tlsv3.Secret) {
				s.GetValidationContext().MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{{}}
			}),
		},
		"secret_callers": {
			"empty list": tcpCallers(func(v *tlsv3.CertificateValidationContext) { v.MatchTypedSubjectAltNames = nil }),
		},
		"secret_roots": {
			"of callers": tcpCallers(func(v *tlsv3.CertificateValidationContext) { v.TrustedCa = nil }),
			"none":       secret(func(s *tlsv3.Secret) { s.GetValidationContext().TrustedCa = nil }),
			"a key":      secret(func(s *tlsv3.Secret) { addPEM(s, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n") }),
			"text":       secret(func(s *tlsv3.Secret) { addPEM(s, "hello") }),
			"bad":        secret(func(s *tlsv3.Secret) { addPEM(s, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") }),
		},
	}
}
