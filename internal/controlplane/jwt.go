package controlplane

import (
	"context"

	"google.golang.org/grpc"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

// jwtSVIDs gives nothing to whoever is revoked, on a connection that was open before that either.
type jwtSVIDs struct {
	agentv1alpha1.JWTSVIDsServer

	cp     *ControlPlane
	limits *limit.Limiter
}

var _ agentv1alpha1.JWTSVIDsServer = jwtSVIDs{}

func newJWTSVIDs(cp *ControlPlane) jwtSVIDs {
	return jwtSVIDs{
		JWTSVIDsServer: issuer.NewJWTSVIDs(cp.issuer, cp.pipeline, cp.clock, cp.log), cp: cp,
		// What the issuer allows in tokens, and a little more, so that it is the one that says so. It asks only after a proof.
		limits: limit.New(limit.Limits{Concurrent: 4, PerSecond: 10, Burst: 100}),
	}
}

// Fetch implements the JWTSVIDs service.
func (j jwtSVIDs) Fetch(ctx context.Context, req *agentv1alpha1.FetchJWTSVIDRequest) (*agentv1alpha1.FetchJWTSVIDResponse, error) {
	_, end, err := j.cp.ads.Admit(ctx, j.limits, "JWT-SVID")
	if err != nil {
		return nil, err
	}
	defer end()
	return j.JWTSVIDsServer.Fetch(ctx, req)
}

// Keys implements the JWTSVIDs service.
func (j jwtSVIDs) Keys(req *agentv1alpha1.JWTKeysRequest, stream grpc.ServerStreamingServer[agentv1alpha1.JWTKeysResponse]) error {
	_, end, err := j.cp.ads.Admit(stream.Context(), j.limits, "stream of keys")
	if err != nil {
		return err
	}
	end() // the issuer counts what stays open
	return j.JWTSVIDsServer.Keys(req, stream)
}
