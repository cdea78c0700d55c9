package extauthz

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-mesh/ringfence/authz"
)

// Metrics counts decisions. Its label values come from the configuration alone.
type Metrics struct {
	decisions *prometheus.CounterVec
	duration  prometheus.Histogram
	faults    prometheus.Counter
	limited   prometheus.Counter

	mu   sync.RWMutex
	held map[labels][]prometheus.Counter // by Reason
}

type labels struct{ tenant, service string }

// NewMetrics registers the metrics of the decision point.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		held: make(map[labels][]prometheus.Counter),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_authz_decisions_total",
			Help: "Decisions by the destination's tenant and service; the service is empty where the call was for none of the asker's.",
		}, []string{"tenant", "service", "decision", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "ringfence_authz_decision_duration_seconds",
			Help:    "Time from a check to its decision.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 4, 10), NativeHistogramBucketFactor: 1.1,
		}),
		faults: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_authz_faults_total",
			Help: "Checks that were refused because the decision point itself broke.",
		}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringfence_authz_limited_total",
			Help: "Checks that were refused because their asker asks too much.",
		}),
	}
	for _, c := range []prometheus.Collector{m.decisions, m.duration, m.faults, m.limited} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count holds the counters of a destination, because looking one up costs more than a decision.
func (m *Metrics) count(v *verdict, d time.Duration) {
	m.duration.Observe(d.Seconds())
	l := labels{tenant: v.asker.workload.Tenant().Name(), service: v.service.Name()}
	if v.asker.named() {
		l.tenant = v.service.Owner().Name()
	}
	m.mu.RLock()
	held, ok := m.held[l]
	m.mu.RUnlock()
	if !ok {
		held = m.hold(l)
	}
	held[v.decision.Reason()].Inc()
}

func (m *Metrics) hold(l labels) []prometheus.Counter {
	reasons := authz.Reasons()
	counters := make([]prometheus.Counter, len(reasons))
	for _, r := range reasons {
		decision := "deny"
		if r == authz.Allowed {
			decision = "allow"
		}
		counters[r] = m.decisions.WithLabelValues(l.tenant, l.service, decision, r.String())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[l] = counters
	return counters
}
