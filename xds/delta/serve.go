package delta

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/time/rate"
)

// Dialogue is what a client and the server say to each other on one stream, as a state machine that is not safe for
// concurrent use. Conversation is one; package sotw has the other. Req and Resp are pointers to messages.
type Dialogue[Req any, Resp comparable] interface {
	// SetTarget changes what the client may see, Target is the newest that was set.
	SetTarget(t Target)
	Target() Target
	// Request works in what the client sent; an error ends the stream.
	Request(req Req) error
	// Next is the next response to send, or nil if there is nothing to say before the next request or target.
	Next() (Resp, error)
	// Holding reports whether something waits for the client to ask for more; Release ends that wait.
	Holding() bool
	Release()
	// Limits are the ones that the dialogue was made with.
	Limits() Limits
}

// Stream is the server's end of a discovery stream; the generated gRPC streams are such.
type Stream[Req, Resp any] interface {
	Send(resp Resp) error
	Recv() (Req, error)
	Context() context.Context
}

// Source says what the client may see.
type Source interface {
	// Target is what the client may see now.
	Target() Target
	// Changed returns a channel that is closed, or gives something, once Target may have changed since this call.
	Changed() <-chan struct{}
}

// Observer watches a dialogue of type D, from the goroutine that serves it; it must not block.
type Observer[Req, Resp, D any] interface {
	// Requested comes before a request is worked in.
	Requested(d D, req Req)
	// Sent comes when a response is handed to the stream.
	Sent(resp Resp)
	// Progress comes whenever all input so far is worked off and something has happened.
	Progress(d D)
}

// Serve runs the dialogue over the stream until the client ends it (nil), the context is done (its cause), or
// something fails. A target that comes while an older one is being sent waits for the end of it, and only the newest
// waits: a client that reads slowly costs one response. The caller ends the stream by returning from its handler, which
// also ends the two goroutines that read and write.
func Serve[Req any, Resp comparable, D Dialogue[Req, Resp]](
	ctx context.Context, s Stream[Req, Resp], d D, src Source, obs Observer[Req, Resp, D],
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })() //nolint:contextcheck // joins the two
	l := &loop[Req, Resp, D]{
		d: d, src: src, obs: obs,
		in: make(chan Req), out: make(chan Resp), sent: make(chan struct{}),
	}
	go l.read(ctx, s, cancel)
	go l.write(ctx, s, cancel)
	return l.run(ctx)
}

// errEnd says that the client closed its end.
var errEnd = errors.New("end of stream")

type loop[Req any, Resp comparable, D Dialogue[Req, Resp]] struct {
	d   D
	src Source
	obs Observer[Req, Resp, D]

	in   chan Req
	out  chan Resp
	sent chan struct{}

	sending  bool // a response is on its way
	happened bool // since the last Progress
}

func (l *loop[Req, Resp, D]) read(ctx context.Context, s Stream[Req, Resp], cancel context.CancelCauseFunc) {
	bucket := rate.NewLimiter(rate.Limit(l.d.Limits().RequestsPerSecond), l.d.Limits().Burst)
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

func (l *loop[Req, Resp, D]) write(ctx context.Context, s Stream[Req, Resp], cancel context.CancelCauseFunc) {
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

func (l *loop[Req, Resp, D]) run(ctx context.Context) error {
	var none Resp
	changed := l.src.Changed()
	l.d.SetTarget(l.src.Target())
	stale := false
	hold, slow := newAlarm(l.d.Limits().Hold), newAlarm(l.d.Limits().SendTimeout)
	defer hold.stop()
	defer slow.stop()
	for {
		if !l.sending {
			resp, err := l.next(&stale, &changed)
			if err != nil {
				return err
			}
			if resp != none {
				l.obs.Sent(resp)
				select {
				case l.out <- resp:
					l.sending, l.happened = true, true
				case <-ctx.Done():
					return cause(ctx)
				}
			}
		}
		hold.set(l.d.Holding())
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
				l.obs.Progress(l.d)
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
			l.d.Release()
		case <-slow.C():
			return ErrSlow
		case <-ctx.Done():
			return cause(ctx)
		}
	}
}

// next is the next response; where the old target is all said, the new one comes in.
func (l *loop[Req, Resp, D]) next(stale *bool, changed *<-chan struct{}) (Resp, error) {
	var none Resp
	resp, err := l.d.Next()
	if resp != none || err != nil || !*stale {
		return resp, err
	}
	// The channel first: what changes after this call is noticed.
	*stale = false
	*changed = l.src.Changed()
	if t := l.src.Target(); t.ID() != l.d.Target().ID() || t.IsZero() != l.d.Target().IsZero() {
		l.d.SetTarget(t)
	}
	l.happened = true // also where nothing changed for this client: it is as good as told
	return l.d.Next()
}

func (l *loop[Req, Resp, D]) request(req Req) error {
	l.happened = true
	l.obs.Requested(l.d, req)
	return l.d.Request(req)
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
