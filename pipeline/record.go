package pipeline

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Recorders tells several.
type Recorders []Recorder

var (
	_ Recorder = Recorders(nil)
	_ Recorder = (*Log)(nil)
	_ Recorder = (*Metrics)(nil)
)

// Reloaded tells each in turn.
func (rs Recorders) Reloaded(e Event) {
	for _, r := range rs {
		r.Reloaded(e)
	}
}

// Log writes what came of each attempt into the platform's log: one line for each problem, by file and position.
type Log struct{ log *zap.Logger }

// NewLog makes a Recorder that logs.
func NewLog(log *zap.Logger) *Log { return &Log{log: log} }

// Reloaded writes the lines of one attempt.
func (l *Log) Reloaded(e Event) {
	for _, p := range e.Problems {
		l.log.Warn("problem in a document", zap.String("owner", p.Owner), zap.String("file", p.File), zap.Int("line", p.Line),
			zap.Int("column", p.Col), zap.String("code", string(p.Code)), zap.String("problem", p.Text), zap.String("hint", p.Hint))
	}
	for _, owner := range e.Stale {
		l.log.Warn("staying on the last accepted documents", zap.String("owner", owner))
	}
	for _, owner := range e.Dropped {
		l.log.Warn("nothing of the owner's documents counts", zap.String("owner", owner))
	}
	number := zap.Uint64("generation", e.Generation.Number())
	if e.Err != nil {
		l.log.Error("cannot bring everything of a new configuration; trying again", number, zap.Error(e.Err))
	}
	if e.Forgot != nil {
		l.log.Error("the last accepted documents are not all remembered: after a start an owner with a broken one may be without any",
			number, zap.Error(e.Forgot))
	}
	switch {
	case e.Counterexample != nil:
		l.log.Error("the new configuration is not isolated, the last generation stays", number, zap.Error(e.Counterexample))
	case e.Published:
		l.log.Info("published", number, zap.String("revision", e.Revision), zap.Int("tenants", len(e.Generation.tenants)),
			zap.Int("compiled", e.Compiled), zap.Duration("took", e.Took))
	case e.Err != nil:
	case e.Generation == nil:
		l.log.Error("no configuration is served: the platform's documents have problems")
	default:
		l.log.Info("looked at the documents, nothing to publish", number, zap.String("revision", e.Revision))
	}
}

// Metrics shows the state of the configuration to Prometheus.
type Metrics struct {
	generation prometheus.Gauge
	published  prometheus.Gauge
	proof      prometheus.Histogram
	reload     prometheus.Histogram
	reloads    *prometheus.CounterVec
	problems   *prometheus.GaugeVec
	stale      *prometheus.GaugeVec
}

// otherOwner is the label of what belongs to no tenant by name; it is no name itself, so it is never a tenant's.
const otherOwner = "(other)"

// NewMetrics makes a Recorder whose metrics are registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		generation: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_generation", Help: "Number of the configuration generation that is served; 0 before the first.",
		}),
		published: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringfence_generation_published_timestamp_seconds", Help: "When that generation was published.",
		}),
		proof: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_proof_duration_seconds", Help: "Time to prove a new configuration isolated.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		reload: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ringfence_reload_duration_seconds", Help: "Time from reading the documents to the new configuration, proof included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_reloads_total", Help: "Attempts to bring a new configuration.",
		}, []string{"result"}),
		problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ringfence_config_problems", Help: "Problems that keep an owner from its newest documents.",
		}, []string{"tenant"}),
		stale: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ringfence_config_stale", Help: "1 where an owner's newest documents are not served.",
		}, []string{"tenant"}),
	}
	r.MustRegister(m.generation, m.published, m.proof, m.reload, m.reloads, m.problems, m.stale)
	return m
}

// Reloaded shows what came of one attempt.
func (m *Metrics) Reloaded(e Event) {
	m.reloads.WithLabelValues(e.result()).Inc()
	m.reload.Observe(e.Took.Seconds())
	if e.Published || e.Counterexample != nil {
		m.proof.Observe(e.Proving.Seconds())
	}
	if e.Published {
		m.generation.Set(float64(e.Generation.Number()))
		m.published.Set(float64(e.Generation.At().UnixNano()) / float64(time.Second))
	}
	if e.Revision == "" {
		return // nothing was read: what was known of the documents still is
	}
	m.problems.Reset()
	for _, p := range e.Problems {
		m.problems.WithLabelValues(label(p.Owner)).Inc()
	}
	m.stale.Reset()
	for _, owner := range append(append([]string(nil), e.Stale...), e.Dropped...) {
		m.stale.WithLabelValues(label(owner)).Set(1)
	}
}

// result is one word for what came of it.
func (e Event) result() string {
	switch {
	case e.Counterexample != nil:
		return "not_isolated"
	case e.Err != nil:
		return "error"
	case len(e.Problems) > 0 && e.Published:
		return "partial"
	case len(e.Problems) > 0:
		return "problems"
	case e.Published:
		return "published"
	default:
		return "unchanged"
	}
}

// label keeps what is no name out of label values.
func label(owner string) string {
	if owner == v1alpha1.PlatformOwner || identity.ValidName(owner) {
		return owner
	}
	return otherOwner
}
