package agent

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const enrolTimeout = 15 * time.Second

// enrol makes a key and exchanges the one-time join token for an SVID of the workload. The key never leaves this process
// but for its own file.
func enrol(ctx context.Context, plane *controlPlane, address, workload, joinToken string) (*credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(workload)
	if err != nil {
		return nil, fmt.Errorf("own ID: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(grpccredentials.NewTLS(plane.tls(nil))))
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", address, err)
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	answer, err := agentv1alpha1.NewIssuerClient(conn).Issue(ctx, &agentv1alpha1.IssueRequest{Csr: csr, JoinToken: joinToken})
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", address, err)
	}
	var rules []identity.MappingRule
	for _, r := range answer.GetMapping() {
		rules = append(rules, identity.MappingRule{TrustDomain: r.GetTrustDomain(), Path: r.GetPath()})
	}
	mapping, err := mappingOf(answer.GetPlatformTrustDomain(), rules)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", address, err)
	}
	return newCredentials(workload, mapping, key, answer.GetChain(), answer.GetBundle(), plane.clock())
}
