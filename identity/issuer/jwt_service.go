package issuer

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	// maxKeyStreams of one workload are open at a time: one, and what a restarting agent has left behind.
	maxKeyStreams = 4
	// jwtLook is when the clock is asked again at the latest: a timer does not see that it was set.
	jwtLook = time.Minute
)

// JWTSVIDs answers agents that have an SVID: JWT-SVIDs, and the keys that verify those of their tenant. It is for a listener with
// mutual TLS.
type JWTSVIDs struct {
	agentv1alpha1.UnimplementedJWTSVIDsServer

	issuer    *Issuer
	workloads Workloads
	clock     func() time.Time
	log       *zap.Logger

	mu      sync.Mutex
	streams map[identity.WorkloadID]int
}

var _ agentv1alpha1.JWTSVIDsServer = (*JWTSVIDs)(nil)

// NewJWTSVIDs makes the gRPC service over an Issuer.
func NewJWTSVIDs(i *Issuer, w Workloads, clock func() time.Time, log *zap.Logger) *JWTSVIDs {
	return &JWTSVIDs{issuer: i, workloads: w, clock: clock, log: log, streams: map[identity.WorkloadID]int{}}
}

// Fetch gives a JWT-SVID to the holder of the certificate that the connection shows, and names nobody else in it.
func (s *JWTSVIDs) Fetch(ctx context.Context, req *agentv1alpha1.FetchJWTSVIDRequest) (*agentv1alpha1.FetchJWTSVIDResponse, error) {
	mapping := s.workloads.Mapping()
	if mapping.IsZero() {
		return nil, status.Error(codes.FailedPrecondition, "no configuration is published yet")
	}
	given, err := s.issuer.JWT(req.GetAudience(), certificate(ctx), mapping, s.workloads.Workload, s.clock())
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	s.log.Debug("JWT-SVID issued", from(ctx), zap.Stringer("workload", given.ID), zap.Time("not_after", given.NotAfter))
	return &agentv1alpha1.FetchJWTSVIDResponse{Token: given.Token, NotAfterUnix: given.NotAfter.Unix()}, nil
}

// Keys tells the holder of the certificate that the connection shows the keys of its own trust domain, until that certificate
// ends.
func (s *JWTSVIDs) Keys(_ *agentv1alpha1.JWTKeysRequest, stream grpc.ServerStreamingServer[agentv1alpha1.JWTKeysResponse]) error {
	ctx := stream.Context()
	mapping := s.workloads.Mapping()
	if mapping.IsZero() {
		return status.Error(codes.FailedPrecondition, "no configuration is published yet")
	}
	h, err := s.issuer.holder(certificate(ctx), mapping, s.workloads.Workload, s.issuer.allowJWT, s.clock())
	if errors.Is(err, ErrNotRenewable) {
		err = ErrNoJWT
	}
	if err == nil {
		err = s.begin(h.id)
	}
	if err != nil {
		return s.refusal(ctx, err)
	}
	defer s.end(h.id)
	var last string
	for {
		now := s.clock()
		if h.entry.expired(now) {
			return status.Error(codes.Unauthenticated, "the client's SVID has expired")
		}
		set, err := s.issuer.JWTKeys(h.id.Tenant(), now)
		if err != nil {
			return s.refusal(ctx, err)
		}
		if text := string(set.JWKS); text != last {
			if err := stream.Send(&agentv1alpha1.JWTKeysResponse{Jwks: set.JWKS}); err != nil {
				return err
			}
			last = text
		}
		look := time.NewTimer(min(earliest(set.Until, h.entry.notAfter).Sub(now), jwtLook))
		select {
		case <-set.Changed:
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return status.FromContextError(ctx.Err()).Err()
		}
		look.Stop()
	}
}

func (s *JWTSVIDs) begin(id identity.WorkloadID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[id] >= maxKeyStreams {
		return ErrLimited
	}
	s.streams[id]++
	return nil
}

func (s *JWTSVIDs) end(id identity.WorkloadID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[id]--; s.streams[id] == 0 {
		delete(s.streams, id)
	}
}

// refusal is the answer to an agent; what is wrong with a request is told only to who holds an SVID.
func (s *JWTSVIDs) refusal(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ErrNoJWT):
		s.log.Warn("JWT-SVID refused", from(ctx))
		return status.Error(codes.PermissionDenied, ErrNoJWT.Error())
	case errors.Is(err, ErrAudience):
		s.log.Info("JWT-SVID refused", from(ctx), zap.Error(err))
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrLimited):
		s.log.Warn("JWT-SVID refused", from(ctx), zap.Error(err))
		return status.Error(codes.ResourceExhausted, ErrLimited.Error())
	default:
		s.log.Error("cannot give JWT-SVIDs", zap.Error(err))
		return status.Error(codes.Internal, "cannot give JWT-SVIDs")
	}
}
