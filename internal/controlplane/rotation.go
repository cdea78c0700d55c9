package controlplane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

const (
	// rotateEvery is how often rotations are looked at: neither acknowledgements nor ends of SVIDs have a notice of their own.
	rotateEvery = 500 * time.Millisecond
	// trustLooks is how long a new root is published at least: decision points that read trust/ themselves acknowledge nothing, and
	// look every two seconds.
	trustLooks = 3 * time.Second
	// republishAfter is when roots that could not be published are published again.
	republishAfter = 5 * time.Second
	// doubtFor is how long nothing is withdrawn after the clock was set ahead: what seems to have ended may live on, should it be
	// set back. doubtful is by how much it must have been: a time service corrects less.
	doubtFor = 2 * time.Hour
	doubtful = 10 * time.Second
	// nagEvery is how often the log says whom a rotation waits for.
	nagEvery = time.Minute
)

// rotations drives the rotations of tenants' roots: each goes on as soon as everybody concerned is ready. What the steps are, and
// that they survive the process, is the issuer's; here is only who has acknowledged what.
type rotations struct {
	agentv1alpha1.UnimplementedRotationsServer

	cp     *ControlPlane
	events *rotationEvents
	clock  steadiness

	mu        sync.Mutex
	confirmed map[identity.TrustDomain]confirmed
	tried     map[identity.TrustDomain]time.Time // when the schedule began a rotation last, or could not
}

var _ agentv1alpha1.RotationsServer = (*rotations)(nil)

// confirmed are the sidecars that have acknowledged a step's roots. It is kept, because a later change of the configuration takes
// none of that back, and found again where it is lost.
type confirmed struct {
	at        issuer.Rotation
	workloads map[string]bool
	published time.Time // when publishing was tried last
	nagged    time.Time
}

func newRotations(cp *ControlPlane, events *rotationEvents) *rotations {
	return &rotations{cp: cp, events: events, confirmed: map[identity.TrustDomain]confirmed{}, tried: map[identity.TrustDomain]time.Time{}}
}

