package filters

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Sidecar says where an Envoy finds its own SVID and its decision point. The zero value has Ringfence's agent beside it, which
// is both. It is comparable.
type Sidecar struct{ direct identity.WorkloadID }

// Direct is the sidecar of a workload without an agent: SPIRE's agent gives the SVID, under the name of the SPIFFE ID, and
// `ringfence authz` decides.
func Direct(w identity.WorkloadID) Sidecar { return Sidecar{direct: w} }

// The back-off of streams to an agent. Envoy's own would leave a sidecar without its agent for up to 30 s after a restart.
const (
	retryBase = 50 * time.Millisecond
	retryMax  = 500 * time.Millisecond
)

// decisionPoint is the cluster that is asked.
func (s Sidecar) decisionPoint() string {
	if s.direct.IsZero() {
		return AgentCluster
	}
	return AuthzCluster
}

// svid names the secret with the workload's own key and certificate, and where it comes from. SPIRE takes only the state of the
// world, on streams of its own; with the same bytes in each place Envoy opens one.
func (s Sidecar) svid() *tlsv3.SdsSecretConfig {
	if s.direct.IsZero() {
		return secretRef(SVIDSecret)
	}
	return SPIRESecret(s.direct.String())
}

// SPIRESecret names a secret of SPIRE's agent: a SPIFFE ID is an SVID, a trust domain's ID its roots. Envoy waits for it as long
// as it takes.
func SPIRESecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices:        []*corev3.GrpcService{EnvoyGRPC(SPIRECluster)},
		}},
		InitialFetchTimeout: &durationpb.Duration{},
		ResourceApiVersion:  corev3.ApiVersion_V3,
	}}
}

// EnvoyGRPC is a stream to a cluster of the bootstrap, to which Envoy comes back soon after it broke.
func EnvoyGRPC(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
		ClusterName: cluster,
		RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
			BaseInterval: durationpb.New(retryBase),
			MaxInterval:  durationpb.New(retryMax),
		}},
	}}}
}
