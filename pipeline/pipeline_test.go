package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
)

const (
	acmeOrders   = "tenants/acme/orders.yaml"
	globexOrders = "tenants/globex/orders.yaml"
	acmeWeb      = "tenants/acme/web.yaml"
	billing      = "platform/billing.yaml"
	tenants      = "platform/tenants.yaml"
)

// widen changes a rule of a tenant's orders so that what is served changes.
func widen(t testing.TB, m mesh, file string) {
	t.Helper()
	m.shelf.edit(t, file, "methods: [GET], paths: [/orders,", "methods: [GET], paths: [/more, /orders,")
}

func spoil(t testing.TB, m mesh, file string) {
	t.Helper()
	m.shelf.edit(t, file, "spec:", "mehtods: []\nspec:")
}

func repair(t testing.TB, m mesh, file string) {
	t.Helper()
	m.shelf.edit(t, file, "mehtods: []\n", "")
}

func owners(problems []v1alpha1.Problem) []string {
	set := map[string]bool{}
	for _, p := range problems {
		set[p.Owner] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// expect reloads and compares what came of it.
func expect(t testing.TB, m mesh, want outcome) pipeline.Event {
	t.Helper()
	e := m.Reload(t.Context())
	got := outcome{published: e.Published, blamed: owners(e.Problems), stale: e.Stale, dropped: e.Dropped}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Errorf("outcome (-want +got):\n%s%v", diff, e.Problems)
	}
	if e.Err != nil || e.Counterexample != nil {
		t.Errorf("error %v, counterexample %v", e.Err, e.Counterexample)
	}
	return e
}

type outcome struct {
	published              bool
	blamed, stale, dropped []string
}

func TestFirstGeneration(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	if m.Current().Number() != 0 || !m.Mapping().IsZero() {
		t.Error("something is there before the first generation")
	}
	if _, ok := m.Workload(id("acme", "web")); ok {
		t.Error("a workload is named before the first generation")
	}
	if _, ok := m.Last(); ok {
		t.Error("an attempt before the first")
	}
	e := expect(t, m, outcome{published: true})
	if e.Compiled != 3 || e.Generation.Number() != 1 || e.Generation != m.Current() || e.Generation.Revision() != e.Revision {
		t.Errorf("compiled %d, generation %d", e.Compiled, e.Generation.Number())
	}
	for name, version := range m.everything() {
		if version == "" {
			t.Errorf("%s gets nothing", name)
		}
	}
	for _, uri := range []string{
		"", id("acme", "nobody"), id("initech", "web"),
		"spiffe://acme.demo.test/ns/globex/sa/web", "SPIFFE://acme.demo.test/ns/acme/sa/web",
	} {
		if w, ok := m.Workload(uri); ok {
			t.Errorf("%q is read as %s", uri, w)
		}
	}
	if _, _, ok := m.Snapshot(identity.WorkloadID{}); ok {
		t.Error("nobody gets a snapshot")
	}
}

func TestTheTableOfASnapshotSaysWhose(t *testing.T) {
	t.Parallel()
	m := started(t)
	w, _ := m.Workload(id("acme", "orders"))
	snapshot, data, ok := m.Snapshot(w)
	if !ok {
		t.Fatal("nothing")
	}
	table, err := authz.DecodeTable(data)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := table.Workload(); !ok || !owner.Same(w) || table.SnapshotVersion() != snapshot.Version() {
		t.Errorf("the table is of %v, version %q; the snapshot's is %q", owner, table.SnapshotVersion(), snapshot.Version())
	}
	g := m.Current()
	if g.Table(w.Tenant()) == nil || g.Table(identity.TenantID{}) != nil {
		t.Error("tenant tables")
	}
}

func TestABrokenTenantStaysAndTheOthersMoveOn(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.everything()
	widen(t, m, acmeOrders)
	spoil(t, m, acmeOrders)
	widen(t, m, globexOrders)
	e := expect(t, m, outcome{published: true, blamed: []string{"acme"}, stale: []string{"acme"}})
	if e.Compiled != 1 {
		t.Errorf("%d tenants were compiled", e.Compiled)
	}
	after := m.everything()
	if before["acme/orders"] != after["acme/orders"] || before["acme/web"] != after["acme/web"] {
		t.Error("acme does not stay")
	}
	if before["globex/orders"] == after["globex/orders"] {
		t.Error("globex does not move on")
	}

	// Another change of acme's beside the broken file does not count either.
	m.shelf.edit(t, acmeWeb, "20182", "20199")
	expect(t, m, outcome{blamed: []string{"acme"}, stale: []string{"acme"}})

	repair(t, m, acmeOrders)
	expect(t, m, outcome{published: true})
	if after := m.everything(); before["acme/orders"] == after["acme/orders"] || before["acme/web"] == after["acme/web"] {
		t.Error("acme's repaired documents do not count")
	}
}

func TestAllProblemsOfAnOwnerAreTold(t *testing.T) {
	t.Parallel()
	m := started(t)
	spoil(t, m, acmeWeb)
	m.shelf.edit(t, acmeOrders, "services: [web]", "services: [nobody]")
	e := expect(t, m, outcome{blamed: []string{"acme"}, stale: []string{"acme"}})
	files := map[string]bool{}
	for _, p := range e.Problems {
		files[p.File] = true
	}
	if !files[acmeWeb] || !files[acmeOrders] {
		t.Errorf("not everything is told: %v", e.Problems)
	}
}

func TestABrokenPlatformStaysAndTheTenantsMoveOn(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.everything()
	spoil(t, m, billing)
	widen(t, m, globexOrders)
	expect(t, m, outcome{published: true, blamed: []string{"platform"}, stale: []string{"platform"}})
	after := m.everything()
	if before["platform/billing"] != after["platform/billing"] || before["globex/orders"] == after["globex/orders"] {
		t.Error("the platform must stay, globex must move on")
	}
	m.shelf.remove("mesh.yaml")
	expect(t, m, outcome{blamed: []string{"platform"}, stale: []string{"platform"}})
	if diff := cmp.Diff(after, m.everything()); diff != "" {
		t.Errorf("a missing Mesh changed what is served:\n%s", diff)
	}
}

func TestTheFirstStartWithBrokenDocuments(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	spoil(t, m, billing)
	expect(t, m, outcome{blamed: []string{"platform"}, dropped: []string{"platform"}})
	if m.Current() != nil {
		t.Fatal("a generation without a platform")
	}
	repair(t, m, billing)
	spoil(t, m, acmeOrders)
	expect(t, m, outcome{published: true, blamed: []string{"acme"}, dropped: []string{"acme"}})
	if m.served("acme", "web") != "" || m.served("globex", "web") == "" {
		t.Error("acme must get nothing, globex its own")
	}
	repair(t, m, acmeOrders)
	expect(t, m, outcome{published: true})
	if m.served("acme", "web") == "" {
		t.Error("acme gets nothing although its documents are right")
	}
}

func TestARemovedTenantIsGone(t *testing.T) {
	t.Parallel()
	m := started(t)
	w, _ := m.Workload(id("globex", "web"))
	m.shelf.edit(t, tenants, "metadata: {name: globex}", "metadata: {name: initech}")
	m.shelf.edit(t, tenants, "namespaces: [globex]", "namespaces: [initech]")
	m.shelf.edit(t, "platform/token-issuers.yaml", "tenants: [globex]", "tenants: [initech]")
	expect(t, m, outcome{published: true, blamed: []string{"globex"}, dropped: []string{"globex"}})
	if _, ok := m.Workload(id("globex", "web")); ok || m.Current().Table(w.Tenant()) != nil {
		t.Error("globex is still there")
	}
	if _, _, ok := m.Snapshot(w); ok {
		t.Error("a workload of a tenant that is gone gets a snapshot")
	}
	if _, err := m.Current().Verifier().VerifyLeaf(nil, nil, time.Now()); err == nil {
		t.Error("nothing is proved")
	}
	m.shelf.remove(globexOrders)
	m.shelf.remove("tenants/globex/web.yaml")
	expect(t, m, outcome{})
}

func TestATenantCannotHoldUpThePlatform(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.everything()
	m.shelf.edit(t, tenants, "namespaces: [acme]", "namespaces: [acme-two]")
	expect(t, m, outcome{published: true, blamed: []string{"acme"}, dropped: []string{"acme"}})
	after := m.everything()
	if after["acme/web"] != "" || after["globex/orders"] != before["globex/orders"] {
		t.Error("acme's documents no longer fit and must not count; globex has nothing to do with it")
	}
	// What was dropped is forgotten: it does not come back when it would fit again.
	spoil(t, m, acmeOrders)
	m.shelf.edit(t, tenants, "namespaces: [acme-two]", "namespaces: [acme]")
	expect(t, m, outcome{blamed: []string{"acme"}, dropped: []string{"acme"}})
	if m.served("acme", "web") != "" {
		t.Error("dropped documents came back")
	}
}

// What a tenant writes is small, and what it makes may not be: each rule names each caller, and each workload has a table.
func TestATenantThatIsTooMuchCostsItselfOnly(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: ringfence.dev/v1alpha1\n"
	many := func(n int, line string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, line, i)
		}
		return b.String()
	}
	everybody := "    - {name: r%d, from: {services: [crowd]}, to: {methods: [GET], paths: [/x]}}\n"
	policy := head + "kind: AccessPolicy\nmetadata: {name: crowd}\nspec:\n  service: orders\n  rules:\n"
	crowd := func(accounts int) string {
		return head + "kind: Service\nmetadata: {name: crowd}\nspec:\n  namespace: acme\n  serviceAccounts:\n" + many(accounts, "    - a%d\n")
	}
	for name, file := range map[string]string{
		"more than can be compiled":                crowd(1500) + "---\n" + policy + many(10_000, everybody),
		"more accounts than a proxy takes callers": crowd(45_000) + "---\n" + policy + many(1, everybody),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := started(t)
			m.shelf.put("tenants/acme/crowd.yaml", file)
			widen(t, m, globexOrders)
			expect(t, m, outcome{published: true, blamed: []string{"acme"}, stale: []string{"acme"}})
		})
	}
}

