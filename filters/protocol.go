package filters

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/tcp/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// http2 are the limits of every HTTP/2 connection, whoever is the server. Extended CONNECT stays off.
func http2() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        number(maxStreams),
		InitialStreamWindowSize:     number(streamWindow),
		InitialConnectionWindowSize: number(connectionWindow),
	}
}

// serverProtocol are the limits of a connection manager.
func serverProtocol() *corev3.HttpProtocolOptions {
	return &corev3.HttpProtocolOptions{
		IdleTimeout:                  seconds(serverIdle),
		MaxConnectionDuration:        seconds(connectionLife),
		MaxStreamDuration:            seconds(streamLife),
		MaxHeadersCount:              number(maxHeaders),
		HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
	}
}

// MeshProtocol is how a sidecar speaks to another one: HTTP/2, over connections of that life.
func MeshProtocol(life time.Duration) (map[string]*anypb.Any, error) {
	return clientProtocol(true, life)
}

// AppProtocol is how a sidecar speaks to its application: HTTP/1.1, or HTTP/2 to a gRPC server.
func AppProtocol(grpc bool) (map[string]*anypb.Any, error) {
	return clientProtocol(grpc, connectionLife)
}

// TCPProtocol is for clusters of TCP services and their applications: nobody reads what is sent. How long connections live
// is said where they are taken.
func TCPProtocol() (map[string]*anypb.Any, error) {
	options, err := pack(&tcpv3.TcpProtocolOptions{IdleTimeout: seconds(clientIdle)})
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{tcpProtocolsName: options}, nil
}

func clientProtocol(h2 bool, life time.Duration) (map[string]*anypb.Any, error) {
	explicit := &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if h2 {
		explicit.ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2()}
	} else {
		explicit.ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		}
	}
	options, err := pack(&upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:           seconds(clientIdle),
			MaxConnectionDuration: seconds(life),
			MaxHeadersCount:       number(maxHeaders),
		},
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	})
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{httpProtocolsName: options}, nil
}

// Cluster is a cluster with the limits that each one has; the caller adds where it leads.
func Cluster(name string, mesh bool) *clusterv3.Cluster {
	timeout := appConnectTimeout
	if mesh {
		timeout = meshConnectTimeout
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                seconds(timeout),
		PerConnectionBufferLimitBytes: number(connectionBuffer),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections:     number(maxConnections),
			MaxPendingRequests: number(maxRequests),
			MaxRequests:        number(maxRequests),
			MaxRetries:         number(maxRetries),
		}}},
	}
}
