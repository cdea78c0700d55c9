package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

const acmeOrders = "spiffe://acme.demo.test/ns/acme/sa/orders"

// published is what a control plane has for one workload.
type published struct {
	snapshot xds.Snapshot
	table    xds.Resource
}

func (p published) target() delta.Target {
	id := p.snapshot.Version() + "/" + p.table.Version()
	return delta.NewTarget(id, append(slices.Clone(p.snapshot.All()), p.table)...)
}

// compile is what the documents give acme/orders, after a replacement in its policy.
func compile(t testing.TB, old, now string) published {
	t.Helper()
	files := tenancytest.TwoTenantsFiles(t)
	const path = "tenants/acme/orders.yaml"
	if !strings.Contains(files[path], old) {
		t.Fatalf("%s does not contain %q", path, old)
	}
	files[path] = strings.Replace(files[path], old, now, 1)
	m := tenancytest.Model(t, files)
	return compiled(t, m, m.Mapping(), acmeOrders)
}

func compiled(t testing.TB, m *tenancy.Model, mapping identity.Mapping, id string) published {
	t.Helper()
	w, err := mapping.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	tenant := tenancytest.Tenant(t, m, w.Tenant().Name())
	part, err := xds.Compile(tenant)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, ok := part.Snapshot(w)
	if !ok {
		t.Fatalf("%s has no snapshot", w)
	}
	tab, err := authz.Compile(tenant)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := tab.For(w, snapshot.Version())
	if err != nil {
		t.Fatal(err)
	}
	return published{snapshot: snapshot, table: xds.NewResource(xds.TableType, id, bytes)}
}

// variants are configurations that follow each other: other rules with the same resources, another caller, fewer
// resources.
func variants(t testing.TB) []published {
	t.Helper()
	const readers = "from: {services: [web], roles: [clerk, manager]}"
	return []published{
		compile(t, readers, readers),
		compile(t, readers, "from: {services: [web], roles: [manager]}"),
		compile(t, readers, "from: {services: [web, orders], roles: [clerk]}"),
		compile(t, "  outbound: {port: 20181}", "  #"),
	}
}

func testJudge(t testing.TB) judge {
	t.Helper()
	m := tenancytest.TwoTenants(t)
	w, err := m.Mapping().Parse(acmeOrders)
	if err != nil {
		t.Fatal(err)
	}
	pinned := tenancytest.Bundles(t, w.Tenant().TrustDomain(), m.Mapping().Platform())
	return judge{workload: w, mapping: m.Mapping(), pinned: pinned}
}

// pairing is a relay between two conversations: the control plane's, and that of an Envoy that the test plays.
type pairing struct {
	t     testing.TB
	relay *relay
	plane *delta.Conversation
	logs  *observer.ObservedLogs
	saved []byte
	saves int
	full  bool // the disk

	variants []published
	envoy    *delta.Conversation
	target   string
	pending  []*discovery.DeltaDiscoveryResponse
	refuses  func(name, version string) bool
}

func newPairing(t testing.TB, v []published) *pairing {
	t.Helper()
	p := &pairing{t: t, variants: v, refuses: func(string, string) bool { return false }}
	j := testJudge(t)
	secret := xds.NewResource(xds.SecretType, ownSecret, []byte("key"))
	core, logs := observer.New(zap.DebugLevel)
	p.logs = logs
	p.relay = newRelay(j, secret, zap.New(core), &tables{workload: j.workload}, newTarget(), func(c committed, settled table) error {
		if p.saves++; p.full {
			return errors.New("no space left")
		}
		p.saved = nil
		if c.table.decoded == nil {
			return nil
		}
		var err error
		p.saved, err = encodeState(c, settled)
		return err
	})
	return p
}

// connect begins a stream of the control plane, which has this for the workload.
func (p *pairing) connect(has published) {
	p.plane = delta.New(delta.DefaultLimits())
	p.plane.SetTarget(has.target())
	plane := p.plane
	p.relay.connected(func(req *discovery.DeltaDiscoveryRequest) {
		if plane != p.plane {
			p.t.Error("a request on a stream that has ended")
			return
		}
		if err := plane.Request(req); err != nil {
			p.t.Fatal(err)
		}
	})
}

// receive brings the next of the control plane's responses; false if there is none.
func (p *pairing) receive() bool {
	if p.plane == nil {
		return false
	}
	resp, err := p.plane.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	if resp == nil {
		return false
	}
	p.relay.response(resp)
	p.relay.commit()
	p.relay.settle()
	return true
}

func (p *pairing) receiveAll() {
	for p.receive() {
	}
}

// attach is an Envoy that connects and asks for everything there is, as it learns of it.
func (p *pairing) attach() {
	p.envoy, p.target, p.pending = delta.New(delta.DefaultLimits()), "", nil
	p.follow()
	for _, typeURL := range []string{xds.ClusterType, xds.ListenerType} {
		p.ask(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL})
	}
	for _, typeURL := range []string{xds.EndpointType, xds.SecretType, xds.RouteType} {
		names := []string{ownSecret}
		for _, v := range p.variants {
			for _, r := range v.snapshot.Resources(typeURL) {
				names = append(names, r.Name())
			}
		}
		p.ask(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names})
	}
}

func (p *pairing) follow() {
	if now := p.relay.target.Target(); now.ID() != p.target || !now.IsZero() && p.target == "" {
		p.target = now.ID()
		p.envoy.SetTarget(now)
	}
}

func (p *pairing) ask(req *discovery.DeltaDiscoveryRequest) {
	if err := p.envoy.Request(req); err != nil {
		p.t.Fatal(err)
	}
}

// offer gives Envoy its next response, which it leaves unanswered; false if there is none.
func (p *pairing) offer() bool {
	if p.envoy == nil {
		return false
	}
	p.follow()
	resp, err := p.envoy.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	if resp != nil {
		p.pending = append(p.pending, resp)
	}
	return resp != nil
}

// answer lets Envoy answer its oldest response.
func (p *pairing) answer() bool {
	if len(p.pending) == 0 {
		return false
	}
	resp := p.pending[0]
	p.pending = p.pending[1:]
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
	for _, r := range resp.GetResources() {
		if p.refuses(r.GetName(), r.GetVersion()) {
			req.ErrorDetail = &rpcstatus.Status{Message: "refused by Envoy"}
		}
	}
	p.ask(req)
	p.relay.report(p.envoy.Report())
	p.relay.settle()
	return true
}

// finish lets everybody do what there is to do.
func (p *pairing) finish() {
	for p.receive() || p.offer() || p.answer() {
	}
	if p.envoy == nil {
		return
	}
	p.relay.report(p.envoy.Report())
	p.relay.quiet = p.relay.listening()
	p.relay.settle()
	p.receiveAll()
}

// inForce are the versions of the tables that calls are decided by.
func (p *pairing) inForce() (current, next string) {
	version := func(t *authz.Table) string {
		if t == nil {
			return ""
		}
		return t.Version()
	}
	a, b := p.relay.tables.Tables(p.relay.judge.workload)
	return version(a), version(b)
}

func (p *pairing) wantTables(current, next published) {
	p.t.Helper()
	version := func(of published) string {
		if of.table.IsZero() {
			return ""
		}
		tab, err := authz.DecodeTable(of.table.Value())
		if err != nil {
			p.t.Fatal(err)
		}
		return tab.Version()
	}
	gotCurrent, gotNext := p.inForce()
	if gotCurrent != version(current) || gotNext != version(next) {
		p.t.Errorf("decided by %.8q and %.8q, want %.8q and %.8q", gotCurrent, gotNext, version(current), version(next))
	}
}
