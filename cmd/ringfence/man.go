package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const manMode = 0o644 // for everybody to read

func newMan(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Writes a manual page for each command into a directory, which is made where it is missing: ringfence.1, ringfence-serve.1
and so on. They are made of what --help says, and are the same for the same binary.`,
		Example: `  ringfence man /usr/local/share/man/man1
  ringfence man pages && man pages/ringfence-agent.1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return fmt.Errorf("manual pages: %w", err)
			}
			n := 0
			for page := range documented(cmd.Root()) {
				n++
				name := filepath.Join(args[0], pageName(page)+".1")
				text := manualPage(page, defaultState(p))
				if err := os.WriteFile(name, text, manMode); err != nil {
					return fmt.Errorf("manual pages: %w", err)
				}
			}
			fmt.Fprintf(p.err, "%d pages in %s\n", n, args[0])
			return nil
		},
	}
}

// documented are the command and all below it that help shows.
func documented(cmd *cobra.Command) func(yield func(*cobra.Command) bool) {
	return func(yield func(*cobra.Command) bool) {
		if !yield(cmd) {
			return
		}
		for _, sub := range cmd.Commands() {
			if !sub.IsAvailableCommand() {
				continue
			}
			for page := range documented(sub) {
				if !yield(page) {
					return
				}
			}
		}
	}
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manualPage is what --help says, as man(7). state is the default that depends on the user. Texts are plain, so they are set
// as they are: cobra's own generator reads them as Markdown, and loses what stands in angle brackets.
func manualPage(cmd *cobra.Command, state string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH %q 1 \"\" %q \"Ringfence\"\n.nh\n.ad l\n", strings.ToUpper(pageName(cmd)), "ringfence "+version)
	section := func(title string) { fmt.Fprintf(&b, ".SH %s\n", title) }
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", roff(pageName(cmd)), roff(cmd.Short))
	section("SYNOPSIS")
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, ".B %s\n", roff(use))
	section("DESCRIPTION")
	for i, paragraph := range strings.Split(cmp.Or(cmd.Long, cmd.Short+"."), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		b.WriteString(roff(paragraph) + "\n")
	}
	if cmd.HasAvailableSubCommands() {
		section("COMMANDS")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(pageName(sub)), roff(sub.Short))
			}
		}
	}
	manualFlags(&b, cmd, state)
	if cmd.Example != "" {
		section("EXAMPLES")
		fmt.Fprintf(&b, ".nf\n%s\n.fi\n", roff(cmd.Example))
	}
	if cmd.HasParent() {
		section("SEE ALSO")
		fmt.Fprintf(&b, ".BR %s (1)\n", roff(pageName(cmd.Parent())))
	}
	return b.Bytes()
}

func manualFlags(b io.Writer, cmd *cobra.Command, state string) {
	first := true
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if first {
			fmt.Fprint(b, ".SH OPTIONS\n")
			first = false
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		value, text := pflag.UnquoteUsage(f)
		switch {
		case f.DefValue == state: // it depends on who writes the page
			text += " (default /var/lib/ringfence for root, else $XDG_STATE_HOME/ringfence or ~/.local/state/ringfence)"
		case f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]":
			text += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+value)), roff(text))
	})
}

// roff is plain text, which no formatter takes for a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "~", `\(ti`, "^", `\(ha`, "`", `\(ga`, "'", `\(aq`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
