// Package limit holds each of several askers to what it may ask for, so that one leaves room for the others. Who is over its
// limit is refused at once: nothing waits here. It reads no clock.
package limit

import (
	"sync"
	"time"
)

// Limits are what one asker may ask for; the zero value does not limit.
type Limits struct {
	// Concurrent is how many requests of one asker are answered at a time.
	Concurrent int
	// PerSecond is how many requests an asker may begin in a second over time, Burst how many at once.
	PerSecond, Burst int
}

// maxLoads is how many askers are told apart at a time.
const maxLoads = 4096

// Limiter counts what each asker does. It may be used by many goroutines; the zero value does not limit.
type Limiter struct {
	limits Limits
	mu     sync.Mutex
	loads  map[string]*load
}

type load struct {
	running int
	tokens  float64
	last    time.Time
}

// Running is a request that has begun.
type Running struct {
	mu *sync.Mutex
	of *load
}

// New makes a limiter that holds each asker to these limits.
func New(l Limits) *Limiter { return &Limiter{limits: l, loads: map[string]*load{}} }

// Begin lets a request begin, until End is called once for what it gives; ok is false where it may not. It allocates
// nothing for an asker that it knows.
func (l *Limiter) Begin(who string, now time.Time) (r Running, ok bool) {
	if l.limits == (Limits{}) {
		return Running{}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.loads[who]
	if of == nil {
		if of = l.add(who, now); of == nil {
			return Running{}, false
		}
	}
	l.refill(of, now)
	if of.running >= l.limits.Concurrent || of.tokens < 1 {
		return Running{}, false
	}
	of.tokens--
	of.running++
	return Running{mu: &l.mu, of: of}, true
}

// End makes room for the asker's next request.
func (r Running) End() {
	if r.of == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of.running--
}

func (l *Limiter) refill(of *load, now time.Time) {
	if d := now.Sub(of.last); d > 0 {
		of.tokens = min(float64(l.limits.Burst), of.tokens+d.Seconds()*float64(l.limits.PerSecond))
		of.last = now
	}
}

// add makes room by forgetting those who do nothing and have their whole burst again.
func (l *Limiter) add(who string, now time.Time) *load {
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
