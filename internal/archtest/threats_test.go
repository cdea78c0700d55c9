package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	declared  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// unshown are the rows of a threat model whose last cell names no test, or one that does not exist.
func unshown(page string, tests func(pkg string) []string) (faults []string, rows int) {
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attempt |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), "|")
		named := namedTest.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 3 || len(named) == 0 || strings.Count(cells[len(cells)-1], "`") != 2*len(named) {
			faults = append(faults, "the last of three cells is a list of tests, `package.TestName`: "+line)
		}
		for _, m := range named {
			if !slices.Contains(tests(m[1]), m[2]) {
				faults = append(faults, fmt.Sprintf("there is no %s in %s", m[2], m[1]))
			}
		}
	}
	return faults, rows
}

// testsOf are the tests and fuzz targets of a package's folder.
func testsOf(pkg string) (names []string) {
	files, _ := filepath.Glob(filepath.Join(root, pkg, "*_test.go")) // the pattern is well-formed
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestThreatsAreShownByTests(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs/threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	faults, rows := unshown(string(page), testsOf)
	for _, f := range faults {
		t.Error(f)
	}
	if rows == 0 {
		t.Error("the threat model has no rows")
	}
}

func TestUnshownFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := func(pkg string) []string {
		return map[string][]string{"identity": {"TestA", "FuzzB"}, "identity/jwks": {"TestC"}}[pkg]
	}
	const head = "| attempt | what stands in the way | shown by |\n|---|---|---|\n"
	for row, want := range map[string]int{
		"| x | y | `identity.TestA` |":                            0,
		"| x `z` | y | `identity.FuzzB`, `identity/jwks.TestC` |": 0,
		"| x | y |  |":                                          1,
		"| x | y | by hand |":                                   1,
		"| x | `identity.TestA` | |":                            1,
		"| x | y | `identity.TestC` |":                          1,
		"| x | y | `identity.TestA`, `nowhere.TestA` |":         1,
		"| x | y | `identity.TestA`, `identity.Other` |":        1,
		"| x | y | z | `identity.TestA` |":                      1,
		"| x | y | `identity.TestA` |\n| x | y | `a.TestZ` |\n": 1,
		"| x | y | `identity.TestA` | `identity.TestA` |":       1,
		"no table": 0,
		"| x | y | `identity.TestAb` and `identity/jwks.TestC` |":   1,
		"| x | y | `identity.TestA` and `identity/jwks.TestC`. |\n": 0,
	} {
		if faults, _ := unshown(head+row, tests); len(faults) != want {
			t.Errorf("%s: %q", row, faults)
		}
	}
	if _, rows := unshown(head+"| x | y | z |", tests); rows != 1 {
		t.Errorf("%d rows", rows)
	}
}