func TestProblemsOfTheSourceCountAsTheirOwners(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.everything()
	m.shelf.problems = []v1alpha1.Problem{{Code: "RF1016", Owner: "acme", File: "tenants/acme/x.yaml", Text: "cannot be read"}}
	widen(t, m, acmeOrders)
	widen(t, m, globexOrders)
	m.shelf.put("stray.yaml", "kind: Service")
	expect(t, m, outcome{published: true, blamed: []string{"", "acme"}, stale: []string{"acme"}})
	if after := m.everything(); before["acme/orders"] != after["acme/orders"] || before["globex/orders"] == after["globex/orders"] {
		t.Error("acme must stay, globex must move on")
	}
}

func TestWhatChangesNothingIsNotPublished(t *testing.T) {
	t.Parallel()
	m := started(t)
	m.shelf.edit(t, "tenants/globex/web.yaml", "apiVersion:", "# a remark\napiVersion:")
	expect(t, m, outcome{})
	if m.Current().Number() != 1 {
		t.Errorf("generation %d", m.Current().Number())
	}
	// It counts as accepted all the same: this is what globex falls back to.
	m.shelf.edit(t, "tenants/globex/web.yaml", "20184", "20194")
	expect(t, m, outcome{published: true})
}

func TestACounterexampleKeepsTheOldGeneration(t *testing.T) {
	t.Parallel()
	leaks := false
	prover := func(p prove.Proof, m *tenancy.Model, parts []xds.Part, tables []*authz.Table) (prove.Proof, *prove.Counterexample) {
		if leaks {
			return prove.Proof{}, &prove.Counterexample{}
		}
		return p.Extend(m, parts, tables)
	}
	m := newMesh(t, prover)
	expect(t, m, outcome{published: true})
	before := m.everything()
	widen(t, m, globexOrders)
	leaks = true
	e := m.Reload(t.Context())
	if e.Counterexample == nil || e.Published || e.Generation.Number() != 1 {
		t.Errorf("published %v, generation %d", e.Published, e.Generation.Number())
	}
	if diff := cmp.Diff(before, m.everything()); diff != "" {
		t.Errorf("unproved configuration is served:\n%s", diff)
	}
	leaks = false
	expect(t, m, outcome{published: true})
}

