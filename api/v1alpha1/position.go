package v1alpha1

import (
	"fmt"
	"path"
	"strings"
)

// PlatformOwner is the owner of mesh.yaml and of what lies in platform/ and tests/.
const PlatformOwner = "platform"

const testsDir = "tests"

// Owner says from the path alone whose documents a file holds: PlatformOwner for mesh.yaml, platform/… and tests/…, the
// directory's name for tenants/<name>/…, and nobody ("") for every other path. A directory that would take the reserved
// name gets the whole directory as its owner, which is no name of the mesh, so it never passes for the platform.
func Owner(file string) string {
	if file == "mesh.yaml" {
		return PlatformOwner
	}
	// A path that is not in its simplest form could say one owner and mean another.
	if path.Clean(file) != file || strings.Contains(file, "\\") {
		return ""
	}
	top, rest, ok := strings.Cut(file, "/")
	switch {
	case !ok:
		return ""
	case top == "platform", top == testsDir:
		return PlatformOwner
	case top != "tenants":
		return ""
	}
	tenant, _, ok := strings.Cut(rest, "/")
	switch {
	case !ok:
		return ""
	case tenant == PlatformOwner:
		return "tenants/" + tenant
	}
	return tenant
}

// IsTest reports whether a path is a place of policy tests: tests/… is the platform's, tenants/<tenant>/tests/… that
// tenant's, the directories themselves included. What lies there says what is expected of the other documents; nothing of
// it is served, and no problem of it keeps anything from being served.
func IsTest(file string) bool {
	if file == testsDir {
		return true
	}
	if Owner(file) == "" {
		return false
	}
	parts := strings.Split(file, "/")
	return parts[0] == testsDir || parts[0] == "tenants" && parts[2] == testsDir
}

// source is a file that was read; positions point into it.
type source struct {
	file  string
	owner string
	lines [][]rune // without trailing spaces
}

func newSource(file string, text string) *source {
	s := &source{file: file, owner: Owner(file)}
	for l := range strings.SplitSeq(text, "\n") {
		s.lines = append(s.lines, []rune(strings.TrimRight(l, " \r")))
	}
	return s
}

// at is the position of a line and column of the source, moved into the source where they lie outside.
func (s *source) at(line, col int) Pos {
	line = max(1, min(line, len(s.lines)))
	col = max(1, min(col, len(s.lines[line-1])+1))
	return Pos{src: s, line: line, col: col}
}

// Pos is a place in a document: file, line and column, counted from 1 in characters. The zero value is nowhere, which is
// how a field that was not written is told from an empty one.
type Pos struct {
	src       *source
	line, col int
}

// IsZero reports whether p is nowhere.
func (p Pos) IsZero() bool { return p.src == nil }

// File is the path of the file, as it was given to Decode.
func (p Pos) File() string {
	if p.src == nil {
		return ""
	}
	return p.src.file
}

// Owner is the owner of the file: whose documents must change if something here is wrong.
func (p Pos) Owner() string {
	if p.src == nil {
		return ""
	}
	return p.src.owner
}

// Line is the line, from 1.
func (p Pos) Line() int { return p.line }

// Col is the column, from 1, in characters.
func (p Pos) Col() int { return p.col }

// String is file:line:col.
func (p Pos) String() string {
	if p.src == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", p.src.file, p.line, p.col)
}

// Compare orders positions by file, line and column.
func (p Pos) Compare(o Pos) int {
	if c := strings.Compare(p.File(), o.File()); c != 0 {
		return c
	}
	if p.line != o.line {
		return p.line - o.line
	}
	return p.col - o.col
}
