package agent

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The socket's mode keeps other users out; this is about one who gets hold of it all the same.
func TestOtherUsersAreNotServed(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // ends the loop below
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello"))
			_ = conn.Close()
		}
	}()
	said := func() string {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(conn)
		return string(text)
	}
	if got := said(); got != "hello" {
		t.Errorf("the own user hears %q", got)
	}
	if os.Geteuid() != 0 {
		return // only root can play another user
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "RINGFENCE_TEST_DIAL="+path)
	out, err := cmd.Output()
	if err != nil || string(out) != "connected, heard \"\"" {
		t.Errorf("another user: %q %v", out, err)
	}
}
