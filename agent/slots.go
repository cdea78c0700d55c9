package agent

import (
	"sync"
	"sync/atomic"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// target is what Envoy shall have: the relay sets it, the streams follow.
type target struct {
	mu      sync.Mutex
	now     delta.Target
	changed chan struct{}
}

var _ delta.Source = (*target)(nil)

func newTarget() *target { return &target{changed: make(chan struct{})} }

func (t *target) set(now delta.Target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = now
	close(t.changed)
	t.changed = make(chan struct{})
}

// Target implements delta.Source.
func (t *target) Target() delta.Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// Changed implements delta.Source.
func (t *target) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// tables are what calls are decided by: the relay sets them, every check reads them.
type tables struct {
	workload identity.WorkloadID
	pair     atomic.Pointer[pair]
}

type pair struct{ current, next *authz.Table }

var _ extauthz.Tables = (*tables)(nil)

func (t *tables) set(current, next *authz.Table) { t.pair.Store(&pair{current: current, next: next}) }

// Tables implements extauthz.Tables. Without a current table everything is denied.
func (t *tables) Tables(asker identity.WorkloadID) (current, next *authz.Table) {
	p := t.pair.Load()
	if p == nil || !asker.Same(t.workload) {
		return nil, nil
	}
	return p.current, p.next
}

// latest holds the newest value; who is slow misses the older ones.
type latest[V any] struct {
	mu    sync.Mutex
	value V
	wake  chan struct{}
}

func newLatest[V any]() *latest[V] { return &latest[V]{wake: make(chan struct{}, 1)} }

func (l *latest[V]) put(v V) {
	l.mu.Lock()
	l.value = v
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
}

func (l *latest[V]) get() V {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value
}
