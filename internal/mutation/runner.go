package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is a package, or some files of one.
type target struct {
	folder string
	files  []string // none: all
}

// outcome is what became of a mutant.
type outcome string

const (
	killed   outcome = "killed"
	hung     outcome = "took too long"
	survived outcome = "survived"
	unviable outcome = "does not compile"
)

type result struct {
	mutant

	outcome outcome
	tests   int // that come by it
}

type runner struct {
	dir      string
	gremlins string
	only     *regexp.Regexp
	leastCPU time.Duration
	match    *regexp.Regexp
	skip     *regexp.Regexp // may be nil
	out      io.Writer
}

// testCase is one test function, how long it takes, and which mutants it comes by.
type testCase struct {
	name string
	took time.Duration
	cpu  time.Duration
	by   map[int]bool
}

// A mutant's tests may take so much more than those of the code as it is, on a machine that does other things meanwhile.
const (
	slowerBy  = 20
	leastWait = 2 * time.Minute
	memoryKiB = 6 << 20
	firstRun  = 50 * time.Millisecond // of CPU
)

// target tries every mutant of a package.
func (r runner) target(ctx context.Context, t target) (results []result, err error) {
	work, err := workFolder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	p := &pkg{runner: r, target: t, work: work}
	if p.folderPath, err = filepath.Abs(filepath.Join(r.dir, t.folder)); err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	for _, m := range p.mutants {
		if !r.only.MatchString(m.key()) {
			continue
		}
		done, err := p.try(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.key(), err)
		}
		if done.outcome == survived {
			fmt.Fprintf(r.out, "  survived (%d tests): %s\n", done.tests, m.key())
		}
		results = append(results, done)
	}
	return results, nil
}

// workFolder makes a folder for the binaries and for what tests leave behind when they are ended. Its name is short, because
// tests listen on sockets below it; other users reach it, because there are tests that run their binary as another one.
func workFolder() (string, error) {
	for i := 0; ; i++ {
		folder := filepath.Join(os.TempDir(), "m"+strconv.Itoa(i))
		if err := os.Mkdir(folder, 0o711); !errors.Is(err, os.ErrExist) { //nolint:gosec // nothing secret lies there
			return folder, err
		}
	}
}

// pkg is a package whose mutants are tried.
type pkg struct {
	runner
	target

	folderPath string
	work       string
	binary     string
	arguments  []string // of every run of the tests
	mutants    []mutant
	tests      []testCase // the fastest first
}

// prepare compiles all mutants that can be switched into one binary and learns what each test comes by.
func (p *pkg) prepare(ctx context.Context) error {
	changes, err := p.changes(ctx, p.folder, p.work)
	if err != nil {
		return err
	}
	files, name, err := p.sources(ctx)
	if err != nil {
		return err
	}
	replaced := map[string][]byte{"mutants_of_" + name + ".go": fmt.Appendf(nil, switches, name)}
	for _, file := range files {
		src, err := os.ReadFile(filepath.Join(p.folderPath, file))
		if err != nil {
			return err
		}
		got, err := instrument(p.folder+"/"+file, src, changes[file], len(p.mutants)+1)
		if err != nil {
			return err
		}
		replaced[file] = got.source
		p.mutants = append(p.mutants, got.mutants...)
	}
	p.binary = filepath.Join(p.work, "all.test")
	if text, err := p.build(ctx, p.binary, replaced); err != nil {
		return fmt.Errorf("building the mutants: %w\n%s", err, text)
	}
	// Property tests try the same cases for every mutant, and leave no files behind. Asked for help, a test binary fails.
	usage, _ := exec.CommandContext(ctx, p.binary, "-help").CombinedOutput() //nolint:gosec // what was built above
	if bytes.Contains(usage, []byte("-rapid.seed")) {
		p.arguments = []string{"-rapid.seed=1", "-rapid.nofailfile"}
	}
	return p.baseline(ctx)
}

// sources are the files whose mutants are tried, and the package's name.
func (p *pkg) sources(ctx context.Context) (files []string, name string, err error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=Name,GoFiles", ".")
	cmd.Dir = p.folderPath
	data, err := cmd.Output()
	if err != nil {
		return nil, "", fmt.Errorf("go list: %w", err)
	}
	var listed struct {
		Name    string   `json:"Name"`    //nolint:tagliatelle // go list's name
		GoFiles []string `json:"GoFiles"` //nolint:tagliatelle // go list's name
	}
	if err := json.Unmarshal(data, &listed); err != nil {
		return nil, "", err
	}
	for _, file := range p.files {
		if !slices.Contains(listed.GoFiles, file) {
			return nil, "", fmt.Errorf("it has no file %s", file)
		}
	}
	if len(p.files) > 0 {
		return p.files, listed.Name, nil
	}
	return listed.GoFiles, listed.Name, nil
}

// build compiles the package's tests with some of its files replaced.
func (p *pkg) build(ctx context.Context, binary string, replaced map[string][]byte) ([]byte, error) {
	overlay := map[string]map[string]string{"Replace": {}}
	for file, text := range replaced {
		at := filepath.Join(p.work, file)
		if err := os.WriteFile(at, text, 0o600); err != nil {
			return nil, err
		}
		overlay["Replace"][filepath.Join(p.folderPath, file)] = at
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return nil, err
	}
	list := filepath.Join(p.work, "overlay.json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return nil, err
	}
	args := []string{"test", "-c", "-p=1", "-vet=off", "-ldflags=-s -w", "-overlay", list, "-o", binary, "."}
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // paths that this program made
	cmd.Dir = p.folderPath
	return cmd.CombinedOutput()
}

