package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

const (
	// spreadShare is the share of a root's life by which a tenant's rotation may come earlier than that of a tenant whose root is as
	// old, so that roots that were made together are not replaced together.
	spreadShare = 10
	// scheduleRetry is when a rotation that could not begin is tried again.
	scheduleRetry = time.Minute
)

// due is when a tenant's rotation begins by itself, for a root that lives so long: at that age, or earlier by a share that is the
// tenant's own, and, where a rotation was taken back, not before a tenth of the life after that began. Zero: never, or one is under
// way.
func due(at issuer.Rotation, life time.Duration) time.Time {
	if life <= 0 || at.Step != "" {
		return time.Time{}
	}
	sum := sha256.Sum256([]byte(at.TrustDomain.String()))
	const whole = 1 << 16
	early := time.Duration(binary.BigEndian.Uint16(sum[:])) * (life / spreadShare / whole)
	when, again := at.SigningSince.Add(life-early), at.Begun.Add(life/spreadShare)
	if !at.Begun.IsZero() && again.After(when) {
		return again
	}
	return when
}

// schedule begins a tenant's rotation if that is due. r.mu is held.
func (r *rotations) schedule(ctx context.Context, id identity.TenantID, at issuer.Rotation, now time.Time) {
	when := due(at, r.rootLife(id))
	if when.IsZero() || now.Before(when) || now.Sub(r.tried[id.TrustDomain()]) < scheduleRetry {
		return
	}
	r.tried[id.TrustDomain()] = now
	next, err := r.cp.issuer.Rotate(id.TrustDomain(), now)
	if errors.Is(err, issuer.ErrRotating) {
		return // an operator was faster
	}
	if err != nil {
		r.cp.log.Error("cannot begin the rotation of a root that is due", zap.Stringer("tenant", id), zap.Error(err))
		return
	}
	r.cp.log.Info("a root has reached its rootLife: its rotation begins", zap.Stringer("tenant", id), zap.Time("since", at.SigningSince))
	r.events.step(id, next)
	r.cp.pipeline.Reload(ctx)
}

// rootLife is what the documents say of the tenant's root.
func (r *rotations) rootLife(id identity.TenantID) time.Duration {
	t, _ := r.cp.Generation().Model().Tenant(id)
	return t.RootLife()
}
