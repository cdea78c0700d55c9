package pipeline

import "sync"

// subscribers are told of each new generation. Who is slow misses notices and never the last one: a notice only says that
// Current is another one.
type subscribers struct {
	mu  sync.Mutex
	all map[chan struct{}]struct{}
}

// Subscribe gives a channel that holds a notice whenever a generation was published since the last one was taken, and the
// function that ends it.
func (p *Pipeline) Subscribe() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	s := &p.subscribers
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[chan struct{}]struct{}{}
	}
	s.all[c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, c)
	}
}

func (s *subscribers) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.all {
		select {
		case c <- struct{}{}:
		default: // a notice is waiting already
		}
	}
}
