package extauthz

import (
	"sync"
	"time"
)

// Limits are what one asker may ask for; the zero value does not limit.
type Limits struct {
	// Concurrent is how many checks of one asker are answered at a time.
	Concurrent int
	// PerSecond is how many checks an asker may begin in a second over time, Burst how many at once.
	PerSecond, Burst int
}

// DefaultLimits are far above what one Envoy asks, and far below what a machine answers.
func DefaultLimits() Limits { return Limits{Concurrent: 256, PerSecond: 5000, Burst: 10000} }

// maxLoads is how many askers are told apart at a time.
const maxLoads = 4096

// limiter counts what each asker does. Who is over its limit is refused at once: nothing waits in it.
type limiter struct {
	limits Limits
	mu     sync.Mutex
	loads  map[Asking]*load
}

type load struct {
	running int
	tokens  float64
	last    time.Time
}

// begin lets a check begin, until end is called with what it gave; ok is false where it may not.
func (l *limiter) begin(who Asking, now time.Time) (of *load, ok bool) {
	if l.limits == (Limits{}) {
		return nil, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if of = l.loads[who]; of == nil {
		if of = l.add(who, now); of == nil {
			return nil, false
		}
	}
	l.refill(of, now)
	if of.running >= l.limits.Concurrent || of.tokens < 1 {
		return nil, false
	}
	of.tokens--
	of.running++
	return of, true
}

// end is called once for each check that has begun.
func (l *limiter) end(of *load) {
	if of == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	of.running--
}

func (l *limiter) refill(of *load, now time.Time) {
	if d := now.Sub(of.last); d > 0 {
		of.tokens = min(float64(l.limits.Burst), of.tokens+d.Seconds()*float64(l.limits.PerSecond))
		of.last = now
	}
}

// add makes room by forgetting those who do nothing and have their whole burst again.
func (l *limiter) add(who Asking, now time.Time) *load {
	if len(l.loads) >= maxLoads {
		for other, of := range l.loads {
			if l.refill(of, now); of.running == 0 && of.tokens >= float64(l.limits.Burst) {
				delete(l.loads, other)
			}
		}
		if len(l.loads) >= maxLoads {
			return nil
		}
	}
	of := &load{tokens: float64(l.limits.Burst), last: now}
	l.loads[who] = of
	return of
}
