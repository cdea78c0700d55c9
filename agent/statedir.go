package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	dirMode  = 0o700
	fileMode = 0o600

	keyFile       = "key.pem"
	svidFile      = "svid.pem"
	bundleFile    = "bundle.pem"
	identityFile  = "identity.json"
	stateFile     = "state"
	bootstrapFile = "bootstrap.json"
	envoySocket   = "envoy.sock"
	adminSocket   = "admin.sock"

	maxSocketPath = 107
)

// stateDir is the agent's directory, held by one process at a time.
type stateDir struct {
	path string
	lock *os.File
}

var errStateDir = errors.New("state directory")

func openStateDir(path string) (*stateDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStateDir, err)
	}
	if n := len(filepath.Join(path, envoySocket)); n > maxSocketPath {
		return nil, fmt.Errorf("%w: the path of a Unix socket in it has %d bytes, at most %d are possible", errStateDir, n, maxSocketPath)
	}
	if err := makePrivate(path); err != nil {
		return nil, fmt.Errorf("%w: %w", errStateDir, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStateDir, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		return nil, fmt.Errorf("%w: %s is in use by another agent", errStateDir, path)
	}
	return &stateDir{path: path, lock: lock}, nil
}

// makePrivate makes the directory. One that is there already and open to others is narrowed while it is empty; with
// something in it, it may be somebody else's.
func makePrivate(path string) error {
	if err := os.MkdirAll(path, dirMode); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", path)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is open to other users: chmod 700 it if it is the right one", path)
	}
	return os.Chmod(path, dirMode)
}

func (d *stateDir) close() error { return d.lock.Close() }

func (d *stateDir) file(name string) string { return filepath.Join(d.path, name) }

// read gives nil for a file that is not there.
func (d *stateDir) read(name string) ([]byte, error) {
	data, err := os.ReadFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// write replaces a file as a whole: after a crash it holds the old or the new bytes.
func (d *stateDir) write(name string, data []byte) (err error) {
	temp := d.file(name + ".new")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", temp, err)
	}
	if err := os.Rename(temp, d.file(name)); err != nil {
		return err
	}
	return d.sync()
}

func (d *stateDir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.sync()
}

func (d *stateDir) rename(from, to string) error {
	return os.Rename(d.file(from), d.file(to))
}

// sync makes renames and removals in the directory last.
func (d *stateDir) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
