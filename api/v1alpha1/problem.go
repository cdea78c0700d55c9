package v1alpha1

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with the documents of one owner.
type Problem struct {
	// Code says what kind of problem it is; see Codes.
	Code Code `json:"code"`
	// Owner is whose documents must change: "platform", or the name of a directory below tenants/. It is empty where the
	// file belongs to nobody.
	Owner string `json:"owner"`
	File  string `json:"file"`
	// Line and Col count from 1, Col in characters; both are 0 where the problem is the file's or the directory's as a whole.
	Line int `json:"line,omitempty"`
	Col  int `json:"column,omitempty"`
	// Text says what is wrong, without the position.
	Text string `json:"text"`
	// Hint says what was probably meant, or what to do.
	Hint string `json:"hint,omitempty"`
	// Snippet is the source line with a caret below the column.
	Snippet string `json:"snippet,omitempty"`
}

// Problem says that something is wrong at p. Problems of documents are made here only, so their owner is always the
// owner of the file that they point at.
func (p Pos) Problem(code Code, hint, format string, args ...any) Problem {
	return Problem{
		Code: code, Owner: p.Owner(), File: p.File(), Line: p.line, Col: p.col,
		Text: fmt.Sprintf(format, args...), Hint: hint, Snippet: p.snippet(),
	}
}

// FileProblem says that something is wrong with a file or a directory as a whole.
func FileProblem(file string, code Code, hint, format string, args ...any) Problem {
	return Problem{Code: code, Owner: Owner(file), File: file, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// String is the problem in one line: file:line:col: RF####: text.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(plainPath(p.File))
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
		}
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%s: %s", p.Code, p.Text)
	return b.String()
}

// plainPath is the path itself where it can be shown: whoever makes files may name them.
func plainPath(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

// Render is the problem for people: the line of String, the source line with a caret, and the hint. It has no colours
// and ends without a line break.
func (p Problem) Render() string {
	parts := []string{p.String()}
	if p.Snippet != "" {
		parts = append(parts, p.Snippet)
	}
	if p.Hint != "" {
		parts = append(parts, "  "+p.Hint)
	}
	return strings.Join(parts, "\n")
}

// SortProblems sorts by file, line, column, code and text, and drops what is there twice.
func SortProblems(ps []Problem) []Problem {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Text, b.Text),
			cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Hint, b.Hint), cmp.Compare(a.Snippet, b.Snippet),
		)
	})
	return slices.Compact(ps)
}

// snippetBefore and snippetAfter bound how much of a long line is shown around the column.
const (
	snippetBefore = 60
	snippetAfter  = 60
)

func (p Pos) snippet() string {
	if p.src == nil {
		return ""
	}
	line := p.src.lines[p.line-1]
	from := max(0, p.col-1-snippetBefore)
	to := min(len(line), p.col-1+snippetAfter)
	var text, gap strings.Builder
	if from > 0 {
		text.WriteString("…")
		gap.WriteByte(' ')
	}
	for i := from; i < to; i++ {
		text.WriteRune(printable(line[i]))
		if i < p.col-1 {
			gap.WriteByte(' ')
		}
	}
	if to < len(line) {
		text.WriteString("…")
	}
	return fmt.Sprintf("%5d | %s\n      | %s^", p.line, text.String(), gap.String())
}

// printable keeps terminals safe from what a document holds.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return unicode.ReplacementChar
	}
	return r
}

// Quote writes hostile text for a problem: in quotes, escaped, and not longer than a line.
func Quote(s string) string {
	const limit = 64
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
