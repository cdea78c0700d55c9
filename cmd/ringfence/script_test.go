package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what the scripts compare with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ringfence": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := run(ctx, os.Args[1:], process{out: os.Stdout, err: os.Stderr, lookupEnv: os.LookupEnv})
			stop()
			os.Exit(code)
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	example, err := filepath.Abs("../../examples/two-tenants")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: false,
		Setup: func(e *testscript.Env) error {
			e.Setenv("EXAMPLE", example)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDS", freePort(t))
			e.Setenv("ISSUER", freePort(t))
			e.Setenv("HTTP", freePort(t))
			e.Setenv("XDS2", freePort(t))
			e.Setenv("ISSUER2", freePort(t))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until},
	})
}

// exits runs a command and compares its exit code, which comes first.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("usage: exits code command…")
	}
	if got := code(ts, args[1:]); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func code(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		ts.Fatalf("%v", err)
		return -1
	}
}

// until repeats a command until it exits with 0, or with ! until it does not; "exists" waits for a file,
// "fetch URL TEXT" for a page that holds the text, "stands TEXT command…" for a command that prints it, however it ends.
func until(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if done(ts, args) {
			return
		}
	}
	ts.Fatalf("never done: %v", args)
}

func done(ts *testscript.TestScript, args []string) bool {
	switch args[0] {
	case "!":
		return !done(ts, args[1:])
	case "exists":
		_, err := os.Stat(ts.MkAbs(args[1]))
		return err == nil
	case "stands":
		code(ts, args[2:])
		return strings.Contains(ts.ReadFile("stdout"), args[1])
	case "fetch":
		return fetches(args[1], args[2])
	default:
		return code(ts, args) == 0
	}
}

func fetches(url, text string) bool {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return err == nil && response.StatusCode == http.StatusOK && strings.Contains(string(body), text)
}
