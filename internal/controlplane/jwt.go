package controlplane

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// jwtSVIDs gives nothing to whoever is revoked, on a connection that was open before that either.
type jwtSVIDs struct {
	agentv1alpha1.JWTSVIDsServer

	cp *ControlPlane
}

// Fetch implements the JWTSVIDs service.
func (j jwtSVIDs) Fetch(ctx context.Context, req *agentv1alpha1.FetchJWTSVIDRequest) (*agentv1alpha1.FetchJWTSVIDResponse, error) {
	if err := j.admit(ctx); err != nil {
		return nil, err
	}
	return j.JWTSVIDsServer.Fetch(ctx, req)
}

// Keys implements the JWTSVIDs service.
func (j jwtSVIDs) Keys(req *agentv1alpha1.JWTKeysRequest, stream grpc.ServerStreamingServer[agentv1alpha1.JWTKeysResponse]) error {
	if err := j.admit(stream.Context()); err != nil {
		return err
	}
	return j.JWTSVIDsServer.Keys(req, stream)
}

func (j jwtSVIDs) admit(ctx context.Context) error {
	if _, err := j.cp.ads.Caller(ctx); errors.Is(err, server.ErrRevoked) {
		j.cp.log.Warn("JWT-SVID refused", zap.Error(err))
		return status.Error(codes.PermissionDenied, issuer.ErrNoJWT.Error())
	}
	return nil
}
