package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/internal/whatif"
)

// The results of a case.
const (
	casePassed = "passed"
	caseFailed = "failed"
	caseTodo   = "todo"
)

// testReport is what came of the policy tests, as programs read it.
type testReport struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Passed     bool          `json:"passed"`
	Ran        int           `json:"ran"`
	Failed     int           `json:"failed"`
	Todo       int           `json:"todo"`
	Cases      []testCase    `json:"cases"`
	Coverage   *testCoverage `json:"coverage,omitempty"`

	missed string // why it is not passed although no case failed
}

type testCase struct {
	Test     string `json:"test"`
	Name     string `json:"name"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Result   string `json:"result"`
	Expected string `json:"expected"`
	Got      string `json:"got,omitempty"`
	// Rule is the rule or Grant that allowed the call.
	Rule string `json:"rule,omitempty"`
	// Explain is the command line that shows every step, Explanation what it shows; of a failed case only.
	Explain     string       `json:"explain,omitempty"`
	Explanation *explanation `json:"explanation,omitempty"`

	decided authz.Explanation
}

type testCoverage struct {
	Rules   int `json:"rules"`
	Reached int `json:"reached"`
	// Percent is rounded down, with one digit behind the point.
	Percent json.Number `json:"percent"`
	// Threshold is what was asked for.
	Threshold json.Number   `json:"threshold,omitempty"`
	Missing   []missingRule `json:"missing"`
}

type missingRule struct {
	Tenant   string `json:"tenant"`
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Position string `json:"position"`
}

func newTestReport(dir string, run *whatif.TestRun, o testOptions) testReport {
	r := testReport{APIVersion: v1alpha1.APIVersion, Kind: "TestReport", Cases: []testCase{}}
	for _, result := range run.Results {
		c := newTestCase(dir, result)
		switch c.Result {
		case caseTodo:
			r.Todo++
		case caseFailed:
			r.Failed++
			r.Ran++
		default:
			r.Ran++
		}
		r.Cases = append(r.Cases, c)
	}
	if o.coverage {
		r.Coverage = newTestCoverage(run.Coverage, o.threshold)
	}
	switch {
	case o.failOnEmpty && r.Ran == 0:
		r.missed = "no case ran, and --fail-on-empty is set"
	case o.threshold.Rat != nil && !run.Coverage.AtLeast(o.threshold.Rat):
		r.missed = fmt.Sprintf("the coverage is less than %s %%", &o.threshold)
	}
	r.Passed = r.Failed == 0 && r.missed == ""
	return r
}

func newTestCase(dir string, r whatif.Result) testCase {
	c := testCase{
		Test: r.Test, Name: r.Name.Value, File: r.Pos.File(), Line: r.Pos.Line(), Column: r.Pos.Col(), Expected: r.Expected(),
		decided: r.Explanation,
	}
	if r.Todo.Value {
		c.Result = caseTodo
		return c
	}
	c.Got, c.Rule, c.Result = r.Explanation.Decision.Reason().String(), r.Explanation.Decision.Rule(), casePassed
	if !r.Passed() {
		c.Result = caseFailed
		c.Explain = explainCommand(dir, r.Case)
		e := newExplanation(r.Explanation)
		c.Explanation = &e
	}
	return c
}

func newTestCoverage(all whatif.Coverage, threshold percent) *testCoverage {
	c := &testCoverage{
		Rules: len(all), Reached: all.Reached(), Percent: json.Number(all.Percent()), Missing: []missingRule{},
		Threshold: json.Number(threshold.String()),
	}
	for _, r := range all {
		if !r.Reached {
			kind := ruleKind(authz.RuleVerdict{Grant: r.Grant})
			c.Missing = append(c.Missing, missingRule{Tenant: r.Owner, Name: r.Name, Kind: kind, Position: r.Position})
		}
	}
	return c
}

func printTestReport(w io.Writer, r testReport) {
	last := ""
	for _, c := range r.Cases {
		if head := c.File + "  " + c.Test; head != last {
			fmt.Fprintln(w, head)
			last = head
		}
		switch c.Result {
		case caseTodo:
			fmt.Fprintf(w, "  - %s  %s\n      to do, not run\n", c.Name, c.position())
		case casePassed:
			fmt.Fprintf(w, "  ✓ %s  %s\n", c.Name, c.position())
		default:
			fmt.Fprintf(w, "  ✗ %s  %s\n", c.Name, c.position())
			for line := range strings.Lines(c.why()) {
				fmt.Fprintf(w, "      %s", line)
			}
		}
	}
	if len(r.Cases) > 0 {
		fmt.Fprintln(w)
	}
	if r.Coverage != nil {
		fmt.Fprintf(w, "coverage: %d of %d rules and Grants, %s %%\n", r.Coverage.Reached, r.Coverage.Rules, r.Coverage.Percent)
		for _, m := range r.Coverage.Missing {
			fmt.Fprintf(w, "  ✗ %s %s of %s  %s\n      no case was allowed by it\n", m.Kind, m.Name, m.Tenant, m.Position)
		}
	}
	if r.missed != "" {
		fmt.Fprintln(w, r.missed)
	}
	text := count(r.Ran, "case") + " ran"
	switch r.Failed {
	case 0:
		text += ", all as expected"
	case 1:
		text += ", 1 failed"
	default:
		text += fmt.Sprintf(", %d failed", r.Failed)
	}
	if r.Ran == 0 {
		text = "no case ran"
	}
	if r.Todo > 0 {
		text += fmt.Sprintf("; %d to do", r.Todo)
	}
	fmt.Fprintln(w, text)
}

func (c testCase) position() string { return fmt.Sprintf("%s:%d:%d", c.File, c.Line, c.Column) }

// why says what was expected and what came of a failed case, with the conditions that failed.
func (c testCase) why() string {
	var b strings.Builder
	e := c.decided
	fmt.Fprintf(&b, "expected  %s\ngot       %s", verdict(c.Expected), verdict(c.Got))
	for _, r := range e.Rules {
		if e.Decision.Allowed() && r.Name == c.Rule {
			fmt.Fprintf(&b, " by %s %s  %s", ruleKind(r), r.Name, r.Position)
		}
	}
	b.WriteString("\n")
	if !e.Decision.Allowed() {
		for _, s := range e.Steps {
			if s.Outcome == authz.Failed {
				printStep(&b, s)
			}
		}
		for _, r := range e.Rules {
			printVerdict(&b, r)
		}
	}
	fmt.Fprintf(&b, "every step: %s\n", c.Explain)
	return b.String()
}

func verdict(reason string) string {
	if reason == authz.Allowed.String() {
		return reason
	}
	return "denied: " + reason
}

// explainCommand is the command line that shows every step of a case.
func explainCommand(dir string, c whatif.Case) string {
	args := []string{"ringfence", "explain", dir}
	if c.Call.From != "" {
		args = append(args, "--from", c.Call.From)
	}
	if c.Call.Asker != "" {
		args = append(args, "--asker", c.Call.Asker)
	}
	args = append(args, "--to", c.Call.To, "--method", c.Call.Method, "--path", c.Call.Path)
	if !c.When.IsZero() {
		args = append(args, "--at", c.When.Format(time.RFC3339))
	}
	if c.Call.Token != nil {
		claims, err := json.Marshal(c.Call.Token)
		if err != nil {
			panic(err) // a document holds nothing that JSON does not
		}
		args = append(args, "--token", string(claims))
	}
	for i, a := range args {
		args[i] = shellQuote(a)
	}
	return strings.Join(args, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9@%+=:,./_-]+$`)

