package issuer_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// Nothing is issued, renewed or rotated where the roots are somebody else's, whatever was there before; and no root is made.
func TestExternalTrustDomainsGetNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	acme, globex := identity.MustTrustDomain(acmeDomain), identity.MustTrustDomain("globex.demo.test")
	var late atomic.Bool
	i, err := issuer.Open(dir, issuer.Options{External: func(td identity.TrustDomain) bool {
		return td == globex || late.Load() && td == acme
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })

	bundles, err := i.Bundles(now, acme, globex)
	if !errors.Is(err, issuer.ErrExternal) {
		t.Errorf("globex's roots: %v", err)
	}
	if _, ok := bundles.Get(acme); !ok {
		t.Error("acme has no root, because globex has none here")
	}
	if _, ok := bundles.Get(globex); ok {
		t.Error("globex got a root")
	}
	if _, err := os.Stat(filepath.Join(dir, "ca", globex.String())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root of globex was made: %v", err)
	}
	if _, _, err := i.CreateToken(workload(t, globexWeb), 0, now); !errors.Is(err, issuer.ErrExternal) {
		t.Errorf("a token for globex: %v", err)
	}

	// acme becomes external while it has tokens and SVIDs.
	key := p256(t)
	svid, token := joined(t, i, key, acmeWeb), newToken(t, i, acmeWeb)
	late.Store(true)
	if _, err := i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now); !errors.Is(err, issuer.ErrRefused) {
		t.Errorf("a token from before: %v", err)
	}
	if _, err := renew(t, i, request(t, key, []string{acmeWeb}), svid.Chain[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("an SVID from before: %v", err)
	}
	for name, change := range map[string]func() (issuer.Rotation, error){
		"rotate":   func() (issuer.Rotation, error) { return i.Rotate(acme, now) },
		"rollback": func() (issuer.Rotation, error) { return i.Rollback(acme, now) },
		"advance":  func() (issuer.Rotation, error) { return i.Advance(issuer.Rotation{TrustDomain: acme}, now) },
		"state":    func() (issuer.Rotation, error) { return i.Rotation(acme) },
	} {
		if _, err := change(); !errors.Is(err, issuer.ErrExternal) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// And back: the token was not spent.
	late.Store(false)
	if _, err := i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now); err != nil {
		t.Errorf("once acme is the issuer's again: %v", err)
	}
}
