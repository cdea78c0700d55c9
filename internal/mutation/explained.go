package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// explained is the list of survivors that may be: the reason of each.
type explained map[string]string

// readExplained reads a list. A line that begins with "# " is (part of) the reason of the lines that follow it up to the next
// reason; each of those is a mutant's key.
func readExplained(path string) (explained, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := explained{}
	reason, open := "", false
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		switch comment, isComment := strings.CutPrefix(line, "# "); {
		case line == "":
			open = false
		case isComment && open:
			reason += " " + comment
		case isComment:
			reason, open = comment, true
		case reason == "":
			return nil, fmt.Errorf("%s:%d: no reason stands above it", path, i+1)
		case all[line] != "":
			return nil, fmt.Errorf("%s:%d: it stands there twice", path, i+1)
		default:
			all[line], open = reason, false
		}
	}
	return all, nil
}

// compare prints what the list does not explain, and what it explains for nothing. Only a whole run knows the latter.
func (e explained) compare(out io.Writer, results []result, whole bool) error {
	files, seen := map[string]bool{}, map[string]bool{}
	var open, stale []string
	for _, r := range results {
		key := r.key()
		files[r.file], seen[key] = true, true
		switch {
		case r.outcome == survived && e[key] == "":
			open = append(open, key)
		case r.outcome != survived && e[key] != "":
			stale = append(stale, key+" ("+string(r.outcome)+")")
		}
	}
	if whole {
		for key := range e {
			if file, _, _ := strings.Cut(key, " "); files[file] && !seen[key] {
				stale = append(stale, key+" (there is no such change)")
			}
		}
	}
	show(out, "survivors that nothing explains", open)
	show(out, "explained, and no survivors", stale)
	return cmp.Or(
		failIf(len(open) > 0, fmt.Sprintf("%d survivors are not explained", len(open))),
		failIf(len(stale) > 0, fmt.Sprintf("%d lines of the list explain nothing", len(stale))),
	)
}

func failIf(bad bool, text string) error {
	if bad {
		return errors.New(text)
	}
	return nil
}

func show(out io.Writer, title string, keys []string) {
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	fmt.Fprintf(out, "\n%s:\n", title)
	for _, k := range keys {
		fmt.Fprintln(out, k)
	}
}

// score prints the figures of a package. Changes that do not compile are none.
func score(out io.Writer, folder string, results []result) {
	n := map[outcome]int{}
	for _, r := range results {
		n[r.outcome]++
	}
	dead := n[killed] + n[hung]
	percent := 0.0
	if all := dead + n[survived]; all > 0 {
		percent = 100 * float64(dead) / float64(all)
	}
	fmt.Fprintf(out, "%-20s %5.1f %%  %d mutants: %d killed, %d of them for taking too long; %d survived, %d of them where no test comes by; %d more do not compile\n",
		folder, percent, dead+n[survived], dead, n[hung], n[survived], unreached(results), n[unviable])
}

func unreached(results []result) int {
	n := 0
	for _, r := range results {
		if r.outcome == survived && r.tests == 0 {
			n++
		}
	}
	return n
}
