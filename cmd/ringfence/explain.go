package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/internal/whatif"
	"github.com/ringfence-mesh/ringfence/source"
)

func newExplain(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain DIR (--from SPIFFE-ID | --asker NAME) --to TENANT/SERVICE",
		Short: "Say whether a call would be allowed, and every step that leads there",
		Long: `Decides a call by the documents of a configuration directory, with the code that decides real calls, and shows every step
and every rule with its position and the first condition that fails. Nothing is sent, and nothing needs to run.

The caller is believed to hold a valid certificate of that ID, and the token to be signed by the issuer that it names: both
are signed inside with keys that are thrown away. --token takes the claims as a JSON object, or a file that holds them; aud,
iat and exp are filled in where they are absent. Whoever can read the directory can ask: the answer is for them alone.

--asker asks about a call through a proxy that the Mesh names, such as an ingress. Where the Mesh says identityFrom: token of
it, the token alone names the caller, by its tenant and sub, and --from is left out.

Exit code 0: allowed. 1: denied, or the directory has problems. 2: wrong usage.`,
		Example: `  ringfence explain DIR --from spiffe://acme.demo.test/ns/acme/sa/web --to acme/orders --method GET --path /orders/7 \
    --token '{"iss": "https://idp.acme.example.com", "tenant": "acme", "roles": ["clerk"]}'
  ringfence explain DIR --asker edge --to acme/orders --path /orders/7 \
    --token '{"iss": "https://idp.acme.example.com", "tenant": "acme", "sub": "alice", "roles": ["clerk"]}'`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	var call whatif.Call
	f.StringVar(&call.From, "from", "", "the caller's SPIFFE ID (required, unless an asker's callers have none)")
	f.StringVar(&call.Asker, "asker", "", "name of the Mesh's asker through which the call comes (default: the service's own proxy)")
	f.StringVar(&call.To, "to", "", "the destination, TENANT/SERVICE (required)")
	f.StringVar(&call.Method, "method", "", "HTTP method (default GET; a TCP connection has none)")
	f.StringVar(&call.Path, "path", "", "path (default /; a TCP connection has none)")
	token := f.String("token", "", "claims of the bearer token, a JSON object or a file that holds one (default: no token)")
	when := f.String("at", "", "the time of the call, RFC 3339 (default: now)")
	format := addOutput(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := askedTime(*when)
		if err != nil {
			return err
		}
		if err := checkCall(&call, *token); err != nil {
			return err
		}
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			return usage("%s is not a directory that can be read", args[0])
		}
		world, report, err := whatif.Open(cmd.Context(), source.NewDirectory(args[0], zap.NewNop()), at)
		if err != nil {
			return fmt.Errorf("cannot judge %s: %w", args[0], err)
		}
		if world == nil {
			printReport(process{out: p.err}, report)
			return found()
		}
		e, err := world.Explain(call)
		switch {
		case errors.Is(err, whatif.ErrAsker):
			return usage("--asker, --from: %w", err)
		case err != nil:
			return usage("%w", err)
		}
		if *format == outputJSON {
			err = printJSON(p.out, newExplanation(e))
		} else {
			printExplanation(p.out, e)
		}
		if err == nil && !e.Decision.Allowed() {
			return found()
		}
		return err
	}
	return cmd
}

func askedTime(text string) (time.Time, error) {
	if text == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, usage("--at: %q is not a time as RFC 3339 writes it, for example 2026-11-24T12:00:00Z", text)
	}
	return at, nil
}

// checkCall demands what a question needs, and reads the token's claims.
func checkCall(call *whatif.Call, token string) error {
	switch owner, name, ok := strings.Cut(call.To, "/"); {
	case call.From == "" && call.Asker == "":
		return usage("--from is missing: the caller's SPIFFE ID; or --asker, where a token alone says who calls")
	case call.To == "":
		return usage("--to is missing: the destination, TENANT/SERVICE")
	case !ok || owner == "" || name == "":
		return usage("--to: %q is not TENANT/SERVICE", call.To)
	case token == "":
		return nil
	}
	data := []byte(token)
	if !strings.HasPrefix(strings.TrimSpace(token), "{") {
		var err error
		if data, err = os.ReadFile(token); err != nil {
			return usage("--token is a JSON object or a file that holds one: %w", err)
		}
	}
	if err := json.Unmarshal(data, &call.Token); err != nil || call.Token == nil {
		return usage("--token: the claims are no JSON object")
	}
	return nil
}

// explanation is an Explanation as programs read it.
type explanation struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Allowed    bool              `json:"allowed"`
	Reason     string            `json:"reason"`
	Rule       string            `json:"rule,omitempty"`
	Advice     string            `json:"advice,omitempty"`
	Steps      []explanationStep `json:"steps"`
	Rules      []explanationRule `json:"rules"`
}

type explanationStep struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Text    string `json:"text,omitempty"`
}

type explanationRule struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Position string `json:"position,omitempty"`
	Covers   bool   `json:"covers"`
	Fails    string `json:"fails,omitempty"`
	Text     string `json:"text,omitempty"`
}

func newExplanation(e authz.Explanation) explanation {
	out := explanation{
		APIVersion: v1alpha1.APIVersion, Kind: "Explanation", Allowed: e.Decision.Allowed(), Reason: e.Decision.Reason().String(),
		Rule: e.Decision.Rule(), Advice: e.Decision.Reason().Advice(), Steps: []explanationStep{}, Rules: []explanationRule{},
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, explanationStep{Name: s.Name, Outcome: string(s.Outcome), Text: s.Text})
	}
	for _, r := range e.Rules {
		out.Rules = append(out.Rules, explanationRule{
			Name: r.Name, Kind: ruleKind(r), Position: r.Position, Covers: r.Fails == "", Fails: r.Fails, Text: r.Text,
		})
	}
	return out
}

func ruleKind(r authz.RuleVerdict) string {
	if r.Grant {
		return string(v1alpha1.KindGrant)
	}
	return "Rule"
}

func printExplanation(w io.Writer, e authz.Explanation) {
	for _, s := range e.Steps {
		printStep(w, s)
	}
	for _, r := range e.Rules {
		printVerdict(w, r)
	}
	d := e.Decision
	if d.Allowed() {
		fmt.Fprintf(w, "allowed by %s\n", d.Rule())
		return
	}
	fmt.Fprintf(w, "denied: %s\n", d.Reason())
	fmt.Fprintf(w, "  what to do: %s\n", d.Reason().Advice())
}

func printStep(w io.Writer, s authz.Step) {
	marks := map[authz.Outcome]string{authz.Passed: "✓", authz.Failed: "✗", authz.NotReached: "-"}
	text := s.Text
	if s.Outcome == authz.NotReached {
		text = "not reached"
	}
	fmt.Fprintf(w, "%s %-12s %s\n", marks[s.Outcome], s.Name, text)
}

func printVerdict(w io.Writer, r authz.RuleVerdict) {
	mark, text := "✓", "covers the call"
	if r.Fails != "" {
		mark, text = "✗", r.Fails+": "+r.Text
	}
	fmt.Fprintf(w, "    %s %s %s  %s\n        %s\n", mark, ruleKind(r), r.Name, r.Position, text)
}