// shellQuote writes a word so that a shell takes it as it is.
func shellQuote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// The elements of JUnit XML that every reader of it knows.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		File     string      `xml:"file,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		ClassName string        `xml:"classname,attr"`
		File      string        `xml:"file,attr"`
		Line      int           `xml:"line,attr"`
		Failure   *junitFailure `xml:"failure,omitempty"`
		Skipped   *struct{}     `xml:"skipped,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes a report for CI systems: a suite for each AccessTest.
func writeJUnit(path string, r testReport, took time.Duration) error {
	const decimals = 3
	all := junitSuites{
		Name: "ringfence test", Tests: len(r.Cases), Failures: r.Failed, Skipped: r.Todo,
		Time: strconv.FormatFloat(took.Seconds(), 'f', decimals, 64),
	}
	for _, c := range r.Cases {
		n := len(all.Suites)
		if n == 0 || all.Suites[n-1].Name != c.Test || all.Suites[n-1].File != c.File {
			all.Suites = append(all.Suites, junitSuite{Name: c.Test, File: c.File})
			n++
		}
		s := &all.Suites[n-1]
		out := junitCase{Name: c.Name, ClassName: c.File + "." + c.Test, File: c.File, Line: c.Line}
		switch c.Result {
		case caseTodo:
			s.Skipped++
			out.Skipped = &struct{}{}
		case caseFailed:
			s.Failures++
			out.Failure = &junitFailure{
				Message: fmt.Sprintf("expected %s, got %s", verdict(c.Expected), verdict(c.Got)), Type: "decision", Text: c.why(),
			}
		}
		s.Tests++
		s.Cases = append(s.Cases, out)
	}
	text, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("JUnit XML: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return usage("--junit: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s%s\n", xml.Header, text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}
