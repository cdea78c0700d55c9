package realenvoy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/child"
)

const (
	startTimeout = 15 * time.Second
	pollInterval = 10 * time.Millisecond
	adminMode    = 0o600
)

// Flags are the flags that every Envoy of the project runs with.
func Flags() []string {
	return []string{
		"--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "3", "--drain-strategy", "immediate",
		"--reject-unknown-dynamic-fields",
	}
}

// Validate fails the test, with Envoy's own words, where Envoy does not load the bootstrap (JSON).
func Validate(tb testing.TB, bootstrap []byte) {
	tb.Helper()
	if err := Validation(tb, bootstrap); err != nil {
		tb.Fatal(err)
	}
}

// Validation is what Envoy says of a bootstrap (JSON); nil if it would load.
func Validation(tb testing.TB, bootstrap []byte) error {
	tb.Helper()
	path := filepath.Join(shortDir(tb), "bootstrap.json")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	args := append(Flags(), "--mode", "validate", "--log-level", "warning", "-c", path)
	out, err := exec.CommandContext(tb.Context(), Path(tb), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy --mode validate: %w\n%s", err, out)
	}
	return nil
}

// Process is a running Envoy.
type Process struct {
	*child.Process

	admin  string
	client *http.Client
}

// Start runs Envoy with a bootstrap (JSON) and waits until it is live. Where the bootstrap has no admin socket, one is
// added. Envoy is killed at the end of the test, and by the kernel should the test process die.
func Start(tb testing.TB, bootstrap []byte, args ...string) *Process {
	tb.Helper()
	dir := shortDir(tb)
	bootstrap, admin, err := withAdmin(bootstrap, filepath.Join(dir, "admin.sock"))
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	running, err := child.Start(Path(tb), append(append(Flags(), "--log-level", "warning", "-c", path), args...)...)
	if err != nil {
		tb.Fatalf("starting Envoy: %v", err)
	}
	p := &Process{Process: running, admin: admin, client: unixClient(admin)}
	tb.Cleanup(func() {
		p.Stop()
		if tb.Failed() {
			tb.Logf("Envoy's log:\n%s", p.Log())
		}
	})
	if err := p.waitReady(tb.Context()); err != nil {
		tb.Fatalf("%v\n%s", err, p.Log())
	}
	return p
}

func (p *Process) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if body, err := p.Get(ctx, "/ready"); err == nil && strings.HasPrefix(body, "LIVE") {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Done():
			return errors.New("envoy ended while starting")
		case <-ctx.Done():
			return errors.New("envoy is not live in time")
		}
	}
}

// Get asks the admin interface and returns the body of a 200 answer.
func (p *Process) Get(ctx context.Context, path string) (string, error) {
	return p.ask(ctx, http.MethodGet, path)
}

// Admin is Get for tests: an error fails the test.
func (p *Process) Admin(tb testing.TB, path string) string {
	tb.Helper()
	body, err := p.Get(tb.Context(), path)
	if err != nil {
		tb.Fatalf("envoy admin %s: %v", path, err)
	}
	return body
}

func (p *Process) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answered %s: %s", resp.Status, body)
	}
	return string(body), nil
}

// AdminSocket is the path of the admin interface's Unix socket.
func (p *Process) AdminSocket() string { return p.admin }

// withAdmin adds an admin socket where the bootstrap has none, and says where it is.
func withAdmin(bootstrap []byte, path string) ([]byte, string, error) {
	var doc map[string]any
	if err := json.Unmarshal(bootstrap, &doc); err != nil {
		return nil, "", fmt.Errorf("bootstrap: %w", err)
	}
	if admin, ok := doc["admin"]; ok {
		var given struct {
			Address struct {
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"address"`
		}
		raw, err := json.Marshal(admin)
		if err != nil {
			return nil, "", err
		}
		if err := json.Unmarshal(raw, &given); err != nil || given.Address.Pipe.Path == "" {
			return nil, "", fmt.Errorf("bootstrap: admin is not on a Unix socket: %s", raw)
		}
		return bootstrap, given.Address.Pipe.Path, nil
	}
	doc["admin"] = map[string]any{"address": map[string]any{"pipe": map[string]any{"path": path, "mode": adminMode}}}
	out, err := json.Marshal(doc)
	return out, path, err
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

// shortDir is a temporary folder with a short name: the path of a Unix socket has at most 107 bytes, and the folder that
// testing makes carries the name of the test.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Dir is a temporary folder, removed after the test, whose name is short enough for Unix sockets in it.
func Dir(tb testing.TB) string {
	tb.Helper()
	return shortDir(tb)
}
