package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ringfence-mesh/ringfence/filters"
)

const (
	agentConnectTimeout = time.Second
	adminSocketMode     = 0o600
	maxSocketPath       = 107 // bytes of a Unix socket's path

	defaultMaxConnections = 10_000
	defaultMaxHeapBytes   = 512 << 20
	overloadInterval      = 250 * time.Millisecond
	shrinkHeapAt          = 0.90
	refuseRequestsAt      = 0.95
)

// BootstrapConfig is what an Envoy has to know before its agent tells it everything else.
type BootstrapConfig struct {
	// NodeID names the Envoy in logs and statistics. Nobody takes it for an identity.
	NodeID string
	// NodeCluster groups Envoys in logs and statistics: the tenant's name.
	NodeCluster string
	// AgentSocket is the path of the agent's Unix socket: discovery, secrets, ext_authz.
	AgentSocket string
	// AdminSocket is the path where Envoy opens its admin interface, mode 0600.
	AdminSocket string
	// MaxConnections caps the connections that are open at the same time. 0: 10,000.
	MaxConnections uint32
	// MaxHeapBytes is where Envoy starts to refuse requests rather than grow. 0: 512 MiB.
	MaxHeapBytes uint64
}

// Bootstrap is the start configuration of a sidecar, as JSON. It holds no listener: those come when the agent has
// everything that guards them. The runtime has one static layer, so that no admin call can change a guard.
func Bootstrap(c BootstrapConfig) ([]byte, error) {
	if c.NodeID == "" || c.NodeCluster == "" {
		return nil, errors.New("bootstrap: Envoy needs a node id and a node cluster")
	}
	if err := errors.Join(socketPath(c.AgentSocket), socketPath(c.AdminSocket)); err != nil {
		return nil, err
	}
	agent, err := socketCluster(filters.AgentCluster, c.AgentSocket)
	if err != nil {
		return nil, err
	}
	overload, err := overloadManager(c.MaxConnections, c.MaxHeapBytes)
	if err != nil {
		return nil, err
	}
	m := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: c.NodeID, Cluster: c.NodeCluster},
		Admin: &bootstrapv3.Admin{
			Address:               pipe(c.AdminSocket, adminSocketMode),
			IgnoreGlobalConnLimit: true,
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{agent}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: adsSource(corev3.ApiConfigSource_DELTA_GRPC, filters.AgentCluster),
			CdsConfig: filters.ADS(),
			LdsConfig: filters.ADS(),
		},
		LayeredRuntime:  staticRuntime(),
		OverloadManager: overload,
		StatsConfig:     smallStats(),
	}
	return stableJSON(m)
}

// stableJSON is one text for one message: protojson alone varies its white space on purpose.
func stableJSON(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func socketPath(path string) error {
	if path == "" || len(path) > maxSocketPath {
		return fmt.Errorf("bootstrap: a Unix socket's path has 1 to %d bytes: %q", maxSocketPath, path)
	}
	return nil
}

// socketCluster is a gRPC server behind a Unix socket of this machine.
func socketCluster(name, socket string) (*clusterv3.Cluster, error) {
	options, err := http2Options(&upstreamsv3.HttpProtocolOptions{}, &corev3.Http2ProtocolOptions{})
	if err != nil {
		return nil, err
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:                durationpb.New(agentConnectTimeout),
		TypedExtensionProtocolOptions: options,
		LoadAssignment:                oneEndpoint(name, pipe(socket, 0)),
	}, nil
}

// http2Options are o, over HTTP/2.
func http2Options(o *upstreamsv3.HttpProtocolOptions, h2 *corev3.Http2ProtocolOptions) (map[string]*anypb.Any, error) {
	o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2},
		},
	}
	options, err := anypb.New(o)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}, nil
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}

// adsSource is the one discovery stream.
func adsSource(kind corev3.ApiConfigSource_ApiType, cluster string) *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:                   kind,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices:              []*corev3.GrpcService{filters.EnvoyGRPC(cluster)},
	}
}

// staticRuntime leaves out the admin layer, which is there by default and lets the admin interface change runtime keys.
func staticRuntime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name:           "static",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{}},
	}}}
}

// overloadManager bounds connections and memory, so that one neighbour cannot starve the host.
func overloadManager(connections uint32, heap uint64) (*overloadv3.OverloadManager, error) {
	if connections == 0 {
		connections = defaultMaxConnections
	}
	if heap == 0 {
		heap = defaultMaxHeapBytes
	}
	connectionMonitor, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: int64(connections)})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	heapMonitor, err := anypb.New(&heapv3.FixedHeapConfig{MaxHeapSizeBytes: heap})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	const heapName = "envoy.resource_monitors.fixed_heap"
	at := func(action string, level float64) *overloadv3.OverloadAction {
		return &overloadv3.OverloadAction{Name: action, Triggers: []*overloadv3.Trigger{{
			Name:         heapName,
			TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: level}},
		}}}
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(overloadInterval),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			{Name: "envoy.resource_monitors.global_downstream_max_connections", ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: connectionMonitor}},
			{Name: heapName, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: heapMonitor}},
		},
		Actions: []*overloadv3.OverloadAction{
			at("envoy.overload_actions.shrink_heap", shrinkHeapAt),
			at("envoy.overload_actions.stop_accepting_requests", refuseRequestsAt),
		},
	}, nil
}

// smallStats keeps what is looked at: names that grow with configuration only, and few of them.
func smallStats() *metricsv3.StatsConfig {
	prefixes := []string{
		"cluster.", "cluster_manager.", "control_plane.", "ext_authz.inbound.", "http.inbound.", "http.outbound.", "listener_manager.",
		"overload.", "server.", "tcp.inbound.", "tcp.outbound.",
	}
	list := &matcherv3.ListStringMatcher{}
	for _, p := range prefixes {
		list.Patterns = append(list.GetPatterns(), &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: p}})
	}
	return &metricsv3.StatsConfig{
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list}},
	}
}
