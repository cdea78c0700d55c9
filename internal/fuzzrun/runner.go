package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// grace is what a run may take beyond its time: the baseline over the stored corpus, and making a failing input small.
	grace = 90 * time.Second
	// minimize bounds the latter. Go makes every interesting input small, not only failing ones, and a bound in seconds
	// lets it spend all of a short run on the first.
	minimize = "10x"
)

type runner struct {
	dir  string // the module
	work string // where test binaries go, below dir
	each time.Duration
	only string
	out  io.Writer
}

// run does everything it can before it fails, so that one broken target does not hide another.
func (r runner) run(ctx context.Context, need []requirement) error {
	found, err := findTargets(ctx, r.dir)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return errors.New("there is no fuzz target at all")
	}
	var problems []string
	problems = append(problems, missing(need, found)...)
	corpus, err := r.corpus(ctx)
	if err != nil {
		return err
	}
	for _, group := range byFolder(found) {
		group = matching(group, r.only)
		if len(group) == 0 {
			continue
		}
		folder := group[0].folder
		fmt.Fprintf(r.out, "%s: building with instrumentation\n", folder)
		binary, err := r.build(ctx, folder)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		for _, t := range group {
			line, err := r.fuzz(ctx, binary, filepath.Join(corpus, filepath.FromSlash(folder)), t)
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s %s: %v", t.folder, t.name, err))
				continue
			}
			fmt.Fprintf(r.out, "%s %s: %s\n", t.folder, t.name, line)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

// byFolder keeps the order in which `go list` gave the packages.
func byFolder(ts []target) [][]target {
	var groups [][]target
	for i, t := range ts {
		if i == 0 || ts[i-1].folder != t.folder {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], t)
	}
	return groups
}

func matching(ts []target, text string) []target {
	var kept []target
	for _, t := range ts {
		if strings.Contains(t.name, text) {
			kept = append(kept, t)
		}
	}
	return kept
}

// corpus is where inputs that reached new code are kept between runs; beside Go's own, so that the module stays clean.
func (r runner) corpus(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOCACHE")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "fuzz", "ringfence"), nil
}

// build links one binary for all the targets of a package.
func (r runner) build(ctx context.Context, folder string) (string, error) {
	binary, err := filepath.Abs(filepath.Join(r.dir, r.work, strings.ReplaceAll(folder, "/", "-")+".test"))
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz=^Fuzz", "-o", binary, "./"+folder) //nolint:gosec // our own packages
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", folder, err, out)
	}
	return binary, nil
}

// fuzz runs the seeds of a target, then fuzzes it.
func (r runner) fuzz(ctx context.Context, binary, corpus string, t target) (string, error) {
	pattern := "^" + t.name + "$"
	out, err := r.test(ctx, binary, t.folder, "-test.run="+pattern, "-test.v")
	if err != nil {
		return "", fmt.Errorf("a seed fails: %w\n%s", err, out)
	}
	seeds := countSeeds(t.name, out)
	if seeds == 0 {
		return "", errors.New("it has no seed: add one with f.Add, or a file in testdata/fuzz/" + t.name)
	}
	out, err = r.test(ctx, binary, t.folder, "-test.run=^$", "-test.fuzz="+pattern, "-test.fuzztime="+r.each.String(),
		"-test.fuzzminimizetime="+minimize, "-test.fuzzcachedir="+corpus)
	if err != nil && !endedByTheClock(t.name, out) {
		return "", fmt.Errorf("an input breaks it: %w\n%s", err, out)
	}
	return fmt.Sprintf("seeds: %d, executions: %d in %s", seeds, executions(out), r.each), nil
}

// test runs a test binary where `go test` would run it.
func (r runner) test(ctx context.Context, binary, folder string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.each+grace, errors.New("it did not end in time"))
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...) //nolint:gosec // a test binary that build made
	cmd.Dir = filepath.Join(r.dir, filepath.FromSlash(folder))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it ends its workers
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return string(out), err
}

// endedByTheClock tells the end of the time from a failure. Before Go 1.27 the fuzzing engine now and then calls the end
// of -fuzztime a failure of the target (https://go.dev/issue/75804): it then prints this one error and no input. A failing
// input has a subtest, with its own verdict, between these lines.
func endedByTheClock(name, output string) bool {
	return regexp.MustCompile(`\n--- FAIL: ` + regexp.QuoteMeta(name) + ` \([0-9.]+s\)\n    context deadline exceeded\nFAIL\n$`).MatchString(output)
}

// countSeeds reads the verbose output of a target's run without fuzzing: each seed is a subtest.
func countSeeds(name, output string) int {
	return len(regexp.MustCompile(`(?m)^=== RUN\s+`+regexp.QuoteMeta(name)+`/`).FindAllString(output, -1))
}

// executions is the last count that the fuzzing engine reports.
func executions(output string) int {
	counts := regexp.MustCompile(`execs: (\d+)`).FindAllStringSubmatch(output, -1)
	if len(counts) == 0 {
		return 0
	}
	n, err := strconv.Atoi(counts[len(counts)-1][1])
	if err != nil {
		return 0
	}
	return n
}
