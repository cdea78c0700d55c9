package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

const (
	acmeWeb   = "spiffe://acme.demo.test/ns/acme/sa/web"
	globexWeb = "spiffe://globex.demo.test/ns/globex/sa/web"
	billing   = "spiffe://platform.demo.test/ns/platform/sa/billing"
	nobody    = "spiffe://acme.demo.test/ns/acme/sa/nobody"
)

// watched is a control plane of which acme's web may look at acme, and billing at everything.
func watched(t *testing.T, clock func() time.Time) plane {
	t.Helper()
	config := example(t)
	p := plane{t: t, config: config}
	p.edit("mesh.yaml", "platformTrustDomain: platform.demo.test", `platformTrustDomain: platform.demo.test
  operators:
    - {name: acme, spiffeIDs: ["`+acmeWeb+`"], tenants: [acme]}
    - {name: platform, spiffeIDs: ["`+billing+`"], tenants: ["*"]}`)
	p = start(t, controlplane.Config{State: filepath.Join(t.TempDir(), "state"), Clock: clock, Issuer: issuer.Options{TTL: time.Hour}, Log: zap.NewNop()}, config)
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// proxies asks as the holder of the certificate.
func (p plane) proxies(cert tls.Certificate) agentv1alpha1.ProxiesClient {
	p.t.Helper()
	c := p.trust()
	if cert.PrivateKey != nil {
		c.Certificates = []tls.Certificate{cert}
	}
	return agentv1alpha1.NewProxiesClient(p.dial(p.XDSAddr().String(), c))
}

func list(t *testing.T, c agentv1alpha1.ProxiesClient, tenant string) *agentv1alpha1.ListProxiesResponse {
	t.Helper()
	answer, err := c.List(within(t), &agentv1alpha1.ListProxiesRequest{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func refusal(t *testing.T, c agentv1alpha1.ProxiesClient, workload string) []byte {
	t.Helper()
	_, err := c.Config(within(t), &agentv1alpha1.ProxyConfigRequest{Workload: workload})
	if status.Code(err) != codes.NotFound {
		t.Errorf("%q: %v", workload, err)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWhoSeesWhichSidecars: what is seen follows from the certificate alone, and what is not seen is not there.
func TestWhoSeesWhichSidecars(t *testing.T) {
	t.Parallel()
	p := watched(t, nil)
	acme, globex := []string{acmeOrders, acmeWeb}, []string{globexOrders, globexWeb}
	all := slices.Concat(acme, globex, []string{billing})
	for _, c := range []struct {
		who  string
		sees []string
		mesh bool
	}{
		{acmeOrders, []string{acmeOrders}, false},
		{globexWeb, []string{globexWeb}, false},
		{acmeWeb, acme, false},
		{billing, all, true},
	} {
		client := p.proxies(p.joined(c.who))
		for _, tenant := range []string{"", "acme", "globex", "platform", "nobody"} {
			var want, got []string
			for _, id := range c.sees {
				w, ok := p.Generation().Workload(id)
				if ok && (tenant == "" || w.Tenant().Name() == tenant) {
					want = append(want, id)
				}
			}
			answer := list(t, client, tenant)
			for _, proxy := range answer.GetProxies() {
				got = append(got, proxy.GetWorkload())
				if proxy.GetTarget() == "" || proxy.GetGeneration() != 1 {
					t.Errorf("%s sees %v", c.who, proxy)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s of %q (-want +got):\n%s", c.who, tenant, diff)
			}
			if (answer.GetGeneration() > 0) != c.mesh || (answer.GetPublishedUnix() > 0) != c.mesh {
				t.Errorf("%s is told of the mesh: %v", c.who, answer)
			}
		}
		unknown := refusal(t, client, nobody)
		for _, id := range append(all, "", "spiffe://x", globexOrders+"/") {
			if slices.Contains(c.sees, id) {
				answer, err := client.Config(within(t), &agentv1alpha1.ProxyConfigRequest{Workload: id})
				if err != nil || answer.GetProxy().GetWorkload() != id || len(answer.GetResources()) == 0 || len(answer.GetTable()) == 0 {
					t.Errorf("%s of %s: %v, %v", c.who, id, answer.GetProxy(), err)
				}
			} else if !bytes.Equal(refusal(t, client, id), unknown) {
				t.Errorf("%s is told of %q something else than of a workload that there is not", c.who, id)
			}
		}
	}
}

// TestSidecarsAsTheirControlPlaneSeesThem: over mutual TLS the same is said as on the admin socket.
func TestSidecarsAsTheirControlPlaneSeesThem(t *testing.T) {
	t.Parallel()
	p := watched(t, nil)
	follow(t, p.stream(p.joined(acmeOrders)))
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Fatal(err)
	}
	operator := p.proxies(p.joined(acmeWeb))
	first := list(t, operator, "").GetProxies()[0]
	if first.GetWorkload() != acmeOrders || first.GetConnectedUnix() == 0 || first.GetAcknowledged() != first.GetTarget() {
		t.Errorf("%v", first)
	}
	// Another tenant's change shows nowhere in it; an own one does.
	before, err := proto.Marshal(list(t, operator, ""))
	if err != nil {
		t.Fatal(err)
	}
	p.edit("tenants/globex/orders.yaml", "methods: [GET]", "methods: [GET, HEAD]")
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() == 2 }); err != nil {
		t.Fatal(err)
	}
	if after, err := proto.Marshal(list(t, operator, "")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("acme's operator sees globex change: %v", err)
	}
	p.edit("tenants/acme/orders.yaml", "methods: [GET]", "methods: [GET, HEAD]")
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() == 3 }); err != nil {
		t.Fatal(err)
	}
	if now := list(t, operator, "").GetProxies()[0]; now.GetGeneration() != 2 || now.GetTarget() == first.GetTarget() {
		t.Errorf("an own change is not seen: %v", now)
	}
	// Who is not named any more sees its own only, also on an open connection.
	p.edit("mesh.yaml", "tenants: [acme]", "tenants: [globex]")
	p.edit("mesh.yaml", `["`+acmeWeb, `["`+globexWeb)
	if _, err := p.WaitGeneration(within(t), func(*pipeline.Generation) bool { return len(list(t, operator, "").GetProxies()) == 1 }); err != nil {
		t.Fatal(err)
	}
}

func TestStrangersSeeNothing(t *testing.T) {
	t.Parallel()
	p, other := watched(t, nil), watched(t, nil) // the same names, other roots
	for name, cert := range map[string]tls.Certificate{"none": {}, "of other roots": other.joined(billing)} {
		answer, err := p.proxies(cert).List(within(t), &agentv1alpha1.ListProxiesRequest{})
		if err == nil || answer != nil {
			t.Errorf("certificate %s: %v", name, answer)
		}
	}
	// What else the admin socket offers is not there.
	c := p.trust()
	c.Certificates = []tls.Certificate{p.joined(billing)}
	_, err := agentv1alpha1.NewAdminClient(p.dial(p.XDSAddr().String(), c)).CreateToken(within(t), &agentv1alpha1.CreateTokenRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("tokens over the network: %v", err)
	}
}

func TestAnExpiredOperatorSeesNothing(t *testing.T) {
	t.Parallel()
	var (
		mu  sync.Mutex
		now = time.Now()
	)
	p := watched(t, func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	cert := p.joined(billing)
	open := p.proxies(cert)
	list(t, open, "")
	mu.Lock()
	now = now.Add(61 * time.Minute)
	mu.Unlock()
	if _, err := open.List(within(t), &agentv1alpha1.ListProxiesRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("on an open connection: %v", err)
	}
	if _, err := open.Config(within(t), &agentv1alpha1.ProxyConfigRequest{Workload: billing}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("on an open connection: %v", err)
	}
	if answer, err := p.proxies(cert).List(within(t), &agentv1alpha1.ListProxiesRequest{}); err == nil {
		t.Errorf("on a new connection: %v", answer)
	}
}

// TestQuestionsAreLimited: who asks without end is refused, and the others are not.
func TestQuestionsAreLimited(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := watched(t, func() time.Time { return now })
	many, few := p.proxies(p.joined(acmeWeb)), p.proxies(p.joined(acmeOrders))
	ask := func(c agentv1alpha1.ProxiesClient) codes.Code {
		_, err := c.List(within(t), &agentv1alpha1.ListProxiesRequest{})
		return status.Code(err)
	}
	asked := 0
	for ; asked < 1000 && ask(many) == codes.OK; asked++ {
	}
	if code := ask(many); asked >= 1000 || code != codes.ResourceExhausted {
		t.Errorf("after %d questions: %s", asked, code)
	}
	if code := ask(few); code != codes.OK {
		t.Errorf("another is refused: %s", code)
	}
	large := &agentv1alpha1.ListProxiesRequest{Tenant: string(make([]byte, 8<<20))}
	if _, err := few.List(context.WithoutCancel(within(t)), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large question: %v", err)
	}
}
