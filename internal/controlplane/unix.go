package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// errInUse says that another process listens on a socket already.
var errInUse = errors.New("another process listens on it")

// maxPath is what fits into sockaddr_un, without the final NUL.
const maxPath = 107

// ListenUnix listens on a Unix socket that only this user can open, from its first moment: it is made in a directory of
// its own and then put in place, over a socket that a dead process left.
func ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, errInUse), c.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s: there is something else in its place", path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty after the rename
	hidden := filepath.Join(dir, "s")
	if longest := max(len(hidden), len(path)); longest > maxPath {
		return nil, fmt.Errorf("socket %s: the path is %d bytes too long for a Unix socket", path, longest-maxPath)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it would unlink the path that it no longer has
	}
	err = errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return &privateListener{Listener: l, path: path}, nil
}

// privateListener takes its socket away when it ends.
type privateListener struct {
	net.Listener

	path string
}

// Close ends the listener and removes the socket.
func (l *privateListener) Close() error {
	err := l.Listener.Close()
	if err == nil { // the first time: a later one must not remove a successor's
		_ = os.Remove(l.path)
	}
	return err
}
