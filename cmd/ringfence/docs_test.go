package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPages runs every command of these pages and compares what it says with what the page shows.
func TestPages(t *testing.T) {
	t.Chdir("../..")
	for page, least := range map[string]int{"docs/explain.md": 8, "docs/sensitivity.md": 3} {
		runPage(t, page, least)
	}
}

func runPage(t *testing.T, page string, least int) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(data), "```")
	commands := 0
	for i := 1; i < len(parts); i += 2 {
		body, ok := strings.CutPrefix(parts[i], "console\n")
		if !ok {
			continue
		}
		var got strings.Builder
		for _, command := range consoleCommands(body) {
			got.WriteString("$ " + command + "\n")
			got.WriteString(answer(t, command))
			commands++
		}
		parts[i] = "console\n" + got.String()
	}
	ran := strings.Join(parts, "```")
	if *update {
		if err := os.WriteFile(page, []byte(ran), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(data), ran); diff != "" {
		t.Errorf("%s differs from what the commands say (-page +said), rewrite it with -update:\n%s", page, diff)
	}
	if commands < least {
		t.Errorf("%s: only %d commands", page, commands)
	}
}

// consoleCommands are the commands of a block, each with its continued lines.
func consoleCommands(body string) []string {
	var all []string
	continued := false
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		switch command, ok := strings.CutPrefix(line, "$ "); {
		case continued:
			all[len(all)-1] += "\n" + line
		case ok:
			all = append(all, command)
		default:
			continue
		}
		continued = strings.HasSuffix(line, `\`)
	}
	return all
}

// answer is what a command prints, and the exit code where it is not 0.
func answer(t *testing.T, command string) string {
	t.Helper()
	var args []string
	for i, quoted := range strings.Split(strings.ReplaceAll(command, "\\\n", ""), "'") {
		if i%2 == 1 {
			args = append(args, quoted)
		} else {
			args = append(args, strings.Fields(quoted)...)
		}
	}
	if len(args) == 0 || args[0] != "ringfence" {
		t.Fatalf("not a command of this project: %s", command)
	}
	var out bytes.Buffer
	code := run(t.Context(), args[1:], process{out: &out, err: &out, lookupEnv: func(string) (string, bool) { return "", false }})
	if code > exitFindings {
		t.Errorf("%s: exit code %d", command, code)
	}
	return out.String()
}
