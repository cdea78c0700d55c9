package agent

import (
	"context"
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

// own runs the relay: it alone touches it, until ctx ends.
func (a *Agent) own(
	ctx context.Context, r *relay, events <-chan event, reports *latest[delta.Report], renewals <-chan svid, notAfter time.Time,
) {
	left := func() time.Duration { return notAfter.Sub(a.config.Clock()) }
	expiry := time.NewTimer(min(left(), expiryCheck))
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
		case e := <-events:
			a.event(r, e)
			a.drain(r, events)
			r.commit()
		case <-reports.wake:
			r.report(reports.get())
			if version := a.envoyVersion(); version != told {
				told = version
				r.hint()
			}
		case <-quiet.C:
			r.quiet = true
		case next := <-renewals:
			notAfter = next.notAfter
			expiry.Reset(min(left(), expiryCheck))
			if j, err := newJudge(next, a.anchor.bundle); err == nil { // there is none for roots that newSVID took
				r.judge = j
			}
			r.renewed(next.secret)
		case <-expiry.C:
			if left() > 0 {
				expiry.Reset(min(left(), expiryCheck))
				break
			}
			if a.config.WorkloadAPI != "" {
				a.log.Error("the SVID has expired: every call is denied until the Workload API gives a new one")
			} else {
				a.log.Error("the SVID has expired: every call is denied; join again with a new token")
			}
			r.expire()
		case <-ctx.Done():
			return
		}
		r.settle()
	}
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
