package delta

import (
	"context"
	"errors"
	"io"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
)

// Stream is the server's end of a delta discovery stream; the generated gRPC stream is one.
type Stream interface {
	Send(*discovery.DeltaDiscoveryResponse) error
	Recv() (*discovery.DeltaDiscoveryRequest, error)
	Context() context.Context
}

// Source says what the client may see.
type Source interface {
	// Target is what the client may see now.
	Target() Target
	// Changed returns a channel that is closed, or gives something, once Target may have changed since this call.
	Changed() <-chan struct{}
}

// Observer watches a conversation, from the goroutine that serves it; it must not block.
type Observer interface {
	// Requested comes before a request is worked in.
	Requested(c *Conversation, req *discovery.DeltaDiscoveryRequest)
	// Sent comes when a response is handed to the stream.
	Sent(*discovery.DeltaDiscoveryResponse)
	// Progress comes whenever all input so far is worked off and something has happened.
	Progress(*Conversation)
}

// Serve runs the conversation over the stream until the client ends it (nil), the context is done (its cause), or
// something fails. A target that comes while an older one is being sent waits for the end of it, and only the newest
// waits: a client that reads slowly costs one response. The caller ends the stream by returning from its handler, which
// also ends the two goroutines that read and write.
func Serve(ctx context.Context, s Stream, c *Conversation, src Source, obs Observer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })() //nolint:contextcheck // joins the two
	l := &loop{
		c: c, src: src, obs: obs,
		in: make(chan *discovery.DeltaDiscoveryRequest), out: make(chan *discovery.DeltaDiscoveryResponse), sent: make(chan struct{}),
	}
	go l.read(ctx, s, cancel)
	go l.write(ctx, s, cancel)
	return l.run(ctx)
}

// errEnd says that the client closed its end.
var errEnd = errors.New("end of stream")

type loop struct {
	c   *Conversation
	src Source
	obs Observer

	in   chan *discovery.DeltaDiscoveryRequest
	out  chan *discovery.DeltaDiscoveryResponse
	sent chan struct{}

	sending  bool // a response is on its way
	happened bool // since the last Progress
}

func (l *loop) read(ctx context.Context, s Stream, cancel context.CancelCauseFunc) {
	bucket := rate.NewLimiter(rate.Limit(l.c.limits.RequestsPerSecond), l.c.limits.Burst)
	for {
		if err := bucket.Wait(ctx); err != nil {
			return // the context is done
		}
		req, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errEnd
			}
			cancel(err)
			return
		}
		select {
		case l.in <- req:
		case <-ctx.Done():
			return
		}
	}
}

func (l *loop) write(ctx context.Context, s Stream, cancel context.CancelCauseFunc) {
	for {
		select {
		case resp := <-l.out:
			if err := s.Send(resp); err != nil {
				cancel(err)
				return
			}
			select {
			case l.sent <- struct{}{}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (l *loop) run(ctx context.Context) error {
	changed := l.src.Changed()
	l.c.SetTarget(l.src.Target())
	stale := false
	hold, slow := newAlarm(l.c.limits.Hold), newAlarm(l.c.limits.SendTimeout)
	defer hold.stop()
	defer slow.stop()
	for {
		if !l.sending {
			resp, err := l.next(&stale, &changed)
			if err != nil {
				return err
			}
			if resp != nil {
				l.obs.Sent(resp)
				select {
				case l.out <- resp:
					l.sending, l.happened = true, true
				case <-ctx.Done():
					return cause(ctx)
				}
			}
		}
		hold.set(l.c.Holding())
		slow.set(l.sending)
		if l.happened && !l.sending {
			select {
			case req := <-l.in:
				if err := l.request(req); err != nil {
					return err
				}
				continue
			default:
				l.happened = false
				l.obs.Progress(l.c)
			}
		}
		news := changed
		if stale {
			news = nil // known already
		}
		select {
		case req := <-l.in:
			if err := l.request(req); err != nil {
				return err
			}
		case <-l.sent:
			l.sending = false
			slow.stop()
		case <-news:
			stale = true
		case <-hold.C():
			l.c.Release()
		case <-slow.C():
			return ErrSlow
		case <-ctx.Done():
			return cause(ctx)
		}
	}
}

// next is the next response; where the old target is all said, the new one comes in.
func (l *loop) next(stale *bool, changed *<-chan struct{}) (*discovery.DeltaDiscoveryResponse, error) {
	resp, err := l.c.Next()
	if resp != nil || err != nil || !*stale {
		return resp, err
	}
	// The channel first: what changes after this call is noticed.
	*stale = false
	*changed = l.src.Changed()
	if t := l.src.Target(); t.id != l.c.target.id || t.IsZero() != l.c.target.IsZero() {
		l.c.SetTarget(t)
	}
	l.happened = true // also where nothing changed for this client: it is as good as told
	return l.c.Next()
}

func (l *loop) request(req *discovery.DeltaDiscoveryRequest) error {
	l.happened = true
	l.obs.Requested(l.c, req)
	return l.c.Request(req)
}

func cause(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, errEnd) {
		return err
	}
	return nil
}

// alarm is a timer that runs while a condition holds.
type alarm struct {
	after time.Duration
	timer *time.Timer
}

func newAlarm(after time.Duration) *alarm { return &alarm{after: after} }

func (a *alarm) set(on bool) {
	switch {
	case !on:
		a.stop()
	case a.timer == nil:
		a.timer = time.NewTimer(a.after)
	}
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// C never delivers while the alarm is off.
func (a *alarm) C() <-chan time.Time {
	if a.timer == nil {
		return nil
	}
	return a.timer.C
}
