package pipeline

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// retryAfter is when an attempt that failed for a reason outside the documents is made again.
const retryAfter = 5 * time.Second

// Source holds the documents of all owners.
type Source interface {
	// Load gives all files, what is wrong with single ones, and a revision that differs wherever the rest does.
	Load(ctx context.Context) (files []v1alpha1.File, problems []v1alpha1.Problem, revision string, err error)
	// Watch tells, until ctx ends, that Load may give something new, and then closes the channel.
	Watch(ctx context.Context) <-chan struct{}
}

// Recorder is told of every attempt to bring something new.
type Recorder interface {
	Reloaded(Event)
}

// Prover judges a compiled mesh. It is given the proof of the generation before, zero for none, so that it need not look
// again at what has not changed.
type Prover func(before prove.Proof, m *tenancy.Model, parts []xds.Part, tables []*authz.Table) (prove.Proof, *prove.Counterexample)

// Event is what came of one attempt.
type Event struct {
	// Revision is the source's.
	Revision string
	// Generation is the one that is served from now on; nil before the first.
	Generation *Generation
	// Published says that it is new.
	Published bool
	// Problems are what keeps owners from their newest documents, and what is wrong with files that belong to nobody.
	Problems []v1alpha1.Problem
	// Stale are the owners that stay on their last accepted documents, Dropped those of whom nothing is served.
	Stale, Dropped []string
	// Counterexample is what the prover found; the generation is then the one before.
	Counterexample *prove.Counterexample
	// Err is a reason outside the documents: the source or the trust bundles. The attempt is made again.
	Err error
	// Forgot is why the accepted documents could not be brought back at the start, or not be kept for the next one. All
	// the rest of the attempt counts; it is made again.
	Forgot error
	// Compiled is how many tenants had to be compiled; Took is the time of it all, Proving that of the prover.
	Compiled      int
	Took, Proving time.Duration
}

// Config is what a Pipeline is made of.
type Config struct {
	Source   Source
	Bundles  Bundles
	Recorder Recorder
	// KeySets fetches published keys of token issuers; nil: such issuers have no keys.
	KeySets KeySets
	// Revocations are those that operators have made beside the documents; nil: none. They count whatever is wrong with the
	// documents.
	Revocations func() []*v1alpha1.Revocation
	// Memory keeps the accepted documents for the next process; nil: they end with this one.
	Memory Memory
	// Prover is prove.Proof.Extend where it is nil.
	Prover Prover
	// Clock is time.Now where it is nil. It stamps generations, measures, and says which revocations are over.
	Clock func() time.Time
	// ConnectionLife is tenancy.Input's.
	ConnectionLife time.Duration
}

// Pipeline keeps the current Generation. Its methods are safe for concurrent use.
type Pipeline struct {
	config  Config
	current atomic.Pointer[Generation]
	last    atomic.Pointer[Event]

	// reloading is held by the one attempt at a time; nothing that serves takes it.
	reloading sync.Mutex
	accepted  selection
	number    uint64
	recall    recall

	subscribers subscribers
}

