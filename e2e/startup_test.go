package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNothingIsServedBeforeTheConfiguration: an agent that knows who it is and has no configuration starts an Envoy that listens
// nowhere, whatever the order in which things come up.
func TestNothingIsServedBeforeTheConfiguration(t *testing.T) {
	a := startApart(t)
	a.goesOn(10 * time.Second)
	a.agents["orders"].stop(t, syscall.SIGTERM)
	a.serve.stop(t, syscall.SIGTERM)
	if err := os.Remove(filepath.Join(a.agentState("orders"), "state")); err != nil {
		t.Fatal(err)
	}
	a.launchAgent("orders", false)
	var envoy int
	eventually(t, 15*time.Second, "Envoy is live", func(context.Context) bool {
		if pids := envoys(t, a.agentState("orders")); len(pids) == 1 {
			envoy = pids[0]
			_, sockets := listening(t, envoy)
			return len(sockets) == 1 // its admin socket
		}
		return false
	})
	hits := a.hits.Load()
	for range 20 {
		if ports, _ := listening(t, envoy); len(ports) > 0 {
			t.Fatalf("Envoy listens at %v", ports)
		}
		if got := a.call(t.Context(), http.MethodGet); got != 503 {
			t.Errorf("a call: %d", got)
		}
	}
	if ready(t.Context(), a.status["orders"]) {
		t.Error("the agent says that it is ready")
	}
	if a.hits.Load() != hits {
		t.Error("a call reached the application")
	}
	a.startServe()
	eventually(t, 30*time.Second, "the agent is ready", func(ctx context.Context) bool { return ready(ctx, a.status["orders"]) })
	a.goesOn(10 * time.Second)
	if ports, _ := listening(t, envoy); len(ports) != 2 {
		t.Errorf("Envoy listens at %v", ports)
	}
}

// TestARefusalIsNoLoop: an Envoy that refuses a resource is not sent it again and again, by nobody on the way.
func TestARefusalIsNoLoop(t *testing.T) {
	a := startApart(t)
	a.goesOn(10 * time.Second)
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	port := taken.Addr().(*net.TCPAddr).Port
	editFile(t, a.dir+"/tenants/globex/orders.yaml", fmt.Sprintf("outbound: {port: %d}", a.ports["20183"]), fmt.Sprintf("outbound: {port: %d}", port))
	eventually(t, 20*time.Second, "Envoy refuses", func(ctx context.Context) bool { return strings.Contains(a.proxies(ctx), "refused") })

	counters := func() map[string]float64 {
		sums := map[string]float64{
			"refusals that the control plane hears of": sum(t, metrics(t.Context(), a.listen["http"]), `(?m)^ringfence_xds_nacks_total\{.*\} (\S+)$`),
			"responses of the control plane":           sum(t, metrics(t.Context(), a.listen["http"]), `(?m)^ringfence_xds_pushes_total\{.*\} (\S+)$`),
		}
		stats := string(admin(t, filepath.Join(a.agentState("orders"), "admin.sock"), "/stats?filter=update"))
		sums["refusals of Envoy"] = sum(t, stats, `(?m)^.*update_rejected: (\d+)$`)
		sums["what Envoy is sent"] = sum(t, stats, `(?m)^.*update_attempt: (\d+)$`)
		return sums
	}
	before := counters()
	const watched = 5 * time.Second
	time.Sleep(watched) // a loop would be seen by what it counts meanwhile
	for what, n := range counters() {
		t.Logf("%s: %.0f, of which %.1f a second in the last %v", what, n, (n-before[what])/watched.Seconds(), watched)
		if n-before[what] > 2*watched.Seconds() {
			t.Errorf("%s: %.0f in %v", what, n-before[what], watched)
		}
	}
	if before["refusals of Envoy"] == 0 || before["refusals that the control plane hears of"] == 0 {
		t.Errorf("nothing was refused: %v", before)
	}
}

// sum adds what the expression finds.
func sum(t *testing.T, text, expression string) (total float64) {
	t.Helper()
	for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}
