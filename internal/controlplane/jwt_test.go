package controlplane_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// JWT-SVIDs and their keys are for who holds an SVID of the ledger, of a workload that is not revoked: not on a new connection,
// and not on one that was open before that. Each tenant has keys of its own.
func TestWhoGetsJWTSVIDs(t *testing.T) {
	t.Parallel()
	p := start(t, controlplane.Config{}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	ctx, xds := within(t), p.XDSAddr().String()
	own, other := p.joined(globexOrders), p.joined(acmeOrders)
	open, acme := agentv1alpha1.NewJWTSVIDsClient(p.connect(xds, &own)), agentv1alpha1.NewJWTSVIDsClient(p.connect(xds, &other))
	req := &agentv1alpha1.FetchJWTSVIDRequest{Audience: []string{"orders"}}
	for _, c := range []agentv1alpha1.JWTSVIDsClient{open, acme} {
		if resp, err := c.Fetch(ctx, req); err != nil || strings.Count(resp.GetToken(), ".") != 2 {
			t.Fatalf("%v, %v", resp, err)
		}
		if _, err := c.Fetch(ctx, &agentv1alpha1.FetchJWTSVIDRequest{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("without an audience: %v", err)
		}
	}
	mine, theirs := firstKeys(ctx, t, open), firstKeys(ctx, t, acme)
	if mine == theirs || strings.Count(mine, `"use":"jwt-svid"`) != 1 || strings.Contains(mine, `"d"`) {
		t.Errorf("keys %s and %s", mine, theirs)
	}
	more := agentv1alpha1.NewJWTSVIDsClient(p.connect(xds, &own)) // a connection has room for few
	for range 3 {
		firstKeys(ctx, t, more)
	}
	if _, err := keys(ctx, t, more); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a fifth stream: %v", err)
	}

	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	document := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec:\n"+
		"  certificate: {trustDomain: globex.demo.test, serial: \"%x\"}\n  reason: stolen\n  notAfter: \"2100-01-01T00:00:00Z\"\n", leaf.SerialNumber)
	if err := os.WriteFile(filepath.Join(p.config, "tenants/globex/stolen.yaml"), []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitGeneration(ctx, func(g *pipeline.Generation) bool { return g.Number() >= 2 }); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Fetch(ctx, req); status.Code(err) != codes.Unauthenticated {
		t.Errorf("revoked, on an open connection: %v", err)
	}
	if _, err := keys(ctx, t, open); status.Code(err) != codes.Unauthenticated {
		t.Errorf("revoked, its keys: %v", err)
	}
	if _, err := agentv1alpha1.NewJWTSVIDsClient(p.connect(xds, &own)).Fetch(ctx, req); err == nil {
		t.Error("revoked, on a new connection")
	}
	if _, err := acme.Fetch(ctx, req); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	if _, err := agentv1alpha1.NewJWTSVIDsClient(p.connect(xds, nil)).Fetch(ctx, req); err == nil {
		t.Error("without a certificate")
	}
	issuer := agentv1alpha1.NewJWTSVIDsClient(p.connect(p.IssuerAddr().String(), &other))
	if _, err := issuer.Fetch(ctx, req); status.Code(err) != codes.Unimplemented {
		t.Errorf("where nobody is proved: %v", err)
	}
	// A workload that no document names any more.
	p.edit("tenants/acme/orders.yaml", "serviceAccounts: [orders]", "serviceAccounts: [stock]")
	generation, err := p.WaitGeneration(ctx, func(g *pipeline.Generation) bool { _, named := g.Workload(acmeOrders); return !named })
	if err != nil {
		t.Fatal(generation, err)
	}
	if _, err := acme.Fetch(ctx, req); status.Code(err) != codes.PermissionDenied {
		t.Errorf("not named any more: %v", err)
	}
}

// keys opens a stream, which stays open, and gives what it says first.
func keys(ctx context.Context, t *testing.T, c agentv1alpha1.JWTSVIDsClient) (string, error) {
	t.Helper()
	stream, err := c.Keys(ctx, &agentv1alpha1.JWTKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	return string(resp.GetJwks()), err
}

func firstKeys(ctx context.Context, t *testing.T, c agentv1alpha1.JWTSVIDsClient) string {
	t.Helper()
	jwks, err := keys(ctx, t, c)
	if err != nil {
		t.Fatal(err)
	}
	return jwks
}
