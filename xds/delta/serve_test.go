package delta_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is a stream whose client is the test. As with gRPC, what blocks ends with the stream's context.
type pipe struct {
	ctx  context.Context //nolint:containedctx // a stream has one
	in   chan *discovery.DeltaDiscoveryRequest
	out  chan *discovery.DeltaDiscoveryResponse
	done context.CancelFunc
}

func newPipe(t *testing.T) *pipe {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	return &pipe{ctx: ctx, done: cancel, in: make(chan *discovery.DeltaDiscoveryRequest), out: make(chan *discovery.DeltaDiscoveryResponse)}
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(resp *discovery.DeltaDiscoveryResponse) error {
	select {
	case p.out <- resp:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) Recv() (*discovery.DeltaDiscoveryRequest, error) {
	select {
	case req, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return req, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// slot is a source and observer.
type slot struct {
	mu       sync.Mutex
	target   delta.Target
	changed  chan struct{}
	requests int
	progress chan delta.Report
}

func newSlot() *slot {
	return &slot{changed: make(chan struct{}), progress: make(chan delta.Report, 100)}
}

func (s *slot) set(t delta.Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = t
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *slot) Target() delta.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.target
}

func (s *slot) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *slot) Requested(*delta.Conversation, *discovery.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
}

func (s *slot) Sent(*discovery.DeltaDiscoveryResponse) {}

func (s *slot) Progress(c *delta.Conversation) {
	select {
	case s.progress <- c.Report():
	default:
	}
}

// serve runs Serve until the test ends it; the returned function ends the client's side and gives Serve's error.
func serve(ctx context.Context, t *testing.T, p *pipe, s *slot, limits delta.Limits) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		err := delta.Serve(ctx, p, delta.New(limits), s, s)
		p.done() // as gRPC ends the stream when its handler returns
		ended <- err
	}()
	return ended
}

func ask(p *pipe, typeURL string, names ...string) {
	p.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names}
}

func ackTo(p *pipe, resp *discovery.DeltaDiscoveryResponse) {
	p.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
}

func TestServeFollowsTheNewestTarget(t *testing.T) {
	t.Parallel()
	p, s := newPipe(t), newSlot()
	ended := serve(t.Context(), t, p, s, delta.DefaultLimits())
	ask(p, xds.ClusterType)
	ask(p, xds.ListenerType)
	s.set(delta.NewTarget("0", resourceOf(xds.ClusterType, "a", "0"), resourceOf(xds.ListenerType, "a", "0")))
	first := <-p.out
	for i := range 100 { // the client does not read meanwhile
		v := fmt.Sprint(i + 1)
		s.set(delta.NewTarget(v, resourceOf(xds.ClusterType, "a", v), resourceOf(xds.ListenerType, "a", v)))
	}
	last := resourceOf(xds.ListenerType, "a", "100").Version()
	ackTo(p, first)
	responses := 1
	for resp := range p.out {
		responses++
		ackTo(p, resp)
		if resp.GetResources()[0].GetVersion() == last {
			break
		}
	}
	if responses > 6 {
		t.Errorf("%d responses: of targets that nobody waits for any more nothing should be sent", responses)
	}
	for report := range s.progress {
		if report.Current && report.Target == "100" {
			break
		}
	}
	close(p.in)
	if err := <-ended; err != nil {
		t.Errorf("the client closed: %v", err)
	}
}

func TestServeEnds(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	limits := delta.DefaultLimits()
	limits.SendTimeout = 20 * time.Millisecond
	patient := delta.DefaultLimits()
	tests := map[string]struct {
		limits delta.Limits
		do     func(p *pipe, cancel context.CancelCauseFunc)
		want   error
	}{
		"client does not read": {limits, func(p *pipe, _ context.CancelCauseFunc) { ask(p, xds.ClusterType) }, delta.ErrSlow},
		"stopped":              {patient, func(_ *pipe, cancel context.CancelCauseFunc) { cancel(stop) }, stop},
		"stopped while client does not read": {patient, func(p *pipe, cancel context.CancelCauseFunc) {
			ask(p, xds.ClusterType)
			ask(p, xds.RouteType)
			cancel(stop)
		}, stop},
		"stream broken":                        {patient, func(p *pipe, _ context.CancelCauseFunc) { p.done() }, context.Canceled},
		"stream broken while it does not read": {patient, func(p *pipe, _ context.CancelCauseFunc) { ask(p, xds.ClusterType); ask(p, xds.RouteType); p.done() }, context.Canceled},
		"nonsense":                             {patient, func(p *pipe, _ context.CancelCauseFunc) { ask(p, "") }, delta.ErrProtocol},
		"closed":                               {patient, func(p *pipe, _ context.CancelCauseFunc) { close(p.in) }, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, s := newPipe(t), newSlot()
			s.set(delta.NewTarget("1", mesh("1", "a")...))
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			ended := serve(ctx, t, p, s, tc.limits)
			tc.do(p, cancel)
			if err := <-ended; !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestServeReleasesWhatIsHeldTooLong(t *testing.T) {
	t.Parallel()
	limits := delta.DefaultLimits()
	limits.Hold = 10 * time.Millisecond
	p, s := newPipe(t), newSlot()
	s.set(delta.NewTarget("1", mesh("1", "a")...))
	ended := serve(t.Context(), t, p, s, limits)
	ask(p, xds.ClusterType)
	ackTo(p, <-p.out)
	ask(p, xds.ListenerType)
	if got := said(<-p.out); got != "listeners +a" {
		t.Errorf("got %q", got)
	}
	close(p.in)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeReadsNoFasterThanTheLimit(t *testing.T) {
	t.Parallel()
	limits := delta.DefaultLimits()
	limits.RequestsPerSecond, limits.Burst = 0.001, 3
	p, s := newPipe(t), newSlot()
	ended := serve(t.Context(), t, p, s, limits)
	for range 3 {
		ask(p, xds.RouteType, "a")
	}
	select {
	case p.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: xds.RouteType}:
		t.Error("a fourth request was read")
	case <-time.After(50 * time.Millisecond):
	}
	p.done()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
