//go:build softhsm

package issuer_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// token opens the PKCS #11 token of scripts/softhsm-test.sh.
func token(t *testing.T) issuer.Keys {
	t.Helper()
	uri := os.Getenv("RINGFENCE_TEST_PKCS11")
	if uri == "" {
		t.Fatal("RINGFENCE_TEST_PKCS11 names no token: run make test-softhsm")
	}
	keys, err := issuer.PKCS11(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Roots whose keys are in the token sign and renew, also after a restart; no key lies in the state directory.
func TestSoftHSMHoldsRootKeys(t *testing.T) {
	for kind, by := range map[identity.KeyKind]x509.SignatureAlgorithm{
		identity.ECDSAP256: x509.ECDSAWithSHA256, identity.ECDSAP384: x509.ECDSAWithSHA384,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			i, err := issuer.Open(dir, issuer.Options{Keys: token(t), RootKey: kind})
			if err != nil {
				t.Fatal(err)
			}
			before, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test")...)
			if err != nil {
				t.Fatal(err)
			}
			svid := joined(t, i, p256(t), acmeWeb)
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			if keys, err := filepath.Glob(filepath.Join(dir, "ca", "*", "key*")); err != nil || len(keys) != 0 {
				t.Errorf("keys lie in files: %v, %v", keys, err)
			}

			i, err = issuer.Open(dir, issuer.Options{Keys: token(t), RootKey: kind})
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close() //nolint:errcheck // the test is over
			after, err := i.Bundles(now, domains("acme.demo.test")...)
			if err != nil || after.All()[0].Digest() != before.All()[0].Digest() {
				t.Fatalf("the root changed, %v", err)
			}
			root, err := x509.ParseCertificate(after.All()[0].DER()[0])
			if err != nil || root.SignatureAlgorithm != by {
				t.Errorf("the root signs by %v, %v", root.SignatureAlgorithm, err)
			}
			next, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := identity.NewVerifier(mapping(t), after).VerifyLeaf(next.Chain[0], nil, now)
			if err != nil || !peer.ID().Same(workload(t, acmeWeb)) {
				t.Errorf("renewed %v, %v", peer, err)
			}
		})
	}
}

// Keys are not looked for where they are not: neither those of a token in files nor those of files in a token.
func TestSoftHSMAndFilesAreNotMixed(t *testing.T) {
	inToken, inFiles := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	i, err := issuer.Open(inToken, issuer.Options{Keys: token(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(i.Close(), open(t, inFiles).Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Open(inToken, issuer.Options{}); !errors.Is(err, issuer.ErrKeys) {
		t.Errorf("keys of a token in files: %v", err)
	}
	if _, err := issuer.Open(inFiles, issuer.Options{Keys: token(t)}); !errors.Is(err, issuer.ErrKeys) {
		t.Errorf("keys of files in a token: %v", err)
	}
}

func TestSoftHSMRefusesWhatItCannot(t *testing.T) {
	i, err := issuer.Open(filepath.Join(t.TempDir(), "state"), issuer.Options{Keys: token(t), RootKey: identity.Ed25519})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close() //nolint:errcheck // the test is over
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err == nil {
		t.Error("made an Ed25519 key in the token")
	} else {
		t.Log(err)
	}
	uri := os.Getenv("RINGFENCE_TEST_PKCS11")
	for name, bad := range map[string]string{
		"no such token":  strings.Replace(uri, "token=ringfence", "token=other", 1),
		"no such module": strings.Replace(uri, "libsofthsm2.so", "libnone.so", 1),
		"a PIN in it":    "pkcs11:token=ringfence?pin-value=1234",
		"another scheme": "awskms:region=x",
	} {
		if _, err := issuer.PKCS11(t.Context(), bad); !errors.Is(err, issuer.ErrKeys) {
			t.Errorf("%s: %v, want ErrKeys", name, err)
		} else {
			t.Log(err)
		}
	}
}

// The keys of JWT-SVIDs are in the token too, replace each other there, and are removed from it once they are withdrawn.
func TestSoftHSMHoldsJWTKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	begin := func() *issuer.Issuer {
		t.Helper()
		i, err := issuer.Open(dir, issuer.Options{Keys: token(t), TTL: issuer.MaxTTL})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = i.Close() })
		if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
			t.Fatal(err)
		}
		return i
	}
	i := begin()
	svid := joined(t, i, p256(t), acmeWeb)
	path := filepath.Join(dir, "ca", "acme.demo.test", "jwt.acme.json")
	for n := range 3 {
		at := now.Add(time.Duration(n) * 20 * time.Hour)
		given, err := jwt(t, i, svid.Chain[0], at, "orders")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier(t, acmeWeb, jwtKeys(t, i, acmeWeb, at).JWKS, "orders").Verify(given.Token, at); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := filepath.Glob(filepath.Join(dir, "ca", "*", "*.pem")); err != nil || len(keys) != 0 {
		t.Errorf("keys lie in files: %v, %v", keys, err)
	}
	if err := i.WithdrawJWTKeys(workload(t, acmeWeb).Tenant(), now.Add(41*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	i = begin()
	jwtKeys(t, i, acmeWeb, now.Add(41*time.Hour))
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, before)
	if _, err := begin().JWTKeys(workload(t, acmeWeb).Tenant(), now.Add(41*time.Hour)); err == nil {
		t.Error("a withdrawn key is still in the token")
	}
}
