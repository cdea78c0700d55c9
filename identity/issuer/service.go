package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Workloads is what the mesh names at this moment.
type Workloads interface {
	// Workload is the workload of that SPIFFE ID, byte for byte, if the published configuration names it.
	Workload(uri string) (identity.WorkloadID, bool)
	// Mapping is how the published configuration reads SPIFFE IDs; zero before the first one.
	Mapping() identity.Mapping
}

// Service answers agents: a join token and a certificate request for an SVID.
type Service struct {
	agentv1alpha1.UnimplementedIssuerServer

	issuer    *Issuer
	workloads Workloads
	clock     func() time.Time
	log       *zap.Logger
}

var _ agentv1alpha1.IssuerServer = (*Service)(nil)

// NewService makes the gRPC service over an Issuer.
func NewService(i *Issuer, w Workloads, clock func() time.Time, log *zap.Logger) *Service {
	return &Service{issuer: i, workloads: w, clock: clock, log: log}
}

// Issue gives an SVID. A token that gives nothing is answered in one way, whatever the reason; what is wrong with a
// request is told only to who holds a good token.
func (s *Service) Issue(ctx context.Context, req *agentv1alpha1.IssueRequest) (*agentv1alpha1.IssueResponse, error) {
	if s.workloads.Mapping().IsZero() { // an agent whose token is refused gives up; this one may ask again
		return nil, status.Error(codes.FailedPrecondition, "no configuration is published yet")
	}
	svid, err := s.issuer.Issue(req.GetCsr(), req.GetJoinToken(), s.workloads.Workload, s.clock())
	switch {
	case errors.Is(err, ErrRefused):
		s.log.Info("join refused", from(ctx))
		return nil, status.Error(codes.Unauthenticated, ErrRefused.Error())
	case errors.Is(err, ErrBadRequest):
		s.log.Info("join refused", from(ctx), zap.Error(err))
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrLimited):
		s.log.Warn("join refused", from(ctx), zap.Error(err))
		return nil, status.Error(codes.ResourceExhausted, ErrLimited.Error())
	case err != nil:
		s.log.Error("cannot issue", zap.Error(err))
		return nil, status.Error(codes.Internal, "cannot issue")
	}
	s.log.Info("SVID issued", from(ctx), zap.Stringer("workload", svid.ID), zap.Time("not_after", svid.NotAfter))
	mapping := s.workloads.Mapping()
	resp := &agentv1alpha1.IssueResponse{
		Chain: svid.Chain, Bundle: svid.Bundle.DER(), PlatformTrustDomain: mapping.Platform().String(),
	}
	for _, r := range mapping.Rules() {
		resp.Mapping = append(resp.Mapping, &agentv1alpha1.MappingRule{TrustDomain: r.TrustDomain, Path: r.Path})
	}
	return resp, nil
}

// Renewals answers agents that have an SVID: a certificate request for the next one. It is for a listener with mutual TLS.
type Renewals struct {
	agentv1alpha1.UnimplementedRenewalServer

	issuer    *Issuer
	workloads Workloads
	clock     func() time.Time
	log       *zap.Logger
}

var _ agentv1alpha1.RenewalServer = (*Renewals)(nil)

// NewRenewals makes the gRPC service over an Issuer.
func NewRenewals(i *Issuer, w Workloads, clock func() time.Time, log *zap.Logger) *Renewals {
	return &Renewals{issuer: i, workloads: w, clock: clock, log: log}
}

