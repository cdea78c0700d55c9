package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The code under test, and what gremlins would say of it: its lines are counted below.
const (
	code = `package p

const limit = 2 + 1

func Allowed(own, other string, n int) bool {
	if own == "" || own != other {
		return false
	}
	return n < limit
}

func Sum(list []int) (total int, err error) {
	for i := 0; i < len(list); i++ {
		total += list[i]
	}
	return total, check(total)
}

func check(int) error { return nil }

func Unused(s string) string { return s + s }
`
	tests = `package p_test

import (
	"testing"

	"example.test/m/p"
)

func TestAllowed(t *testing.T) {
	if !p.Allowed("a", "a", 1) || p.Allowed("a", "b", 1) || p.Allowed("", "", 1) {
		t.Error("wrong")
	}
}

func TestSum(t *testing.T) {
	if n, _ := p.Sum([]int{1, 2}); n != 3 {
		t.Error("wrong")
	}
}

func TestOfSomethingElse(t *testing.T) {
	t.Fatal("it must be left out")
}
`
	report = `{"files":[{"file_name":"p.go","mutations":[
{"type":"ARITHMETIC_BASE","line":3,"column":17},
{"type":"CONDITIONALS_NEGATION","line":6,"column":9},
{"type":"INVERT_LOGICAL","line":6,"column":15},
{"type":"CONDITIONALS_BOUNDARY","line":9,"column":11},
{"type":"INCREMENT_DECREMENT","line":13,"column":30},
{"type":"INVERT_ASSIGNMENTS","line":14,"column":9},
{"type":"ARITHMETIC_BASE","line":21,"column":41}
]}]}`
)

