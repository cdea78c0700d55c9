package health

import (
	"fmt"
	"strings"
	"unicode"
)

// Status is what came of one check. The zero value is no status, and counts as failed.
type Status string

// The states of a check.
const (
	OK      Status = "ok"
	Failed  Status = "failed"
	Warning Status = "warning"
	// NotKnown is what could not be found out; Cause says why.
	NotKnown Status = "not known"
)

// Result is one check.
type Result struct {
	Group string `json:"group"`
	// Check says what was looked at.
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Code, Fix and Docs are those of a failed check or of a warning.
	Code Code `json:"code,omitempty"`
	// Cause is one line: what is wrong, or why it is not known.
	Cause string `json:"cause,omitempty"`
	Fix   string `json:"fix,omitempty"`
	Docs  string `json:"docs,omitempty"`
}

// Report is all checks, by group.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Healthy says that no check failed; what is not known is counted beside it.
	Healthy  bool     `json:"healthy"`
	NotKnown int      `json:"notKnown"`
	Checks   []Result `json:"checks"`
}

// Failures are the codes of the failed checks, in order.
func (r Report) Failures() []Code {
	var codes []Code
	for _, c := range r.Checks {
		if c.Status != OK && c.Status != Warning && c.Status != NotKnown {
			codes = append(codes, c.Code)
		}
	}
	return codes
}

// list collects the checks of one group.
type list struct {
	group  string
	checks []Result
}

func (l *list) add(check string, s Status, code Code, format string, args ...any) {
	r := Result{Group: l.group, Check: printable(check), Status: s, Code: code, Cause: printable(fmt.Sprintf(format, args...))}
	if code != "" {
		info := code.info()
		r.Fix, r.Docs = info.Fix, info.Anchor()
	}
	l.checks = append(l.checks, r)
}

func (l *list) ok(check string)                        { l.add(check, OK, "", "") }
func (l *list) notKnown(check, why string)             { l.add(check, NotKnown, "", "%s", why) }
func (l *list) fail(c Code, check, f string, a ...any) { l.add(check, Failed, c, f, a...) }

// printable keeps what moves a terminal out of texts that a sidecar may have sent, and each in one line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, oneLine(text))
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// report puts the groups together.
func report(groups ...list) Report {
	r := Report{APIVersion: "ringfence.dev/v1alpha1", Kind: "CheckReport", Checks: []Result{}}
	for _, g := range groups {
		r.Checks = append(r.Checks, g.checks...)
	}
	for _, c := range r.Checks {
		if c.Status == NotKnown {
			r.NotKnown++
		}
	}
	r.Healthy = len(r.Failures()) == 0 && len(r.Checks) > 0
	return r
}
