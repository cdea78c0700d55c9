package whatif_test

import (
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/whatif"
	"github.com/ringfence-mesh/ringfence/source"
)

var present = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func every(whatif.Case) bool { return true }

func runTests(t *testing.T, dir string, chosen func(whatif.Case) bool) *whatif.TestRun {
	t.Helper()
	run, report, err := whatif.RunTests(t.Context(), source.NewDirectory(dir, zap.NewNop()), present, chosen)
	if err != nil || run == nil {
		t.Fatalf("%v, %v, %v", report.Problems, report.TestProblems, err)
	}
	return run
}

func example(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func edit(t *testing.T, dir, path, from, to string) {
	t.Helper()
	path = filepath.Join(dir, path)
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), from) {
		t.Fatalf("%v, or no %q in it", err, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestExampleTests runs the policy tests of the example: all pass, every rule and Grant is reached, and every reason is
// provoked that can be there.
func TestExampleTests(t *testing.T) {
	t.Parallel()
	run := runTests(t, example(t), every)
	provoked := map[string]bool{}
	for _, r := range run.Results {
		if !r.Passed() {
			t.Errorf("%s: %s", r.FullName(), r.Explanation.Decision.Reason())
		}
		provoked[r.Explanation.Decision.Reason().String()] = true
	}
	if got := run.Coverage.Percent(); got != "100.0" || len(run.Coverage) != 4 {
		t.Errorf("%s %% of %d rules: %+v", got, len(run.Coverage), run.Coverage)
	}
	for _, reason := range v1alpha1.Denials() {
		switch reason {
		case authz.TokenTenantMismatch.String(), authz.StepUpRequired.String(), authz.Revoked.String():
			// They take an issuer that speaks of two tenants of whom both may call, a class of data, and somebody who is
			// revoked: the example has none.
		default:
			if !provoked[reason] {
				t.Errorf("no test of the example provokes %s", reason)
			}
		}
	}
}

// TestSensitivityTests runs those of the example of step-up authentication.
func TestSensitivityTests(t *testing.T) {
	t.Parallel()
	run := runTests(t, "../../examples/sensitivity", every)
	provoked := false
	for _, r := range run.Results {
		if !r.Passed() {
			t.Errorf("%s: %s", r.FullName(), r.Explanation.Decision.Reason())
		}
		provoked = provoked || r.Explanation.Decision.Reason() == authz.StepUpRequired
	}
	if !provoked || run.Coverage.Percent() != "100.0" {
		t.Errorf("%d results, %s %% of the rules", len(run.Results), run.Coverage.Percent())
	}
}

// TestIngressTests runs those of the example of an ingress: a rule that names only askers can be covered.
func TestIngressTests(t *testing.T) {
	t.Parallel()
	run := runTests(t, "../../examples/ingress/ringfence", every)
	for _, r := range run.Results {
		if !r.Passed() {
			t.Errorf("%s: %s", r.FullName(), r.Explanation.Decision.Reason())
		}
	}
	if got := run.Coverage.Percent(); len(run.Results) != 7 || len(run.Coverage) != 3 || got != "100.0" {
		t.Errorf("%d results, %s %% of %d rules", len(run.Results), got, len(run.Coverage))
	}
}

// TestDenials compares what a test can expect with what the decision point says.
func TestDenials(t *testing.T) {
	t.Parallel()
	var want []string
	for _, r := range authz.Reasons() {
		switch r {
		case authz.Allowed, authz.NotReady, authz.ExpiredIdentity: // no refusal, or none of a mesh that is there and a certificate that is valid
		default:
			want = append(want, r.String())
		}
	}
	if diff := cmp.Diff(want, v1alpha1.Denials()); diff != "" {
		t.Errorf("(-the decision point's +the test's):\n%s", diff)
	}
}

// TestRunTests spoils single cases and documents.
func TestRunTests(t *testing.T) {
	t.Parallel()
	dir := example(t)
	edit(t, dir, "tests/orders.yaml", "expect: allow", "expect: {deny: no_rule}")
	edit(t, dir, "tests/orders.yaml", "      token: acme-manager\n      expect: allow", "      token: acme-manager\n      todo: true\n      expect: {deny: no_rule}")
	edit(t, dir, "tests/orders.yaml", "expect: {deny: token_missing}", "expect: {deny: token_invalid}")
	var failed, todo []string
	run := runTests(t, dir, every)
	for _, r := range run.Results {
		switch {
		case r.Todo.Value:
			todo = append(todo, r.Name.Value)
		case !r.Passed():
			failed = append(failed, r.FullName())
		}
	}
	if diff := cmp.Diff([]string{"orders/a clerk reads an order", "orders/nobody reads an order without a token"}, failed); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	if !slices.Equal(todo, []string{"a manager places an order"}) {
		t.Errorf("to do: %v", todo)
	}
	var missing []string
	for _, r := range run.Coverage {
		if !r.Reached {
			missing = append(missing, r.Owner+" "+r.Name+" "+r.Position)
		}
	}
	if diff := cmp.Diff([]string{"acme orders/managers-order tenants/acme/orders.yaml:22:7"}, missing); diff != "" || run.Coverage.Percent() != "75.0" {
		t.Errorf("%s %%, missing (-want +got):\n%s", run.Coverage.Percent(), diff)
	}

	one := runTests(t, dir, func(c whatif.Case) bool { return c.Test == "billing" && strings.HasPrefix(c.Name.Value, "acme") })
	if len(one.Results) != 1 || one.Coverage.Reached() != 1 || !one.Coverage[slices.IndexFunc(one.Coverage, func(r whatif.Rule) bool { return r.Grant })].Reached {
		t.Errorf("chosen: %d results, %+v", len(one.Results), one.Coverage)
	}

	// A rule that an earlier one hides is reached by nothing.
	edit(t, dir, "tenants/acme/orders.yaml", "    - name: managers-order", "    - name: hidden\n      from: {services: [web], roles: [clerk]}\n      to: {methods: [GET], paths: [/orders]}\n    - name: managers-order")
	if hidden := runTests(t, dir, every).Coverage; hidden.Reached() != 3 || len(hidden) != 5 {
		t.Errorf("%d of %d with a hidden rule", hidden.Reached(), len(hidden))
	}

	edit(t, dir, "tests/billing.yaml", "expect: allow", "expect: alow")
	run, report, err := whatif.RunTests(t.Context(), source.NewDirectory(dir, zap.NewNop()), present, every)
	if run != nil || err != nil || len(report.TestProblems) != 1 || !report.Clean() {
		t.Errorf("a broken test: %v, %v", report.TestProblems, err)
	}
	edit(t, dir, "mesh.yaml", "kind: Mesh", "kind: Mesch")
	if run, report, err = whatif.RunTests(t.Context(), source.NewDirectory(dir, zap.NewNop()), present, every); run != nil || err != nil || report.Clean() {
		t.Errorf("a broken mesh: %v", err)
	}
	if _, _, err = whatif.RunTests(t.Context(), source.NewDirectory(filepath.Join(dir, "none"), zap.NewNop()), present, every); err == nil {
		t.Error("no directory, and no error")
	}
}

// TestATestsTime gives a document a time, and a case another.
func TestATestsTime(t *testing.T) {
	t.Parallel()
	dir := example(t)
	edit(t, dir, "tests/billing.yaml", "spec:\n", "spec:\n  at: \"2036-01-01T00:00:00Z\"\n")
	var got []string
	for _, r := range runTests(t, dir, func(c whatif.Case) bool { return c.Test == "billing" }).Results {
		got = append(got, r.Explanation.Decision.Reason().String())
	}
	if diff := cmp.Diff([]string{"allowed", "grant_expired", "no_rule", "grant_missing"}, got); diff != "" {
		t.Error(diff)
	}
	edit(t, dir, "tests/billing.yaml", "      at: \"2035-12-31T23:59:59Z\"\n", "")
	if r := runTests(t, dir, every).Results[0]; r.Explanation.Decision.Reason() != authz.GrantExpired || r.Passed() {
		t.Errorf("at the document's time: %s", r.Explanation.Decision.Reason())
	}
}

// TestAnyCallerCanBeAskedAbout asks about callers that no SVID is issued to in earnest: no owner's test may keep the others
// from being run.
func TestAnyCallerCanBeAskedAbout(t *testing.T) {
	t.Parallel()
	w := open(t, example(t), present)
	for to, want := range map[string]authz.Reason{"acme/orders": authz.CrossTenant, "platform/billing": authz.NoRule} {
		e, err := w.Explain(whatif.Call{From: "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane", To: to})
		if err != nil || e.Decision.Reason() != want {
			t.Errorf("%s: %s, %v", to, e.Decision.Reason(), err)
		}
	}
}

// TestManyCallers asks about more callers of one moment than an issuer serves in one.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	w := open(t, example(t), present)
	for n := range 450 {
		from := fmt.Sprintf("spiffe://acme.demo.test/ns/acme/sa/web-%d", n)
		e, err := w.Explain(whatif.Call{From: from, To: "acme/orders", Method: "GET", Path: "/orders"})
		if err != nil || e.Decision.Reason() != authz.TokenMissing {
			t.Fatalf("caller %d: %s, %v", n, e.Decision.Reason(), err)
		}
	}
}

// TestCoverageNeverRoundsUp tries every share of some totals, and compares with the definition.
func TestCoverageNeverRoundsUp(t *testing.T) {
	t.Parallel()
	for _, total := range []int{1, 2, 3, 7, 999, 1000, 1001, 10_001} {
		for _, reached := range []int{0, 1, total / 3, total / 2, total - 1, total} {
			c := make(whatif.Coverage, total)
			for i := range min(reached, total) {
				c[i].Reached = true
			}
			said, ok := new(big.Rat).SetString(c.Percent())
			exact := big.NewRat(int64(c.Reached())*100, int64(total))
			if !ok || said.Cmp(exact) > 0 || new(big.Rat).Sub(exact, said).Cmp(big.NewRat(1, 10)) >= 0 {
				t.Errorf("%d of %d is %s %%", c.Reached(), total, c.Percent())
			}
			if whole := c.Reached() == total; (c.Percent() == "100.0") != whole || c.AtLeast(big.NewRat(100, 1)) != whole {
				t.Errorf("%d of %d passes for all", c.Reached(), total)
			}
			above := new(big.Rat).Add(exact, big.NewRat(1, 1_000_000))
			if !c.AtLeast(exact) || c.AtLeast(above) {
				t.Errorf("%d of %d is compared with %s and %s", c.Reached(), total, exact, above)
			}
		}
	}
	if c := whatif.Coverage(nil); c.Percent() != "100.0" || !c.AtLeast(big.NewRat(100, 1)) {
		t.Errorf("of nothing, %s %% is reached", c.Percent())
	}
}
