package issuer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

// jwtFile is what is kept of a tenant's keys. Names of tenants have no dots.
func (d *directory) jwtFile(t identity.TenantID) string {
	return filepath.Join(d.path, rootsDir, t.TrustDomain().String(), jwtKind+t.Name()+".json")
}

func (d *directory) jwtKeys(t identity.TenantID) (jwtKeys, error) {
	text, err := os.ReadFile(d.jwtFile(t))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errJWTKeys, err)
	}
	return parseJWTKeys(t, text, d.keys)
}

func (d *directory) putJWTKeys(t identity.TenantID, k jwtKeys) error {
	text, err := k.encode()
	if err != nil {
		return err
	}
	path := d.jwtFile(t)
	before, _ := os.ReadFile(path) // of what cannot be read the keys stay in a PKCS #11 token, and only there
	if err := durable.Replace(path, text, fileMode); err != nil {
		return fmt.Errorf("JWT keys of %s: %w", t, err)
	}
	if err := d.sweepJWTKeys(t, before, k); err != nil {
		d.log.Error("a withdrawn key of JWT-SVIDs cannot be removed", zap.Error(err))
	}
	return nil
}

// sweepJWTKeys removes the keys that are withdrawn, and those that a crash left before they were published.
func (d *directory) sweepJWTKeys(t identity.TenantID, before []byte, now jwtKeys) error {
	f, ok := d.keys.manager.(files)
	if !ok {
		return d.forgetJWTKeys(t, before, now)
	}
	dir := filepath.Dir(d.jwtFile(t))
	found, err := filepath.Glob(filepath.Join(dir, jwtKind+t.Name()+"-????????.pem"))
	if err != nil {
		return fmt.Errorf("JWT keys of %s: %w", t, err)
	}
	for _, path := range found {
		relative, err := filepath.Rel(f.dir, path)
		if err != nil {
			return fmt.Errorf("JWT keys of %s: %w", t, err)
		}
		if now.uses(fileScheme + filepath.ToSlash(relative)) {
			continue
		}
		if err := errors.Join(os.Remove(path), durable.SyncDir(dir)); err != nil {
			return fmt.Errorf("JWT keys of %s: %w", t, err)
		}
	}
	return nil
}

// forgetJWTKeys removes withdrawn keys where a PKCS #11 token can.
func (d *directory) forgetJWTKeys(t identity.TenantID, before []byte, now jwtKeys) error {
	token, ok := d.keys.manager.(interface{ DeleteKey(uri string) error })
	if !ok {
		return nil
	}
	old, _ := parseJWTKeys(t, before, d.keys) // of what cannot be read nobody knows what it is called
	for _, k := range old {
		if now.uses(k.keyName) {
			continue
		}
		if err := token.DeleteKey(k.keyName); err != nil {
			return fmt.Errorf("JWT key of %s: %w", t, err)
		}
	}
	return nil
}
