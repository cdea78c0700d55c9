package main

import (
	"os"
	"strings"
	"testing"
)

// The servers are this binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		exit(serve(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// The whole program, for moments only: the servers answer the attacks and the questions rightly, and each bar is shown. What
// the figures are is not looked at.
func TestRun(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), quick(), &out); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		"Decide, one tenant", "first sight", "bytes to answer", "Check over TCP, 1 in flight", "Check over TCP, 64 in flight",
		"Check over Unix socket, 16 in flight", "p99", "RSS idle", "token seen before", "unknown callers", "growth, 1 to 110 tenants",
	} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no row for %q:\n%s", row, out.String())
		}
	}
}

// A server that decides wrongly is not timed.
func TestAttackFindsWhoAllowsAll(t *testing.T) {
	t.Parallel()
	m, err := newMesh(2)
	if err != nil {
		t.Fatal(err)
	}
	target, err := launch(t.Context(), t.TempDir(), noop)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{mesh: m}
	if err := b.attack(t.Context(), target); err == nil || !strings.Contains(err.Error(), "attack") {
		t.Errorf("nothing found: %v", err)
	}
	if err := target.stop(); err != nil {
		t.Error(err)
	}
}
