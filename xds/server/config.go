package server

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// Snapshots says what a workload may see.
type Snapshots interface {
	// Snapshot is what the workload's Envoy gets and the serialised table of its agent. It is false for a workload that
	// the current generation does not know; what that workload's agent has is then removed.
	Snapshot(w identity.WorkloadID) (snapshot xds.Snapshot, table []byte, ok bool)
	// Subscribe gives a channel that holds a notice whenever Snapshot may answer otherwise, and the function that ends it.
	Subscribe() (changed <-chan struct{}, stop func())
}

// Config is what a Server needs. All fields but Limits and UnknownKey are required.
type Config struct {
	// Certificate is the control plane's own SVID.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Verifier proves clients, by the roots of this moment.
	Verifier  func() identity.Verifier
	Snapshots Snapshots
	// Revoked reports whether a revocation holds of the peer or of its certificate; nil: of nobody. It must not block.
	Revoked func(p identity.Peer) bool
	Clock   func() time.Time
	Log     *zap.Logger
	Metrics *Metrics
	// UnknownKey hears that a token named a key which the issuer of that name does not have in the workload's table. It
	// must not block, and believes nothing of it. Nil: nobody may say so.
	UnknownKey func(w identity.WorkloadID, issuer string)
	// Limits are DefaultLimits where they are zero.
	Limits Limits
}

// Limits bound what clients can make the server hold and do.
type Limits struct {
	// StreamsPerWorkload that are open at a time: one, and what a restarting agent has left behind.
	StreamsPerWorkload int
	// StreamsPerConnection that are open at a time.
	StreamsPerConnection uint32
	// MinPing is how often a client may send keepalive pings.
	MinPing time.Duration
	// Ping is when a silent client is asked whether it is still there, and how long it may take to say so.
	Ping, PingTimeout time.Duration
	// Idle is how long a connection without a stream may stay: streams are counted, connections are not.
	Idle time.Duration
	// Handshake is how long a new connection may take until it is authenticated.
	Handshake time.Duration
	// Stream bounds each conversation.
	Stream delta.Limits
}

// DefaultLimits are the limits of a server for agents.
func DefaultLimits() Limits {
	return Limits{
		StreamsPerWorkload:   4,
		StreamsPerConnection: 4,
		MinPing:              10 * time.Second,
		Ping:                 30 * time.Second,
		PingTimeout:          10 * time.Second,
		Idle:                 30 * time.Second,
		Handshake:            10 * time.Second,
		Stream:               delta.DefaultLimits(),
	}
}

func (c *Config) check() error {
	if c.Certificate == nil || c.Verifier == nil || c.Snapshots == nil || c.Clock == nil || c.Log == nil || c.Metrics == nil {
		return errors.New("xds server: Certificate, Verifier, Snapshots, Clock, Log and Metrics are required")
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	return nil
}

// Metrics count what the server does. The tenant comes from the configuration: a workload that no document names counts
// as "other".
type Metrics struct {
	streams     *prometheus.GaugeVec
	pushes      *prometheus.CounterVec
	nacks       *prometheus.CounterVec
	propagation prometheus.Histogram
}

const otherTenant = "other"

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ringfence_xds_streams", Help: "Open discovery streams.",
		}, []string{"tenant"}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_xds_pushes_total", Help: "Discovery responses sent.",
		}, []string{"tenant", "type"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_xds_nacks_total", Help: "Discovery responses refused by a client.",
		}, []string{"tenant", "type"}),
		propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ringfence_xds_propagation_seconds",
			Help:    "From a new generation to its acknowledgement by the last connected sidecar.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	for _, c := range []prometheus.Collector{m.streams, m.pushes, m.nacks, m.propagation} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// typeLabel is a short name for a resource type; what is not served is "other", so that no request makes a label.
func typeLabel(typeURL string) string {
	switch typeURL {
	case xds.TableType:
		return "table"
	case xds.ClusterType:
		return "cluster"
	case xds.EndpointType:
		return "endpoint"
	case xds.SecretType:
		return "secret"
	case xds.ListenerType:
		return "listener"
	case xds.RouteType:
		return "route"
	default:
		return "other"
	}
}
