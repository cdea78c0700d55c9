package filters_test

import (
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// An edit breaks one thing in a generated resource of this name.
type edit struct {
	sample string
	apply  func(proto.Message)
}

// on applies a change to a message of its type; to any other it is an error of the test.
func on[M proto.Message](change func(M)) func(proto.Message) {
	return func(m proto.Message) {
		typed, ok := m.(M)
		if !ok {
			panic("the sample is of another type")
		}
		change(typed)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// repack changes what is packed in an Any.
func repack[M proto.Message](a *anypb.Any, m M, change func(M)) {
	must(a.UnmarshalTo(m))
	change(m)
	must(a.MarshalFrom(m))
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	must(err)
	return a
}

func in(change func(*listenerv3.Listener)) edit {
	return edit{"Listener platform inbound/platform/billing", on(change)}
}

func out(change func(*listenerv3.Listener)) edit {
	return edit{"Listener acme outbound/acme/web", on(change)}
}

func chain(change func(*listenerv3.FilterChain)) edit {
	return in(func(l *listenerv3.Listener) { change(l.GetFilterChains()[1]) })
}

func hcm(change func(*hcmv3.HttpConnectionManager)) edit {
	return chain(func(c *listenerv3.FilterChain) {
		repack(c.GetFilters()[0].GetTypedConfig(), &hcmv3.HttpConnectionManager{}, change)
	})
}

func outHCM(change func(*hcmv3.HttpConnectionManager)) edit {
	return out(func(l *listenerv3.Listener) {
		repack(l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), &hcmv3.HttpConnectionManager{}, change)
	})
}

func authz(change func(*extauthzv3.ExtAuthz)) edit {
	return hcm(func(h *hcmv3.HttpConnectionManager) {
		repack(h.GetHttpFilters()[1].GetTypedConfig(), &extauthzv3.ExtAuthz{}, change)
	})
}

func directAuthz(change func(*extauthzv3.ExtAuthz)) edit {
	e := authz(change)
	return edit{"direct " + e.sample, e.apply}
}

// directUp changes where a sidecar without an agent has its SVID from.
func directUp(change func(*tlsv3.SdsSecretConfig)) edit {
	e := up(func(u *tlsv3.UpstreamTlsContext) {
		change(u.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()[0])
	})
	return edit{"direct " + e.sample, e.apply}
}

func early(change func(*earlyv3.HeaderMutation)) edit {
	return hcm(func(h *hcmv3.HttpConnectionManager) {
		repack(h.GetEarlyHeaderMutationExtensions()[0].GetTypedConfig(), &earlyv3.HeaderMutation{}, change)
	})
}

func down(change func(*tlsv3.DownstreamTlsContext)) edit {
	return chain(func(c *listenerv3.FilterChain) {
		repack(c.GetTransportSocket().GetTypedConfig(), &tlsv3.DownstreamTlsContext{}, change)
	})
}

// tcpIn is a TCP service where the client speaks first, tcpOut a loopback port that leads to a shared one.
func tcpIn(change func(*listenerv3.Listener)) edit {
	return edit{"Listener platform inbound/platform/store", on(change)}
}

func tcpOut(change func(*listenerv3.Listener)) edit {
	return edit{"Listener acme tcp/acme/tool/platform/store", on(change)}
}

func tcpChain(change func(*listenerv3.FilterChain)) edit {
	return tcpIn(func(l *listenerv3.Listener) { change(l.GetFilterChains()[1]) })
}

func tcpAuthz(change func(*networkauthzv3.ExtAuthz)) edit {
	return tcpChain(func(c *listenerv3.FilterChain) {
		repack(c.GetFilters()[0].GetTypedConfig(), &networkauthzv3.ExtAuthz{}, change)
	})
}

func tcpProxy(change func(*tcpproxyv3.TcpProxy)) edit {
	return tcpChain(func(c *listenerv3.FilterChain) {
		repack(c.GetFilters()[1].GetTypedConfig(), &tcpproxyv3.TcpProxy{}, change)
	})
}

func tcpOutProxy(change func(*tcpproxyv3.TcpProxy)) edit {
	return tcpOut(func(l *listenerv3.Listener) {
		repack(l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), &tcpproxyv3.TcpProxy{}, change)
	})
}

func tcpDown(change func(*tlsv3.DownstreamTlsContext)) edit {
	return tcpChain(func(c *listenerv3.FilterChain) {
		repack(c.GetTransportSocket().GetTypedConfig(), &tlsv3.DownstreamTlsContext{}, change)
	})
}

func tcpCluster(change func(*clusterv3.Cluster)) edit {
	return edit{"Cluster acme import/acme/store", on(change)}
}

func tcpUp(change func(*tlsv3.UpstreamTlsContext)) edit {
	return tcpCluster(func(c *clusterv3.Cluster) {
		repack(c.GetTransportSocket().GetTypedConfig(), &tlsv3.UpstreamTlsContext{}, change)
	})
}

// tcpCallers are the secret of those who may connect, none of whom is anybody.
func tcpCallers(change func(*tlsv3.CertificateValidationContext)) edit {
	return edit{"Secret acme callers/acme/mail/acme", on(func(s *tlsv3.Secret) { change(s.GetValidationContext()) })}
}

func uri(s string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: exact(s)}
}

