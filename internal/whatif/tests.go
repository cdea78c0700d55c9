package whatif

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// Case is a case of an AccessTest.
type Case struct {
	v1alpha1.TestCase

	// Test is the document's name.
	Test string
	Call Call
	// When is the time that the documents give the call; zero where they give none.
	When time.Time
}

// FullName is how --run knows the case: the document's name and its own.
func (c Case) FullName() string { return c.Test + "/" + c.Name.Value }

// Expected is the reason that the case expects.
func (c Case) Expected() string {
	if c.Expect.Allow {
		return authz.Allowed.String()
	}
	return c.Expect.Deny.Value
}

// Cases are those of the tests, in their order.
func Cases(tests []*v1alpha1.AccessTest) []Case {
	var all []Case
	for _, t := range tests {
		tokens := map[string]map[string]any{}
		for _, token := range t.Spec.Tokens {
			tokens[token.Name.Value] = token.Claims.Values
		}
		for _, tc := range t.Spec.Cases {
			c := Case{Test: t.Metadata.Name.Value, TestCase: tc, When: t.Spec.At.Value}
			if tc.At.IsSet() {
				c.When = tc.At.Value
			}
			c.Call = Call{
				From: tc.From.Value, Asker: tc.Asker.Value, To: tc.To.Value, Method: tc.Request.Method.Value, Path: tc.Request.Path.Value,
			}
			switch {
			case tc.Token.Name.IsSet():
				c.Call.Token = tokens[tc.Token.Name.Value]
			case tc.Token.IsSet():
				c.Call.Token = tc.Token.Claims.Values
			}
			all = append(all, c)
		}
	}
	return all
}

// Result is what came of a case.
type Result struct {
	Case

	Explanation authz.Explanation
}

// Passed reports whether the call was decided as the case expects. A case that did not run has not: its Decision is the
// zero one, whose reason no case expects.
func (r Result) Passed() bool { return r.Explanation.Decision.Reason().String() == r.Expected() }

// Rule is a rule of an AccessPolicy, as "policy/rule", or a Grant.
type Rule struct {
	Owner, Name string
	Grant       bool
	Position    string // file:line:col
	// Reached says that a case was allowed by it.
	Reached bool
}

// Coverage says which rules and Grants the cases that ran have reached.
type Coverage []Rule

// Reached counts the rules that a case was allowed by.
func (c Coverage) Reached() int {
	n := 0
	for _, r := range c {
		if r.Reached {
			n++
		}
	}
	return n
}

// Percent is the share that is reached, with one digit behind the point, always rounded down: it is 100.0 only where
// nothing is missing. Where there is nothing to reach, nothing is missing.
func (c Coverage) Percent() string {
	const whole = 1000
	share := whole
	if len(c) > 0 {
		share = c.Reached() * whole / len(c)
	}
	return fmt.Sprintf("%d.%d", share/10, share%10)
}

// AtLeast reports whether the share is no less than so many percent, without any rounding.
func (c Coverage) AtLeast(percent *big.Rat) bool {
	if len(c) == 0 {
		return true
	}
	const whole = 100
	return big.NewRat(int64(c.Reached())*whole, int64(len(c))).Cmp(percent) >= 0
}

// TestRun is what came of the policy tests of a directory.
type TestRun struct {
	Results  []Result
	Coverage Coverage
}

// RunTests runs the policy tests that are chosen, as of now where they say no time of their own. The TestRun is nil where
// the Report has problems, of the tests or of the rest.
//
// All cases of one time are asked of one World. The documents are read once.
func RunTests(ctx context.Context, s pipeline.Source, now time.Time, chosen func(Case) bool) (*TestRun, pipeline.Report, error) {
	var once fixed
	var err error
	if once.files, once.problems, once.revision, err = s.Load(ctx); err != nil {
		return nil, pipeline.Report{}, err
	}
	present, report, err := Open(ctx, once, now)
	if err != nil || present == nil || len(report.TestProblems) > 0 {
		return nil, report, err
	}
	run := &TestRun{Coverage: slices.Clone(present.rules)}
	index := map[[2]string]int{}
	for i, r := range run.Coverage {
		index[[2]string{r.Owner, r.Name}] = i
	}
	var times []time.Time
	at := map[time.Time][]int{} // the cases that run, by their place in the results
	for _, c := range Cases(report.Tests) {
		if !chosen(c) {
			continue
		}
		run.Results = append(run.Results, Result{Case: c})
		if c.Todo.Value {
			continue
		}
		when := c.When.UTC()
		if _, seen := at[when]; !seen {
			times = append(times, when)
		}
		at[when] = append(at[when], len(run.Results)-1)
	}
	for _, when := range times { // one World at a time: each holds a whole mesh
		w := present
		if !when.IsZero() {
			if w, _, err = Open(ctx, once, when); err != nil {
				return nil, report, err
			}
			if w == nil {
				return nil, report, fmt.Errorf("%w: %s", errNoMesh, when.Format(time.RFC3339))
			}
		}
		for _, n := range at[when] {
			r := &run.Results[n]
			if r.Explanation, err = w.Explain(r.Call); err != nil {
				return nil, report, fmt.Errorf("%s: %w", r.Pos, err)
			}
			if i, reached := index[r.reached()]; reached {
				run.Coverage[i].Reached = true
			}
		}
	}
	return run, report, nil
}

var errNoMesh = errors.New("there is a mesh now, and none at the time of a test")

// reached is the owner and the name of the rule or Grant that allowed the call.
func (r Result) reached() [2]string {
	owner, _, _ := strings.Cut(r.Call.To, "/")
	return [2]string{owner, r.Explanation.Decision.Rule()}
}

// fixed is a source that was read already.
type fixed struct {
	files    []v1alpha1.File
	problems []v1alpha1.Problem
	revision string
}

var _ pipeline.Source = fixed{}

// Load implements pipeline.Source.
func (f fixed) Load(context.Context) ([]v1alpha1.File, []v1alpha1.Problem, string, error) {
	return slices.Clone(f.files), f.problems, f.revision, nil
}

// Watch implements pipeline.Source: nothing changes.
func (fixed) Watch(context.Context) <-chan struct{} { return nil }
