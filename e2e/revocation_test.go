package e2e_test

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

var (
	callerRevoked = demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "revoked"}
	tokenRevoked  = demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "revoked"}
)

const revocationHead = "apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: lost}\nspec:\n  reason: lost\n  notAfter: \"2036-01-01T00:00:00Z\"\n  "

// TestRevocationDocuments revokes a workload and a token in files: the next call on a connection that stays open is refused,
// also at a shared service, and nobody else's call fails meanwhile.
func TestRevocationDocuments(t *testing.T) {
	m := startMesh(t)
	token := manager
	token.Claims = map[string]any{"jti": "t-1"}
	own := demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/orders", Token: token}
	shared := demo.Call{From: "acme/web", To: "platform/billing", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/invoices"}
	other := own
	other.Token.Claims = map[string]any{"jti": "t-2"}
	atOrders, atBilling := open(t, m, own), open(t, m, shared)
	for s, c := range map[*demo.Session]demo.Call{atOrders: own, atBilling: shared} {
		if r := doOn(t, s, c); !r.As(allowed) {
			t.Fatalf("before: %d by %s", r.Status, r.Layer)
		}
	}

	bystanders := keepCalling(t, m, demo.Call{From: "globex/web", To: "orders", Method: http.MethodGet, Path: "/orders/7"},
		demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/1"})
	write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"token: {jti: t-1}\n")
	expectWithin(t, atOrders, own, tokenRevoked)
	if r := doOn(t, atOrders, other); !r.As(allowed) {
		t.Errorf("another token: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
	write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: spiffe://acme.demo.test/ns/acme/sa/web\n")
	expectWithin(t, atOrders, other, callerRevoked)
	expectWithin(t, atBilling, shared, callerRevoked)
	write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", "")
	expectWithin(t, atOrders, own, allowed)
	expectWithin(t, atBilling, shared, allowed)
	bystanders(t)
}

// TestRevocationEndsWhatIsOpen: streams of a revoked workload are cut within 5 seconds, as is an open TCP connection, and
// what others have open through other chains goes on.
func TestRevocationEndsWhatIsOpen(t *testing.T) {
	const within = 5 * time.Second
	t.Run("stream", func(t *testing.T) {
		m := startMesh(t)
		own := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
		other := chainBytes(t, m, "globex/orders", "inbound/globex/orders")
		start := time.Now()
		write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: spiffe://acme.demo.test/ns/acme/sa/orders\n")
		eventually(t, 4*within, "the stream is cut", func(context.Context) bool { return own.ended.Load() })
		if took := time.Since(start); took > within {
			t.Errorf("it took %v", took)
		} else {
			t.Logf("cut after %v", took)
		}
		// Nothing of another tenant is drained.
		sameChains(t, other, chainBytes(t, m, "globex/orders", "inbound/globex/orders"))
	})
	t.Run("TCP connection", func(t *testing.T) {
		dir := tcpDir(t)
		m := startMeshOf(t, dir)
		port, err := m.OutboundTCP("acme/reports", "db")
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, port)
		if !echoes(conn) {
			t.Fatal("the connection does not work before")
		}
		start := time.Now()
		write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: "+acmeReports+"\n")
		eventually(t, 4*within, "the connection is closed", func(context.Context) bool { return !echoes(conn) })
		if took := time.Since(start); took > within {
			t.Errorf("it took %v", took)
		} else {
			t.Logf("closed after %v", took)
		}
	})
}

// keepCalling makes calls over and over that must all pass, until the function is called.
func keepCalling(t *testing.T, m *demo.Mesh, calls ...demo.Call) func(testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var (
		running        sync.WaitGroup
		passed, failed atomic.Int64
	)
	for _, c := range calls {
		if r := do(t, m, c); !r.As(allowed) {
			t.Fatalf("before: %d by %s (%s)", r.Status, r.Layer, r.Reason)
		}
		running.Go(func() {
			for ctx.Err() == nil {
				r, err := m.Do(context.WithoutCancel(ctx), c)
				if err != nil || !r.As(allowed) {
					failed.Add(1)
					continue
				}
				passed.Add(1)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return func(t testing.TB) {
		t.Helper()
		cancel()
		running.Wait()
		t.Logf("%d calls of others passed", passed.Load())
		if passed.Load() == 0 || failed.Load() > 0 {
			t.Errorf("of others %d calls passed and %d failed", passed.Load(), failed.Load())
		}
	}
}

// TestRevokeCommand revokes a workload of a running mesh. It holds within a second, while the control plane is gone, after
// it and the agents have restarted, and until it is undone.
func TestRevokeCommand(t *testing.T) {
	a := startApart(t)
	a.goesOn(10 * time.Second)
	refused := func(ctx context.Context) bool { return a.call(ctx, http.MethodGet) == 403 }

	start := time.Now()
	name := a.revoke("workload", globexID("web"), "--reason", "host stolen", "--yes")
	eventually(t, 5*time.Second, "the workload is refused", refused)
	t.Logf("refused after %v, the command included", time.Since(start))

	a.serve.stop(t, syscall.SIGKILL)
	stays := func(when string) {
		t.Helper()
		for range 10 {
			if got := a.call(t.Context(), http.MethodGet); got != 403 {
				t.Errorf("%s: %d", when, got)
			}
		}
	}
	stays("the control plane is gone")
	a.agents["orders"].stop(t, syscall.SIGKILL)
	eventually(t, 5*time.Second, "no Envoy outlives its agent", func(context.Context) bool { return len(envoys(t, a.agentState("orders"))) == 0 })
	a.startAgent("orders", false)
	eventually(t, 10*time.Second, "the workload is refused", refused)
	stays("and the agent has restarted")

	a.startServe()
	inSync := func(want int) func(context.Context) bool {
		return func(ctx context.Context) bool { return strings.Count(a.proxies(ctx), "in sync") == want }
	}
	eventually(t, 10*time.Second, "the service's sidecar is in sync", inSync(1))
	stays("the control plane is back")
	if list := a.revoke("list", "--tenant", "globex"); !strings.Contains(list, name) || !strings.Contains(list, "host stolen") {
		t.Errorf("it is not listed:\n%s", list)
	}
	a.revoke("undo", name, "--yes")
	a.goesOn(5 * time.Second)
	eventually(t, time.Minute, "the control plane takes the workload's agent back", inSync(2))
}

// revoke runs a revoke command and gives what it prints.
func (a *apart) revoke(args ...string) string {
	a.t.Helper()
	out, err := exec.CommandContext(a.t.Context(), binary, append(append([]string{"revoke"}, args...), "--state", a.planeState())...).Output()
	if err != nil {
		a.t.Fatalf("revoke %v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}