func testRunner(t *testing.T) runner {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "go.mod", "module example.test/m\n\ngo 1.26.0\n")
	write(t, dir, "p/p.go", code)
	write(t, dir, "p/p_test.go", tests)
	write(t, dir, "report.json", report)
	write(t, dir, "gremlins", "#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done\nexec cp \"${0%gremlins}report.json\" \"$2\"\n")
	return runner{
		dir: dir, gremlins: filepath.Join(dir, "gremlins"), leastCPU: time.Second, match: regexp.MustCompile(""), only: regexp.MustCompile(""), skip: regexp.MustCompile("Else"), out: t.Output(),
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	results, err := r.target(t.Context(), target{folder: "p"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, res := range results {
		got[strings.TrimPrefix(res.key(), "p/p.go ")] = string(res.outcome)
	}
	want := map[string]string{
		"- `2 + 1` -> `2 - 1`":                                                   "killed",
		"Allowed `own == \"\" || own != other` -> `false`":                       "killed",
		"Allowed `own == \"\" || own != other` -> `true`":                        "killed",
		"Allowed `own == \"\" || own != other` -> `own == \"\" && own != other`": "killed",
		"Allowed `own == \"\" || own != other` -> `own == \"\"`":                 "killed",
		"Allowed `own == \"\" || own != other` -> `own != other`":                "killed",
		"Allowed `own == \"\"` -> `own != \"\"`":                                 "killed",
		"Allowed `return false` -> `return true`":                                "killed",
		"Allowed `return n < limit` -> `return false`":                           "killed",
		"Allowed `return n < limit` -> `return true`":                            "survived",
		"Allowed `n < limit` -> `n <= limit`":                                    "survived",
		"Sum `for i := 0; i < len(list); i++` -> `no loop`":                      "killed",
		"Sum `i++` -> `i--`":                                                     "killed",
		"Sum `total += list[i]` -> `total -= list[i]`":                           "killed",
		"Sum `total += list[i]` -> ``":                                           "killed",
		"Sum `return total, check(total)` -> `return no error`":                  "survived",
		"Unused `s + s` -> `s - s`":                                              "does not compile",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// A mutant that never ends is ended.
func TestEndless(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	write(t, r.dir, "p/p.go", "package p\n\nfunc Allowed(own, other string, n int) bool {\n\tfor n > 0 {\n\t\tn--\n\t}\n\treturn own == other && own != \"\"\n}\n\nfunc Sum(list []int) (int, error) { return 3, nil }\n")
	write(t, r.dir, "report.json", `{"files":[{"file_name":"p.go","mutations":[]}]}`)
	r.only = regexp.MustCompile("`n--` -> ``$")
	results, err := r.target(t.Context(), target{folder: "p", files: []string{"p.go"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].outcome != hung {
		t.Errorf("%+v", results)
	}
}

func TestTargetFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(r *runner)
		files  []string
		says   string
	}{
		"no such file":            {func(*runner) {}, []string{"q.go"}, "no file q.go"},
		"tests that fail":         {func(r *runner) { r.skip = nil }, nil, "TestOfSomethingElse fails without any change"},
		"code that is none":       {func(r *runner) { write(t, r.dir, "p/p.go", "package p\n\nfunc f() { if }\n") }, nil, "p/p.go:3"},
		"gremlins is not there":   {func(r *runner) { r.gremlins = "nowhere" }, nil, "gremlins"},
		"gremlins says something": {func(r *runner) { write(t, r.dir, "report.json", "x") }, nil, "gremlins"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testRunner(t)
			tt.change(&r)
			if _, err := r.target(t.Context(), target{folder: "p", files: tt.files}); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

// Every kind of statement and expression that is changed still compiles, and reads the same while nothing is switched on.
func TestInstrumentedCodeCompiles(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	write(t, r.dir, "p/p.go", `package p

type T[K comparable] struct{ m map[K]bool }

func (t *T[K]) has(k K) bool { ok := t.m[k]; return ok }

func (t T[K]) both(a, b K) (found bool, err error) {
	defer func() { found = found && true }()
	for k := range t.m {
		switch {
		case k == a, k == b && t.has(b):
			continue
		default:
			t.m[k] = !t.m[k]
		}
		break
	}
	func() error { return nil }()
	return t.has(a) && (t.has(b) || func() bool { return true }()), nil
}

func Allowed(own, other string, n int) bool {
	x := T[string]{m: map[string]bool{}}
	x.m[own], x.m[other] = true, own != ""
	n--
	ok, _ := x.both(own, other)
	if n > 1 {
		panic("never")
	}
	return ok && own == other
}

func Sum([]int) (int, error) { return 3, nil }
`)
	p := &pkg{runner: r, target: target{folder: "p"}, work: t.TempDir(), folderPath: filepath.Join(r.dir, "p")}
	if err := p.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	functions := map[string]bool{}
	for _, m := range p.mutants {
		functions[m.function] = true
	}
	if !functions["T.has"] || !functions["T.both"] || !functions["Allowed"] {
		t.Errorf("functions with mutants: %v", functions)
	}
}

func TestExplained(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "list", "# equivalent: the loop\n# does nothing more\np/a.go F `a` -> `b`\n\n# a limit\np/a.go F `a` -> `b` #2\np/other.go G `x` -> `y`\np/a.go gone `x` -> `y`\n")
	known, err := readExplained(filepath.Join(dir, "list"))
	if err != nil {
		t.Fatal(err)
	}
	if got := known["p/a.go F `a` -> `b`"]; got != "equivalent: the loop does nothing more" {
		t.Errorf("reason %q", got)
	}
	change := func(nth int, o outcome) result {
		return result{mutant: mutant{file: "p/a.go", function: "F", before: "a", after: "b", nth: nth}, outcome: o}
	}
	for name, tt := range map[string]struct {
		results []result
		whole   bool
		err     string
		out     []string
	}{
		"all explained":    {[]result{change(1, survived), change(2, survived), change(3, killed)}, false, "", nil},
		"one too many":     {[]result{change(1, survived), change(2, survived), change(3, survived)}, false, "1 survivors are not explained", []string{"`b` #3"}},
		"killed after all": {[]result{change(1, survived), change(2, killed)}, false, "1 lines of the list", []string{"#2 (killed)"}},
		"gone":             {[]result{change(1, survived), change(2, survived)}, true, "1 lines of the list", []string{"gone", "no such change"}},
	} {
		var out strings.Builder
		err := known.compare(&out, tt.results, tt.whole)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v", name, err)
		}
		if slices.ContainsFunc(tt.out, func(s string) bool { return !strings.Contains(out.String(), s) }) || strings.Contains(out.String(), "other.go") {
			t.Errorf("%s: it printed\n%s", name, out.String())
		}
	}
	for name, text := range map[string]string{"no reason": "p/a.go F `a` -> `b`\n", "twice": "# why\nx\n\n# why else\nx\n"} {
		write(t, dir, "bad", text)
		if _, err := readExplained(filepath.Join(dir, "bad")); err == nil {
			t.Errorf("%s: it is a list", name)
		}
	}
}

func TestScore(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	score(&out, "p", []result{{outcome: killed, tests: 1}, {outcome: killed, tests: 1}, {outcome: hung, tests: 1}, {outcome: survived}, {outcome: unviable}})
	if want := "p                     75.0 %  4 mutants: 3 killed, 1 of them for taking too long; 1 survived, 1 of them"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q", out.String())
	}
}

func TestRefusesBadFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"-run", "(", "p"}, {"-skip", "(", "p"}, {"-only", "(", "p"}, {"-explained", "nowhere", "p"}, {"-unknown"}} {
		if err := run(t.Context(), args, t.Output()); err == nil {
			t.Errorf("run(%q) succeeded, want an error", args)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}
