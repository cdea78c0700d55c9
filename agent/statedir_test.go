package agent

import (
	"errors"
	"os"
	"testing"
)

// Who owns a directory can put links into it, whatever its mode.
func TestStateDirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use another user's directory at all")
	}
	dir, err := os.MkdirTemp("", "rf") //nolint:usetesting // a socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	d, err := openStateDir(dir)
	if !errors.Is(err, errStateDir) {
		t.Errorf("got %v, want %v", err, errStateDir)
	}
	if err == nil {
		_ = d.close()
	}
}
