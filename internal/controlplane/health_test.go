package controlplane_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

func (p plane) health(cert tls.Certificate) agentv1alpha1.HealthClient {
	p.t.Helper()
	c := p.trust()
	if cert.PrivateKey != nil {
		c.Certificates = []tls.Certificate{cert}
	}
	return agentv1alpha1.NewHealthClient(p.dial(p.XDSAddr().String(), c))
}

func report(t *testing.T, c agentv1alpha1.HealthClient, tenant string) *agentv1alpha1.HealthResponse {
	t.Helper()
	answer, err := c.Report(within(t), &agentv1alpha1.HealthRequest{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestWhoHearsOfWhichHealth: whose roots and documents one hears of follows from the certificate alone.
func TestWhoHearsOfWhichHealth(t *testing.T) {
	t.Parallel()
	p := watched(t, nil)
	p.edit("tenants/globex/orders.yaml", "kind: Service", "kind: Nonsense")
	operator := p.health(p.joined(billing))
	eventually(t, func() bool { return len(report(t, operator, "").GetStale()) > 0 })
	for _, c := range []struct {
		who     string
		roots   []string
		owners  []string
		problem bool
		all     bool
	}{
		{acmeOrders, []string{"acme.demo.test", "platform.demo.test"}, nil, false, false},
		{globexWeb, []string{"globex.demo.test", "platform.demo.test"}, nil, false, false},
		{acmeWeb, []string{"acme.demo.test", "platform.demo.test"}, []string{"acme"}, false, false},
		{billing, []string{"acme.demo.test", "globex.demo.test", "platform.demo.test"}, []string{"acme", "globex", "platform"}, true, true},
	} {
		client := p.health(p.joined(c.who))
		for _, tenant := range []string{"", "acme", "globex", "nobody"} {
			answer := report(t, client, tenant)
			var roots, owners []string
			for _, td := range c.roots {
				if tenant == "" || td == tenant+".demo.test" || td == "platform.demo.test" {
					roots = append(roots, td)
				}
			}
			for _, owner := range c.owners {
				if tenant == "" || owner == tenant {
					owners = append(owners, owner)
				}
			}
			var got []string
			for _, b := range answer.GetBundles() {
				got = append(got, b.GetTrustDomain())
				if len(b.GetRoots()) != 1 {
					t.Errorf("%s: %v", c.who, b)
				}
			}
			if diff := cmp.Diff(roots, got); diff != "" {
				t.Errorf("roots that %s hears of, asking for %q (-want +got):\n%s", c.who, tenant, diff)
			}
			if diff := cmp.Diff(owners, answer.GetOwners()); diff != "" {
				t.Errorf("owners that %s hears of, asking for %q (-want +got):\n%s", c.who, tenant, diff)
			}
			globex := c.problem && (tenant == "" || tenant == "globex")
			if (len(answer.GetProblems()) > 0) != globex || slices.Contains(answer.GetStale(), "globex") != globex || answer.GetAll() != c.all {
				t.Errorf("%s, asking for %q: %v", c.who, tenant, answer)
			}
			if answer.GetIssuerListen() != "" || !answer.GetPublished() {
				t.Errorf("%s hears of the listener %q", c.who, answer.GetIssuerListen())
			}
			leaf, err := x509.ParseCertificate(answer.GetSvid())
			if err != nil || leaf.URIs[0].Path != "/ns/ringfence-system/sa/control-plane" {
				t.Errorf("the control plane's SVID: %v", err)
			}
		}
	}
	// Another tenant's change shows nowhere but in the time.
	acme := p.health(p.joined(acmeWeb))
	before := report(t, acme, "")
	p.edit("tenants/globex/orders.yaml", "kind: Nonsense", "kind: Service")
	eventually(t, func() bool { return len(report(t, operator, "").GetStale()) == 0 })
	after := report(t, acme, "")
	before.NowUnixNano = after.GetNowUnixNano()
	if !proto.Equal(before, after) {
		t.Errorf("globex's change shows:\n%v\n%v", before, after)
	}
	_, err := p.health(tls.Certificate{}).Report(within(t), &agentv1alpha1.HealthRequest{})
	if code := status.Code(err); code != codes.Unavailable && code != codes.Unauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for ctx := within(t); !holds(); {
		select {
		case <-ctx.Done():
			t.Fatal("it does not come")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
