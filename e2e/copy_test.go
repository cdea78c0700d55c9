package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// copied is the inbound side of a sidecar as its Envoy really holds it, taken from its configuration dump: what a test may
// change before it runs the copy in a static Envoy of its own.
type copied struct {
	listener *listenerv3.Listener
	routes   map[string]*routev3.RouteConfiguration
	app      *clusterv3.Cluster
	servers  []*clusterv3.Cluster // the agent; where there is none, SPIRE's agent and the decision point
	secrets  map[string]*tlsv3.Secret
}

// copyInbound reads the sidecar's own dump through its admin socket. The dump redacts the private key; the caller adds it.
func copyInbound(t testing.TB, adminSocket, listener string) *copied {
	t.Helper()
	dump := configDump(t, adminSocket)
	c := &copied{routes: map[string]*routev3.RouteConfiguration{}, secrets: map[string]*tlsv3.Secret{}}
	for _, section := range dump.GetConfigs() {
		message, err := section.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch s := message.(type) {
		case *adminv3.ListenersConfigDump:
			for _, l := range s.GetDynamicListeners() {
				if l.GetName() == listener {
					c.listener = unpack(t, l.GetActiveState().GetListener(), &listenerv3.Listener{})
				}
			}
		case *adminv3.RoutesConfigDump:
			for _, r := range s.GetDynamicRouteConfigs() {
				rc := unpack(t, r.GetRouteConfig(), &routev3.RouteConfiguration{})
				c.routes[rc.GetName()] = rc
			}
		case *adminv3.ClustersConfigDump:
			for _, cl := range s.GetDynamicActiveClusters() {
				cluster := unpack(t, cl.GetCluster(), &clusterv3.Cluster{})
				if cluster.GetName() == "app/"+strings.TrimPrefix(listener, "inbound/") {
					c.app = cluster
				}
			}
			for _, cl := range s.GetStaticClusters() {
				cluster := unpack(t, cl.GetCluster(), &clusterv3.Cluster{})
				if cluster.GetName() != "ringfence_control_plane" {
					c.servers = append(c.servers, cluster)
				}
			}
		case *adminv3.SecretsConfigDump:
			for _, sec := range s.GetDynamicActiveSecrets() {
				c.secrets[sec.GetName()] = unpack(t, sec.GetSecret(), &tlsv3.Secret{})
			}
		}
	}
	if c.listener == nil || c.app == nil || len(c.servers) == 0 || len(c.secrets) == 0 {
		t.Fatalf("the dump of %s lacks something: listener %v, app %v, %d servers, %d routes, %d secrets",
			listener, c.listener != nil, c.app != nil, len(c.servers), len(c.routes), len(c.secrets))
	}
	return c
}

func unpack[M proto.Message](t testing.TB, packed *anypb.Any, into M) M {
	t.Helper()
	if err := packed.UnmarshalTo(into); err != nil {
		t.Fatal(err)
	}
	return into
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func configDump(t testing.TB, adminSocket string) *adminv3.ConfigDump {
	t.Helper()
	dump := &adminv3.ConfigDump{}
	if err := protojson.Unmarshal(admin(t, adminSocket, "/config_dump?include_eds"), dump); err != nil {
		t.Fatal(err)
	}
	return dump
}

func admin(t testing.TB, socket, path string) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://admin"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", path, response.StatusCode, err)
	}
	return body
}

// eachTLS lets a test change the TLS context of every filter chain.
func (c *copied) eachTLS(t testing.TB, change func(*tlsv3.DownstreamTlsContext)) {
	t.Helper()
	for _, chain := range c.listener.GetFilterChains() {
		tls := unpack(t, chain.GetTransportSocket().GetTypedConfig(), &tlsv3.DownstreamTlsContext{})
		change(tls)
		chain.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, tls)}
	}
}

// withoutTCPAuthz takes guard 2 out of every chain of a TCP service.
func (c *copied) withoutTCPAuthz(t testing.TB) {
	t.Helper()
	for _, chain := range c.listener.GetFilterChains() {
		if chain.GetFilters()[0].GetName() != "envoy.filters.network.ext_authz" {
			t.Fatal("a chain begins with another filter")
		}
		chain.Filters = chain.GetFilters()[1:]
	}
}

// eachProxy lets a test change the TCP proxy of every chain.
func (c *copied) eachProxy(t testing.TB, change func(*tcpproxyv3.TcpProxy)) {
	t.Helper()
	for _, chain := range c.listener.GetFilterChains() {
		last := chain.GetFilters()[len(chain.GetFilters())-1]
		proxy := unpack(t, last.GetTypedConfig(), &tcpproxyv3.TcpProxy{})
		change(proxy)
		last.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, proxy)}
	}
}

// admit replaces the callers of a TCP service.
func (c *copied) admit(t testing.TB, ids ...string) {
	t.Helper()
	changed := 0
	for name, s := range c.secrets {
		if v := s.GetValidationContext(); v != nil && strings.HasPrefix(name, "callers/") {
			v.MatchTypedSubjectAltNames = nil
			for _, id := range ids {
				v.MatchTypedSubjectAltNames = append(v.GetMatchTypedSubjectAltNames(), &tlsv3.SubjectAltNameMatcher{
					SanType: tlsv3.SubjectAltNameMatcher_URI,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
				})
			}
			changed++
		}
	}
	if changed == 0 {
		t.Fatal("no callers to replace")
	}
}

