package issuer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

func fingerprints(b identity.Bundle) [][sha256.Size]byte {
	var all [][sha256.Size]byte
	for _, der := range b.DER() {
		all = append(all, sha256.Sum256(der))
	}
	return all
}

// At whatever step, both roots of a compromised trust domain are withdrawn, none of them vouches for the new one, nothing that they
// have signed is renewed or counts, and who had an SVID joins again: also after a restart, and for no other trust domain.
func TestCompromisedRootsEndWhatTheySigned(t *testing.T) {
	t.Parallel()
	td := identity.MustTrustDomain(acmeDomain)
	for _, path := range [][]move{{}, {rotate}, {rotate, advance}, {rotate, advance, rollback}} {
		dir := filepath.Join(t.TempDir(), "state")
		i, err := issuer.Open(dir, issuer.Options{MaxOutstanding: 3})
		if err != nil {
			t.Fatal(err)
		}
		roots(t, i)
		svids := []issuer.SVID{joined(t, i, p256(t), acmeWeb)}
		for _, m := range path {
			if _, err := try(t, i, m, now); err != nil {
				t.Fatal(err)
			}
		}
		svids = append(svids, joined(t, i, p256(t), acmeOrders), joined(t, i, p256(t), acmeWeb))
		before, other := roots(t, i), joined(t, i, p256(t), globexWeb)
		if len(before.Withdrawn()) > 0 {
			t.Errorf("%v: roots are withdrawn already", path)
		}
		if _, err := i.Compromised(td, now); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			after := roots(t, i)
			if len(after.DER()) != 1 || after.Continues(before) || before.Continues(after) || !after.Constrained() {
				t.Errorf("%v: a root from before is trusted or vouches for another", path)
			}
			if len(after.Withdrawn()) != len(before.DER()) {
				t.Errorf("%v: %x are withdrawn, want %x", path, after.Withdrawn(), fingerprints(before))
			}
			for _, f := range fingerprints(before) {
				if !i.Withdrawn(f) || !slices.Contains(after.Withdrawn(), f) {
					t.Errorf("%v: a root from before is not withdrawn", path)
				}
			}
			if i.Withdrawn(fingerprints(after)[0]) || i.Withdrawn([sha256.Size]byte{}) {
				t.Errorf("%v: the new root, or one that never was, is withdrawn", path)
			}
			for n, s := range svids {
				if _, err := renew(t, i, request(t, p256(t), []string{s.ID.String()}), s.Chain[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
					t.Errorf("%v: SVID %d of a root from before: %v", path, n, err)
				}
			}
			if living, err := i.Living(td, now); err != nil || len(living) != 0 {
				t.Errorf("%v: %v live, %v", path, living, err)
			}
			if ended, err := i.Ended(td); err != nil || !slices.Equal(ended, []string{acmeOrders, acmeWeb}) {
				t.Errorf("%v: ended are %v, %v", path, ended, err)
			}
			i = restarted(t, i, dir)
		}
		if _, err := renew(t, i, request(t, p256(t), []string{globexWeb}), other.Chain[0], now); err != nil {
			t.Errorf("%v: globex does not renew: %v", path, err)
		}
		again := joined(t, i, p256(t), acmeWeb) // though as many as may be were outstanding
		if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), again.Chain[0], now); err != nil {
			t.Errorf("%v: what the new root signs is not renewed: %v", path, err)
		}
		// A second time: who has not joined again since the first is still missing.
		if _, err := i.Compromised(td, now); err != nil {
			t.Fatal(err)
		}
		if ended, err := i.Ended(td); err != nil || !slices.Equal(ended, []string{acmeOrders, acmeWeb}) {
			t.Errorf("%v: ended the second time are %v, %v", path, ended, err)
		}
		if got := len(roots(t, i).Withdrawn()); got != len(before.DER())+1 {
			t.Errorf("%v: %d roots are withdrawn", path, got)
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A renewal that was proved a moment before the root is withdrawn gets nothing of the new root.
func TestARenewalThatTheWithdrawalOvertakesIsRefused(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	svid := joined(t, i, p256(t), acmeWeb)
	i.OnStep(func(step string) {
		if step != "proved" {
			return
		}
		if _, err := i.Compromised(identity.MustTrustDomain(acmeDomain), now); err != nil {
			t.Error(err)
		}
	})
	if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("renewed: %v", err)
	}
}

// A process that dies once the new roots are on the disk, and before the ledger knows, leaves nothing that could be renewed or
// counts.
func TestCompromisedRootsEndWhereverTheProcessDies(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	options := issuer.Options{MaxOutstanding: 1}
	i, err := issuer.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	roots(t, i)
	svid := joined(t, i, p256(t), acmeWeb)
	i.OnStep(func(step string) {
		if step == "put" {
			if err := os.CopyFS(dir+"-dead", os.DirFS(dir)); err != nil {
				t.Error(err)
			}
			chmod(t, dir+"-dead")
		}
	})
	if _, err := i.Compromised(identity.MustTrustDomain(acmeDomain), now); err != nil {
		t.Fatal(err)
	}
	died, err := issuer.Open(dir+"-dead", options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = died.Close() })
	roots(t, died)
	if r := rotation(t, died); r.Step != issuer.Attesting || r.SigningRoot != 2 {
		t.Errorf("it stands at %+v", r)
	}
	if _, err := renew(t, died, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("renewed: %v", err)
	}
	joined(t, died, p256(t), acmeWeb)
}

// A root that is named as withdrawn and as trusted is served by nobody: somebody has edited the file.
func TestARootThatIsTrustedAndWithdrawnIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	trusted := fingerprints(roots(t, i))[0]
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, rootsFile(dir), `"version": 1,`, `"version": 1, "compromised": ["`+hex.EncodeToString(trusted[:])+`"],`)
	again, err := issuer.Open(dir, issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if _, err := again.Bundles(now, domains(acmeDomain)...); err == nil {
		t.Error("served")
	}
}