func TestAProofOfSomethingElseIsNoProof(t *testing.T) {
	t.Parallel()
	other := started(t).Current().Proof()
	for name, proof := range map[string]prove.Proof{"none": {}, "of another mesh": other} {
		m := newMesh(t, func(prove.Proof, *tenancy.Model, []xds.Part, []*authz.Table) (prove.Proof, *prove.Counterexample) {
			return proof, nil
		})
		widen(t, m, globexOrders)
		if e := m.Reload(t.Context()); e.Published || e.Err == nil || m.Current() != nil {
			t.Errorf("%s: published %v, error %v", name, e.Published, e.Err)
		}
	}
}

func TestTroubleOutsideTheDocuments(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	var missing string
	partial := func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		all := tenancytest.Bundles(t, domains...).All()
		kept := slices.DeleteFunc(all, func(b identity.Bundle) bool { return b.TrustDomain().String() == missing })
		b, err := identity.NewBundles(kept...)
		if missing != "" {
			err = errors.New("disk full")
		}
		return b, err
	}
	p := pipeline.New(pipeline.Config{Source: s, Recorder: newEvents(), Bundles: partial})
	m := mesh{Pipeline: p, t: t, shelf: s}
	expect(t, m, outcome{published: true})
	before := m.everything()

	s.fail(errors.New("away"))
	if e := m.Reload(t.Context()); e.Err == nil || e.Published || len(e.Problems) > 0 {
		t.Errorf("got %+v", e)
	}
	s.fail(nil)
	if diff := cmp.Diff(before, m.everything()); diff != "" {
		t.Errorf("trouble changed what is served:\n%s", diff)
	}
	// A root that cannot be read for a while cuts nobody off, and stops nobody else's change.
	missing = "globex.demo.test"
	widen(t, m, acmeOrders)
	if e := m.Reload(t.Context()); e.Err == nil || !e.Published || len(e.Problems) > 0 {
		t.Errorf("got %+v", e)
	}
	after := m.everything()
	if after["acme/orders"] == before["acme/orders"] || after["globex/orders"] != before["globex/orders"] {
		t.Errorf("before %v, after %v", before, after)
	}
	missing = ""
	expect(t, m, outcome{})
}

