package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// written are the manual pages as a user with that home directory writes them.
func written(t *testing.T, home string) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "man")
	var out bytes.Buffer
	lookup := func(name string) (string, bool) { return home, name == "HOME" }
	if code := run(t.Context(), []string{"man", dir}, process{out: &out, err: &out, lookupEnv: lookup}); code != exitDone {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		pages[f.Name()] = string(data)
	}
	return pages
}

// plain is what a reader sees of a page, word by word.
func plain(page string) string {
	page = regexp.MustCompile(`(?m)^\.(TP|PP|nf|fi|nh|ad l)$|^\.(SH|BR|B|TH) `).ReplaceAllString(page, "")
	page = strings.NewReplacer(`\e`, `\`, `\-`, "-", `\(ti`, "~", `\(ha`, "^", `\(ga`, "`", `\(aq`, "'", `\&`, "").Replace(page)
	return strings.Join(strings.Fields(page), " ")
}

func TestManualPages(t *testing.T) {
	t.Parallel()
	pages := written(t, "/home/somebody")
	if diff := cmp.Diff(pages, written(t, "/home/else")); diff != "" {
		t.Errorf("not the same again:\n%s", diff)
	}
	request := regexp.MustCompile(`^\.(TP|PP|nf|fi|nh|ad l|SH [A-Z ]+|B .+|BR \S+ \(1\)|TH "[A-Z-]+" 1 "" "[^"]+" "Ringfence")$`)
	checked := 0
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		name := pageName(cmd) + ".1"
		page, says := pages[name], plain(pages[name])
		for _, text := range []string{cmd.Short, cmd.Long, cmd.Example} {
			if !strings.Contains(says, strings.Join(strings.Fields(text), " ")) {
				t.Errorf("%s does not say %q", name, text)
			}
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(says, "--"+f.Name) {
				t.Errorf("%s does not say --%s", name, f.Name)
			}
		})
		for line := range strings.Lines(page) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !request.MatchString(line) {
				t.Errorf("%s: %q is a request that is not meant", name, line)
			}
		}
		checked++
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				check(sub)
			}
		}
	}
	root := newRoot(process{lookupEnv: func(string) (string, bool) { return "", false }})
	root.InitDefaultCompletionCmd()
	check(root)
	if checked != len(pages) || checked < 20 {
		t.Errorf("%d commands, %d pages", checked, len(pages))
	}
	for name, page := range pages { // by the formatters that are here
		for _, lint := range [][]string{{"groff", "-k", "-man", "-ww", "-z", "-Tutf8"}, {"mandoc", "-T", "lint", "-W", "error"}} {
			if path, err := exec.LookPath(lint[0]); err == nil {
				cmd := exec.CommandContext(t.Context(), path, lint[1:]...)
				cmd.Stdin = strings.NewReader(page)
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s: %s: %v\n%s", name, lint[0], err, out)
				}
			}
		}
	}
}

// TestManualPageIsPlain: no text is taken for a request, and nothing of who writes the page gets into it.
func TestManualPageIsPlain(t *testing.T) {
	t.Parallel()
	cmd := &cobra.Command{Use: "x", Short: "s", Long: ".so /etc/passwd\n'so\n\n.TH <trust domain> \\fB", Run: func(*cobra.Command, []string) {}}
	cmd.Flags().String("state", "/home/somebody/state", "usage")
	page := string(manualPage(cmd, "/home/somebody/state"))
	if strings.Contains(page, "\n.so") || strings.Contains(page, "\n'") || strings.Contains(page, "\n.TH <") || strings.Contains(page, "somebody") {
		t.Error(page)
	}
	if says := plain(page); !strings.Contains(says, `.so /etc/passwd 'so .TH <trust domain> \fB`) {
		t.Error(says)
	}
}
