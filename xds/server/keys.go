package server

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// keys hears of unknown keys from agents, each proved as for its discovery stream.
type keys struct {
	agentv1alpha1.UnimplementedKeysServer

	server *Server
}

var _ agentv1alpha1.KeysServer = keys{}

// Unknown passes on which issuer lacks a key. The answer is the same whether there is such an issuer or not.
func (k keys) Unknown(ctx context.Context, req *agentv1alpha1.UnknownKeyRequest) (*agentv1alpha1.UnknownKeyResponse, error) {
	p, err := k.server.Caller(ctx)
	if err != nil {
		k.server.config.Log.Info("word of an unknown key refused", zap.Error(err))
		return nil, status.Error(codes.Unauthenticated, "the client's certificate proves nobody")
	}
	if identity.ValidName(req.GetIssuer()) {
		k.server.config.UnknownKey(p.ID(), req.GetIssuer())
	}
	return &agentv1alpha1.UnknownKeyResponse{}, nil
}