// TestALostRootCostsItsTenantOnly: at a first start there is nothing to keep, so a tenant without roots gets nothing, and
// the others get theirs.
func TestALostRootCostsItsTenantOnly(t *testing.T) {
	t.Parallel()
	lost := errors.New("root of globex is corrupt")
	partial := func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		kept := slices.DeleteFunc(tenancytest.Bundles(t, domains...).All(), func(b identity.Bundle) bool { return b.TrustDomain().String() == "globex.demo.test" })
		b, err := identity.NewBundles(kept...)
		return b, errors.Join(lost, err)
	}
	files := newShelf(tenancytest.TwoTenantsFiles(t))
	files.put("platform/more.yaml", `kind: Grant
metadata: {name: globex-billing}
spec: {tenant: globex, service: billing, to: {methods: [GET], paths: [/invoices]}, notAfter: "2036-01-01T00:00:00Z"}
`)
	m := mesh{Pipeline: pipeline.New(pipeline.Config{Source: files, Recorder: newEvents(), Bundles: partial}), t: t, shelf: files}
	e := m.Reload(t.Context())
	if !errors.Is(e.Err, lost) || !e.Published || !slices.Equal(e.Dropped, []string{"globex"}) || !slices.Equal(owners(e.Problems), []string{"globex"}) {
		t.Errorf("got %+v", e)
	}
	if m.served("acme", "orders") == "" || m.served("platform", "billing") == "" || m.served("globex", "orders") != "" {
		t.Errorf("served: %v", m.everything())
	}
}

