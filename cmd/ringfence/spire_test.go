//go:build spire

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSPIREPage does what examples/spire says, with a real SPIRE on the PATH.
func TestSPIREPage(t *testing.T) {
	spire := os.Getenv("SPIRE")
	if spire == "" {
		t.Fatal("SPIRE names no folder with spire-server and spire-agent: run make test-spire")
	}
	t.Setenv("PATH", spire+":"+os.Getenv("PATH"))
	const name = "examples/spire"
	text, err := os.ReadFile(filepath.Join(repository, name, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	page, everything := string(text), string(text)
	tree := os.DirFS(filepath.Join(repository, name))
	each := func(do func(path, text string)) {
		t.Helper()
		err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(tree, path)
			if err == nil {
				do(path, string(data))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	each(func(_, text string) { everything += text })
	r := newReader(t, everything)
	each(func(path, text string) {
		if err := os.WriteFile(filepath.Join(r.dir, name, path), []byte(r.here(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	executed := 0
	for _, b := range blocksOf(page) {
		if strings.Contains(b.argument, "TestSPIREPage") {
			b.marker, b.argument = "", ""
			executed++
		}
		if got, err := r.block(b); err != nil {
			t.Fatalf("%s/README.md:%d: %v\n%s", name, b.line, err, r.logs(name))
		} else if got != b.body {
			t.Errorf("%s/README.md:%d: it says\n%s", name, b.line, got)
		}
	}
	if executed == 0 {
		t.Error("the page has no block for this test")
	}
}

// logs are what the page's processes have written.
func (r *reader) logs(name string) string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(r.dir, name, "run", "*.log")) // the pattern is well-formed
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			all.WriteString(filepath.Base(file) + ":\n" + string(data[max(0, len(data)-2000):]) + "\n")
		}
	}
	return all.String()
}
