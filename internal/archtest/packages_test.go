package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What stands in the column of levels for packages that are no part of the product.
const (
	levelTest = "test" // used by tests
	levelTool = "tool" // run by make
)

// row is a line of the package table.
type row struct {
	pkg   string
	level string // a number, levelTest or levelTool
	may   []string
}

// number is the level as a number; false for tests and tools.
func (r row) number() (int, bool) {
	n, err := strconv.Atoi(r.level)
	return n, err == nil
}

var (
	packagesHeading = regexp.MustCompile(`(?m)^## Packages$`)
	anyHeading      = regexp.MustCompile(`(?m)^## `)
	quoted          = regexp.MustCompile("`([^`]+)`")
)

// table reads the package table of docs/architecture.md.
func table(t *testing.T) map[string]row {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	start := packagesHeading.FindIndex(data)
	if start == nil {
		t.Fatal("docs/architecture.md has no heading Packages")
	}
	section := data[start[1]:]
	if end := anyHeading.FindIndex(section); end != nil {
		section = section[:end[0]]
	}
	rows := make(map[string]row)
	for line := range strings.Lines(string(section)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			t.Fatalf("a line of the package table has %d cells, not 4: %s", len(cells), line)
		}
		r := row{pkg: strings.Trim(strings.TrimSpace(cells[0]), "`"), level: strings.TrimSpace(cells[1])}
		for _, m := range quoted.FindAllStringSubmatch(cells[3], -1) {
			r.may = append(r.may, m[1])
		}
		if _, dup := rows[r.pkg]; dup {
			t.Fatalf("the package table has %s twice", r.pkg)
		}
		if _, ok := r.number(); !ok && r.level != levelTest && r.level != levelTool {
			t.Fatalf("the package table has %s on level %q", r.pkg, r.level)
		}
		rows[r.pkg] = r
	}
	if len(rows) == 0 {
		t.Fatal("docs/architecture.md has no package table")
	}
	return rows
}

func TestEveryPackageIsInTheTable(t *testing.T) {
	t.Parallel()
	rows := table(t)
	for _, p := range loaded(t).pkgs {
		if _, ok := rows[p.path]; !ok {
			t.Errorf("%s is not in the table of docs/architecture.md", p.path)
		}
		delete(rows, p.path)
	}
	for name := range rows {
		t.Errorf("the table of docs/architecture.md names %s, which does not exist", name)
	}
}

func TestImportsAreAsTheTableSays(t *testing.T) {
	t.Parallel()
	rows := table(t)
	for _, p := range loaded(t).pkgs {
		for _, i := range p.imports {
			if !slices.Contains(rows[p.path].may, i) {
				t.Errorf("%s imports %s; the table of docs/architecture.md does not allow it", p.path, i)
			}
		}
	}
}

func TestTheTableOnlyGoesDown(t *testing.T) {
	t.Parallel()
	rows := table(t)
	for _, r := range rows {
		for _, name := range r.may {
			if problem := wrongWay(r, rows[name]); problem != "" {
				t.Errorf("the table lets %s import %s: %s", r.pkg, name, problem)
			}
		}
	}
}

// wrongWay says why one package must not import the other; nothing if it may.
func wrongWay(from, to row) string {
	if to.pkg == "" {
		return "there is no such package"
	}
	lower, product := to.number()
	upper, importerIsProduct := from.number()
	switch {
	case to.level == levelTool:
		return "it is a program"
	case to.level == levelTest && importerIsProduct:
		return "it is for tests"
	case product && importerIsProduct && lower >= upper:
		return fmt.Sprintf("level %d is not below level %d", lower, upper)
	}
	return ""
}

func TestTheBinaryLinksNoKubernetes(t *testing.T) {
	t.Parallel()
	deps := loaded(t).deps
	seen := make(map[string]bool)
	var walk func(path string, via []string)
	walk = func(path string, via []string) {
		if seen[path] {
			return
		}
		seen[path] = true
		via = append(slices.Clone(via), path)
		if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/") {
			t.Errorf("cmd/ringfence links Kubernetes code: %s", strings.Join(via, " -> "))
			return
		}
		for _, d := range deps[path] {
			walk(d, via)
		}
	}
	walk(module+"/cmd/ringfence", nil)
	if !seen["fmt"] {
		t.Error("the walk over the imports of cmd/ringfence saw nothing")
	}
}