func TestRunFollowsTheSource(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	recorded := newEvents()
	p := pipeline.New(pipeline.Config{Source: s, Bundles: bundles(t), Recorder: recorded})
	changed, stop := p.Subscribe()
	defer stop()
	_, never := p.Subscribe()
	never()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	await := func(number uint64) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for p.Current().Number() < number {
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("still generation %d", p.Current().Number())
			}
		}
	}
	await(1)
	s.edit(t, globexOrders, "[GET]", "[GET, HEAD]")
	await(2)
	cancel()
	<-done
	if e := <-recorded.all; !e.Published || e.Generation.Number() != 1 {
		t.Errorf("recorded %+v", e)
	}
	if last, ok := p.Last(); !ok || last.Generation.Number() != 2 {
		t.Errorf("last %+v", last)
	}
}

// Whatever the order of edits, and however often somebody looks meanwhile, the end is the same.
func TestTheOrderOfEditsDoesNotMatter(t *testing.T) {
	t.Parallel()
	edits := []struct{ path, from, to string }{
		{acmeOrders, "methods: [GET]", "methods: [GET, HEAD]"},
		{acmeOrders, "name: web-reads", "name: web-looks"},
		{acmeWeb, "20182", "20192"},
		{globexOrders, "token: optional", "token: required"},
		{globexOrders, "20183", "20193"},
		{billing, "methods: [GET, POST]", "methods: [GET]"},
		{tenants, "namespaces: [acme]", "namespaces: [acme, acme-two]"},
		{"platform/token-issuers.yaml", "maxLifetime: 15m", "maxLifetime: 5m"},
	}
	straight := started(t)
	for _, e := range edits {
		straight.shelf.edit(t, e.path, e.from, e.to)
	}
	expect(t, straight, outcome{published: true})
	want := straight.everything()
	rapid.Check(t, func(r *rapid.T) {
		m := newMesh(t, nil)
		for _, n := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6, 7}).Draw(r, "order") {
			e := edits[n]
			switch rapid.IntRange(0, 5).Draw(r, "meanwhile") {
			case 0:
				m.Reload(t.Context())
			case 1:
				spoil(t, m, e.path)
				m.Reload(t.Context())
				repair(t, m, e.path)
			}
			m.shelf.edit(t, e.path, e.from, e.to)
		}
		m.Reload(t.Context())
		if diff := cmp.Diff(want, m.everything()); diff != "" {
			r.Errorf("what is served depends on the order (-want +got):\n%s", diff)
		}
	})
}

// TestAWorkloadIsMetAgainWhenItsRevocationEnds: nothing of the documents changes.
func TestAWorkloadIsMetAgainWhenItsRevocationEnds(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["tenants/acme/revoked.yaml"] = fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: x}\n"+
		"spec: {workload: \"spiffe://acme.demo.test/ns/acme/sa/orders\", reason: lost, notAfter: %q}\n",
		time.Now().Add(3*time.Second).UTC().Format(time.RFC3339))
	p := pipeline.New(pipeline.Config{Source: newShelf(files), Bundles: bundles(t), Recorder: newEvents()})
	published, stop := p.Subscribe()
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for _, want := range []int{0, 1} {
		select {
		case <-published:
		case <-ctx.Done():
			t.Fatal("nothing is published")
		}
		m := p.Current().Model()
		acme, err := m.Mapping().TenantID("acme")
		if err != nil {
			t.Fatal(err)
		}
		handle, _ := m.Tenant(acme)
		if s, ok := handle.Service("orders"); !ok || len(s.Servers()) != want {
			t.Fatalf("%d accounts may be met, not %d", len(s.Servers()), want)
		}
	}
}
