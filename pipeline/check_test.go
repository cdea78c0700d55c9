package pipeline_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	r, err := pipeline.Check(t.Context(), s, bundles(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Tests) != 2 {
		t.Errorf("%d policy tests", len(r.Tests))
	}
	r.Tests = nil
	want := pipeline.Report{Files: 12, Tenants: 2, Services: 5, Workloads: 5}
	if diff := cmp.Diff(want, r); diff != "" || !r.Clean() {
		t.Errorf("report (-want +got):\n%s", diff)
	}

	m := mesh{t: t, shelf: s}
	spoil(t, m, acmeWeb)
	s.edit(t, globexOrders, "services: [web]", "services: [nobody]")
	s.edit(t, billing, "tenant: acme", "tenant: initech")
	s.put("stray.yaml", "kind: Service")
	r, err = pipeline.Check(t.Context(), s, bundles(t), nil)
	if err != nil || r.Clean() {
		t.Fatalf("clean, %v", err)
	}
	if diff := cmp.Diff([]string{"", "acme", "globex", "platform"}, owners(r.Problems)); diff != "" {
		t.Errorf("owners (-want +got):\n%s%v", diff, r.Problems)
	}
	seen := map[string]bool{}
	for _, p := range r.Problems {
		if seen[p.String()] {
			t.Errorf("told twice: %s", p)
		}
		seen[p.String()] = true
	}
}

// brokenTests are policy tests that nobody can run, and other things in their place.
func brokenTests() map[string]string {
	const test = "kind: AccessTest\nmetadata: {name: x}\nspec: {cases: [{name: a, from: x, to: y, request: {method: GET, path: /}, expect: allow}]}\n"
	return map[string]string{
		"tests/mesh.yaml":            "kind: Mesh\nmetadata: {name: other}\nspec: {identities: [], platformTrustDomain: x}\n",
		"tests/syntax.yaml":          "kind: [",
		"tests/keys.json":            "{",
		"tests/wrong.yaml":           test,
		"tests/twice.yaml":           test,
		"tenants/acme/tests/x.yaml":  "kind: AccessPolicy\nmetadata: {name: orders}\nspec: {service: orders, rules: [{name: all, from: {}, to: {methods: [GET], paths: [/**]}}]}\n",
		"tenants/acme/tests/y.yaml":  test,
		"tenants/nobody/tests/x.yml": test,
	}
}

func TestCheckTellsProblemsOfTests(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	for path, text := range brokenTests() {
		s.put(path, text)
	}
	s.problems = []v1alpha1.Problem{v1alpha1.FileProblem("tenants/globex/tests/link.yaml", v1alpha1.CodeUnreadable, "", "cannot be read")}
	g, r, err := pipeline.Try(t.Context(), s, bundles(t), nil)
	if err != nil || g == nil || !r.Clean() {
		t.Fatalf("the rest is not accepted: %v, %v", r.Problems, err)
	}
	told := map[string]bool{}
	for _, p := range r.TestProblems {
		told[p.File] = true
	}
	want := map[string]bool{
		"tests/mesh.yaml": true, "tests/syntax.yaml": true, "tests/wrong.yaml": true, "tests/twice.yaml": true, "tenants/acme/tests/x.yaml": true,
		"tenants/acme/tests/y.yaml": true, "tenants/nobody/tests/x.yml": true, "tenants/globex/tests/link.yaml": true,
	}
	if diff := cmp.Diff(want, told); diff != "" || len(r.Tests) != 2 {
		t.Errorf("%d tests can be run, problems of (-want +got):\n%s", len(r.Tests), diff)
	}

	// Where the rest has problems, it still says what is wrong with each test alone.
	s.put("mesh.yaml", "")
	if g, r, err = pipeline.Try(t.Context(), s, bundles(t), nil); err != nil || g != nil || len(r.TestProblems) == 0 || len(r.Tests) > 0 {
		t.Errorf("%d problems of tests, %v", len(r.TestProblems), err)
	}
}

// TestTestsChangeNothing puts policy tests, and worse, beside documents that are served: nothing comes of them, whether
// they are good or broken, there or gone.
func TestTestsChangeNothing(t *testing.T) {
	t.Parallel()
	m, book := kept(t)
	before, number := m.everything(), m.Current().Number()
	m.shelf.mu.Lock()
	m.shelf.problems = []v1alpha1.Problem{
		v1alpha1.FileProblem("tenants/globex/tests/link.yaml", v1alpha1.CodeUnreadable, "", "cannot be read"),
		v1alpha1.FileProblem("tests", v1alpha1.CodeUnreadable, "", "cannot be read"),
	}
	m.shelf.mu.Unlock()
	unchanged := func(what string) {
		t.Helper()
		e := m.Reload(t.Context())
		if e.Published || len(e.Problems)+len(e.Stale)+len(e.Dropped) > 0 || e.Err != nil || e.Forgot != nil || m.Current().Number() != number {
			t.Errorf("%s: %+v", what, e)
		}
		if diff := cmp.Diff(before, m.everything()); diff != "" {
			t.Errorf("%s: what is served changed:\n%s", what, diff)
		}
	}
	for path, text := range brokenTests() {
		m.shelf.put(path, text)
	}
	unchanged("broken tests")
	for path := range brokenTests() {
		m.shelf.remove(path)
	}
	m.shelf.remove("tests/orders.yaml")
	unchanged("fewer tests")
	files, err := book.Accepted()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if v1alpha1.IsTest(f.Path) {
			t.Errorf("%s is remembered as accepted", f.Path)
		}
	}
	m.shelf.put("tenants/acme/tests/x.yaml", "kind: [")
	if e := restarted(m, book).Reload(t.Context()); !e.Published || len(e.Problems) > 0 {
		t.Errorf("after a restart: %+v", e)
	}
}

func TestCheckCannotLook(t *testing.T) {
	t.Parallel()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	trouble := errors.New("trouble")
	none := func(...identity.TrustDomain) (identity.Bundles, error) { return identity.Bundles{}, trouble }
	if _, err := pipeline.Check(t.Context(), s, none, nil); !errors.Is(err, trouble) {
		t.Errorf("bundles: %v", err)
	}
	s.fail(trouble)
	if _, err := pipeline.Check(t.Context(), s, bundles(t), nil); !errors.Is(err, trouble) {
		t.Errorf("source: %v", err)
	}
}