// eachChain lets a test change the TLS context and the connection manager of every filter chain.
func (c *copied) eachChain(t testing.TB, change func(*listenerv3.FilterChain, *tlsv3.DownstreamTlsContext, *hcmv3.HttpConnectionManager)) {
	t.Helper()
	for _, chain := range c.listener.GetFilterChains() {
		tls := unpack(t, chain.GetTransportSocket().GetTypedConfig(), &tlsv3.DownstreamTlsContext{})
		hcm := unpack(t, chain.GetFilters()[0].GetTypedConfig(), &hcmv3.HttpConnectionManager{})
		change(chain, tls, hcm)
		chain.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, tls)}
		chain.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, hcm)}
	}
}

// withoutHTTPFilter takes a filter out of every chain, and its per-route configuration out of every route configuration.
func (c *copied) withoutHTTPFilter(t testing.TB, name string) {
	t.Helper()
	removed := 0
	c.eachChain(t, func(_ *listenerv3.FilterChain, _ *tlsv3.DownstreamTlsContext, hcm *hcmv3.HttpConnectionManager) {
		var kept []*hcmv3.HttpFilter
		for _, f := range hcm.GetHttpFilters() {
			if f.GetName() == name {
				removed++
				continue
			}
			kept = append(kept, f)
		}
		hcm.HttpFilters = kept
	})
	if removed == 0 {
		t.Fatalf("no chain has a filter %q", name)
	}
	for _, r := range c.routes {
		delete(r.GetTypedPerFilterConfig(), name)
	}
}

// trust replaces every bundle by these roots and opens every chain to any SNI: TLS then admits whoever they vouch for.
func (c *copied) trust(t testing.TB, rootsPEM []byte) {
	t.Helper()
	changed := 0
	for name, s := range c.secrets {
		if v := s.GetValidationContext(); v != nil && (strings.HasPrefix(name, "spiffe://") || strings.HasPrefix(name, "callers/")) {
			v.TrustedCa = inline(rootsPEM)
			changed++
		}
	}
	if changed == 0 {
		t.Fatal("no bundle to replace")
	}
}

// routed reports whether the listener takes requests.
func (c *copied) routed() bool {
	fs := c.listener.GetFilterChains()[0].GetFilters()
	return fs[len(fs)-1].GetTypedConfig().MessageIs(&hcmv3.HttpConnectionManager{})
}

func (c *copied) inlineRoutes(t testing.TB) {
	t.Helper()
	c.eachChain(t, func(_ *listenerv3.FilterChain, _ *tlsv3.DownstreamTlsContext, hcm *hcmv3.HttpConnectionManager) {
		routes := c.routes[hcm.GetRds().GetRouteConfigName()]
		if routes == nil {
			t.Fatalf("no route configuration %q", hcm.GetRds().GetRouteConfigName())
		}
		hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
	})
}

// bootstrap is the copy as a static Envoy takes it, listening on port; certificate and key are what the dump left out.
func (c *copied) bootstrap(t testing.TB, port uint32, certPEM, keyPEM []byte) []byte {
	t.Helper()
	c.eachTLS(t, func(tls *tlsv3.DownstreamTlsContext) {
		for _, s := range tls.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs() {
			s.SdsConfig = nil
		}
		if s := tls.GetCommonTlsContext().GetCombinedValidationContext().GetValidationContextSdsSecretConfig(); s != nil {
			s.SdsConfig = nil
		}
		if s := tls.GetCommonTlsContext().GetValidationContextSdsSecretConfig(); s != nil {
			s.SdsConfig = nil
		}
	})
	if c.routed() {
		c.inlineRoutes(t)
	}
	c.listener.GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: port}
	c.secrets["default"] = &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(certPEM), PrivateKey: inline(keyPEM),
	}}}
	static := &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{c.listener},
		Clusters:  append([]*clusterv3.Cluster{c.app}, c.servers...),
	}
	for _, s := range c.secrets {
		static.Secrets = append(static.Secrets, s)
	}
	b := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "copy", Cluster: "copy"},
		StaticResources: static,
		Admin: &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{
			Pipe: &corev3.Pipe{Path: filepath.Join(t.TempDir(), "a.sock"), Mode: 0o600},
		}}},
	}
	out, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, out, "", " "); err != nil {
		t.Fatal(err)
	}
	return indented.Bytes()
}

// directBootstrap is the copy of a sidecar without an agent, which has its SVID from SPIRE's agent as the sidecar has.
func (c *copied) directBootstrap(t testing.TB, port int, adminSocket string) []byte {
	t.Helper()
	c.eachTLS(t, func(tls *tlsv3.DownstreamTlsContext) {
		tls.GetCommonTlsContext().GetCombinedValidationContext().GetValidationContextSdsSecretConfig().SdsConfig = nil
	})
	for name, r := range c.routes { // the dump redacts whom ext_authz is asked about
		if check := r.GetTypedPerFilterConfig()[filterExtAuthz]; check != nil {
			parts := strings.Split(name, "/")
			settings := unpack(t, check, &extauthzv3.ExtAuthzPerRoute{})
			settings.GetCheckSettings().ContextExtensions = map[string]string{"service": parts[1] + "/" + parts[2], "port": "http"}
			r.GetTypedPerFilterConfig()[filterExtAuthz] = pack(t, settings)
		}
	}
	c.inlineRoutes(t)
	c.listener.GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(port)} //nolint:gosec // a port
	static := &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{c.listener}, Clusters: append([]*clusterv3.Cluster{c.app}, c.servers...),
	}
	for _, s := range c.secrets {
		if s.GetValidationContext() != nil {
			static.Secrets = append(static.Secrets, s)
		}
	}
	noSPIFFE := &structpb.Struct{Fields: map[string]*structpb.Value{"disable_spiffe_cert_validation": structpb.NewBoolValue(true)}}
	out, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "copy", Cluster: "copy", Metadata: noSPIFFE}, StaticResources: static,
		Admin: &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: adminSocket, Mode: 0o600}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
