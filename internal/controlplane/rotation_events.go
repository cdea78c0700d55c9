package controlplane

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// rotationEvents tells of every step of a rotation: in the platform's log, and to Prometheus.
type rotationEvents struct {
	log     *zap.Logger
	steps   *prometheus.CounterVec
	waiting *prometheus.GaugeVec
}

func newRotationEvents(log *zap.Logger, r prometheus.Registerer) *rotationEvents {
	e := &rotationEvents{
		log: log,
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringfence_root_rotation_steps_total", Help: "Steps that rotations of a tenant's root have taken.",
		}, []string{"tenant", "step"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ringfence_root_rotation_waiting", Help: "Workloads that the present step of a rotation waits for; absent where none is under way.",
		}, []string{"tenant"}),
	}
	r.MustRegister(e.steps, e.waiting)
	return e
}

// step tells of a step that was taken.
func (e *rotationEvents) step(id identity.TenantID, at issuer.Rotation) {
	var text string
	name := string(at.Step)
	switch {
	case at.Step == issuer.Published:
		text = "a new root is published; the old one signs until every sidecar that trusts the tenant has acknowledged it"
	case at.Step == issuer.Signing && !at.Rollback:
		text = "every sidecar has the new root, which signs from now on; the old one is withdrawn once nothing lives that it has signed"
	case at.Step == issuer.Signing:
		text = "taken back: the old root signs again; the new one is withdrawn once nothing lives that it has signed"
	case at.Step == issuer.Withdrawn && !at.Rollback:
		text = "every SVID is one of the new root; the old one is withdrawn"
	case at.Step == issuer.Withdrawn:
		text = "taken back: the new root is withdrawn"
	case at.Step == issuer.Attesting:
		text = "compromised: every root before is withdrawn at once, and a new one signs; the tenant's workloads are down until they have joined again"
	default:
		name, text = "done", "every sidecar trusts the one root alone: the rotation has ended"
	}
	e.log.Info("rotation of a root: "+text, zap.Stringer("tenant", id), zap.String("step", name), zap.Bool("rollback", at.Rollback),
		zap.Int("signing", at.SigningRoot), zap.Int("beside", at.Beside))
	e.steps.WithLabelValues(id.Name(), name).Inc()
}

func (e *rotationEvents) waits(id identity.TenantID, n int) {
	e.waiting.WithLabelValues(id.Name()).Set(float64(n))
}

func (e *rotationEvents) idle(id identity.TenantID) { e.waiting.DeleteLabelValues(id.Name()) }