// New makes a Pipeline; Run starts it.
func New(c Config) *Pipeline {
	if c.Prover == nil {
		c.Prover = prove.Proof.Extend
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return &Pipeline{config: c, accepted: selection{}}
}

// Run brings what the source holds, and again after each change, until ctx ends. It never fails: what is wrong is
// recorded, and the last generation stays.
func (p *Pipeline) Run(ctx context.Context) {
	// Watching begins before the first load, so no change falls between them.
	changed := p.config.Source.Watch(ctx)
	var keys <-chan struct{}
	if p.config.KeySets != nil {
		keys = p.config.KeySets.Changed()
	}
	published, stop := p.Subscribe()
	defer stop()
	retry, over := time.NewTimer(retryAfter), time.NewTimer(retryAfter)
	defer retry.Stop()
	defer over.Stop()
	for {
		if e := p.Reload(ctx); e.Err != nil || e.Forgot != nil {
			retry.Reset(retryAfter)
		} else {
			retry.Stop()
		}
		for waiting := true; waiting; {
			p.awaitEnd(over)
			waiting = false
			select {
			case <-ctx.Done():
				return
			case <-published: // by whoever reloads beside Run: another revocation may end first now
				waiting = true
			case <-over.C:
			case <-retry.C:
			case <-keys:
			case _, ok := <-changed:
				if !ok {
					return
				}
			}
		}
	}
}

// awaitEnd lets the timer fire when the next revocation ends that keeps callers from a workload. Clocks that do not agree cost
// a second, and no more than one attempt a second.
func (p *Pipeline) awaitEnd(over *time.Timer) {
	over.Stop()
	g := p.current.Load()
	if g == nil {
		return
	}
	if end := g.model.NextEnd(); !end.IsZero() {
		over.Reset(max(end.Sub(p.config.Clock()), time.Second))
	}
}

// Reload makes one attempt, and tells what came of it.
func (p *Pipeline) Reload(ctx context.Context) Event {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	start := p.config.Clock()
	e := p.reload(ctx)
	e.Took = p.config.Clock().Sub(start)
	e.Generation = p.current.Load()
	said := e
	p.last.Store(&said)
	if errors.Is(e.Err, context.Canceled) {
		return e // the end of the process is no event of the mesh
	}
	if e.Published {
		p.subscribers.tell()
	}
	// Nobody who is served waits for the disk.
	if err := p.keep(); err != nil {
		e.Forgot = errors.Join(e.Forgot, err)
		p.last.Store(&e)
	}
	p.config.Recorder.Reloaded(e)
	return e
}

func (p *Pipeline) reload(ctx context.Context) Event {
	files, problems, revision, err := p.config.Source.Load(ctx)
	previous := p.current.Load()
	if err != nil {
		return Event{Err: err}
	}
	newest, stray := decode(files, problems)
	forgot := p.remember()
	b := p.builder(p.before())
	if p.config.Revocations != nil {
		b.revocations = p.config.Revocations()
	}
	s, ok := b.settle(newest, p.accepted)
	if ok && p.config.KeySets != nil {
		docs, _ := s.used.input()
		p.config.KeySets.Follow(tenancy.KeySetURIs(docs))
	}
	e := Event{
		Revision: revision, Err: b.trouble, Forgot: forgot, Stale: s.stale, Dropped: s.dropped, Compiled: s.build.compiledNow,
		Problems: v1alpha1.SortProblems(append(stray, s.problems...)),
	}
	if !ok {
		return e
	}
	accepted := s.used
	if b.trouble != nil {
		accepted = s.waiting(newest, p.accepted)
	}
	if previous.same(s.build) {
		p.accepted = accepted
		return e
	}
	start := p.config.Clock()
	var before prove.Proof
	if previous != nil {
		before = previous.proof
	}
	proof, counterexample := p.config.Prover(before, s.build.model, s.build.parts(), s.build.tables())
	e.Proving = p.config.Clock().Sub(start)
	if counterexample != nil {
		e.Counterexample = counterexample
		return e
	}
	g, err := newGeneration(p.number+1, revision, p.config.Clock(), s.build, proof)
	if err != nil {
		e.Err = err
		return e
	}
	p.number = g.number
	p.accepted = accepted
	p.current.Store(g)
	p.recall.build = build{} // from now on the generation says what was before
	e.Published = true
	return e
}

func (p *Pipeline) builder(before build) builder {
	return builder{
		bundles: p.config.Bundles, keySets: p.config.KeySets, life: p.config.ConnectionLife, now: p.config.Clock(), before: before,
	}
}

// same reports whether a build would change nothing: every tenant is there already, with the same digest, and who may look
// at it, which no digest covers.
func (g *Generation) same(b build) bool {
	return g != nil && g.model.SameOperators(b.model) &&
		maps.EqualFunc(g.tenants, b.tenants, func(x, y *compiled) bool { return x.digest == y.digest })
}

// Current is the generation that is served; nil before the first. All of Generation's methods that serve take nil.
func (p *Pipeline) Current() *Generation { return p.current.Load() }

// Last is what came of the last attempt; false before the first.
func (p *Pipeline) Last() (Event, bool) {
	e := p.last.Load()
	if e == nil {
		return Event{}, false
	}
	return *e, true
}

// Snapshot is what a workload's Envoy gets now, with the table that its agent decides by.
func (p *Pipeline) Snapshot(w identity.WorkloadID) (xds.Snapshot, []byte, bool) {
	return p.Current().Snapshot(w)
}

// Workload is the workload of that SPIFFE ID, if a document names it now.
func (p *Pipeline) Workload(uri string) (identity.WorkloadID, bool) { return p.Current().Workload(uri) }

// Mapping is how the mesh reads SPIFFE IDs now; zero before the first generation.
func (p *Pipeline) Mapping() identity.Mapping { return p.Current().Mapping() }
