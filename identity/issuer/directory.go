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

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

const (
	dirMode    = 0o700
	fileMode   = 0o600
	publicMode = 0o644

	rootsDir   = "ca" // <trust domain>/{roots.json,key-*.pem}
	rootsFile  = "roots.json"
	keyPattern = rootKind + "-*.pem"
	trustDir   = "trust"  // <trust domain>.pem: the roots again, alone, for those who only verify
	tokensDir  = "tokens" // <SHA-256 in hex>: a record
	ledgerFile = "ledger.db"
)

// directory is the store in a state directory.
type directory struct {
	*boltLedger

	path string
	lock *os.File
	keys Keys
	log  *zap.Logger
}

// openDirectory makes the directory where it is missing and holds it for this process.
func openDirectory(path string, o Options) (_ *directory, err error) {
	for _, p := range []string{path, filepath.Join(path, rootsDir), filepath.Join(path, trustDir), filepath.Join(path, tokensDir)} {
		if err := durable.PrivateDir(p); err != nil {
			return nil, fmt.Errorf("state %w", err)
		}
	}
	lock, err := durable.Lock(filepath.Join(path, "lock"))
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	case err != nil:
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d := &directory{path: path, lock: lock, keys: o.Keys, log: o.Log}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.keys.IsZero() {
		d.keys = fileKeys(files{dir: filepath.Join(path, rootsDir), seal: o.Seal, log: o.Log})
		if o.Seal.IsZero() {
			d.log.Warn("root keys lie unsealed in the state directory; name a sealing key to have them encrypted")
		}
	}
	had, err := d.openable()
	if err != nil {
		return nil, err
	}
	ledger, fresh, err := openLedger(filepath.Join(path, ledgerFile))
	if err != nil {
		return nil, err
	}
	d.boltLedger = ledger
	if fresh && had {
		d.log.Warn("a new ledger begins: what was issued before cannot be renewed, its workloads must join again")
	}
	return d, nil
}

// openable reports whether there are roots already. It fails where their keys cannot be had as this process was started:
// that is a mistake of the operator's, where damage to one root is not to hold up the others.
func (d *directory) openable() (had bool, err error) {
	tds, err := d.all()
	if err != nil {
		return false, err
	}
	for _, td := range tds {
		if _, ok, err := d.authority(td); errors.Is(err, ErrSealed) || errors.Is(err, errElsewhere) {
			return false, err
		} else if ok {
			had = true
		}
	}
	return had, nil
}

func (d *directory) close() error {
	var err error
	if d.boltLedger != nil && !d.broken.Load() { // a broken one might never let go; the end of the process closes it
		err = d.db.Close()
	}
	return errors.Join(err, d.lock.Close())
}

// authority reads the roots of a trust domain; false where it has had none.
func (d *directory) authority(td identity.TrustDomain) (*authority, bool, error) {
	text, err := os.ReadFile(filepath.Join(d.path, rootsDir, td.String(), rootsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return d.withoutRoots(td)
	}
	if err != nil {
		return nil, false, fmt.Errorf("roots of %s: %w", td, err)
	}
	a, err := parseAuthority(td, text, d.keys)
	if err != nil {
		return nil, false, err
	}
	if err := d.forgetOldForm(td); err != nil {
		return nil, false, err
	}
	return a, true, errors.Join(d.sweep(a), d.publish(a))
}

// sweep removes the keys of roots that are withdrawn, and those that a crash left before they had a root. Keys in a PKCS #11
// token stay there.
func (d *directory) sweep(a *authority) error {
	f, ok := d.keys.manager.(files)
	if !ok {
		return nil
	}
	used := map[string]bool{}
	for _, r := range a.roots {
		_, path, err := f.path(r.keyName)
		if err != nil {
			return err
		}
		used[path] = true
	}
	dir := filepath.Join(d.path, rootsDir, a.td.String())
	found, err := filepath.Glob(filepath.Join(dir, keyPattern))
	if err != nil {
		return fmt.Errorf("root keys of %s: %w", a.td, err)
	}
	for _, path := range found {
		if used[path] {
			continue
		}
		if err := errors.Join(os.Remove(path), durable.SyncDir(dir)); err != nil {
			return fmt.Errorf("root keys of %s: %w", a.td, err)
		}
		d.log.Info("the key of a root that is not trusted any more is removed", zap.Stringer("trust_domain", a.td), zap.String("key", filepath.Base(path)))
	}
	return nil
}

// withoutRoots is a trust domain without roots.json: a new one, or one whose only root still lies as an earlier version
// left it. One that has lost its roots is not taken for a new one.
func (d *directory) withoutRoots(td identity.TrustDomain) (*authority, bool, error) {
	a, ok, err := d.oldForm(td)
	if err != nil {
		return nil, false, err
	}
	if ok {
		if err := d.putAuthority(a); err != nil {
			return nil, false, err
		}
		d.log.Info("the root of a trust domain is kept in its new form now", zap.Stringer("trust_domain", td))
		return a, true, d.forgetOldForm(td)
	}
	published := d.trustFile(td)
	switch _, err := os.Stat(published); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("roots of %s: %w", td, err)
	}
	return nil, false, fmt.Errorf("roots of %s: %s is missing, and %s says that there were some: restore it, or remove the latter as well to begin "+
		"with a new root, after which every workload of the trust domain must join again", td, rootsFile, published)
}

