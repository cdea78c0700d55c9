package e2e_test

import (
	"context"
	"net"
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

// endsWithin is how long what is open may outlive a revocation.
const endsWithin = 5 * time.Second

// within fails where the condition does not hold in time, and tells how long it took.
func within(t *testing.T, limit time.Duration, start time.Time, what string, holds func(context.Context) bool) {
	t.Helper()
	eventually(t, 4*limit, what, holds)
	if took := time.Since(start); took > limit {
		t.Errorf("%s: it took %v", what, took)
	} else {
		t.Logf("%s after %v", what, took)
	}
}

// TestEachKindOfRevocation: each kind refuses the next request within a second on a connection that stays open, and those of
// workloads and certificates end a stream within five. Of 3,000 calls of others not one fails meanwhile.
func TestEachKindOfRevocation(t *testing.T) {
	m := startMesh(t)
	token := manager
	token.Claims = map[string]any{"jti": "t-1", "sid": "s-1"}
	call := demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/orders", Token: token}
	session := open(t, m, call)
	if r := doOn(t, session, call); !r.As(allowed) {
		t.Fatalf("before: %d by %s", r.Status, r.Layer)
	}
	others := keepCallingOften(t, m, 3000, demo.Call{From: "globex/web", To: "orders", Method: http.MethodGet, Path: "/orders/7"},
		demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/1"})
	const own, platform = "/tenants/acme/revoked.yaml", "/platform/revoked.yaml"
	for _, k := range []struct {
		name, file, spec string
		want             demo.Want
		ends             bool // what is open
	}{
		{"workload", own, "workload: spiffe://acme.demo.test/ns/acme/sa/web", callerRevoked, true},
		{"workload, by the platform", platform, "workload: spiffe://acme.demo.test/ns/acme/sa/web", callerRevoked, true},
		{"certificate", own, "certificate: {trustDomain: acme.demo.test, serial: \"" + serialOf(t, m, "acme/web") + "\"}", callerRevoked, true},
		{"jti", own, "token: {jti: t-1}", tokenRevoked, false},
		{"subject", own, "token: {subject: user@acme}", tokenRevoked, false},
		{"session", own, "token: {session: s-1}", tokenRevoked, false},
		{"subject, in one tenant", platform, "tenant: acme\n  token: {subject: user@acme}", tokenRevoked, false},
		{"session, in all tenants", platform, "token: {session: s-1}", tokenRevoked, false},
	} {
		stream := openStream(t, m, demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodGet, Path: "/orders/stream", Token: token})
		start := time.Now()
		write(t, m.ConfigDir()+k.file, revocationHead+k.spec+"\n")
		t.Log(k.name)
		expectWithin(t, session, call, k.want)
		if k.ends {
			within(t, endsWithin, start, "the stream is cut", func(context.Context) bool { return stream.ended.Load() })
			session = open(t, m, call) // GOAWAY has ended the reuse of the one before
		} else {
			stream.goesOn(t)
		}
		write(t, m.ConfigDir()+k.file, "")
		eventually(t, 20*time.Second, "the call is allowed again", func(ctx context.Context) bool {
			r, err := session.Do(ctx, call)
			return err == nil && r.As(allowed)
		})
	}
	others(t)
}

// TestRevocationEndsWhatIsOpen: streams of a revoked workload are cut within 5 seconds, as is an open TCP connection, and
// what others have open through other chains goes on.
func TestRevocationEndsWhatIsOpen(t *testing.T) {
	t.Run("stream", func(t *testing.T) {
		m := startMesh(t)
		own := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
		other := chainBytes(t, m, "globex/orders", "inbound/globex/orders")
		start := time.Now()
		write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: spiffe://acme.demo.test/ns/acme/sa/orders\n")
		within(t, endsWithin, start, "the stream is cut", func(context.Context) bool { return own.ended.Load() })
		// Nothing of another tenant is drained.
		sameChains(t, other, chainBytes(t, m, "globex/orders", "inbound/globex/orders"))
	})
	t.Run("TCP connection", func(t *testing.T) {
		m := startMeshOf(t, tcpDir(t))
		conn := echoing(t, m, "acme/reports", "db")
		start := time.Now()
		write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: "+acmeReports+"\n")
		within(t, endsWithin, start, "the connection is closed", func(context.Context) bool { return !echoes(conn) })
	})
}

// echoing is a TCP connection that works.
func echoing(t *testing.T, m *demo.Mesh, from, to string) net.Conn {
	t.Helper()
	port, err := m.OutboundTCP(from, to)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, port)
	if !echoes(conn) {
		t.Fatal("the connection does not work before")
	}
	return conn
}

