package controlplane

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

// describer tells workloads that got their SVID elsewhere how the mesh reads it.
type describer struct {
	agentv1alpha1.UnimplementedMeshServer

	cp     *ControlPlane
	limits *limit.Limiter
}

var _ agentv1alpha1.MeshServer = describer{}

func (cp *ControlPlane) describer() describer {
	// An agent asks once in its life, and again while it is told to wait.
	return describer{cp: cp, limits: limit.New(limit.Limits{Concurrent: 2, PerSecond: 1, Burst: 10})}
}

// Describe implements agentv1alpha1.MeshServer. The answer is about the asker, whom the connection proves, and the mapping.
func (d describer) Describe(ctx context.Context, _ *agentv1alpha1.DescribeRequest) (*agentv1alpha1.DescribeResponse, error) {
	peer, end, err := d.cp.ads.Admit(ctx, d.limits, "question about the mesh")
	if err != nil {
		return nil, err
	}
	defer end()
	g := d.cp.Generation() // there is one, or nobody would be proved
	if _, ok := g.Workload(peer.ID().String()); !ok {
		return nil, status.Error(codes.NotFound, "no document names this workload")
	}
	mapping := g.Mapping()
	answer := &agentv1alpha1.DescribeResponse{
		Workload: peer.ID().String(), Tenant: peer.ID().Tenant().Name(), PlatformTrustDomain: mapping.Platform().String(),
	}
	for _, r := range mapping.Rules() {
		answer.Mapping = append(answer.Mapping, &agentv1alpha1.MappingRule{TrustDomain: r.TrustDomain, Path: r.Path})
	}
	return answer, nil
}
