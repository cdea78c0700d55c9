package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The pages' blocks are executed or checked, or name the test that does it; docs/testing.md says how.

const repository = "../.."

// block is a fenced block of a page, with the marker before it.
type block struct {
	line             int
	marker, argument string // "file" or "tested by", and what follows the colon
	language, body   string
	start, end       int // of the body
}

var fenced = regexp.MustCompile("(?ms)^(?: *<!-- (tested by|file): (.+?) -->\\n+)?( *)```([a-z]*)\\n(.*?)^ *```$")

func blocksOf(text string) []block {
	var all []block
	for _, at := range fenced.FindAllStringSubmatchIndex(text, -1) {
		group := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return text[at[2*i]:at[2*i+1]]
		}
		body := strings.ReplaceAll("\n"+group(5), "\n"+group(3), "\n")[1:]
		all = append(all, block{
			line: 1 + strings.Count(text[:at[6]], "\n"), marker: group(1), argument: group(2), language: group(4), body: body,
			start: at[10], end: at[11],
		})
	}
	return all
}

// TestPages executes the pages, each in a copy of the checkout.
func TestPages(t *testing.T) {
	t.Parallel()
	executed := 0
	for _, pattern := range []string{"README.md", "docs/*.md", "examples/*/README.md"} {
		pages, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: no pages, %v", pattern, err)
		}
		for _, page := range pages {
			data, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			executed += strings.Count(string(data), "\n$ ") + strings.Count(string(data), "```sh\n")
			t.Run(strings.TrimPrefix(page, repository+"/"), func(t *testing.T) {
				t.Parallel()
				runPage(t, page, string(data))
			})
		}
	}
	if executed < 20 {
		t.Errorf("only %d commands and scripts are executed", executed)
	}
}

func runPage(t *testing.T, page, text string) {
	t.Helper()
	run := newReader(t, text)
	said := text
	blocks := blocksOf(text)
	if fences := len(regexp.MustCompile("(?m)^ *```").FindAllString(text, -1)); fences != 2*len(blocks) {
		t.Errorf("%d fences make %d blocks: a fence stands open, or names a language in capitals", fences, len(blocks))
	}
	for _, b := range blocks {
		got, err := run.block(b)
		if err != nil {
			t.Errorf("%s:%d: %v", page, b.line, err)
		}
		if got != b.body {
			said = strings.Replace(said, text[b.start:b.end], got, 1)
		}
	}
	if *update && said != text {
		if err := os.WriteFile(page, []byte(said), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(text, said); diff != "" {
		t.Errorf("the page differs from what its commands say (-page +said); rewrite it with -update:\n%s", diff)
	}
}

var errUnmarked = errors.New("nothing executes or checks this block: docs/testing.md says how one is marked")

// block executes or checks a block, and gives it back as it should be.
func (r *reader) block(b block) (string, error) {
	switch {
	case b.marker == "tested by":
		return b.body, named(b.argument)
	case b.marker == "file":
		return b.body, r.file(b)
	case b.language == "console":
		return r.console(b.body)
	case b.language == "sh":
		if out, code := r.script("set -euo pipefail\n" + b.body); code != 0 {
			return b.body, fmt.Errorf("exit code %d:\n%s", code, out)
		}
		return b.body, nil
	case b.language == "text", b.language == "mermaid":
		return b.body, nil
	default:
		return b.body, errUnmarked
	}
}

var (
	makeTarget = regexp.MustCompile(`^make ([a-z0-9-]+)$`)
	goTest     = regexp.MustCompile(`^go test \./([a-z0-9/]+) -(?:run|bench) (\w+)$`)
)

// named checks that the test which a block names exists.
func named(what string) error {
	if m := makeTarget.FindStringSubmatch(what); m != nil {
		makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
		if err == nil && !strings.Contains(string(makefile), "\n"+m[1]+":") {
			err = fmt.Errorf("the Makefile has no target %s", m[1])
		}
		return err
	}
	m := goTest.FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("%q is neither \"make TARGET\" nor \"go test ./PACKAGE -run TEST\"", what)
	}
	files, err := filepath.Glob(filepath.Join(repository, m[1], "*_test.go"))
	for _, f := range files {
		if data, readErr := os.ReadFile(f); readErr == nil && strings.Contains(string(data), "\nfunc "+m[2]+"(") {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("package %s has no %s", m[1], m[2]))
}

var configPath = regexp.MustCompile(`^(.+)/(?:mesh\.yaml|(?:platform|tenants|tests)/.+)$`)

// file writes a block where its marker says, and checks what it then is: a part of a configuration directory, or Envoy's
// configuration. Of other languages the commands that follow use it.
func (r *reader) file(b block) error {
	if !filepath.IsLocal(b.argument) {
		return fmt.Errorf("%s is not below the checkout", b.argument)
	}
	path := filepath.Join(r.dir, b.argument)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(r.here(b.body)), 0o600); err != nil {
		return err
	}
	if b.language != "yaml" {
		return nil
	}
	check := "envoy --mode validate -c " + b.argument
	if m := configPath.FindStringSubmatch(b.argument); m != nil {
		check = "ringfence validate " + m[1]
	} else if !strings.Contains(b.body, "static_resources:") {
		return errUnmarked
	}
	if out, code := r.script(check); code != 0 {
		return fmt.Errorf("%s:\n%s", check, out)
	}
	return nil
}

// console runs the commands of a transcript, and gives it back with what they say.
func (r *reader) console(body string) (string, error) {
	var said strings.Builder
	lines := slices.Collect(strings.Lines(body))
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "$ ") {
		return body, errors.New(`a transcript begins with a command, "$ …"`)
	}
	for len(lines) > 0 {
		command := lines[:1]
		for len(command) < len(lines) && strings.HasSuffix(command[len(command)-1], "\\\n") {
			command = lines[:len(command)+1]
		}
		lines = lines[len(command):]
		answer := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "$ ") })
		if answer < 0 {
			answer = len(lines)
		}
		shown := strings.Join(lines[:answer], "")
		lines = lines[answer:]
		out, code := r.script(strings.Join(command, "")[2:])
		if code > exitFindings {
			return body, fmt.Errorf("%sexit code %d:\n%s", strings.Join(command, ""), code, out)
		}
		if says(shown, out) {
			out = shown
		}
		said.WriteString(strings.Join(command, "") + out)
	}
	return said.String(), nil
}

