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
	go greet(l)
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

// Of other users those are served on the workload's socket that the configuration names.
func TestNamedUsersAreServedOnTheWorkloadsSocket(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can play another user")
	}
	const nobody = 65534
	for name, tt := range map[string]struct {
		users []int
		want  string
	}{
		"named":           {[]int{nobody}, "connected, heard \"hello\""},
		"another is":      {[]int{nobody - 1}, "connected, heard \"\""},
		"nobody is named": {nil, ""}, // cannot even connect
	} {
		dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // a socket needs a short path
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "w")
		l, err := listenWorkload(t.Context(), path, tt.users)
		if err != nil {
			t.Fatal(err)
		}
		go greet(l)
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "RINGFENCE_TEST_DIAL="+path)
		if out, err := cmd.Output(); string(out) != tt.want {
			t.Errorf("%s: %q %v", name, out, err)
		}
		_ = l.Close()
	}
}

func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("hello"))
		_ = conn.Close()
	}
}