const (
	oldRootFile = "root.pem"
	oldKeyFile  = "key.pem"
)

// oldForm reads a root as earlier versions kept it, and puts its key where keys are now; false where there is
// none.
func (d *directory) oldForm(td identity.TrustDomain) (*authority, bool, error) {
	dir := filepath.Join(d.path, rootsDir, td.String())
	certPEM, err := os.ReadFile(filepath.Join(dir, oldRootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("root of %s: %w", td, err)
	}
	f, ok := d.keys.manager.(files)
	if !ok {
		return nil, false, fmt.Errorf("%w: the key of the root of %s is a file, and a key cannot be moved: start as before", errElsewhere, td)
	}
	certDER, err := onePEM(certPEM, certificateBlock)
	if err != nil {
		return nil, false, fmt.Errorf("root of %s: %w", td, err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, oldKeyFile))
	if err != nil {
		return nil, false, fmt.Errorf("root key of %s: %w", td, err)
	}
	keyDER, err := onePEM(keyPEM, plainBlock)
	if err != nil {
		return nil, false, fmt.Errorf("root key of %s: %w", td, err)
	}
	key, err := parseKey(oldKeyFile, keyDER)
	if err != nil {
		return nil, false, fmt.Errorf("root key of %s: %w", td, err)
	}
	r, err := checkedRoot(td, certDER, key)
	if err != nil {
		return nil, false, err
	}
	r.generation, r.role = 1, roleCurrent
	if r.keyName, err = d.keys.name(td, rootKind); err != nil {
		return nil, false, err
	}
	return &authority{td: td, roots: []*root{r}, last: r.generation}, true, f.put(r.keyName, key)
}

// forgetOldForm removes what oldForm read, once roots.json is in force.
func (d *directory) forgetOldForm(td identity.TrustDomain) error {
	dir := filepath.Join(d.path, rootsDir, td.String())
	for _, name := range []string{oldKeyFile, oldRootFile} { // while the certificate is there the key is missed
		err := os.Remove(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err = errors.Join(err, durable.SyncDir(dir)); err != nil {
			return fmt.Errorf("root of %s: %w", td, err)
		}
	}
	return nil
}

// putAuthority puts the roots of a trust domain in force, all at once. Their keys are durable already.
func (d *directory) putAuthority(a *authority) error {
	text, err := a.encode()
	if err != nil {
		return err
	}
	dir := filepath.Join(d.path, rootsDir, a.td.String())
	if err := durable.PrivateDir(dir); err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(dir, rootsFile), text, fileMode); err != nil {
		return fmt.Errorf("roots of %s: %w", a.td, err)
	}
	if err := durable.SyncDir(filepath.Join(d.path, rootsDir)); err != nil {
		return err
	}
	return errors.Join(d.sweep(a), d.publish(a))
}

func (d *directory) rootKeys() Keys { return d.keys }

func (d *directory) trustFile(td identity.TrustDomain) string {
	return filepath.Join(d.path, trustDir, td.String()+".pem")
}

// all are the trust domains that have roots.
func (d *directory) all() ([]identity.TrustDomain, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, rootsDir))
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	var tds []identity.TrustDomain
	for _, e := range entries {
		if td, err := identity.ParseTrustDomain(e.Name()); err == nil {
			tds = append(tds, td)
		}
	}
	return tds, nil
}

// publish keeps the public half where a verifier such as `ringfence authz --trust` takes it from.
func (d *directory) publish(a *authority) error {
	b, err := a.bundle()
	if err != nil {
		return err
	}
	path := d.trustFile(a.td)
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
	if err := durable.Replace(d.tokenPath(h), data, fileMode); err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	return nil
}

func (d *directory) spendToken(h tokenHash, r record) (bool, error) {
	_, err := os.Lstat(d.tokenPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("join token: %w", err)
	}
	return true, d.addToken(h, r)
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
