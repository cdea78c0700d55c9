package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// largeTenant is the number of services of the tenant whose sidecar BenchmarkIdleSidecarOfALargeTenant measures.
const largeTenant = 100

// BenchmarkIdleSidecarOfALargeTenant measures the resident memory of an agent and its Envoy whose tenant has 100 services that
// all call each other: so the agent holds 100 services that its workload may call, and 100 callers of its own.
func BenchmarkIdleSidecarOfALargeTenant(b *testing.B) {
	a := newApart(b, largeMesh(b))
	a.startServe()
	a.startAgent("s0", true)
	agent, envoy := a.agents["s0"].cmd.Process.Pid, envoys(b, a.agentState("s0"))
	if len(envoy) != 1 {
		b.Fatalf("Envoys: %v", envoy)
	}
	for b.Loop() {
		settle(b, agent)
	}
	b.ReportMetric(rss(b, agent), "agent-MB")
	b.ReportMetric(resident(b, agent, "RssAnon"), "agent-anon-MB")
	b.ReportMetric(rss(b, envoy[0]), "envoy-MB")
}

// settle waits until a process has held the same memory for a while.
func settle(b *testing.B, pid int) {
	b.Helper()
	const (
		still = 5 * time.Second
		most  = 2 * time.Minute
		noise = 0.25 // MB
	)
	last, since := rss(b, pid), time.Now()
	eventually(b, most, "its memory settles", func(context.Context) bool {
		if now := rss(b, pid); now < last-noise || now > last+noise {
			last, since = now, time.Now()
		}
		return time.Since(since) > still
	})
}

// largeMesh writes the documents of one tenant.
func largeMesh(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	var services, names strings.Builder
	for n := range largeTenant {
		fmt.Fprintf(&names, "s%d, ", n)
	}
	from := strings.TrimSuffix(names.String(), ", ")
	for n := range largeTenant {
		outbound := ""
		if n == 0 {
			outbound = fmt.Sprintf("\n  outbound: {port: %d}", freePort(b))
		}
		fmt.Fprintf(&services, `---
kind: Service
metadata: {name: s%[1]d}
spec:
  namespace: globex
  serviceAccounts: [s%[1]d]
  token: none
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: %[2]d}]
  endpoints: [{address: 127.0.0.1, port: %[3]d}]%[4]s
---
kind: AccessPolicy
metadata: {name: s%[1]d}
spec:
  service: s%[1]d
  rules:
    - {name: reads, from: {services: [%[5]s]}, to: {methods: [GET], paths: ["/items/*", /items]}}
    - {name: writes, from: {services: [%[5]s]}, to: {methods: [POST, PUT, DELETE], paths: ["/items/*"]}}
`, n, 21000+n, freePort(b), outbound, from)
	}
	for path, text := range map[string]string{
		"mesh.yaml": `kind: Mesh
metadata: {name: large}
spec:
  identities: [{trustDomain: "{tenant}.demo.test", path: "/ns/{namespace}/sa/{serviceAccount}"}]
  platformTrustDomain: platform.demo.test
`,
		"platform/tenants.yaml":        "kind: Tenant\nmetadata: {name: globex}\nspec: {namespaces: [globex]}\n",
		"tenants/globex/services.yaml": services.String(),
	} {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			b.Fatal(err)
		}
		write(b, full, text)
	}
	return dir
}
