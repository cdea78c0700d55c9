package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ringfence-mesh/ringfence/examples"
)

// hostile is what somebody may send who wants to write lines of a log, or to move a reader's cursor: line breaks, ANSI escapes,
// C1 controls, characters that change the direction of text, quotes, and bytes that are no UTF-8.
const hostile = "x\n{\"level\":\"info\"}\r\x1b[2J\x1b]0;t\x07\u009b2J\u202e\u2066\u2028\x00\x7f\"'\\ \xff\xfe"

// unsafe is the first rune that a terminal may act on, or that is no text.
func unsafeRune(text string) (r rune, found bool) {
	for _, r := range strings.ReplaceAll(strings.ReplaceAll(text, "\n", ""), "\t", "") {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return r, true
		}
	}
	return 0, false
}

// Whatever a log holds, each entry is one line of JSON that no terminal acts on, and reads as it was said.
func TestLogsHoldHostileText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := newLog(newPlain(&out), logLevel(zapcore.DebugLevel))
	clean := strings.ToValidUTF8(hostile, "")
	for _, text := range []string{hostile, clean} {
		log.Named("envoy").Info("refused", zap.String("path", text), zap.Strings("names", []string{text}), zap.Error(errors.New(text)), zap.Any("any", map[string]string{text: text}))
		log.Warn(text, zap.String(text, text))
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 4 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if r, bad := unsafeRune(line); bad {
			t.Errorf("%U in %q", r, line)
		}
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("%v: %q", err, line)
		}
	}
	var last map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last["msg"] != clean || last[clean] != clean {
		t.Errorf("it reads as %q, %v", last["msg"], err)
	}
}

// Whatever a command is told, and whatever the files hold that it reads, what it prints does nothing to a terminal.
func TestCommandsPrintHostileText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mesh := filepath.Join(dir, "mesh")
	if err := os.CopyFS(mesh, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	if err := os.CopyFS(broken, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	argument := strings.ReplaceAll(hostile, "\x00", "") // no argument and no file name holds NUL
	name := strings.NewReplacer("/", "", "\x00", "").Replace(hostile)
	for path, data := range map[string]string{
		filepath.Join(broken, "tenants", name, name+".yaml"):     "kind: Service\nmetadata: {name: " + hostile + "}\n",
		filepath.Join(broken, "tenants", "acme", name+".yaml"):   "kind: " + argument,
		filepath.Join(broken, "tenants", "acme", "escaped.yaml"): "kind: Service\nmetadata: {name: \"a\\u001b\\u202e\\n\"}\nspec: {\"\\u001b[2J\": 1}\n",
		filepath.Join(dir, "log"):                                `{"msg":"refused","id":"0123","caller":"\u001b[2J\u202e","service":"a\nb","reason":"no_rule","fault":"\u009b"}` + "\n",
		filepath.Join(dir, "token"):                              hostile,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const web, orders = "spiffe://acme.demo.test/ns/acme/sa/web", "acme/orders"
	for _, args := range [][]string{
		{argument},
		{"--" + argument},
		{"explain", "--" + argument, mesh},
		{"proxy", argument},
		{"validate", argument},
		{"validate", broken},
		{"validate", "-o", "json", broken},
		{"validate", "-o", argument, mesh},
		{"test", argument},
		{"test", broken},
		{"schema", argument},
		{"explain", mesh, "--from", argument, "--to", orders},
		{"explain", mesh, "--from", web, "--to", argument},
		{"explain", mesh, "--from", web, "--to", orders, "--path", "/" + argument},
		{"explain", mesh, "--from", web, "--to", orders, "--path", "/" + argument, "-o", "json"},
		{"explain", mesh, "--from", web, "--to", orders, "--method", argument, "--path", "/"},
		{"explain", mesh, "--from", web, "--to", orders, "--path", "/", "--token", "sub=" + argument},
		{"explain", mesh, "--from", web, "--to", orders, "--path", "/", "--at", argument},
		{"explain", broken, "--from", web, "--to", orders, "--path", "/"},
		{"explain", mesh, "--asker", argument, "--to", orders, "--path", "/"},
		{"translate", mesh, "--workload", argument},
		{"translate", argument, "--workload", web},
		{"why", "0123", "--log", filepath.Join(dir, "log")},
		{"why", argument, "--log", filepath.Join(dir, "log")},
		{"why", "0123", "--log", filepath.Join(dir, argument)},
		{"proxy", "list", "--state", argument},
		{"proxy", "config", argument, "--state", dir},
		{"token", "create", argument, "--state", dir},
		{"revoke", "workload", argument, "--reason", argument, "--state", argument, "--yes"},
		{"revoke", "list", "--tenant", argument, "--state", dir},
		{"revoke", "token", "--jti", argument, "--reason", argument, "--for", argument, "--yes"},
		{"ready", argument},
		{"check", "--state", argument},
		{"authz", "--config", argument, "--trust", dir, "--listen", argument},
		{"agent", "--id", argument, "--state", dir},
		{"init", filepath.Join(mesh, strings.ReplaceAll(argument, "\n", ""), "x")},
	} {
		var out, talk bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		run(ctx, args, process{out: &out, err: &talk, lookupEnv: func(string) (string, bool) { return "", false }})
		cancel()
		for what, text := range map[string]string{"stdout": out.String(), "stderr": talk.String()} {
			if r, bad := unsafeRune(text); bad {
				t.Errorf("%q: %s holds %U: %q", args, what, r, text)
			}
			if strings.Contains(text, "\n{\"level\":\"info\"}") {
				t.Errorf("%q: %s has a line of the attacker's: %q", args, what, text)
			}
		}
	}
}

// A text comes out the same however it is cut into writes, and is left alone where there is nothing in it.
func TestPlainWriter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "a\tb\nc äöü ελ 😀\n": "a\tb\nc äöü ελ 😀\n", "\x1b[1m\u009b\u202e\x7f.": `\u001b[1m\u009b\u202e\u007f.`, "a\xffb\n": "a\ufffdb\n",
	} {
		for size := 1; size <= len(text)+1; size++ {
			var out bytes.Buffer
			w := newPlain(&out)
			for rest := []byte(text); len(rest) > 0; {
				n := min(size, len(rest))
				if got, err := w.Write(rest[:n]); got != n || err != nil {
					t.Fatalf("%d, %v", got, err)
				}
				rest = rest[n:]
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d: %q, want %q", text, size, out.String(), want)
			}
		}
	}
}
