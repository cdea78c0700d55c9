package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRun(t *testing.T) {
	t.Parallel()
	const good = `
func FuzzGood(f *testing.F) {
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, b []byte) { _ = append([]byte{}, b...) })
}
`
	tests := []struct {
		name string
		body string
		file string // a seed file, if any
		need []requirement
		want []string // parts of the error; none: no error
	}{
		{
			name: "a target with a seed", body: good,
			need: []requirement{{"bytes", "p", "FuzzGood"}},
		},
		{
			name: "a seed in a file", file: "p/testdata/fuzz/FuzzFile/one",
			body: `func FuzzFile(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }`,
		},
		{
			name: "no seed",
			body: `func FuzzBare(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }`,
			want: []string{"p FuzzBare: it has no seed"},
		},
		{
			name: "a required target is missing", body: good,
			need: []requirement{{"bytes", "p", "FuzzGood"}, {"tokens", "p", "FuzzToken"}, {"names", "q", "FuzzGood"}},
			want: []string{"nothing fuzzes tokens: there is no FuzzToken in p", "nothing fuzzes names: there is no FuzzGood in q"},
		},
		{
			name: "no target at all",
			body: `func TestNothing(t *testing.T) {}`,
			want: []string{"no fuzz target at all"},
		},
		{
			name: "a seed that fails",
			body: `func FuzzBad(f *testing.F) { f.Add([]byte("x")); f.Fuzz(func(t *testing.T, b []byte) { t.Fatal("no") }) }`,
			want: []string{"p FuzzBad: a seed fails"},
		},
		{
			name: "an input that breaks it, and another target that has no seed",
			body: `
func FuzzBreaks(f *testing.F) {
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, b []byte) { if string(b) != "seed" { panic("broken") } })
}
func FuzzBare(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }
`,
			want: []string{"p FuzzBreaks: an input breaks it", "panic: broken", "p FuzzBare: it has no seed"},
		},
		{
			name: "a package that does not compile", body: good + `var x int = "text"`,
			want: []string{"building p"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "go.mod", "module example.test/m\n\ngo 1.26.0\n")
			write(t, dir, "p/p_test.go", "package p\n\nimport \"testing\"\n\n"+tt.body)
			if tt.file != "" {
				write(t, dir, tt.file, "go test fuzz v1\n[]byte(\"x\")\n")
			}
			var out strings.Builder
			each := 100 * time.Millisecond
			if strings.Contains(tt.body, "broken") {
				each = time.Minute // it ends with the first input that is not the seed, whenever the machine comes to one
			}
			r := runner{dir: dir, work: "bin", each: each, out: &out}
			err := r.run(t.Context(), tt.need)
			if len(tt.want) == 0 {
				if err != nil || !strings.Contains(out.String(), "seeds: 1") {
					t.Errorf("run() = %v, want nothing; it printed\n%s", err, out.String())
				}
				return
			}
			if err == nil {
				t.Fatalf("run() succeeded, want %q; it printed\n%s", tt.want, out.String())
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("run() = %v, want %q in it", err, part)
				}
			}
		})
	}
}

func TestFuzzFunctions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "x_test.go", `package x
func FuzzOne(f *testing.F) {}
func FuzzTwo(*testing.F) {}
func FuzzHelper(t *testing.T) {}
func FuzzBoth(f, g *testing.F) {}
func (x X) FuzzMethod(f *testing.F) {}
func fuzz(f *testing.F) {}
`)
	got, err := fuzzFunctions(filepath.Join(dir, "x_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"FuzzOne", "FuzzTwo"}, got); diff != "" {
		t.Errorf("fuzzFunctions() (-want +got):\n%s", diff)
	}
}

func TestRefusesBadFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-time", "0s"}, {"-time", "soon"}, {"-unknown"}} {
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
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExecutions(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]int{
		"fuzz: elapsed: 0s, gathering baseline coverage: 1/1 completed, now fuzzing with 2 workers\n":                  0,
		"fuzz: elapsed: 3s, execs: 11 (4/sec), new interesting: 0 (total: 8)\nfuzz: elapsed: 4s, execs: 512 (9/sec)\n": 512,
		"": 0,
	} {
		if got := executions(output); got != want {
			t.Errorf("executions(%q) = %d, want %d", output, got, want)
		}
	}
}

func TestEndedByTheClock(t *testing.T) {
	t.Parallel()
	const progress = "fuzz: elapsed: 3s, execs: 33143 (0/sec), new interesting: 2 (total: 39)\n"
	for output, want := range map[string]bool{
		progress + "--- FAIL: FuzzOne (3.05s)\n    context deadline exceeded\nFAIL\n":   true,
		progress + "--- FAIL: FuzzOther (3.05s)\n    context deadline exceeded\nFAIL\n": false,
		// a target that failed with the same words, on an input
		progress + "--- FAIL: FuzzOne (0.02s)\n    --- FAIL: FuzzOne (0.00s)\n        one_test.go:5: context deadline exceeded\n    \n" +
			"    Failing input written to testdata/fuzz/FuzzOne/1\n    To re-run:\n    go test -run=FuzzOne/1\nFAIL\n": false,
		progress + "--- FAIL: FuzzOne (3.05s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n": false,
		progress + "--- FAIL: FuzzOne (3.05s)\n    context deadline exceeded\nFAIL\npanic: late\n":                         false,
		"PASS\n": false,
	} {
		if got := endedByTheClock("FuzzOne", output); got != want {
			t.Errorf("endedByTheClock() = %v, want %v, for\n%s", got, want, output)
		}
	}
}
