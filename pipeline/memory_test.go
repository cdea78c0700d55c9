package pipeline_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
)

const squatter = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: extra}
spec:
  namespace: globex
  serviceAccounts: [extra]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20299}]
  endpoints: [{address: 127.0.0.1, port: 20081}]
`

// notebook is a memory in memory.
type notebook struct {
	mu    sync.Mutex
	files []v1alpha1.File
	times int
	err   error
}

var _ pipeline.Memory = (*notebook)(nil)

func (n *notebook) Accepted() ([]v1alpha1.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.files, n.err
}

func (n *notebook) Keep(files []v1alpha1.File) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.times++
	if n.err == nil {
		n.files = files
	}
	return n.err
}

func (n *notebook) holds(path, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.files, func(f v1alpha1.File) bool { return f.Path == path && strings.Contains(string(f.Data), text) })
}

// remembering is a mesh with a memory; restarted is the next process over the same source and memory.
func remembering(t testing.TB, s *shelf, n *notebook) mesh {
	t.Helper()
	p := pipeline.New(pipeline.Config{Source: s, Bundles: bundles(t), Recorder: newEvents(), Memory: n})
	return mesh{Pipeline: p, t: t, shelf: s}
}

func restarted(m mesh, n *notebook) mesh { return remembering(m.t, m.shelf, n) }

// kept is a mesh whose example is published and kept.
func kept(t testing.TB) (mesh, *notebook) {
	t.Helper()
	n := &notebook{}
	m := remembering(t, newShelf(tenancytest.TwoTenantsFiles(t)), n)
	if e := expect(t, m, outcome{published: true}); e.Forgot != nil || n.times != 1 {
		t.Fatalf("kept %d times, %v", n.times, e.Forgot)
	}
	return m, n
}

func TestARestartWithABrokenTenant(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	before := m.everything()
	widen(t, m, acmeOrders)
	spoil(t, m, acmeOrders)
	m = restarted(m, n)
	widen(t, m, globexOrders)
	if e := expect(t, m, outcome{published: true, blamed: []string{"acme"}, stale: []string{"acme"}}); e.Forgot != nil {
		t.Error(e.Forgot)
	}
	after := m.everything()
	if before["acme/orders"] != after["acme/orders"] || before["acme/web"] != after["acme/web"] {
		t.Error("acme does not stay")
	}
	if before["globex/orders"] == after["globex/orders"] {
		t.Error("globex does not move on")
	}
	// What is kept is what counts: acme's old documents and globex's new ones. So it is after any number of restarts.
	if n.holds(acmeOrders, "/more") || n.holds(acmeOrders, "mehtods") || !n.holds(globexOrders, "/more") {
		t.Error("other documents are kept than count")
	}
	times := n.times
	spoil(t, m, globexOrders)
	m = restarted(m, n)
	both := []string{"acme", "globex"}
	expect(t, m, outcome{published: true, blamed: both, stale: both})
	if diff := cmp.Diff(after, m.everything()); diff != "" {
		t.Errorf("a restart changed what is served:\n%s", diff)
	}
	if n.times != times {
		t.Error("the same was kept again")
	}
	repair(t, m, acmeOrders)
	repair(t, m, globexOrders)
	expect(t, m, outcome{published: true})
	if m.served("acme", "orders") == before["acme/orders"] {
		t.Error("acme's repaired documents do not count")
	}
}

func TestARestartWithABrokenPlatform(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	before := m.everything()
	m.shelf.remove("mesh.yaml")
	spoil(t, m, billing)
	m = restarted(m, n)
	expect(t, m, outcome{published: true, blamed: []string{"platform"}, stale: []string{"platform"}})
	if diff := cmp.Diff(before, m.everything()); diff != "" {
		t.Errorf("a restart changed what is served:\n%s", diff)
	}
}

func TestWhoHoldsAnAddressKeepsItOverARestart(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	before := m.everything()
	m.shelf.put("tenants/globex/extra.yaml", squatter)
	for range 2 {
		m = restarted(m, n)
		expect(t, m, outcome{published: true, blamed: []string{"globex"}, stale: []string{"globex"}})
		if diff := cmp.Diff(before, m.everything()); diff != "" {
			t.Errorf("a squatter changed what is served:\n%s", diff)
		}
	}
}

func TestWhatIsKeptWithoutAChangeToServe(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	m.shelf.edit(t, "tenants/globex/web.yaml", "apiVersion:", "# a remark\napiVersion:")
	expect(t, m, outcome{})
	if !n.holds("tenants/globex/web.yaml", "# a remark") {
		t.Error("what was accepted is not kept")
	}
	m.shelf.put("platform/acme-jwks.json", "{}")
	m = restarted(m, n)
	expect(t, m, outcome{published: true, blamed: []string{"platform"}, stale: []string{"platform"}})
	if m.served("acme", "orders") == "" {
		t.Error("key sets are not kept")
	}
}

func TestAMemoryThatFails(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	n.err = errors.New("the checksum is wrong")
	spoil(t, m, acmeOrders)
	m = restarted(m, n)
	e := expect(t, m, outcome{published: true, blamed: []string{"acme"}, dropped: []string{"acme"}})
	if !errors.Is(e.Forgot, n.err) {
		t.Errorf("forgot: %v", e.Forgot)
	}
	if last, _ := m.Last(); !errors.Is(last.Forgot, n.err) {
		t.Errorf("last: %v", last.Forgot)
	}
	if m.served("acme", "orders") != "" || m.served("globex", "orders") == "" {
		t.Error("acme must get nothing, globex its own")
	}
	var lines bytes.Buffer
	pipeline.NewLog(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&lines), zapcore.InfoLevel))).Reloaded(e)
	if !strings.Contains(lines.String(), "the checksum is wrong") {
		t.Errorf("the log does not say why:\n%s", lines.String())
	}

	// Keeping is tried again until it is done.
	if e := expect(t, m, outcome{blamed: []string{"acme"}, dropped: []string{"acme"}}); e.Forgot == nil {
		t.Error("nothing is told")
	}
	n.err = nil
	if e := expect(t, m, outcome{blamed: []string{"acme"}, dropped: []string{"acme"}}); e.Forgot != nil {
		t.Error(e.Forgot)
	}
	if n.holds(acmeOrders, "") || !n.holds(globexOrders, "") {
		t.Error("what counts is not kept")
	}
}

// A memory that failed may hold nothing any more, also where what it held counts again.
func TestWhatFailedIsKeptAgain(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	n.err = errors.New("disk full")
	widen(t, m, globexOrders)
	if e := expect(t, m, outcome{published: true}); !errors.Is(e.Forgot, n.err) {
		t.Errorf("forgot: %v", e.Forgot)
	}
	n.err, n.files = nil, nil
	m.shelf.put(globexOrders, tenancytest.TwoTenantsFiles(t)[globexOrders])
	if e := expect(t, m, outcome{published: true}); e.Forgot != nil || !n.holds(globexOrders, "") {
		t.Errorf("nothing is kept: %v", e.Forgot)
	}
}

// A file of an older version's documents, say, costs its owner's memory and nobody else's.
func TestAMemoryThatIsNoLongerUnderstood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ path, from, to string }{
		"cannot be read":  {acmeOrders, "spec:", "spek:"},
		"is no text":      {acmeOrders, "apiVersion:", "\xff"},
		"cannot be built": {acmeOrders, "services: [web]", "services: [nobody]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, n := kept(t)
			for i, f := range n.files {
				if f.Path == c.path {
					n.files[i].Data = []byte(strings.Replace(string(f.Data), c.from, c.to, 1))
				}
			}
			spoil(t, m, acmeOrders)
			spoil(t, m, globexOrders)
			m = restarted(m, n)
			e := expect(t, m, outcome{
				published: true, blamed: []string{"acme", "globex"}, stale: []string{"globex"}, dropped: []string{"acme"},
			})
			if e.Forgot == nil || !strings.Contains(e.Forgot.Error(), "acme") || strings.Contains(e.Forgot.Error(), "globex") {
				t.Errorf("forgot: %v", e.Forgot)
			}
			if m.served("acme", "web") != "" || m.served("globex", "orders") == "" {
				t.Error("acme must get nothing, not a part; globex its own")
			}
		})
	}
}

func TestWhatWasRemovedIsNotRemembered(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(testing.TB, mesh) outcome{
		"by the tenant": func(_ testing.TB, m mesh) outcome {
			m.shelf.remove(globexOrders)
			m.shelf.remove("tenants/globex/web.yaml")
			return outcome{published: true}
		},
		"by the platform": func(t testing.TB, m mesh) outcome {
			m.shelf.edit(t, tenants, "metadata: {name: globex}", "metadata: {name: initech}")
			m.shelf.edit(t, tenants, "namespaces: [globex]", "namespaces: [initech]")
			m.shelf.edit(t, "platform/token-issuers.yaml", "tenants: [globex]", "tenants: [initech]")
			return outcome{published: true, blamed: []string{"globex"}, dropped: []string{"globex"}}
		},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m, n := kept(t)
				want := remove(t, m)
				if broken && name == "by the platform" {
					spoil(t, m, globexOrders)
				}
				m = restarted(m, n)
				expect(t, m, want)
				if m.served("globex", "web") != "" || n.holds(globexOrders, "") {
					t.Error("globex came back")
				}
				// Nor later: its declaration comes back, its documents are broken.
				if name == "by the platform" && broken {
					m.shelf.put(tenants, tenancytest.TwoTenantsFiles(t)[tenants])
					m.shelf.put("platform/token-issuers.yaml", tenancytest.TwoTenantsFiles(t)["platform/token-issuers.yaml"])
					m = restarted(m, n)
					expect(t, m, outcome{published: true, blamed: []string{"globex"}, dropped: []string{"globex"}})
				}
			})
		}
	}
}

// A problem that falls on an owner without files brings nothing back either.
func TestALostRootBringsNothingBack(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	m.shelf.remove(globexOrders)
	m.shelf.remove("tenants/globex/web.yaml")
	lost := errors.New("root of globex is corrupt")
	p := pipeline.New(pipeline.Config{Source: m.shelf, Recorder: newEvents(), Memory: n, Bundles: without(t, "globex.demo.test", &lost)})
	m = mesh{Pipeline: p, t: t, shelf: m.shelf}
	if e := m.Reload(t.Context()); !e.Published || n.holds(globexOrders, "") {
		t.Errorf("published %v, and globex is still kept: %v", e.Published, e.Forgot)
	}
	lost = nil
	m.Reload(t.Context())
	if m.Current() == nil || m.served("globex", "web") != "" || n.holds(globexOrders, "") {
		t.Error("globex came back")
	}
}

// without are bundles of which one is missing while there is an error.
func without(t testing.TB, td string, lost *error) pipeline.Bundles {
	return func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		all := tenancytest.Bundles(t, domains...)
		if *lost == nil {
			return all, nil
		}
		left := slices.DeleteFunc(all.All(), func(b identity.Bundle) bool { return b.TrustDomain().String() == td })
		b, err := identity.NewBundles(left...)
		return b, errors.Join(*lost, err)
	}
}

// A root that cannot be read at the start costs its tenant only until it is back, and costs no documents.
func TestARootIsLostAtTheRestart(t *testing.T) {
	t.Parallel()
	for _, td := range []string{"acme.demo.test", "platform.demo.test"} {
		t.Run(td, func(t *testing.T) {
			t.Parallel()
			m, n := kept(t)
			before := m.everything()
			spoil(t, m, acmeOrders)
			lost := errors.New("disk away")
			p := pipeline.New(pipeline.Config{Source: m.shelf, Recorder: newEvents(), Memory: n, Bundles: without(t, td, &lost)})
			m = mesh{Pipeline: p, t: t, shelf: m.shelf}
			if e := m.Reload(t.Context()); !errors.Is(e.Err, lost) || !n.holds(acmeOrders, "") {
				t.Errorf("error %v, forgot %v", e.Err, e.Forgot)
			}
			lost = nil
			expect(t, m, outcome{published: true, blamed: []string{"acme"}, stale: []string{"acme"}})
			if diff := cmp.Diff(before, m.everything()); diff != "" {
				t.Errorf("the restart changed what is served:\n%s", diff)
			}
		})
	}
}

func TestAMemoryOfAnotherMesh(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] = strings.NewReplacer("{tenant}.demo.test", "{tenant}.other.test", "platform.demo.test", "platform.other.test").Replace(files["mesh.yaml"])
	n := &notebook{}
	expect(t, remembering(t, newShelf(files), n), outcome{published: true})

	m := remembering(t, newShelf(tenancytest.TwoTenantsFiles(t)), n)
	plain := started(t)
	expect(t, m, outcome{published: true})
	if diff := cmp.Diff(plain.everything(), m.everything()); diff != "" {
		t.Errorf("another mesh's memory changes what is served:\n%s", diff)
	}
	// Who held an address in another mesh was somebody else.
	m = remembering(t, newShelf(tenancytest.TwoTenantsFiles(t)), n)
	n.files = slices.DeleteFunc(raw(t, files), func(f v1alpha1.File) bool { return f.Path == acmeOrders })
	n.files = append(n.files, v1alpha1.File{Path: "tenants/globex/extra.yaml", Data: []byte(squatter)})
	m.shelf.put("tenants/globex/extra.yaml", squatter)
	e := m.Reload(t.Context())
	if !slices.Equal(owners(e.Problems), []string{"acme", "globex"}) {
		t.Errorf("blamed: %v", e.Problems)
	}
}

func raw(t testing.TB, files map[string]string) []v1alpha1.File {
	t.Helper()
	loaded, _, _, err := newShelf(files).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestNothingIsPublishedFromMemoryAlone(t *testing.T) {
	t.Parallel()
	m, n := kept(t)
	m.shelf.fail(errors.New("away"))
	m = restarted(m, n)
	if e := m.Reload(t.Context()); e.Err == nil || e.Published || m.Current() != nil {
		t.Errorf("published %v, %v", e.Published, e.Err)
	}
	m.shelf.fail(nil)
	m.shelf.mu.Lock()
	m.shelf.files = map[string]string{} // not mounted yet, say
	m.shelf.mu.Unlock()
	if e := m.Reload(t.Context()); e.Published || m.Current() != nil || !n.holds(acmeOrders, "") {
		t.Errorf("published %v, %v", e.Published, e.Err)
	}
	// What is remembered is proved like everything else.
	files := newShelf(tenancytest.TwoTenantsFiles(t))
	m = mesh{t: t, shelf: files, Pipeline: pipeline.New(pipeline.Config{
		Source: files, Bundles: bundles(t), Recorder: newEvents(), Memory: n,
		Prover: func(prove.Proof, *tenancy.Model, []xds.Part, []*authz.Table) (prove.Proof, *prove.Counterexample) {
			return prove.Proof{}, &prove.Counterexample{}
		},
	})}
	spoil(t, m, acmeOrders)
	if e := m.Reload(t.Context()); e.Counterexample == nil || e.Published || m.Current() != nil || !n.holds(acmeOrders, "") {
		t.Errorf("published %v", e.Published)
	}
}
