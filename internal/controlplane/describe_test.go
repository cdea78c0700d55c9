package controlplane_test

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// TestDescribeTellsTheAskerOfItself: of whom the certificate proves, with the mesh's mapping, and of nobody else.
func TestDescribeTellsTheAskerOfItself(t *testing.T) {
	t.Parallel()
	ca, trust := testca.Unconstrained(t, "acme"), t.TempDir()
	put(t, filepath.Join(trust, acmeDomain+".pem"), ca.Bundle(acmeDomain).PEM())
	p := start(t, controlplane.Config{TrustBundles: trust, Log: zap.NewNop()}, example(t))
	g, err := p.WaitGeneration(within(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	describe := func(cert *tls.Certificate) (*agentv1alpha1.DescribeResponse, error) {
		client := agentv1alpha1.NewMeshClient(p.connect(p.XDSAddr().String(), cert))
		return client.Describe(within(t), &agentv1alpha1.DescribeRequest{})
	}
	own, other := ca.SVID(acmeOrders).TLS(), p.joined(globexOrders)
	for id, cert := range map[string]*tls.Certificate{acmeOrders: &own, globexOrders: &other} {
		got, err := describe(cert)
		if err != nil {
			t.Fatal(err)
		}
		tenant := "acme"
		if id == globexOrders {
			tenant = "globex"
		}
		rules := g.Mapping().Rules()
		if got.GetWorkload() != id || got.GetTenant() != tenant || got.GetPlatformTrustDomain() != g.Mapping().Platform().String() ||
			len(got.GetMapping()) != len(rules) || got.GetMapping()[0].GetTrustDomain() != rules[0].TrustDomain ||
			got.GetMapping()[0].GetPath() != rules[0].Path {
			t.Errorf("%s is told %v", id, got)
		}
		if text := strings.ReplaceAll(got.String(), tenant, ""); strings.Contains(text, "acme") || strings.Contains(text, "globex") {
			t.Errorf("%s is told of others: %v", id, got)
		}
	}
	unnamed := ca.SVID("spiffe://acme.demo.test/ns/acme/sa/nobody").TLS()
	if _, err := describe(&unnamed); status.Code(err) != codes.NotFound {
		t.Errorf("a workload that no document names: %v", err)
	}
	if _, err := describe(nil); err == nil {
		t.Error("nobody is told")
	}
	var limited bool
	for range 50 {
		if _, err := describe(&own); status.Code(err) == codes.ResourceExhausted {
			limited = true
		}
	}
	if !limited {
		t.Error("nothing bounds who asks")
	}
}
