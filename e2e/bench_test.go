package e2e_test

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

// BenchmarkChange measures from the write of a changed rule to the first call that meets it, on a connection that stays
// open. It includes the time that the directory must be quiet and one call.
func BenchmarkChange(b *testing.B) {
	m := startMesh(b)
	call := demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/orders", Token: manager}
	session := open(b, m, call)
	methods := []string{"methods: [POST]", "methods: [PUT]"}
	want := []demo.Want{{Status: 403, Layer: demo.LayerAuthz, Reason: "no_rule"}, allowed}
	var took []time.Duration
	for b.Loop() {
		i := len(took) % 2
		edit(b, m, "tenants/acme/orders.yaml", methods[i], methods[1-i])
		start := time.Now()
		for r := doOn(b, session, call); !r.As(want[i]); r = doOn(b, session, call) {
			if time.Since(start) > 10*time.Second {
				b.Fatalf("no effect: %d by %s", r.Status, r.Layer)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(milliseconds(took[len(took)/2]), "p50-ms")
	b.ReportMetric(milliseconds(took[len(took)*99/100]), "p99-ms")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// BenchmarkIdleSidecar measures what an agent and its Envoy hold and use when nobody calls: separate processes, as they run
// in production.
func BenchmarkIdleSidecar(b *testing.B) {
	a := startApart(b)
	a.goesOn(10 * time.Second)
	const window = 5 * time.Second
	agent := a.agents["orders"].cmd.Process.Pid
	envoy := envoys(b, a.agentState("orders"))
	if len(envoy) != 1 {
		b.Fatalf("Envoys: %v", envoy)
	}
	var agentCPU, envoyCPU time.Duration
	var windows int
	for b.Loop() {
		agentBefore, envoyBefore := cpu(b, agent), cpu(b, envoy[0])
		time.Sleep(window) // the thing measured is time that passes with nothing to do
		agentCPU += cpu(b, agent) - agentBefore
		envoyCPU += cpu(b, envoy[0]) - envoyBefore
		windows++
	}
	total := float64(windows) * window.Seconds()
	b.ReportMetric(100*agentCPU.Seconds()/total, "agent-%cpu")
	b.ReportMetric(100*envoyCPU.Seconds()/total, "envoy-%cpu")
	b.ReportMetric(rss(b, agent), "agent-MB")
	b.ReportMetric(rss(b, envoy[0]), "envoy-MB")
}

// cpu is the user and system time of a process (proc(5): fields 14 and 15, in ticks of 10 ms).
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat := readFile(t, fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime, tick = 11, 12, 10 * time.Millisecond
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// rss is the resident memory of a process, in MB.
func rss(t testing.TB, pid int) float64 { return resident(t, pid, "VmRSS") }

// resident is the part of it that has this name in proc(5), in MB.
func resident(t testing.TB, pid int, name string) float64 {
	t.Helper()
	for line := range strings.SplitSeq(string(readFile(t, filepath.Join("/proc", strconv.Itoa(pid), "status"))), "\n") {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatalf("process %d has no %s", pid, name)
	return 0
}
