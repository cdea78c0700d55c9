package server

import (
	"context"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

// keys hears of unknown keys from agents, each proved as for its discovery stream.
type keys struct {
	agentv1alpha1.UnimplementedKeysServer

	server *Server
	limits *limit.Limiter
}

func newKeys(s *Server) keys {
	// An agent tells of at most 64 issuers, one after the other, every five seconds; after a restart it may begin again.
	return keys{server: s, limits: limit.New(limit.Limits{Concurrent: 4, PerSecond: 20, Burst: 200})}
}

var _ agentv1alpha1.KeysServer = keys{}

// Unknown passes on which issuer lacks a key. The answer is the same whether there is such an issuer or not.
func (k keys) Unknown(ctx context.Context, req *agentv1alpha1.UnknownKeyRequest) (*agentv1alpha1.UnknownKeyResponse, error) {
	p, end, err := k.server.Admit(ctx, k.limits, "word of an unknown key")
	if err != nil {
		return nil, err
	}
	defer end()
	if identity.ValidName(req.GetIssuer()) {
		k.server.config.UnknownKey(p.ID(), req.GetIssuer())
	}
	return &agentv1alpha1.UnknownKeyResponse{}, nil
}