// TestRevocationOfADestination: nobody goes on talking to a revoked workload. Its callers' Envoys see to it; its own has not
// changed, since it gets nothing any more. Calls to others pass meanwhile.
func TestRevocationOfADestination(t *testing.T) {
	t.Run("requests and streams", func(t *testing.T) {
		m := startMesh(t)
		call := demo.Call{From: "acme/web", To: "billing", Method: http.MethodPost, Path: "/invoices"}
		stream := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
		session := open(t, m, call)
		if r := doOn(t, session, call); !r.As(allowed) {
			t.Fatalf("before: %d by %s", r.Status, r.Layer)
		}
		others := keepCalling(t, m, demo.Call{From: "globex/web", To: "orders", Method: http.MethodGet, Path: "/orders/7"},
			demo.Call{From: "acme/web", To: "orders", Method: http.MethodPost, Path: "/orders", Token: manager})
		atBilling := chainBytes(t, m, "platform/billing", "inbound/platform/billing")
		atGlobex := chainBytes(t, m, "globex/web", "outbound/globex/web")

		start := time.Now()
		write(t, m.ConfigDir()+"/platform/revoked.yaml", revocationHead+"workload: spiffe://platform.demo.test/ns/platform/sa/billing\n")
		reached := func(ctx context.Context) bool {
			before := hits(m).each["platform/billing"]
			_, err := session.Do(ctx, call)
			return err == nil && hits(m).each["platform/billing"] > before
		}
		within(t, time.Second, start, "no request reaches it", func(ctx context.Context) bool { return !reached(ctx) })
		within(t, endsWithin, start, "the stream is cut", func(context.Context) bool { return stream.ended.Load() })
		for range 20 {
			if reached(t.Context()) {
				t.Fatal("a request reaches it again")
			}
		}
		sameChains(t, atBilling, chainBytes(t, m, "platform/billing", "inbound/platform/billing"))
		sameChains(t, atGlobex, chainBytes(t, m, "globex/web", "outbound/globex/web")) // it has no Grant, so it is not concerned
		others(t)
		write(t, m.ConfigDir()+"/platform/revoked.yaml", "")
		eventually(t, 30*time.Second, "it is called again", reached)
	})
	t.Run("TCP connections", func(t *testing.T) {
		m := startMeshOf(t, tcpDir(t))
		toDB := echoing(t, m, "acme/reports", "db")
		const elsewhere = "tcp/acme/reports/platform/ledger" // what is open there ends at the other side, with the tenant's chain
		atReports := chainBytes(t, m, "acme/reports", elsewhere)
		start := time.Now()
		write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: "+acmeDB+"\n")
		within(t, endsWithin, start, "the connection is closed", func(context.Context) bool { return !echoes(toDB) })
		before := hits(m).each["acme/db"]
		if got := through(t, m, "acme/reports", "db", "hello"); got != "" || hits(m).each["acme/db"] != before {
			t.Errorf("a new connection reads %q, and the application saw %d", got, hits(m).each["acme/db"]-before)
		}
		sameChains(t, atReports, chainBytes(t, m, "acme/reports", elsewhere))
	})
}

// keepCalling makes calls over and over that must all pass, until the function is called.
func keepCalling(t *testing.T, m *demo.Mesh, calls ...demo.Call) func(testing.TB) {
	t.Helper()
	return keepCallingOften(t, m, 1, calls...)
}

// keepCallingOften goes on until there were at least so many calls.
func keepCallingOften(t *testing.T, m *demo.Mesh, least int64, calls ...demo.Call) func(testing.TB) {
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
		eventually(t, 2*time.Minute, "others have called often enough", func(context.Context) bool { return passed.Load()+failed.Load() >= least })
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

// TestRevocationWithOneSlowAgent: one agent does not read what the control plane sends, though its Envoy runs on. The revocation
// holds everywhere else in time; the Envoy without its agent lets nobody in; the slow one is named, and has it once it goes on.
func TestRevocationWithOneSlowAgent(t *testing.T) {
	a := startApart(t)
	file := a.dir + "/platform/billing.yaml"
	editFile(t, file, "tenant: acme\n", "tenant: globex\n")
	a.startApp("20280")
	a.startAgent("billing", true)
	const atBilling = "http://billing/invoices/1"
	a.goesOn(10 * time.Second)
	eventually(t, 10*time.Second, "billing is called", func(ctx context.Context) bool { return a.ask(ctx, http.MethodGet, atBilling) == 200 })

	slow := a.agents["orders"]
	slow.signal(syscall.SIGSTOP)
	t.Cleanup(func() { slow.signal(syscall.SIGCONT) }) // a stopped process ends by no other signal
	start := time.Now()
	if got := a.call(t.Context(), http.MethodGet); got != 503 {
		t.Errorf("an Envoy whose agent does not answer: %d", got)
	}
	t.Logf("the Envoy of the slow agent refuses after %v", time.Since(start))

	start = time.Now()
	a.revoke("workload", globexID("web"), "--reason", "host stolen", "--yes")
	within(t, time.Second+commandTakes, start, "it is refused elsewhere",
		func(ctx context.Context) bool { return a.ask(ctx, http.MethodGet, atBilling) == 403 })
	hits := a.hits.Load()
	state := func(ctx context.Context) string {
		for line := range strings.Lines(a.proxies(ctx)) {
			if rest, ok := strings.CutPrefix(line, a.id("orders")); ok {
				return strings.TrimSpace(rest)
			}
		}
		return ""
	}
	eventually(t, 10*time.Second, "the slow one is named", func(ctx context.Context) bool { return strings.HasPrefix(state(ctx), "behind") })
	for range 5 {
		if got := a.call(t.Context(), http.MethodGet); got != 503 {
			t.Errorf("the Envoy of the slow agent: %d", got)
		}
	}
	if a.hits.Load() != hits {
		t.Error("a call reached an application")
	}
	slow.signal(syscall.SIGCONT)
	eventually(t, 30*time.Second, "the slow one has it", func(ctx context.Context) bool {
		return strings.HasPrefix(state(ctx), "in sync") && a.call(ctx, http.MethodGet) == 403
	})
	if a.hits.Load() != hits {
		t.Error("a call reached an application")
	}
}

// commandTakes is how long a process may take to start and to ask on a busy machine.
const commandTakes = 2 * time.Second
