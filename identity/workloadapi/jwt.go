package workloadapi

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ringfence-mesh/ringfence/identity"
)

// ErrDenied says that the workload gets no JWT-SVID: it is revoked, or is none that may have any.
var ErrDenied = errors.New("the workload gets no JWT-SVID")

// errDenied is what an application is told of ErrDenied.
var errDenied = status.Error(codes.PermissionDenied, ErrDenied.Error())

// Tokens gives and verifies JWT-SVIDs. It is used by many goroutines.
type Tokens interface {
	// Fetch gives a JWT-SVID of the workload for audiences that identity.CheckAudience has passed, sorted and without
	// repetition. The error is ErrDenied, or says why there is none now.
	Fetch(ctx context.Context, audience []string) (string, error)
	// Verify gives whom a JWT-SVID names that is good for the audience now. An error that is identity.ErrTokenInvalid,
	// ErrTokenExpired or ErrIssuerNotAllowed is about the token.
	Verify(token, audience string) (identity.Claims, error)
}

// FetchJWTSVID gives a JWT-SVID of the one identity that the workload has.
func (s *server) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := ownRequest(ctx); err != nil {
		return nil, err
	}
	audience := slices.Compact(slices.Sorted(slices.Values(req.GetAudience())))
	if err := identity.CheckAudience(audience); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	i := s.source.Identity()
	switch {
	case i.IsZero():
		return nil, status.Error(codes.Unavailable, "the workload has no SVID that is valid")
	case i.NoJWT:
		return nil, errDenied
	}
	if id := req.GetSpiffeId(); id != "" && id != i.ID {
		return nil, status.Error(codes.PermissionDenied, "the workload has no such SPIFFE ID")
	}
	token, err := s.tokens.Fetch(ctx, audience)
	switch {
	case errors.Is(err, ErrDenied):
		return nil, errDenied
	case err != nil && ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: i.ID, Svid: token}}}, nil
}

// FetchJWTBundles sends the keys of the workload's own trust domain, and again whenever they change.
func (s *server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	if err := ownRequest(stream.Context()); err != nil {
		return err
	}
	if s.source.Identity().NoJWT {
		return errDenied
	}
	return follow(stream, s.source, func(i Identity) (*workload.JWTBundlesResponse, bool) {
		return &workload.JWTBundlesResponse{Bundles: map[string][]byte{i.TrustDomain: slices.Clone(i.JWKS)}}, len(i.JWKS) > 0
	})
}

// ValidateJWTSVID says whom a JWT-SVID of the workload's own trust domain names, if it is good for that audience.
func (s *server) ValidateJWTSVID(ctx context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if err := ownRequest(ctx); err != nil {
		return nil, err
	}
	if err := identity.CheckAudience([]string{req.GetAudience()}); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.source.Identity().NoJWT {
		return nil, errDenied
	}
	claims, err := s.tokens.Verify(req.GetSvid(), req.GetAudience())
	switch {
	case errors.Is(err, identity.ErrTokenInvalid), errors.Is(err, identity.ErrTokenExpired), errors.Is(err, identity.ErrIssuerNotAllowed):
		return nil, status.Error(codes.InvalidArgument, err.Error()) // holds no part of the token
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	all, err := payload(req.GetSvid())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, identity.ErrTokenInvalid.Error())
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: claims.Subject(), Claims: all}, nil
}

// payload is everything that a token says, which was verified.
func payload(token string) (*structpb.Struct, error) {
	_, rest, _ := strings.Cut(token, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, err
	}
	all := &structpb.Struct{}
	return all, protojson.Unmarshal(text, all)
}