// Renew gives the next SVID to the holder of the certificate that the connection shows. What that certificate is, is read
// from the connection and from nothing that the request says.
func (s *Renewals) Renew(ctx context.Context, req *agentv1alpha1.RenewRequest) (*agentv1alpha1.RenewResponse, error) {
	mapping := s.workloads.Mapping()
	if mapping.IsZero() {
		return nil, status.Error(codes.FailedPrecondition, "no configuration is published yet")
	}
	svid, err := s.issuer.Renew(req.GetCsr(), certificate(ctx), mapping, s.workloads.Workload, s.clock())
	switch {
	case errors.Is(err, ErrNotRenewable):
		s.log.Warn("renewal refused", from(ctx))
		return nil, status.Error(codes.PermissionDenied, ErrNotRenewable.Error())
	case errors.Is(err, ErrBadRequest):
		s.log.Info("renewal refused", from(ctx), zap.Error(err))
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrLimited):
		s.log.Warn("renewal refused", from(ctx), zap.Error(err))
		return nil, status.Error(codes.ResourceExhausted, ErrLimited.Error())
	case err != nil:
		s.log.Error("cannot renew", zap.Error(err))
		return nil, status.Error(codes.Internal, "cannot renew")
	}
	s.log.Info("SVID renewed", from(ctx), zap.Stringer("workload", svid.ID), zap.Time("not_after", svid.NotAfter))
	return &agentv1alpha1.RenewResponse{Chain: svid.Chain, Bundle: svid.Bundle.DER()}, nil
}

// maxAsked is how many roots may be asked about at a time; a trust domain has two at most.
const maxAsked = 8

// Withdrawn tells who trusts a root whether that was withdrawn as compromised. It need not be known who asks: only who has the
// root can name it.
func (s *Service) Withdrawn(_ context.Context, req *agentv1alpha1.WithdrawnRequest) (*agentv1alpha1.WithdrawnResponse, error) {
	roots := req.GetRoots()
	if len(roots) > maxAsked {
		return nil, status.Errorf(codes.InvalidArgument, "more than %d roots", maxAsked)
	}
	answer := &agentv1alpha1.WithdrawnResponse{}
	for _, r := range roots {
		answer.Withdrawn = answer.GetWithdrawn() || len(r) == sha256.Size && s.issuer.Withdrawn([sha256.Size]byte(r))
	}
	return answer, nil
}

// certificate is the leaf that the other end of a mutual TLS connection has proved to hold the key of; nil for none.
func certificate(ctx context.Context) []byte {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0].Raw
}

// from is the address that a request comes from, for the log.
func from(ctx context.Context) zap.Field {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return zap.Skip()
	}
	return zap.Stringer("from", p.Addr)
}

// Admin answers operators on the admin socket.
type Admin struct {
	agentv1alpha1.UnimplementedAdminServer

	issuer    *Issuer
	workloads Workloads
	clock     func() time.Time
	log       *zap.Logger
}

var _ agentv1alpha1.AdminServer = (*Admin)(nil)

// NewAdmin makes the operators' gRPC service over an Issuer.
func NewAdmin(i *Issuer, w Workloads, clock func() time.Time, log *zap.Logger) *Admin {
	return &Admin{issuer: i, workloads: w, clock: clock, log: log}
}

// CreateToken makes a join token of a workload that a document names.
func (a *Admin) CreateToken(_ context.Context, req *agentv1alpha1.CreateTokenRequest) (*agentv1alpha1.CreateTokenResponse, error) {
	if a.workloads.Mapping().IsZero() {
		return nil, status.Error(codes.FailedPrecondition, "no configuration is published yet: its problems are in the control plane's log")
	}
	id, ok := a.workloads.Workload(req.GetWorkload())
	if !ok {
		return nil, status.Error(codes.NotFound, "no document names a workload of that SPIFFE ID")
	}
	ttl := req.GetTtl().AsDuration()
	if req.GetTtl() != nil && ttl <= 0 {
		return nil, status.Error(codes.InvalidArgument, "the ttl must be positive")
	}
	token, expires, err := a.issuer.CreateToken(id, ttl, a.clock())
	switch {
	case errors.Is(err, ErrNoWorkload):
		return nil, status.Error(codes.NotFound, "no document names a workload of that SPIFFE ID")
	case errors.Is(err, ErrExternal):
		return nil, status.Error(codes.FailedPrecondition, err.Error()+": its workloads get their SVIDs where its trust bundle comes from")
	case errors.Is(err, ErrLimited):
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, ErrTTL):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		a.log.Error("cannot create a join token", zap.Error(err))
		return nil, status.Error(codes.Internal, "cannot create a join token")
	}
	a.log.Info("join token created", zap.Stringer("workload", id), zap.Time("expires", expires))
	return &agentv1alpha1.CreateTokenResponse{Token: token, ExpiresUnix: expires.Unix()}, nil
}
