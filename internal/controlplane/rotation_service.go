package controlplane

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// Begin makes a tenant's new root and publishes it.
func (r *rotations) Begin(ctx context.Context, req *agentv1alpha1.RotationRequest) (*agentv1alpha1.RotationStatus, error) {
	return r.order(ctx, req, r.cp.issuer.Rotate)
}

// Rollback goes back to the old root.
func (r *rotations) Rollback(ctx context.Context, req *agentv1alpha1.RotationRequest) (*agentv1alpha1.RotationStatus, error) {
	return r.order(ctx, req, r.cp.issuer.Rollback)
}

// Compromised withdraws a tenant's roots at once, with the keys of its JWT-SVIDs, which lie beside them, and answers when the
// control plane serves that.
func (r *rotations) Compromised(ctx context.Context, req *agentv1alpha1.RotationRequest) (*agentv1alpha1.RotationStatus, error) {
	answer, err := r.order(ctx, req, func(td identity.TrustDomain, now time.Time) (issuer.Rotation, error) {
		at, err := r.cp.issuer.Compromised(td, now)
		for _, of := range r.cp.Generation().Model().Tenants() {
			if of.TrustDomain() == td {
				err = errors.Join(err, r.cp.issuer.WithdrawJWTKeys(of, now))
			}
		}
		return at, err
	})
	if err != nil {
		return nil, err
	}
	id, err := r.tenant(req.GetTenant())
	if err != nil {
		return nil, err
	}
	if !r.published(r.cp.Generation(), id, r.cp.clock()) {
		r.cp.log.Error("the withdrawal of a tenant's roots is not served yet", zap.Stringer("tenant", id))
		return nil, status.Error(codes.Aborted, "the roots are withdrawn and sign nothing any more, but sidecars are not told yet, "+
			"because the configuration cannot be published: the reason is in the control plane's log. It is tried again until it can; look with --status")
	}
	return answer, nil
}

// Show tells where a rotation stands.
func (r *rotations) Show(_ context.Context, req *agentv1alpha1.RotationRequest) (*agentv1alpha1.RotationStatus, error) {
	id, err := r.tenant(req.GetTenant())
	if err != nil {
		return nil, err
	}
	return r.show(id)
}

// order does what an operator asks for, and publishes what comes of it.
func (r *rotations) order(
	ctx context.Context, req *agentv1alpha1.RotationRequest, do func(identity.TrustDomain, time.Time) (issuer.Rotation, error),
) (*agentv1alpha1.RotationStatus, error) {
	id, err := r.tenant(req.GetTenant())
	if err != nil {
		return nil, err
	}
	at, err := do(id.TrustDomain(), r.cp.clock())
	switch {
	case errors.Is(err, issuer.ErrRotating):
		if at.Step == issuer.Attesting {
			return nil, status.Error(codes.FailedPrecondition, err.Error()+": workloads whose SVIDs were ended as compromised are to join first, see which (--status)")
		}
		return nil, status.Error(codes.FailedPrecondition, err.Error()+": see where it stands (--status), or take it back (--rollback)")
	case errors.Is(err, issuer.ErrNoRollback):
		return nil, status.Error(codes.FailedPrecondition, noRollback(at))
	case errors.Is(err, issuer.ErrExternal):
		return nil, rotatedElsewhere(err)
	case err != nil:
		r.cp.log.Error("cannot rotate a root", zap.Stringer("tenant", id), zap.Error(err))
		return nil, status.Error(codes.Internal, "cannot change the roots: the reason is in the control plane's log")
	}
	r.events.step(id, at)
	r.cp.pipeline.Reload(context.WithoutCancel(ctx)) // who asked may go; look would do it otherwise
	return r.show(id)
}

func rotatedElsewhere(err error) error {
	return status.Error(codes.FailedPrecondition, err.Error()+
		": rotate them where its trust bundle comes from; the bundle is read again whenever its file changes")
}

// noRollback says why nothing is taken back.
func noRollback(at issuer.Rotation) string {
	switch {
	case at.Step == "":
		return issuer.ErrNoRollback.Error() + ": no rotation is under way"
	case at.Step == issuer.Attesting:
		return issuer.ErrNoRollback.Error() + ": the roots before are withdrawn as compromised and their keys removed; they are never trusted again"
	case at.Rollback:
		return issuer.ErrNoRollback.Error() + ": the rotation is being taken back already"
	default:
		return issuer.ErrNoRollback.Error() + ": the old root is withdrawn and its key removed; to change the root again, begin a rotation once this one has ended"
	}
}

// tenant is the one of that name.
func (r *rotations) tenant(name string) (identity.TenantID, error) {
	g := r.cp.Generation()
	if g == nil {
		return identity.TenantID{}, status.Error(codes.FailedPrecondition, "no configuration is published yet: its problems are in the control plane's log")
	}
	id, err := g.Mapping().TenantID(name)
	if err == nil {
		if _, ok := g.Model().Tenant(id); ok && !id.IsPlatform() {
			return id, nil
		}
	}
	if err == nil && id.IsPlatform() {
		return identity.TenantID{}, status.Error(codes.FailedPrecondition,
			"the platform's root is what every agent is started with (--platform-root), it is not rotated: only tenants' roots are")
	}
	return identity.TenantID{}, status.Error(codes.NotFound, "no document names a tenant of that name")
}

func (r *rotations) show(id identity.TenantID) (*agentv1alpha1.RotationStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, err := r.cp.issuer.Rotation(id.TrustDomain())
	if errors.Is(err, issuer.ErrExternal) {
		return nil, rotatedElsewhere(err)
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, "the tenant has no root: the reason is in the control plane's log")
	}
	answer := &agentv1alpha1.RotationStatus{
		Tenant: id.Name(), Rollback: at.Rollback, Signing: int64(at.SigningRoot), Beside: int64(at.Beside),
		TrustFile: r.cp.issuer.TrustFile(id.TrustDomain()),
	}
	if at.Step == "" {
		if when := due(at, r.rootLife(id)); !when.IsZero() {
			answer.DueUnix = when.Unix()
		}
		return answer, nil
	}
	answer.StartedUnix, answer.SinceUnix = at.Started.Unix(), at.Since.Unix()
	switch at.Step {
	case issuer.Published:
		answer.Step = agentv1alpha1.RotationStep_ROTATION_STEP_PUBLISHED
	case issuer.Signing:
		answer.Step = agentv1alpha1.RotationStep_ROTATION_STEP_SIGNING
	case issuer.Withdrawn:
		answer.Step = agentv1alpha1.RotationStep_ROTATION_STEP_WITHDRAWN
	case issuer.Attesting:
		answer.Step = agentv1alpha1.RotationStep_ROTATION_STEP_ATTESTING
	}
	now := r.cp.clock()
	if answer.Waiting, err = r.waiting(id, at, now); err == nil {
		var living []issuer.Living
		if living, err = r.cp.issuer.Living(id.TrustDomain(), now); err == nil {
			answer.Attested, _, err = r.attested(id, living)
		}
	}
	if err != nil {
		r.cp.log.Error("cannot tell what the rotation of a root waits for", zap.Stringer("tenant", id), zap.Error(err))
		return nil, status.Error(codes.Internal, "cannot tell what the rotation waits for: the reason is in the control plane's log")
	}
	return answer, nil
}
