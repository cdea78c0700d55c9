package issuer

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

const (
	dirMode    = 0o700
	fileMode   = 0o600
	publicMode = 0o644

	rootsDir  = "ca"     // <trust domain>/{root.pem,key.pem}
	trustDir  = "trust"  // <trust domain>.pem: the roots again, alone, for those who only verify
	tokensDir = "tokens" // <SHA-256 in hex>: a record
	tempMark  = ".new-"
)

// directory is the store in a state directory.
type directory struct {
	path string
	lock *os.File
}

// openDirectory makes the directory where it is missing and holds it for this process.
func openDirectory(path string) (*directory, error) {
	for _, p := range []string{path, filepath.Join(path, rootsDir), filepath.Join(path, trustDir), filepath.Join(path, tokensDir)} {
		if err := durable.PrivateDir(p); err != nil {
			return nil, fmt.Errorf("state %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	return &directory{path: path, lock: lock}, nil
}

func (d *directory) close() error { return d.lock.Close() }

func (d *directory) root(td identity.TrustDomain) (*root, bool, error) {
	dir := filepath.Join(d.path, rootsDir, td.String())
	certPEM, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(dir); errors.Is(statErr, fs.ErrNotExist) {
			return nil, false, nil
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("root of %s: %w", td, err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, false, fmt.Errorf("root key of %s: %w", td, err)
	}
	r, err := parseRoot(td, certPEM, keyPEM)
	if err != nil {
		return nil, false, err
	}
	return r, true, d.publish(r)
}

// addRoot writes certificate and key into a new directory and renames it, so that no half root is ever found.
func (d *directory) addRoot(r *root) error {
	certPEM, keyPEM, err := r.encode()
	if err != nil {
		return err
	}
	parent := filepath.Join(d.path, rootsDir)
	temp, err := os.MkdirTemp(parent, tempMark)
	if err != nil {
		return fmt.Errorf("root of %s: %w", r.td, err)
	}
	defer func() { _ = os.RemoveAll(temp) }() // gone after the rename
	for name, data := range map[string][]byte{"root.pem": certPEM, "key.pem": keyPEM} {
		if err := durable.Write(filepath.Join(temp, name), data, fileMode); err != nil {
			return fmt.Errorf("root of %s: %w", r.td, err)
		}
	}
	if err := durable.SyncDir(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(parent, r.td.String())); err != nil {
		return fmt.Errorf("root of %s: %w", r.td, err)
	}
	if err := durable.SyncDir(parent); err != nil {
		return err
	}
	return d.publish(r)
}

// publish keeps the public half where a verifier such as `ringfence authz --trust` takes it from.
func (d *directory) publish(r *root) error {
	b, err := r.bundle()
	if err != nil {
		return err
	}
	path := filepath.Join(d.path, trustDir, r.td.String()+".pem")
	if have, err := os.ReadFile(path); err == nil && string(have) == string(b.PEM()) {
		return nil
	}
	return durable.Replace(path, b.PEM(), publicMode)
}

func (d *directory) tokens() (map[tokenHash]record, error) {
	dir := filepath.Join(d.path, tokensDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("join tokens: %w", err)
	}
	all := map[tokenHash]record{}
	for _, e := range entries {
		raw, err := hex.DecodeString(e.Name())
		if err != nil || len(raw) != len(tokenHash{}) {
			continue // a rest of an interrupted write: it was never given out
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("join tokens: %w", err)
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			continue // unreadable means: gives nothing
		}
		all[tokenHash(raw)] = r
	}
	return all, nil
}

func (d *directory) addToken(h tokenHash, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	return durable.Replace(d.tokenPath(h), data, fileMode)
}

func (d *directory) dropToken(h tokenHash) (bool, error) {
	err := os.Remove(d.tokenPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("join token: %w", err)
	}
	return true, durable.SyncDir(filepath.Join(d.path, tokensDir))
}

func (d *directory) tokenPath(h tokenHash) string {
	return filepath.Join(d.path, tokensDir, hex.EncodeToString(h[:]))
}