// baseline runs every test alone on the code as it is.
func (p *pkg) baseline(ctx context.Context) error {
	listing := exec.CommandContext(ctx, p.binary, "-test.list", "^(Test|Fuzz|Example)") //nolint:gosec // what was built above
	listing.Dir = p.folderPath
	names, err := listing.Output()
	if err != nil {
		return fmt.Errorf("listing the tests: %w", err)
	}
	for name := range strings.FieldsSeq(string(names)) {
		if !p.match.MatchString(name) || p.skip != nil && p.skip.MatchString(name) {
			continue
		}
		notes := filepath.Join(p.work, "notes")
		if err := os.RemoveAll(notes); err != nil {
			return err
		}
		ran, err := p.run(ctx, p.binary, []string{name}, 0, notes, time.Hour, time.Hour)
		if err != nil {
			return err
		}
		if ran.outcome != survived {
			return fmt.Errorf("%s fails without any change:\n%s", name, ran.output)
		}
		by, err := readNotes(notes)
		if err != nil {
			return err
		}
		p.tests = append(p.tests, testCase{name: name, took: ran.took, cpu: ran.cpu, by: by})
	}
	start := time.Hour // what any run costs
	for _, t := range p.tests {
		start = min(start, t.cpu)
	}
	for i := range p.tests {
		p.tests[i].cpu -= start
	}
	slices.SortStableFunc(p.tests, func(a, b testCase) int { return cmp.Compare(a.cpu, b.cpu) })
	return nil
}

func readNotes(path string) (map[int]bool, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	by := map[int]bool{}
	for word := range strings.FieldsSeq(string(data)) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		by[n] = true
	}
	return by, nil
}

// try runs the tests that come by a mutant, the fastest first, until one notices it. Each run takes twice as long as the one
// before it, so that what a fast test notices costs little and what none does costs few runs.
func (p *pkg) try(ctx context.Context, m mutant) (result, error) {
	binary := p.binary
	if m.alone != nil {
		binary = filepath.Join(p.work, "one.test")
		if _, err := p.build(ctx, binary, map[string][]byte{filepath.Base(m.file): m.alone}); err != nil {
			return result{mutant: m, outcome: unviable}, ctx.Err()
		}
	}
	tests := slices.DeleteFunc(slices.Clone(p.tests), func(t testCase) bool { return m.function != "" && !t.by[m.id] })
	done := result{mutant: m, outcome: survived, tests: len(tests)}
	var names []string
	var took, cpu time.Duration
	budget := firstRun
	for i, t := range tests {
		names, took, cpu = append(names, t.name), took+t.took, cpu+t.cpu
		if cpu < budget && i < len(tests)-1 {
			continue
		}
		ran, err := p.run(ctx, binary, names, m.id, "", max(leastWait, slowerBy*took), max(p.leastCPU, slowerBy*cpu))
		if err != nil {
			return result{}, err
		}
		if ran.outcome != survived {
			done.outcome = ran.outcome
			return done, nil
		}
		names, took, cpu, budget = nil, 0, 0, 2*budget
	}
	return done, nil
}

// ran is how a run of tests went.
type ran struct {
	outcome   outcome
	output    []byte
	took, cpu time.Duration
}

// run runs tests with a mutant switched on (0: none), and ends them as soon as one has failed.
func (p *pkg) run(ctx context.Context, binary string, names []string, id int, notes string, wait, cpu time.Duration) (ran, error) {
	limit := fmt.Sprintf("ulimit -t %d && ulimit -v %d && exec \"$@\"", int(cpu.Seconds()), memoryKiB)
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tests := "^(" + strings.Join(names, "|") + ")$"
	args := []string{"-c", limit, "bash", binary, "-test.run", tests, "-test.v", "-test.failfast", "-test.timeout", "0"}
	cmd := exec.CommandContext(within, "bash", append(args, p.arguments...)...) //nolint:gosec // what was built above
	cmd.Dir = p.folderPath
	cmd.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(id), "MUTANT_NOTES="+notes, "GOMAXPROCS=1", "TMPDIR="+p.work)
	// The tests' own processes end with them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = end
	reader, writer, err := os.Pipe()
	if err != nil {
		return ran{}, err
	}
	defer func() { _ = reader.Close() }()
	cmd.Stdout, cmd.Stderr = writer, writer
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return ran{}, errors.Join(err, writer.Close())
	}
	if err := writer.Close(); err != nil {
		return ran{}, err
	}
	var output bytes.Buffer
	failed := false
	for lines := bufio.NewReader(reader); ; {
		line, err := lines.ReadBytes('\n')
		output.Write(line)
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("--- FAIL")) && notes == "" {
			failed = true
			break
		}
		if err != nil {
			break
		}
	}
	if failed {
		_ = end()
	}
	err = cmd.Wait()
	done := ran{outcome: survived, output: output.Bytes(), took: time.Since(start)}
	done.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	switch status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case ctx.Err() != nil:
		return ran{}, ctx.Err()
	case failed:
		done.outcome = killed
	case within.Err() != nil, status.Signaled() && (status.Signal() == syscall.SIGXCPU || status.Signal() == syscall.SIGKILL):
		done.outcome = hung
	case err != nil:
		done.outcome = killed
	}
	return done, nil
}
