package agent

import (
	"context"
	"runtime/debug"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// event is what the control plane's stream tells the relay; one of the fields is set.
type event struct {
	connected    func(*discovery.DeltaDiscoveryRequest)
	response     *discovery.DeltaDiscoveryResponse
	disconnected bool
}

// quietAfter is how long Envoy may take to ask for what a new listener or cluster needs, after it has acknowledged it.
const quietAfter = time.Second

// expiryCheck is how often the clock is asked whether the SVID still holds: a timer does not see that the clock was set, and
// stands still while the machine sleeps. It is longer than quietAfter, which begins anew with everything that happens.
const expiryCheck = 5 * time.Second

// inputs are what the relay follows.
type inputs struct {
	events    <-chan event
	reports   *latest[delta.Report] // of Envoy
	renewals  <-chan svid
	withdrawn <-chan struct{} // closed once a root of the workload's is withdrawn as compromised
}

// own runs the relay: it alone touches it, until ctx ends, or, with ErrWithdrawn, until everything is denied because the root was
// withdrawn.
func (a *Agent) own(ctx context.Context, r *relay, in inputs, notAfter time.Time) error {
	left := func() time.Duration { return notAfter.Sub(a.config.Clock()) }
	expiry := time.NewTimer(a.untilLook(notAfter))
	defer expiry.Stop()
	quiet := time.NewTimer(quietAfter)
	defer quiet.Stop()
	told := "" // the version of Envoy
	for {
		if r.listening() {
			quiet.Reset(quietAfter)
		} else {
			quiet.Stop()
		}
		a.publish(r)
		select {
		case e := <-in.events:
			a.event(r, e)
			a.drain(r, in.events)
			r.commit()
		case <-in.reports.wake:
			r.report(in.reports.get())
			if version := a.envoyVersion(); version != told {
				told = version
				r.hint()
			}
		case <-quiet.C:
			r.quiet = true
			debug.FreeOSMemory() // putting a configuration together takes more memory than holding it, and a host has many agents
		case next := <-in.renewals:
			notAfter = next.notAfter
			expiry.Reset(a.untilLook(notAfter))
			if j, err := newJudge(next, a.anchor.bundle); err == nil { // there is none for roots that newSVID took
				r.judge = j
			}
			r.renewed(next.secret)
		case <-expiry.C:
			expired := left() <= 0
			switch {
			case expired && !r.expired:
				a.log.Error("the SVID has expired by this machine's clock: every call is denied; " + a.afterTheEnd() + ", or correct the clock")
			case !expired && r.expired:
				a.log.Warn("the clock was set back, and the SVID holds again")
			}
			if expired != r.expired {
				r.expire(expired)
			}
			r.saveAgain()
			expiry.Reset(a.untilLook(notAfter))
		case <-in.withdrawn:
			a.log.Error("the root of the workload's trust domain was withdrawn as compromised: every call is denied, and the identity is removed")
			r.withdraw()
			a.publish(r)
			a.letGo(ctx, r, in.reports)
			return ErrWithdrawn
		case <-ctx.Done():
			return nil
		}
		r.settle()
	}
}

// letGo waits until Envoy, who may outlive the agent, has let go of everything, but not long.
func (a *Agent) letGo(ctx context.Context, r *relay, reports *latest[delta.Report]) {
	const most = 2 * time.Second
	late := time.NewTimer(most)
	defer late.Stop()
	for r.envoy.Target != r.targetID() || !r.envoy.Idle {
		select {
		case <-reports.wake:
			r.report(reports.get())
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// afterTheEnd is what helps where the SVID has expired.
func (a *Agent) afterTheEnd() string {
	if a.config.WorkloadAPI != "" {
		return "let the Workload API give a new one"
	}
	return "join again with a new token"
}

// untilLook is when the clock is asked next whether the SVID holds until then: also after its end, for the clock may be wrong.
func (a *Agent) untilLook(notAfter time.Time) time.Duration {
	if left := notAfter.Sub(a.config.Clock()); left > 0 && left < expiryCheck {
		return left
	}
	return expiryCheck
}

func (a *Agent) event(r *relay, e event) {
	switch {
	case e.connected != nil:
		a.log.Info("connected to the control plane")
		r.connected(e.connected)
	case e.response != nil:
		r.response(e.response)
	case e.disconnected:
		r.disconnected()
	}
}

// drain works in what is waiting already, so that a whole is put together once and not after each of its pieces.
func (a *Agent) drain(r *relay, events <-chan event) {
	const most = 1000 // a control plane that never stops shall not keep Envoy's answers waiting
	for range most {
		select {
		case e := <-events:
			a.event(r, e)
		default:
			return
		}
	}
}
