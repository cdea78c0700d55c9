package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
)

func newWhy(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why DECISION-ID",
		Short: "Say why a call was refused, from the log of where it was decided",
		Long: `A refused caller learns an id, in the header x-ringfence-decision, and no reason. The reason stands in the log of where the
call was decided: of the agent beside the called service, of "ringfence authz", or of "ringfence demo" (STATE/log). Whoever
may read that log can look the id up. Of a caller of another tenant without a Grant the log says nothing, by design.

The log is the JSON lines that these commands write to standard error. Refusals alone are logged, at level info.

Exit code 0: found. 1: not in this log. 2: wrong usage.`,
		Example: `  ringfence why 6c0f5d2ac7a04d2eb1a3a1de1f1f6a3e --log agent.log
  journalctl -u ringfence-agent -o cat | ringfence why 6c0f5d2ac7a04d2eb1a3a1de1f1f6a3e`,
		Args: cobra.ExactArgs(1),
	}
	name := cmd.Flags().String("log", "-", "file to look in; -: standard input")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if b, err := hex.DecodeString(args[0]); err != nil || len(b) != 16 || strings.ToLower(args[0]) != args[0] {
			return usage("%q is no decision id: 32 lower-case hexadecimal digits, from the header x-ringfence-decision", args[0])
		}
		in := cmd.InOrStdin()
		if *name != "-" {
			f, err := os.Open(*name)
			if err != nil {
				return usage("--log: %w", err)
			}
			defer f.Close() //nolint:errcheck // only read
			in = f
		}
		r, err := findRefusal(in, args[0])
		switch {
		case err != nil:
			return fmt.Errorf("log: %w", err)
		case r == nil:
			fmt.Fprintf(p.err, `%s is not in this log.
Look where the call was decided: in the log of the agent beside the called service, of each "ringfence authz" that serves
its Envoy, or of "ringfence demo" (STATE/log); also in rotated files. A refusal without the header was not decided there.
`, args[0])
			return found()
		}
		if *format == outputJSON {
			return printJSON(p.out, r)
		}
		printRefusal(p.out, *r)
		return nil
	}
	return cmd
}

// refusal is one line of the log, with the reason in words.
type refusal struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Decision   string `json:"decision"`
	Time       string `json:"time"`
	Asker      string `json:"asker"`
	Service    string `json:"service"`
	Caller     string `json:"caller"`
	Tenant     string `json:"tenant,omitempty"`
	Reason     string `json:"reason"`
	Words      string `json:"words"`
	Advice     string `json:"advice"`
	Generation string `json:"generation"`
	Fault      string `json:"fault,omitempty"`
	Connection bool   `json:"connection,omitempty"`
}

// maxLogLine is far more than a line of ours has, even with the stack of a fault.
const maxLogLine = 1 << 20

// findRefusal is nil where no line has the id. Other lines, also such as are no JSON, are none of its business.
func findRefusal(in io.Reader, id string) (*refusal, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.Contains(line, []byte(id)) {
			continue
		}
		var r refusal
		if err := json.Unmarshal(line, &r); err != nil || r.Decision != id {
			continue
		}
		reason, known := authz.ParseReason(r.Reason)
		if !known || reason == authz.Allowed {
			continue
		}
		r.APIVersion, r.Kind, r.Words, r.Advice = v1alpha1.APIVersion, "Refusal", reason.Words(), reason.Advice()
		return &r, nil
	}
	return nil, lines.Err()
}

func printRefusal(w io.Writer, r refusal) {
	line := func(name, text, empty string) {
		if text == "" {
			text = empty
		}
		fmt.Fprintf(w, "%-11s %s\n", name, printable(text))
	}
	line("refused", r.Time, "at an unknown time")
	line("service", r.Service, "none that the asking proxy runs")
	line("caller", r.Caller, r.nobody())
	line("asked by", r.Asker, "unknown")
	line("reason", r.Reason+": "+r.Words, "")
	line("what to do", r.Advice, "")
	line("rules", r.Generation, "none in force")
	if r.Fault != "" {
		line("fault", "the decision point failed on this call; the log line holds the stack, please report it", "")
	}
	if again := r.again(); again != "" {
		fmt.Fprintf(w, "every rule: ringfence explain DIR %s\n", printable(again))
	}
}

// named reports whether an asker asked that the Mesh names; of a workload's own proxy the log has the workload's ID.
func (r refusal) named() bool { return r.Asker != "" && !strings.Contains(r.Asker, "/") }

// byToken reports whether a token alone named the caller: of nobody else without an ID the tenant is known.
func (r refusal) byToken() bool { return r.Caller == "" && r.named() && r.Tenant != "" }

// nobody is what is said of a caller without an ID.
func (r refusal) nobody() string {
	if r.byToken() {
		return "whom the token names, of tenant " + r.Tenant
	}
	return "not proved, or of a tenant that this service may not learn of"
}

// again are the flags with which explain decides such a call, as far as the log tells; empty where it does not tell who called.
func (r refusal) again() string {
	if r.Service == "" || r.Caller == "" && !r.byToken() {
		return ""
	}
	flags := "--to " + r.Service
	if r.Caller != "" {
		flags = "--from " + r.Caller + " " + flags
	}
	if r.named() {
		flags = "--asker " + r.Asker + " " + flags
	}
	if !r.Connection {
		flags += " --method METHOD --path PATH"
	}
	if r.byToken() {
		flags += " --token CLAIMS"
	}
	return flags
}

// printable keeps what a log may hold from doing anything to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
