package xds_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/xds"
)

const (
	directWorkload = "spiffe://acme.demo.test/ns/acme/sa/web"
	directPlane    = "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"
	directAuthz    = "spiffe://acme.demo.test/ns/acme/sa/authz"
)

func spiffeID(tb testing.TB, uri string) identity.SPIFFEID {
	tb.Helper()
	id, err := identity.ParseSPIFFEID(uri)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// directConfig is a control plane that is known by a file of roots, and a decision point whose roots SPIRE's agent gives.
func directConfig(tb testing.TB) xds.DirectConfig {
	tb.Helper()
	return xds.DirectConfig{
		Workload: spiffeID(tb, directWorkload), SPIRESocket: filepath.Join(realenvoy.Dir(tb), "agent.sock"),
		ControlPlane: xds.Server{
			Host: "127.0.0.1", Port: 7443, ID: spiffeID(tb, directPlane), Roots: testca.Constrained(tb, "platform.demo.test").Bundle("platform.demo.test"),
		},
		Authz:   xds.Server{Host: "authz.acme.example", Port: 9001, ID: spiffeID(tb, directAuthz)},
		SVIDTTL: time.Hour,
	}
}

func readBootstrap(tb testing.TB, text []byte) (*bootstrapv3.Bootstrap, map[string]*clusterv3.Cluster) {
	tb.Helper()
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(text, &b); err != nil {
		tb.Fatal(err)
	}
	clusters := map[string]*clusterv3.Cluster{}
	for _, c := range b.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = c
	}
	return &b, clusters
}

func TestDirectBootstrap(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*xds.DirectConfig){
		"delta":              func(*xds.DirectConfig) {},
		"state of the world": func(c *xds.DirectConfig) { c.StateOfTheWorld = true },
		"SPIRE's roots":      func(c *xds.DirectConfig) { c.ControlPlane.Roots = identity.Bundle{} },
		"with admin":         func(c *xds.DirectConfig) { c.AdminSocket = c.SPIRESocket + "2" },
		"short-lived SVIDs":  func(c *xds.DirectConfig) { c.SVIDTTL = time.Minute },
		"IPv6":               func(c *xds.DirectConfig) { c.Authz.Host = "::1" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := directConfig(t)
			change(&c)
			text, err := xds.DirectBootstrap(c)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := xds.DirectBootstrap(c); err != nil || string(again) != string(text) {
				t.Errorf("two bootstraps of one configuration differ (%v)", err)
			}
			realenvoy.Validate(t, text)
			b, clusters := readBootstrap(t, text)
			if got := slices.Sorted(maps.Keys(clusters)); !slices.Equal(got, []string{"ringfence_authz", "ringfence_control_plane", "spire_agent"}) {
				t.Errorf("clusters %q", got)
			}
			if len(b.GetStaticResources().GetListeners()) > 0 || (b.GetAdmin() != nil) != (c.AdminSocket != "") {
				t.Errorf("a listener or an admin interface that nobody asked for: %v", b)
			}
			ads := b.GetDynamicResources().GetAdsConfig()
			want := corev3.ApiConfigSource_DELTA_GRPC
			if c.StateOfTheWorld {
				want = corev3.ApiConfigSource_GRPC
			}
			if ads.GetApiType() != want || !proto.Equal(ads.GetGrpcServices()[0], filters.EnvoyGRPC("ringfence_control_plane")) {
				t.Errorf("discovery by %v", ads)
			}
			knows(t, clusters["ringfence_control_plane"], c, c.ControlPlane)
			knows(t, clusters["ringfence_authz"], c, c.Authz)
		})
	}
}

// knows demands that a server is known by exactly its SPIFFE ID and its own roots, is shown the workload's SVID, and that no
// connection to it outlives that.
func knows(t *testing.T, c *clusterv3.Cluster, config xds.DirectConfig, s xds.Server) {
	t.Helper()
	var tls tlsv3.UpstreamTlsContext
	var options upstreamsv3.HttpProtocolOptions
	if c.GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls) != nil ||
		c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].UnmarshalTo(&options) != nil {
		t.Fatalf("no mutual TLS: %v", c)
	}
	common := tls.GetCommonTlsContext()
	if own := common.GetTlsCertificateSdsSecretConfigs(); len(own) != 1 || !proto.Equal(own[0], filters.SPIRESecret(directWorkload)) {
		t.Errorf("%s is shown %v", c.GetName(), own)
	}
	peer := common.GetValidationContext()
	if s.Roots.IsZero() {
		peer = common.GetCombinedValidationContext().GetDefaultValidationContext()
		roots := common.GetCombinedValidationContext().GetValidationContextSdsSecretConfig()
		if !proto.Equal(roots, filters.SPIRESecret(s.ID.TrustDomain().ID())) || peer.GetTrustedCa() != nil {
			t.Errorf("%s is verified by %v", c.GetName(), common)
		}
	} else if peer.GetTrustedCa().GetInlineString() != string(s.Roots.PEM()) {
		t.Errorf("%s is verified by %v", c.GetName(), peer)
	}
	sans := peer.GetMatchTypedSubjectAltNames()
	if len(sans) != 1 || sans[0].GetSanType() != tlsv3.SubjectAltNameMatcher_URI || sans[0].GetMatcher().GetExact() != s.ID.String() {
		t.Errorf("%s may be %v", c.GetName(), sans)
	}
	if life := options.GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(); life != min(config.SVIDTTL/4, 5*time.Minute) {
		t.Errorf("connections to %s live for %v", c.GetName(), life)
	}
	kind := clusterv3.Cluster_STATIC
	if strings.HasPrefix(s.Host, "authz.") {
		kind = clusterv3.Cluster_STRICT_DNS
	}
	if c.GetType() != kind {
		t.Errorf("%s is found by %v", c.GetName(), c.GetType())
	}
}

func TestDirectBootstrapRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*xds.DirectConfig){
		"no workload":            func(c *xds.DirectConfig) { c.Workload = identity.SPIFFEID{} },
		"no SPIRE":               func(c *xds.DirectConfig) { c.SPIRESocket = "" },
		"a long path":            func(c *xds.DirectConfig) { c.SPIRESocket = "/" + strings.Repeat("x", 107) },
		"a long admin path":      func(c *xds.DirectConfig) { c.AdminSocket = "/" + strings.Repeat("x", 107) },
		"any control plane":      func(c *xds.DirectConfig) { c.ControlPlane.ID = identity.SPIFFEID{} },
		"any decision point":     func(c *xds.DirectConfig) { c.Authz.ID = identity.SPIFFEID{} },
		"another domain's roots": func(c *xds.DirectConfig) { c.Authz.Roots = c.ControlPlane.Roots },
		"no port":                func(c *xds.DirectConfig) { c.Authz.Port = 0 },
		"no host":                func(c *xds.DirectConfig) { c.ControlPlane.Host = "" },
		"no SVID life":           func(c *xds.DirectConfig) { c.SVIDTTL = 0 },
	} {
		c := directConfig(t)
		change(&c)
		if text, err := xds.DirectBootstrap(c); err == nil || text != nil {
			t.Errorf("%s is taken", name)
		}
	}
}