func cluster(change func(*clusterv3.Cluster)) edit {
	return edit{"Cluster acme service/acme/ledger", on(change)}
}

func app(change func(*clusterv3.Cluster)) edit {
	return edit{"Cluster acme app/acme/orders", on(change)}
}

func up(change func(*tlsv3.UpstreamTlsContext)) edit {
	return cluster(func(c *clusterv3.Cluster) {
		repack(c.GetTransportSocket().GetTypedConfig(), &tlsv3.UpstreamTlsContext{}, change)
	})
}

func upSAN(change func(*tlsv3.SubjectAltNameMatcher)) edit {
	return up(func(u *tlsv3.UpstreamTlsContext) { change(upValidation(u).GetMatchTypedSubjectAltNames()[1]) })
}

func upValidation(u *tlsv3.UpstreamTlsContext) *tlsv3.CertificateValidationContext {
	return u.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext()
}

func protocol(change func(*upstreamsv3.HttpProtocolOptions)) edit {
	return cluster(func(c *clusterv3.Cluster) {
		repack(c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], &upstreamsv3.HttpProtocolOptions{}, change)
	})
}

func callers(change func(*routev3.RouteConfiguration)) edit {
	return edit{"RouteConfiguration platform callers/platform/billing/acme", on(change)}
}

func routes(change func(*routev3.RouteConfiguration)) edit {
	return edit{"RouteConfiguration acme routes/acme/web", on(change)}
}

func perRoute(change func(*rbacv3.RBACPerRoute)) edit {
	return callers(func(r *routev3.RouteConfiguration) {
		repack(r.GetTypedPerFilterConfig()["envoy.filters.http.rbac"], &rbacv3.RBACPerRoute{}, change)
	})
}

func rules(change func(*rbacconfigv3.RBAC)) edit {
	return perRoute(func(p *rbacv3.RBACPerRoute) { change(p.GetRbac().GetRules()) })
}

func policy(change func(*rbacconfigv3.Policy)) edit {
	return rules(func(r *rbacconfigv3.RBAC) { change(r.GetPolicies()["callers"]) })
}

func principal(p *rbacconfigv3.Principal) edit {
	return policy(func(c *rbacconfigv3.Policy) { c.Principals[0] = p })
}

func mtls(change func(*mtlsv3.Config)) edit {
	return policy(func(c *rbacconfigv3.Policy) {
		repack(c.GetPrincipals()[0].GetCustom().GetTypedConfig(), &mtlsv3.Config{}, change)
	})
}

func check(change func(*extauthzv3.ExtAuthzPerRoute)) edit {
	return callers(func(r *routev3.RouteConfiguration) {
		repack(r.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"], &extauthzv3.ExtAuthzPerRoute{}, change)
	})
}

func endpoints(change func(*endpointv3.ClusterLoadAssignment)) edit {
	return edit{"ClusterLoadAssignment acme service/acme/reports", on(change)}
}

func endpointAt(address string) edit {
	return endpoints(func(a *endpointv3.ClusterLoadAssignment) {
		a.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().Address = address
	})
}

func secret(change func(*tlsv3.Secret)) edit {
	return edit{"Secret acme spiffe://acme.demo.test", on(change)}
}

func day() *durationpb.Duration { return durationpb.New(24 * time.Hour) }

func unknown(m proto.Message) {
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1999, protowire.VarintType), 1))
}

func downValidation(d *tlsv3.DownstreamTlsContext) *tlsv3.CertificateValidationContext {
	return d.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext()
}

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func base(change func(*rbacv3.RBAC)) edit {
	return hcm(func(h *hcmv3.HttpConnectionManager) {
		repack(h.GetHttpFilters()[0].GetTypedConfig(), &rbacv3.RBAC{}, change)
	})
}

func action(r *routev3.RouteConfiguration) *routev3.RouteAction {
	return r.GetVirtualHosts()[0].GetRoutes()[0].GetRoute()
}

func appAddress(c *clusterv3.Cluster) *corev3.SocketAddress {
	return c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress()
}

func addPEM(s *tlsv3.Secret, more string) {
	roots := s.GetValidationContext().GetTrustedCa().GetInlineBytes()
	s.GetValidationContext().TrustedCa.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: append(slices.Clone(roots), more...)}
}

func to(p *tcpproxyv3.TcpProxy, cluster string) {
	p.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster}
}
