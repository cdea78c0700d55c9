package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// An SVID is renewed between these shares of its life, so that agents which joined together do not come together again.
const (
	renewFrom = 0.4
	renewTo   = 0.5
)

var errOtherRoots = errors.New("the control plane renews with roots that those trusted so far do not vouch for: the SVID is not taken")

// renewalTime is when an SVID is to be renewed.
func renewalTime(s svid) time.Time {
	share := renewFrom + (renewTo-renewFrom)*rand.Float64() //nolint:gosec // spreads load, guards nothing
	return s.notBefore.Add(time.Duration(share * float64(s.notAfter.Sub(s.notBefore))))
}

// keepRenewed gets the next SVID whenever the present one is about half over, and tells it, until ctx ends. While the control
// plane is away or refuses it asks again; once the SVID has expired there is nothing left to ask with, unless that was the clock.
func (a *Agent) keepRenewed(ctx context.Context, own svid, tell func(svid)) {
	wait, due, kept := newBackoff(renewalMost), renewalTime(own), true
	keep := func() {
		if kept {
			return
		}
		if err := own.replace(a.dir); err == nil {
			kept = true
			a.log.Info("the renewed SVID is kept on disk")
		}
	}
	for a.waitUntil(ctx, due, keep) {
		if !a.config.Clock().Before(own.notAfter) {
			if !pause(ctx, expiryCheck) {
				return
			}
			continue
		}
		next, err := a.renew(ctx, own)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("cannot renew the SVID yet", zap.Error(err), zap.Time("not_after", own.notAfter))
			}
			if wait.sleep(ctx) != nil {
				return
			}
			continue
		}
		a.log.Info("SVID renewed", zap.Time("not_after", next.notAfter))
		wait.reset()
		own, due, kept = next, renewalTime(next), true
		if err := own.replace(a.dir); err != nil {
			kept = false
			a.log.Error("cannot keep the renewed SVID on disk: a restart now would find the one before it, which ends sooner; it is tried again",
				zap.Error(err))
		}
		tell(next)
	}
}

// waitUntil is false where ctx ends before that time. The clock is asked again and again, as for the expiry, and each time what
// is to be tried again is.
func (a *Agent) waitUntil(ctx context.Context, at time.Time, again func()) bool {
	for {
		again()
		left := at.Sub(a.config.Clock())
		if left <= 0 {
			return ctx.Err() == nil
		}
		if !pause(ctx, min(left, expiryCheck)) {
			return false
		}
	}
}

// pause is false where ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// renew asks once, for a new key, with the present SVID as the proof of who asks. Roots that come with it must be those that are
// trusted already, or bear the signature of one of them.
func (a *Agent) renew(ctx context.Context, own svid) (svid, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	key, err := newKey(a.config.Key)
	if err != nil {
		return svid{}, err
	}
	csr, err := a.request(key)
	if err != nil {
		return svid{}, err
	}
	conn, err := a.ask(a.config.ControlPlane, &own.cert)
	if err != nil {
		return svid{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way any more
	resp, err := agentv1alpha1.NewRenewalClient(conn).Renew(ctx, &agentv1alpha1.RenewRequest{Csr: csr})
	if err != nil {
		return svid{}, err
	}
	roots := resp.GetBundle()
	if len(roots) == 0 { // an older control plane
		roots = own.bundle.DER()
	}
	next, err := newSVID(a.config.ID, key, resp.GetChain(), roots, own.stored(), a.config.Clock())
	if err != nil {
		return svid{}, fmt.Errorf("renewed %w", err)
	}
	if !next.bundle.Continues(own.bundle) {
		return svid{}, errOtherRoots
	}
	return next, nil
}
