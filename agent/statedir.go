package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ringfence-mesh/ringfence/internal/durable"
)

const (
	fileMode = 0o600

	keyFile        = "key.pem"
	svidFile       = "svid.pem"
	nextFile       = "next.pem" // a renewed SVID with its key, until both lie in their files
	bundleFile     = "bundle.pem"
	identityFile   = "identity.json"
	stateFile      = "state"
	bootstrapFile  = "bootstrap.json"
	envoySocket    = "envoy.sock"
	adminSocket    = "admin.sock"
	workloadSocket = "workload.sock"

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
	if err := durable.PrivateDir(path); err != nil {
		return nil, fmt.Errorf("%w: %w", errStateDir, err)
	}
	lock, err := durable.Lock(filepath.Join(path, "lock"))
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, fmt.Errorf("%w: %s is in use by another agent", errStateDir, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errStateDir, err)
	}
	return &stateDir{path: path, lock: lock}, nil
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
func (d *stateDir) write(name string, data []byte) error {
	return durable.Replace(d.file(name), data, fileMode)
}

func (d *stateDir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(d.path)
}

func (d *stateDir) rename(from, to string) error {
	return os.Rename(d.file(from), d.file(to))
}
