package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/xds"
)

const (
	maxResponse    = 32 << 20
	connectTimeout = 5 * time.Second
	pingAfter      = 30 * time.Second // the server takes no more than one in ten seconds
	pingTimeout    = 10 * time.Second
)

// upstream holds the one discovery stream to the control plane, and opens it again whenever it ends.
type upstream struct {
	address string
	creds   credentials.TransportCredentials
	node    string
	log     *zap.Logger
	events  chan<- event
	unknown *unknownKeys
	tokens  *jwtSVIDs
	envoy   func() string // its version, empty while it has not said it
	clock   func() time.Time
	renewed chan struct{} // holds a notice when the stream is to be opened again with a new SVID
	failed  chan struct{} // holds a notice when the stream has ended or could not be opened
}

var errRenewed = errors.New("the SVID was renewed")

// reopen ends the stream, which the control plane would end with the SVID that it was opened with, and opens it again.
func (u *upstream) reopen() {
	select {
	case u.renewed <- struct{}{}:
	default: // it is being told
	}
}

// run returns when ctx ends.
func (u *upstream) run(ctx context.Context) {
	wait := newBackoff(backoffMost)
	for ctx.Err() == nil {
		heard, err := u.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait.reset()
		}
		if errors.Is(err, errRenewed) {
			continue
		}
		u.log.Warn("the control plane is away", zap.Error(err))
		select {
		case u.failed <- struct{}{}:
		default: // it is known
		}
		if wait.sleep(ctx) != nil {
			return
		}
	}
}

// once runs one stream until it ends. heard says that the control plane said something on it.
func (u *upstream) once(agent context.Context) (heard bool, err error) {
	ctx, end := context.WithCancelCause(agent)
	cancel := func() { end(nil) }
	defer cancel()
	conn, err := grpc.NewClient(u.address,
		grpc.WithTransportCredentials(u.creds),
		grpc.WithNoProxy(),
		withoutDNSConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
	)
	if err != nil {
		return false, fmt.Errorf("discovery: %w", err)
	}
	defer func() { _ = conn.Close() }() // the stream is over
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, fmt.Errorf("discovery: %w", err)
	}
	out := newOutbox()
	var sender sync.WaitGroup
	sender.Go(func() { out.pump(ctx, stream.Send) })
	sender.Go(func() { u.unknown.tell(ctx, agentv1alpha1.NewKeysClient(conn)) })
	sender.Go(func() { u.tokens.follow(ctx, agentv1alpha1.NewJWTSVIDsClient(conn)) })
	sender.Go(func() {
		select {
		case <-u.renewed:
			end(errRenewed)
		case <-ctx.Done():
		}
	})
	defer sender.Wait()
	defer cancel()
	first, said := true, ""
	send := func(req *discovery.DeltaDiscoveryRequest) { // the relay alone calls it
		if envoy := u.envoy(); first || envoy != said {
			req.Node = xds.Hint{EnvoyVersion: envoy, Clock: u.clock()}.Node(u.node)
			first, said = false, envoy
		}
		out.push(req)
	}
	if !u.tell(ctx, event{connected: send}) {
		return false, context.Cause(ctx)
	}
	defer u.tell(agent, event{disconnected: true})
	for {
		resp, err := stream.Recv()
		if errors.Is(context.Cause(ctx), errRenewed) {
			return heard, errRenewed
		}
		if err != nil {
			return heard, err
		}
		heard = true
		if !u.tell(ctx, event{response: resp}) {
			return heard, context.Cause(ctx)
		}
	}
}

func (u *upstream) tell(ctx context.Context, e event) bool {
	select {
	case u.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// outbox takes requests without blocking the relay. What it holds is bounded by what was received: each request answers a
// response.
type outbox struct {
	mu    sync.Mutex
	queue []*discovery.DeltaDiscoveryRequest
	wake  chan struct{}
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) push(req *discovery.DeltaDiscoveryRequest) {
	o.mu.Lock()
	o.queue = append(o.queue, req)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default: // it is awake
	}
}

func (o *outbox) take() []*discovery.DeltaDiscoveryRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue := o.queue
	o.queue = nil
	return queue
}

// pump sends until ctx ends or the stream breaks, which its reader notices too.
func (o *outbox) pump(ctx context.Context, send func(*discovery.DeltaDiscoveryRequest) error) {
	for {
		select {
		case <-o.wake:
			for _, req := range o.take() {
				if send(req) != nil {
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// withoutDNSConfig ignores what a TXT record says of the control plane's service. Nobody signs that record, and where name
// servers know only their own names, asking for it takes longer than joining may.
func withoutDNSConfig() grpc.DialOption { return grpc.WithDisableServiceConfig() }
