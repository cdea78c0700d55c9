package controlplane_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

// rotating is a control plane with an admin socket.
type rotating struct {
	plane

	client   agentv1alpha1.RotationsClient
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
}

func startRotating(t *testing.T, config, state string, clock func() time.Time) rotating {
	t.Helper()
	return startRotatingWith(t, controlplane.Config{State: state, Clock: clock}, config)
}

func startRotatingWith(t *testing.T, c controlplane.Config, config string) rotating {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, registry := filepath.Join(dir, "admin.sock"), prometheus.NewRegistry()
	core, logs := observer.New(zap.WarnLevel)
	c.AdminSocket, c.Registry, c.Log = socket, registry, zap.New(core)
	p := start(t, c, config)
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return rotating{plane: p, client: agentv1alpha1.NewRotationsClient(conn), registry: registry, logs: logs}
}

func acme() *agentv1alpha1.RotationRequest { return &agentv1alpha1.RotationRequest{Tenant: "acme"} }

// state is where acme's rotation stands, with what it waits for, in one line.
func (r rotating) state() string {
	r.t.Helper()
	answer, err := r.client.Show(within(r.t), acme())
	if err != nil {
		r.t.Fatal(err)
	}
	return rotationText(answer)
}

func rotationText(answer *agentv1alpha1.RotationStatus) string {
	text := strings.ToLower(strings.TrimPrefix(answer.GetStep().String(), "ROTATION_STEP_"))
	if answer.GetRollback() {
		text += " back"
	}
	text += fmt.Sprintf(" %d/%d", answer.GetSigning(), answer.GetBeside())
	for _, s := range answer.GetWaiting() {
		_, name, _ := strings.Cut(s.GetWorkload(), "/sa/")
		text += " " + name + ":" + strings.ToLower(strings.TrimPrefix(s.GetWhy().String(), "WAITING_"))
		if s.GetUntilUnix() != 0 {
			text += "…"
		}
	}
	return text
}

// becomes waits for a state.
func (r rotating) becomes(want string) {
	r.t.Helper()
	ctx := within(r.t)
	for got := r.state(); got != want; got = r.state() {
		select {
		case <-ctx.Done():
			r.t.Fatalf("%q, want %q", got, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// looked waits until the control plane itself has looked and found that many workloads to wait for.
func (r rotating) looked(waiting float64) {
	r.t.Helper()
	ctx := within(r.t)
	for {
		families, err := r.registry.Gather()
		if err != nil {
			r.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "ringfence_root_rotation_waiting" && len(f.GetMetric()) == 1 && f.GetMetric()[0].GetGauge().GetValue() == waiting {
				return
			}
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("it never found %v to wait for", waiting)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestRotationNamesWhomItWaitsFor: a step waits for connected sidecars that trust the tenant, of shared services too, and for those
// that are away as long as they have an SVID to come back with; for nobody else. It goes on after a restart.
func TestRotationNamesWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	config, state := example(t), filepath.Join(t.TempDir(), "state")
	r := startRotating(t, config, state, clock)
	orders := r.joined(acmeOrders)
	follow(t, r.stream(orders))
	silent := r.stream(r.joined(billing)) // acknowledges nothing
	for _, typeURL := range allTypes {
		send(t, silent, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
	}
	other := r.stream(r.joined(globexWeb)) // neither, and does not matter
	send(t, other, &discovery.DeltaDiscoveryRequest{TypeUrl: allTypes[0], ResourceNamesSubscribe: []string{"*"}})
	web := r.joined(acmeWeb) // is away

	if _, err := r.client.Begin(within(t), acme()); err != nil {
		t.Fatal(err)
	}
	r.becomes("published 1/2 web:connection… billing:acknowledgement")
	if _, err := r.client.Begin(within(t), acme()); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second one: %v", err)
	}
	bills := r.joined(billing)
	follow(t, r.stream(bills))
	r.becomes("published 1/2 web:connection…")
	r.looked(1)
	r.becomes("published 1/2 web:connection…")
	again := r.stream(bills)
	// What was acknowledged once counts: the sidecar that comes back has it.
	for _, typeURL := range allTypes {
		send(t, again, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
	}
	if _, err := again.Recv(); err != nil { // it is the youngest stream now
		t.Fatal(err)
	}
	r.becomes("published 1/2 web:connection…")
	follow(t, r.stream(web))
	r.becomes("signing 2/1 orders:renewal… web:renewal…")
	r.looked(2)
	if _, err := r.renew(r.XDSAddr().String(), &orders, acmeOrders); err != nil {
		t.Fatal(err)
	}
	r.becomes("signing 2/1 orders:end… web:renewal…")

	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = startRotating(t, config, state, clock)
	r.becomes("signing 2/1 orders:end… web:connection…")
	answer, err := r.client.Rollback(within(t), acme())
	if err != nil || rotationText(answer) != "signing back 1/2 orders:connection…" {
		t.Errorf("%v, %v", answer, err)
	}
	if _, err := r.client.Rollback(within(t), acme()); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second time: %v", err)
	}
	// Nothing seems to live any more, but that may be the clock: the root that signed what lives is not withdrawn.
	ahead.Store(int64(2 * time.Hour))
	r.becomes("signing back 1/2")
	eventually(t, func() bool { return r.logs.FilterMessageSnippet("clock was set ahead").Len() > 0 })
	ahead.Store(0)
	eventually(t, func() bool { return r.logs.FilterMessageSnippet("clock was set back").Len() > 0 })
	r.becomes("signing back 1/2 orders:connection…")

	// A process takes the clock as it finds it: nothing lives any more, and nobody is waited for.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(2 * time.Hour))
	r = startRotating(t, config, state, clock)
	r.becomes("none 1/0")
	for tenant, want := range map[string]codes.Code{"": codes.NotFound, "nobody": codes.NotFound, "platform": codes.FailedPrecondition} {
		if _, err := r.client.Begin(within(t), &agentv1alpha1.RotationRequest{Tenant: tenant}); status.Code(err) != want {
			t.Errorf("%q: %v", tenant, err)
		}
	}
}
