package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

var (
	manager = demo.Token{Issuer: "acme", Roles: []string{"manager"}}
	allowed = demo.Want{Status: 200, Layer: demo.LayerNone}
)

const effectiveWithin = time.Second

// TestRuleChangesOnOpenConnections takes a right away and gives it back in a tenant's file. It holds for the next call on
// a connection that stays open, a stream of another caller goes on, and no filter chain is touched.
func TestRuleChangesOnOpenConnections(t *testing.T) {
	m := startMesh(t)
	stream := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
	call := demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/orders", Token: manager}
	session := open(t, m, call)
	if r := doOn(t, session, call); !r.As(allowed) {
		t.Fatalf("before: %d by %s", r.Status, r.Layer)
	}
	chains := chainBytes(t, m, "acme/orders", "inbound/acme/orders")

	edit(t, m, "tenants/acme/orders.yaml", "methods: [POST]", "methods: [PUT]")
	expectWithin(t, session, call, demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "no_rule"})
	edit(t, m, "tenants/acme/orders.yaml", "methods: [PUT]", "methods: [POST]")
	expectWithin(t, session, call, allowed)

	// The caller is taken out of the rules: now guard 1 refuses it too.
	edit(t, m, "tenants/acme/orders.yaml", "services: [web]", "services: [orders]")
	expectWithin(t, session, call, demo.Want{Status: 403, Layer: demo.LayerRBAC})
	edit(t, m, "tenants/acme/orders.yaml", "services: [orders]", "services: [web]")
	expectWithin(t, session, call, allowed)

	sameChains(t, chains, chainBytes(t, m, "acme/orders", "inbound/acme/orders"))
	stream.goesOn(t)
}

// TestGrantChangesOnOpenConnections narrows acme's Grant, then grants the shared service to globex too.
func TestGrantChangesOnOpenConnections(t *testing.T) {
	m := startMesh(t)
	stream := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
	call := demo.Call{From: "acme/web", To: "platform/billing", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodPost, Path: "/invoices"}
	session := open(t, m, call)
	if r := doOn(t, session, call); !r.As(allowed) {
		t.Fatalf("before: %d by %s", r.Status, r.Layer)
	}
	chains := chainBytes(t, m, "platform/billing", "inbound/platform/billing")

	edit(t, m, "platform/billing.yaml", "methods: [GET, POST]", "methods: [GET]")
	expectWithin(t, session, call, demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "no_rule"})
	sameChains(t, chains, chainBytes(t, m, "platform/billing", "inbound/platform/billing"))

	globexCall := demo.Call{From: "globex/web", To: "billing", Method: http.MethodGet, Path: "/invoices/1"}
	if r := do(t, m, globexCall); r.Layer != demo.LayerSource {
		t.Fatalf("globex before its Grant: %d by %s", r.Status, r.Layer)
	}
	appendTo(t, m, "platform/billing.yaml", `---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: globex-billing}
spec: {tenant: globex, service: billing, to: {methods: [GET], paths: ["/invoices/*"]}, notAfter: "2036-01-01T00:00:00Z"}
`)
	took := await(t, m, globexCall, allowed)
	t.Logf("a first Grant took effect after %v", took)
	if took > effectiveWithin {
		t.Errorf("a first Grant took %v", took)
	}
	after := chainBytes(t, m, "platform/billing", "inbound/platform/billing")
	if len(after) != len(chains)+1 {
		t.Errorf("%d filter chains became %d", len(chains), len(after))
	}
	sameChains(t, chains, after)
	stream.goesOn(t)
}

func expectWithin(t testing.TB, s *demo.Session, c demo.Call, want demo.Want) {
	t.Helper()
	start := time.Now()
	for {
		r := doOn(t, s, c)
		took := time.Since(start)
		if r.As(want) {
			t.Logf("%v after %v", want, took)
			return
		}
		if took > effectiveWithin {
			t.Fatalf("after %v still %d by %s (%s), want %v", took, r.Status, r.Layer, r.Reason, want)
		}
	}
}

func open(t testing.TB, m *demo.Mesh, c demo.Call) *demo.Session {
	t.Helper()
	s, err := m.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func doOn(t testing.TB, s *demo.Session, c demo.Call) demo.Result {
	t.Helper()
	r, err := s.Do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// chainBytes are the filter chains of a listener as the Envoy holds them, by name, which stands for one SNI label.
func chainBytes(t testing.TB, m *demo.Mesh, workload, listener string) map[string][]byte {
	t.Helper()
	chains := map[string][]byte{}
	for _, section := range configDump(t, m.AdminSocket(workload)).GetConfigs() {
		dump := &adminv3.ListenersConfigDump{}
		if !section.MessageIs(dump) {
			continue
		}
		for _, d := range unpack(t, section, dump).GetDynamicListeners() {
			if d.GetName() != listener {
				continue
			}
			for _, c := range unpack(t, d.GetActiveState().GetListener(), &listenerv3.Listener{}).GetFilterChains() {
				raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				chains[c.GetName()] = raw
			}
		}
	}
	if len(chains) == 0 {
		t.Fatalf("%s has no filter chains", listener)
	}
	return chains
}

func sameChains(t testing.TB, before, after map[string][]byte) {
	t.Helper()
	for name, raw := range before {
		if !bytes.Equal(raw, after[name]) {
			t.Errorf("the filter chain %s changed", name)
		}
	}
}

// stream is a response that goes on.
type stream struct {
	lines atomic.Int64
	ended atomic.Bool
}

func openStream(t testing.TB, m *demo.Mesh, c demo.Call) *stream {
	t.Helper()
	session := open(t, m, c)
	ctx, cancel := context.WithCancel(t.Context())
	response, err := session.Stream(ctx, c) //nolint:bodyclose // closed by the reader below
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("stream: %d", response.StatusCode)
	}
	s := &stream{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer response.Body.Close() //nolint:errcheck // only read
		for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
			s.lines.Add(1)
		}
		s.ended.Store(true)
	}()
	t.Cleanup(func() { cancel(); <-done })
	s.goesOn(t)
	return s
}

// goesOn fails unless two more lines arrive.
func (s *stream) goesOn(t testing.TB) {
	t.Helper()
	seen := s.lines.Load()
	eventually(t, 5*time.Second, "the stream goes on", func(context.Context) bool { return s.ended.Load() || s.lines.Load() >= seen+2 })
	if s.ended.Load() {
		t.Error("the stream of another caller was cut")
	}
}
