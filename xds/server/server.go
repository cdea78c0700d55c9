package server

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds/delta"
	"github.com/ringfence-mesh/ringfence/xds/sotw"
)

var (
	errExpired   = errors.New("the client's SVID has expired")
	errWithdrawn = errors.New("the root of the client's SVID is not trusted any more")
	errStopped   = errors.New("the server stops")
)

// stopGrace is how long streams may take to end when the server stops.
const stopGrace = 2 * time.Second

// Server serves workloads' configuration to their agents.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	config Config
	grpc   *grpc.Server
	stop   context.CancelCauseFunc
	ctx    context.Context //nolint:containedctx // ends every stream when the server stops

	mu      sync.Mutex
	streams map[*watch]struct{}
	perID   map[identity.WorkloadID]int
	changed chan struct{} // closed at the next change
	epoch   uint64        // counts changes
	since   time.Time     // of the change that not every client has acknowledged yet; zero: none
}

var (
	_ discovery.AggregatedDiscoveryServiceServer = (*Server)(nil)
	_ grpc.ServiceRegistrar                      = (*Server)(nil)
)

// New makes a server.
func New(c Config) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Server{config: c, streams: map[*watch]struct{}{}, perID: map[identity.WorkloadID]int{}, changed: make(chan struct{})}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	l := c.Limits
	s.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(s.tlsConfig())),
		grpc.MaxConcurrentStreams(l.StreamsPerConnection),
		grpc.MaxRecvMsgSize(l.Stream.RequestBytes),
		grpc.ConnectionTimeout(l.Handshake),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.MinPing}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: l.Idle, Time: l.Ping, Timeout: l.PingTimeout}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	if c.UnknownKey != nil {
		agentv1alpha1.RegisterKeysServer(s.grpc, newKeys(s))
	}
	return s, nil
}

// RegisterService adds a service behind the same mutual TLS, whose methods prove with Admit who calls. It is called before
// Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// Serve accepts connections until ctx is done, ends every stream, and returns; it closes the listener. It may be called
// once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	changed, unsubscribe := s.config.Snapshots.Subscribe()
	defer unsubscribe()
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(changed) })
	wg.Go(func() {
		select {
		case <-ctx.Done():
			s.stop(errStopped)
		case <-s.ctx.Done():
		}
		force := time.AfterFunc(stopGrace, s.grpc.Stop)
		defer force.Stop()
		s.grpc.GracefulStop()
	})
	err := s.grpc.Serve(l)
	s.stop(errStopped)
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// follow wakes every stream when something changed.
func (s *Server) follow(changed <-chan struct{}) {
	for {
		select {
		case <-changed:
			s.mu.Lock()
			s.epoch++
			if s.since.IsZero() {
				s.since = s.config.Clock()
			}
			close(s.changed)
			s.changed = make(chan struct{})
			for w := range s.streams {
				s.endDistrusted(w)
			}
			s.settle()
			s.mu.Unlock()
		case <-s.ctx.Done():
			return
		}
	}
}

// DeltaAggregatedResources is the stream of an agent, or of an Envoy without one.
func (s *Server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(stream.Context(), func(ctx context.Context, w *watch) error {
		return delta.Serve(ctx, stream, delta.New(s.config.Limits.Stream), w, incremental{w})
	})
}

// StreamAggregatedResources is the stream of an Envoy without an agent that wants the state of the world.
func (s *Server) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.serve(stream.Context(), func(ctx context.Context, w *watch) error {
		return delta.Serve(ctx, stream, sotw.New(s.config.Limits.Stream), w, whole{w})
	})
}

// serve runs one client's stream. The client is proved from its connection before anything is read.
func (s *Server) serve(ctx context.Context, run func(context.Context, *watch) error) error {
	p, err := s.Caller(ctx)
	if err != nil {
		s.config.Log.Info("discovery stream refused", zap.Error(err))
		return status.Error(codes.Unauthenticated, "the client's certificate proves nobody")
	}
	w, err := s.open(p, chainOf(ctx)[0])
	if err != nil {
		w.log.Warn("discovery stream refused", zap.Error(err))
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer s.close(w)
	ctx, cancel := context.WithTimeoutCause(ctx, p.NotAfter().Sub(s.config.Clock()), errExpired)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.ctx, func() { end(errStopped) })() //nolint:contextcheck // joins the two
	s.endable(w, end)
	err = run(ctx, w)
	w.log.Info("discovery stream ended", zap.NamedError("cause", err))
	return toStatus(err)
}

// endable says how the stream is ended when its client is not believed any more; if that was a moment ago, it ends at once.
func (s *Server) endable(w *watch, end context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.end = end
	s.endDistrusted(w)
}

// endDistrusted ends the stream of a client that is revoked, or whose root was withdrawn. It is called with mu held.
func (s *Server) endDistrusted(w *watch) {
	switch {
	case w.end == nil:
	case s.revoked(w.peer):
		w.end(ErrRevoked)
	case s.config.Verifier().Withdrew(w.peer):
		w.end(errWithdrawn)
	}
}

func toStatus(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, delta.ErrProtocol):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, delta.ErrLimit), errors.Is(err, delta.ErrSlow):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, ErrRevoked):
		return status.Error(codes.Unauthenticated, ErrRevoked.Error())
	case errors.Is(err, errWithdrawn):
		return status.Error(codes.Unauthenticated, errWithdrawn.Error())
	case errors.Is(err, errExpired):
		return status.Error(codes.Unauthenticated, errExpired.Error())
	case errors.Is(err, errStopped):
		return status.Error(codes.Unavailable, errStopped.Error())
	default:
		return err
	}
}