// says reports whether a page shows what was said; an ellipsis stands for anything, a line of it for any lines.
func says(shown, said string) bool {
	pattern := regexp.QuoteMeta(shown)
	pattern = regexp.MustCompile(`(?m)^…\n`).ReplaceAllString(pattern, "(?:.*\n)*?")
	pattern = strings.ReplaceAll(pattern, "…", ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(said)
}

// TestPagesAreChecked: what no page may hold is found.
func TestPagesAreChecked(t *testing.T) {
	t.Parallel()
	const mesh = "```\n"
	for name, c := range map[string]struct{ page, want string }{
		"executed":          {"```sh\ntest -d examples\n```\n```console\n$ echo a; false\na\n```\n", ""},
		"in a list":         {"- do\n\n  ```sh\n  test -d examples\n  ```\n", ""},
		"files stay":        {"<!-- file: x/y.txt -->\n```text\nhello\n```\n```console\n$ cat x/y.txt\nhello\n```\n", ""},
		"a failing script":  {"```sh\nfalse\ntrue\n```\n", "exit code 1"},
		"another answer":    {"```console\n$ echo a\nb\n```\n", "$ echo a\na\n"},
		"an ellipsis":       {"```console\n$ seq 9\n1\n…\n8\n9\n$ echo a b c\na … c\n```\n", ""},
		"no such command":   {"```console\n$ nosuch\n```\n", "exit code 127"},
		"no command":        {"```console\nnosuch\n```\n", "begins with a command"},
		"no language":       {"```\nls\n```\n", errUnmarked.Error()},
		"another language":  {"```go\nx\n```\n", errUnmarked.Error()},
		"documents":         {"```yaml\nkind: Mesh\n```\n", errUnmarked.Error()},
		"a broken document": {"<!-- file: examples/two-tenants/tenants/acme/x.yaml -->\n```yaml\nkind: Servise\n" + mesh, `did you mean "Service"`},
		"a good document":   {"<!-- file: examples/two-tenants/tenants/acme/x.yaml -->\n```yaml\nkind: Service\nmetadata: {name: x}\nspec: {namespace: acme, serviceAccounts: [x]}\n" + mesh, ""},
		"broken Envoy":      {"<!-- file: envoy.yaml -->\n```yaml\nstatic_resources: {listenerz: []}\n" + mesh, "listenerz"},
		"good Envoy":        {"<!-- file: envoy.yaml -->\n```yaml\nstatic_resources: {listeners: []}\n" + mesh, ""},
		"a file outside":    {"<!-- file: ../x -->\n```text\n" + mesh, "not below"},
		"a target":          {"<!-- tested by: make e2e -->\n```sh\nfalse\n" + mesh, ""},
		"no such target":    {"<!-- tested by: make nosuch -->\n```sh\nfalse\n" + mesh, "no target nosuch"},
		"a test":            {"<!-- tested by: go test ./cmd/ringfence -run TestPages -->\n```sh\nfalse\n" + mesh, ""},
		"no such test":      {"<!-- tested by: go test ./cmd/ringfence -run TestNone -->\n```sh\nfalse\n" + mesh, "has no TestNone"},
		"no test":           {"<!-- tested by: hand -->\n```sh\nfalse\n" + mesh, "neither"},
		"in the background": {"```sh\nsleep 1000 &\necho $! > pid\n```\n```sh\nkill -0 $(cat pid)\n```\n", ""},
		"a control plane":   {"```sh\nringfence serve --config examples/two-tenants --state s 2> log &\nuntil ringfence ready 127.0.0.1:7480; do sleep 0.1; done\n```\n", ""},
		"ports, as written": {"```console\n$ echo 127.0.0.1:7443\n127.0.0.1:7443\n```\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReader(t, c.page)
			var got []string
			for _, b := range blocksOf(c.page) {
				said, err := r.block(b)
				if err != nil {
					got = append(got, err.Error())
				} else if said != b.body {
					got = append(got, said)
				}
			}
			if found := strings.Join(got, "\n"); (found == "") != (c.want == "") || !strings.Contains(found, c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

// copyOf is what a reader of the pages has.
func copyOf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, part := range []string{"docs", "examples"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(repository, part))); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	return dir
}
