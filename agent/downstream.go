package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

const (
	downstreamGrace = time.Second
	window          = 1 << 20 // fixed: no pings to measure a Unix socket
)

var errReplaced = errors.New("another stream of Envoy took over")

// downstream is the server on the agent's Unix socket: discovery, secrets and decisions for the one Envoy.
type downstream struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	target  *target
	reports *latest[delta.Report]
	version func(string) // hears the version that Envoy says it has
	log     *zap.Logger
	grpc    *grpc.Server

	mu  sync.Mutex
	end context.CancelCauseFunc // of the stream that counts
	own *envoyStream
}

func newDownstream(to *target, reports *latest[delta.Report], version func(string), authz *extauthz.Server, log *zap.Logger) *downstream {
	d := &downstream{target: to, reports: reports, version: version, log: log}
	d.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(delta.DefaultLimits().RequestBytes),
		grpc.ForceServerCodecV2(extauthz.Codec()), grpc.NumStreamWorkers(extauthz.Workers()),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(d.grpc, d)
	extauthz.Register(d.grpc, authz)
	return d
}

// listenUnix opens a socket where an earlier start may have left one.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}

// listen opens the socket, for this user only.
func listen(ctx context.Context, path string) (net.Listener, error) {
	l, err := listenUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	// The directory is 0700, so nobody else could get in before the mode is set.
	if err := os.Chmod(path, fileMode); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return ownUserOnly(l), nil
}

// run serves until ctx ends.
func (d *downstream) run(ctx context.Context, l net.Listener) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		d.replace(nil, nil)
		force := time.AfterFunc(downstreamGrace, d.grpc.Stop)
		defer force.Stop()
		d.grpc.GracefulStop()
	}()
	err := d.grpc.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("serving Envoy: %w", err)
	}
	<-stopped
	return nil
}

// replace makes a stream the one that counts and ends the one before: there is one Envoy, and it has one stream.
func (d *downstream) replace(own *envoyStream, end context.CancelCauseFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.end != nil {
		d.end(errReplaced)
	}
	d.own, d.end = own, end
	d.reports.put(delta.Report{})
}

// report passes on where a stream stands, if it is the one that counts.
func (d *downstream) report(own *envoyStream, r delta.Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own == own {
		d.reports.put(r)
	}
}

// DeltaAggregatedResources is Envoy's stream.
func (d *downstream) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	own := &envoyStream{downstream: d}
	d.replace(own, end)
	d.log.Info("Envoy connected")
	err := delta.Serve(ctx, stream, delta.New(delta.DefaultLimits()), d.target, own)
	d.report(own, delta.Report{})
	d.log.Info("Envoy's stream ended", zap.NamedError("cause", err))
	if errors.Is(err, errReplaced) {
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

// envoyStream watches one stream.
type envoyStream struct{ downstream *downstream }

var _ delta.Observer[*discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse, *delta.Conversation] = (*envoyStream)(nil)

// Requested implements delta.Observer.
func (s *envoyStream) Requested(_ *delta.Conversation, req *discovery.DeltaDiscoveryRequest) {
	if node := req.GetNode(); node != nil {
		s.downstream.version(xds.ReadHint(node).EnvoyVersion)
	}
}

// Sent implements delta.Observer.
func (*envoyStream) Sent(*discovery.DeltaDiscoveryResponse) {}

// Progress implements delta.Observer.
func (s *envoyStream) Progress(c *delta.Conversation) { s.downstream.report(s, c.Report()) }
