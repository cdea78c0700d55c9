// Package e2e_test runs real Envoys, real TLS, real gRPC and the real binary, and attacks them.
package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// startMesh runs examples/two-tenants, from a copy that the test may edit, before and after the start, until the test ends.
func startMesh(t testing.TB, before ...func(dir string)) *demo.Mesh {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	for _, change := range before {
		change(dir)
	}
	return startMeshOf(t, dir)
}

// startMeshOf runs the mesh of a configuration directory until the test ends.
func startMeshOf(t testing.TB, dir string) *demo.Mesh {
	t.Helper()
	m, err := demo.Start(t.Context(), demo.Config{
		Dir: dir, State: shortDir(t), Envoy: realenvoy.Path(t),
		Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// shortDir is a temporary directory whose path leaves room for a Unix socket's 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// edit replaces text in a file of the mesh's configuration directory.
func edit(t testing.TB, m *demo.Mesh, file, old, replacement string) {
	t.Helper()
	editFile(t, filepath.Join(m.ConfigDir(), file), old, replacement)
}

func editFile(t testing.TB, path, old, replacement string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s does not contain %q", path, old)
	}
	write(t, path, strings.ReplaceAll(string(data), old, replacement))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// do sends a call and fails the test where the test bed itself fails.
func do(t testing.TB, m *demo.Mesh, c demo.Call) demo.Result {
	t.Helper()
	r, err := m.Do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually polls until the condition holds, and returns how long that took.
func eventually(t testing.TB, within time.Duration, what string, holds func(context.Context) bool) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for !holds(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return time.Since(start)
}

func appendTo(t testing.TB, m *demo.Mesh, file, text string) {
	t.Helper()
	path := filepath.Join(m.ConfigDir(), file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(data)+text)
}
