package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"go.uber.org/zap"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// ErrWithdrawn says that a root of the workload's trust domain was withdrawn as compromised, so that its SVID is worth nothing
// any more: the workload has to join again, with a new token.
var ErrWithdrawn = errors.New("the root of this workload's trust domain was withdrawn as compromised: join again with a new token")

// waitWithdrawn asks the control plane, whenever its stream has failed, whether a root that the agent trusts was withdrawn, and
// returns true once it was; false when ctx ends. Whoever answers is proved by the platform's root, as for joining. Of a new root
// nothing is believed by this: an agent can only be told to stop, which is in the control plane's power anyway.
//
// Roots of another issuer are none of the control plane's: the Workload API says which of them hold.
func (a *Agent) waitWithdrawn(ctx context.Context, failed <-chan struct{}, trusted func() *identity.Bundle) bool {
	if a.config.WorkloadAPI != "" {
		return false
	}
	for {
		select {
		case <-failed:
		case <-ctx.Done():
			return false
		}
		withdrawn, err := a.askWithdrawn(ctx, *trusted())
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			a.log.Debug("cannot ask whether the root is withdrawn", zap.Error(err))
		case withdrawn:
			return true
		}
	}
}

func (a *Agent) askWithdrawn(ctx context.Context, trusted identity.Bundle) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := a.ask(a.config.Issuer, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way any more
	req := &agentv1alpha1.WithdrawnRequest{}
	for _, der := range trusted.DER() {
		sum := sha256.Sum256(der)
		req.Roots = append(req.Roots, sum[:])
	}
	resp, err := agentv1alpha1.NewIssuerClient(conn).Withdrawn(ctx, req)
	return resp.GetWithdrawn(), err
}

// removeIdentity keeps a later start from taking the identity up. The key goes first: what comes next gets a new one, and
// without it nothing of the rest counts.
func (a *Agent) removeIdentity() error {
	a.mu.Lock()
	a.status = Status{}
	a.mu.Unlock()
	for _, name := range []string{keyFile, nextFile, svidFile, bundleFile, identityFile, stateFile} {
		if err := a.dir.remove(name); err != nil {
			return fmt.Errorf("%w: its identity cannot be removed: %w", ErrWithdrawn, err)
		}
	}
	if a.config.JoinToken == "" {
		return ErrWithdrawn
	}
	return nil
}