// run takes every step that can be taken, until ctx ends.
func (r *rotations) run(ctx context.Context) {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		now := r.cp.clock()
		if g := r.cp.Generation(); r.clock.look(now, time.Now(), r.cp.log) && g != nil {
			for _, id := range g.Model().Tenants() {
				r.look(ctx, id, now)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look takes the next step of a tenant's rotation, if there is one and nothing is waited for.
func (r *rotations) look(ctx context.Context, id identity.TenantID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, err := r.cp.issuer.Rotation(id.TrustDomain())
	if err != nil || at.Step == "" {
		r.events.idle(id)
		if err == nil && !id.IsPlatform() {
			r.schedule(ctx, id, at, now)
		}
		return
	}
	waiting, err := r.waiting(id, at, now)
	if err != nil {
		r.cp.log.Error("cannot tell what the rotation of a root waits for", zap.Stringer("tenant", id), zap.Error(err))
		return
	}
	r.events.waits(id, len(waiting))
	if len(waiting) > 0 {
		r.nag(id, at, waiting, now)
	}
	if !r.published(r.cp.Generation(), id, now) {
		if known := r.confirmed[id.TrustDomain()]; now.Sub(known.published) >= republishAfter {
			known.published = now
			r.confirmed[id.TrustDomain()] = known
			r.cp.pipeline.Reload(ctx)
		}
		return
	}
	if len(waiting) > 0 || (at.Step == issuer.Published && now.Sub(at.Since) < trustLooks) {
		return
	}
	next, err := r.cp.issuer.Advance(at, now)
	if errors.Is(err, issuer.ErrStep) {
		return // something was given, or an operator was faster
	}
	if err != nil {
		r.cp.log.Error("cannot go on with the rotation of a root", zap.Stringer("tenant", id), zap.Error(err))
		return
	}
	r.events.step(id, next)
}

// nag names in the log what a step waits for, as long as it does.
func (r *rotations) nag(id identity.TenantID, at issuer.Rotation, waiting []*agentv1alpha1.Straggler, now time.Time) {
	known := r.confirmed[id.TrustDomain()]
	if now.Sub(at.Since) < nagEvery || now.Sub(known.nagged) < nagEvery {
		return
	}
	known.nagged = now
	r.confirmed[id.TrustDomain()] = known
	const named = 10
	var names []string
	for _, s := range waiting[:min(len(waiting), named)] {
		names = append(names, s.GetWorkload())
	}
	r.cp.log.Warn("the rotation of a root waits", zap.Stringer("tenant", id), zap.String("step", string(at.Step)),
		zap.Int("for", len(waiting)), zap.Strings("first", names))
}

// published reports whether the generation has the roots that are in force.
func (r *rotations) published(g *pipeline.Generation, id identity.TenantID, now time.Time) bool {
	all, err := r.cp.issuer.Bundles(now, id.TrustDomain())
	if err != nil {
		return false
	}
	want, _ := all.Get(id.TrustDomain())
	t, ok := g.Model().Tenant(id)
	return ok && t.Bundle().Digest() == want.Digest()
}

// waiting is what a rotation waits for, sorted by workload. r.mu is held.
func (r *rotations) waiting(id identity.TenantID, at issuer.Rotation, now time.Time) ([]*agentv1alpha1.Straggler, error) {
	g := r.cp.Generation()
	byName := map[string]*agentv1alpha1.Straggler{}
	streams := r.youngest()
	living, err := r.cp.issuer.Living(id.TrustDomain(), now)
	if err != nil {
		return nil, err
	}
	_, missing, err := r.attested(id, living)
	if err != nil {
		return nil, err
	}
	if at.Step == issuer.Signing {
		ofOld(byName, at, living, streams)
	} else {
		// A shared service's sidecar that is away counts as long as its own SVID holds.
		platform, err := r.cp.issuer.Living(g.Mapping().Platform(), now)
		if err != nil {
			return nil, err
		}
		until := ends(append(living, platform...))
		known := r.confirmed[id.TrustDomain()]
		if known.at != at {
			known = confirmed{at: at, workloads: map[string]bool{}}
			r.confirmed[id.TrustDomain()] = known
		}
		published := r.published(g, id, now)
		for _, w := range trusting(g, id) {
			if s := acknowledges(g, w, streams, until, published, known.workloads); s != nil {
				byName[s.GetWorkload()] = s
			}
		}
		for _, name := range missing {
			byName[name] = &agentv1alpha1.Straggler{Workload: name, Why: agentv1alpha1.Waiting_WAITING_ATTESTATION}
		}
	}
	var all []*agentv1alpha1.Straggler
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all, nil
}

// attested are the workloads whose SVIDs were ended as compromised and that have joined again since then, missing those that have
// not. A workload that no document names any more is neither.
func (r *rotations) attested(id identity.TenantID, living []issuer.Living) (again, missing []string, err error) {
	ended, err := r.cp.issuer.Ended(id.TrustDomain())
	if err != nil {
		return nil, nil, err
	}
	until := ends(slices.DeleteFunc(slices.Clone(living), func(l issuer.Living) bool { return l.Root == 0 }))
	for _, name := range ended {
		if _, named := r.cp.Generation().Workload(name); !named {
			continue
		}
		if until[name].IsZero() {
			missing = append(missing, name)
		} else {
			again = append(again, name)
		}
	}
	return again, missing, nil
}

// youngest are the streams that count: older ones are what a dead agent left behind.
func (r *rotations) youngest() map[string]server.Status {
	youngest := map[string]server.Status{}
	for _, s := range r.cp.ads.Status() { // the oldest first
		youngest[s.Workload.String()] = s
	}
	return youngest
}

// ends says until when a workload has an SVID that holds.
func ends(living []issuer.Living) map[string]time.Time {
	until := map[string]time.Time{}
	for _, l := range living {
		if l.NotAfter.After(until[l.Workload]) {
			until[l.Workload] = l.NotAfter
		}
	}
	return until
}

// ofOld names the workloads of which an SVID lives that another root than the present one has signed.
func ofOld(byName map[string]*agentv1alpha1.Straggler, at issuer.Rotation, living []issuer.Living, streams map[string]server.Status) {
	for _, l := range living {
		if l.Root == at.SigningRoot {
			continue
		}
		s := byName[l.Workload]
		if s == nil {
			s = &agentv1alpha1.Straggler{Workload: l.Workload, Why: agentv1alpha1.Waiting_WAITING_END}
			byName[l.Workload] = s
		}
		s.UntilUnix = max(s.GetUntilUnix(), l.NotAfter.Unix())
		if !l.Superseded {
			s.Why = agentv1alpha1.Waiting_WAITING_RENEWAL
			if _, connected := streams[l.Workload]; !connected {
				s.Why = agentv1alpha1.Waiting_WAITING_CONNECTION
			}
		}
	}
}

// acknowledges is nil for a sidecar that has the roots in force, and for one that is away and has no SVID to come back with.
func acknowledges(
	g *pipeline.Generation, w identity.WorkloadID, streams map[string]server.Status, until map[string]time.Time, published bool,
	known map[string]bool,
) *agentv1alpha1.Straggler {
	name := w.String()
	s, connected := streams[name]
	switch {
	case published && connected && s.Acked == target(g, w):
		known[name] = true
		return nil
	case known[name]:
		return nil
	case connected && len(s.Refused) > 0:
		return &agentv1alpha1.Straggler{Workload: name, Why: agentv1alpha1.Waiting_WAITING_REFUSED}
	case connected:
		return &agentv1alpha1.Straggler{Workload: name, Why: agentv1alpha1.Waiting_WAITING_ACKNOWLEDGEMENT}
	case !until[name].IsZero():
		return &agentv1alpha1.Straggler{Workload: name, Why: agentv1alpha1.Waiting_WAITING_CONNECTION, UntilUnix: until[name].Unix()}
	default:
		return nil
	}
}

// trusting are the workloads whose sidecars trust the tenant's roots: its own, and those of shared services that it may call.
func trusting(g *pipeline.Generation, id identity.TenantID) []identity.WorkloadID {
	var all []identity.WorkloadID
	for _, of := range g.Model().Tenants() {
		own := of.Same(id)
		if !own && !of.IsPlatform() {
			continue
		}
		t, _ := g.Model().Tenant(of)
		for _, w := range t.Workloads() {
			if own || trusts(g, w.ID(), id.TrustDomain()) {
				all = append(all, w.ID())
			}
		}
	}
	return all
}

// trusts reports whether callers of that trust domain are proved at the workload's sidecar.
func trusts(g *pipeline.Generation, w identity.WorkloadID, td identity.TrustDomain) bool {
	_, encoded, ok := g.Snapshot(w)
	if !ok {
		return false
	}
	var table agentv1alpha1.Table
	if proto.Unmarshal(encoded, &table) != nil {
		return true // what cannot be read is waited for
	}
	return slices.ContainsFunc(table.GetBundles(), func(b *agentv1alpha1.Bundle) bool { return b.GetTrustDomain() == td.String() })
}
