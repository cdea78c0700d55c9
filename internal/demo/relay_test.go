package demo

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
	"github.com/ringfence-mesh/ringfence/source"
)

// TestRelay acts from within an application: reaches it, counts that, and tells a closed door from a broken relay.
func TestRelay(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	socket := filepath.Join(dir, "relay.sock")
	port, err := new(freeport.Finder).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address := netAddress(port)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeApp(ctx, "acme/orders", address, socket) }()
	for hits, err := relayedHits(ctx, socket); err != nil || hits != 0; hits, err = relayedHits(ctx, socket) {
		if len(ended) > 0 {
			t.Fatal(<-ended)
		}
		time.Sleep(time.Millisecond)
	}

	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialRelay(ctx, socket, network, address)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/orders/7", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	client.CloseIdleConnections()
	if hits, err := relayedHits(ctx, socket); err != nil || hits != 1 || response.StatusCode != http.StatusOK {
		t.Errorf("status %d, hits %d, %v", response.StatusCode, hits, err)
	}

	for _, door := range [][2]string{{"unix", filepath.Join(dir, "none.sock")}, {"tcp", "127.0.0.1:1"}, {"nonsense", "x"}} {
		conn, err := dialRelay(ctx, socket, door[0], door[1])
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, ErrClosedThere) {
			t.Errorf("%v: %v", door, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := dialRelay(t.Context(), socket, "tcp", address); err == nil || errors.Is(err, ErrClosedThere) {
		t.Errorf("without a relay: %v", err)
	}
}

// shortDir is a temporary directory whose path leaves room for a Unix socket's 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func netAddress(port uint16) string {
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}).String()
}

// TestWriteKeys makes keys once, and signs with them what the public half verifies.
func TestWriteKeys(t *testing.T) {
	t.Parallel()
	config, public, private := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.CopyFS(config, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		data, err := os.ReadFile(filepath.Join(public, "acme-jwks.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := WriteKeys(t.Context(), config, public, private); err != nil {
		t.Fatal(err)
	}
	first := read()
	if err := WriteKeys(t.Context(), config, public, private); err != nil {
		t.Fatal(err)
	}
	if read() != first {
		t.Error("the second time made other keys")
	}
	idps, err := newIDPs(t.Context(), source.NewDirectory(config, zap.NewNop()),
		func(file string) (*ecdsa.PrivateKey, error) { return readKey(private, file) })
	if err != nil {
		t.Fatal(err)
	}
	if string(idps.jwks["platform/acme-jwks.json"]) != first {
		t.Error("the private key is not that of the key set")
	}
	if _, err := idps.mint(clerk); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(private, "acme-jwks.json.key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
