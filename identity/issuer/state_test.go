package issuer_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

func open(t *testing.T, dir string) *issuer.Issuer {
	t.Helper()
	i, err := issuer.Open(dir, issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	if _, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test")...); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestStateSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	first := open(t, dir)
	before, err := first.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	key := p256(t)
	used, kept := newToken(t, first, acmeWeb), newToken(t, first, acmeOrders)
	if _, err := first.Issue(request(t, key, []string{acmeWeb}), used, everyone(t), now); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Open(dir, issuer.Options{}); !errors.Is(err, issuer.ErrLocked) {
		t.Errorf("two at once: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := open(t, dir)
	after, err := second.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	if before.All()[0].Digest() != after.All()[0].Digest() {
		t.Error("the root changed")
	}
	if _, err := second.Issue(request(t, p256(t), []string{acmeWeb}), used, everyone(t), now); !errors.Is(err, issuer.ErrRefused) {
		t.Errorf("a used token: %v", err)
	}
	if _, err := second.Issue(request(t, key, []string{acmeWeb}), used, everyone(t), now); err != nil {
		t.Errorf("a used token, with the key that it was used for: %v", err)
	}
	if _, err := second.Issue(request(t, key, []string{acmeOrders}), kept, everyone(t), now); err != nil {
		t.Errorf("an unused token: %v", err)
	}
}

func TestATokenIsUsedOnceHoweverManyAskAtOnce(t *testing.T) {
	t.Parallel()
	i := open(t, filepath.Join(t.TempDir(), "state"))
	token := newToken(t, i, acmeWeb)
	requests := [][]byte{request(t, p256(t), []string{acmeWeb}), request(t, p256(t), []string{acmeWeb})}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		given = map[string]map[int]bool{}
	)
	for n := range 40 {
		wg.Go(func() {
			// Minutes apart, so that the limit per workload is not what stops them.
			svid, err := i.Issue(requests[n%2], token, everyone(t), now.Add(time.Duration(n)*time.Minute))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if der := string(svid.Chain[0]); given[der] == nil {
				given[der] = map[int]bool{n % 2: true}
			} else {
				given[der][n%2] = true
			}
		})
	}
	wg.Wait()
	if len(given) != 1 {
		t.Errorf("one token gave %d SVIDs", len(given))
	}
	for _, requests := range given {
		if len(requests) != 1 {
			t.Error("one SVID for two keys")
		}
	}
	if n := i.Given(identity.MustTrustDomain("acme.demo.test")); n != 1 {
		t.Errorf("the ledger has %d", n)
	}
}

// Who has the key that a token was used for gets that SVID again, and no other: until it was renewed, has ended, or the hour is
// over.
func TestASpentTokenGivesItsSVIDAgain(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Hour
	for name, c := range map[string]struct {
		tokenLife time.Duration
		at        time.Duration
		before    func(t *testing.T, i *issuer.Issuer, svid issuer.SVID)
		given     bool
	}{
		"at once":                     {given: true},
		"within the hour":             {tokenLife: time.Minute, at: 59 * time.Minute, given: true},
		"after the hour":              {tokenLife: time.Minute, at: time.Hour},
		"within the token's own life": {tokenLife: 2 * time.Hour, at: 119 * time.Minute, given: true},
		"after the token's own life":  {tokenLife: 2 * time.Hour, at: 2 * time.Hour},
		"after the SVID's end":        {tokenLife: 2 * life, at: life},
		"after it was renewed": {before: func(t *testing.T, i *issuer.Issuer, svid issuer.SVID) {
			if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); err != nil {
				t.Fatal(err)
			}
		}},
		"after its root was withdrawn": {before: func(t *testing.T, i *issuer.Issuer, _ issuer.SVID) {
			if _, err := i.Compromised(identity.MustTrustDomain(acmeDomain), now); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, err := issuer.Open(filepath.Join(t.TempDir(), "state"), issuer.Options{TTL: life})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = i.Close() })
			if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
				t.Fatal(err)
			}
			token, _, err := i.CreateToken(workload(t, acmeWeb), c.tokenLife, now)
			if err != nil {
				t.Fatal(err)
			}
			csr := request(t, p256(t), []string{acmeWeb})
			svid, err := i.Issue(csr, token, everyone(t), now)
			if err != nil {
				t.Fatal(err)
			}
			if c.before != nil {
				c.before(t, i, svid)
			}
			again, err := i.Issue(csr, token, everyone(t), now.Add(c.at))
			switch {
			case c.given && (err != nil || !bytes.Equal(again.Chain[0], svid.Chain[0])):
				t.Errorf("another SVID, or none: %v", err)
			case !c.given && !errors.Is(err, issuer.ErrRefused):
				t.Errorf("got %v, want ErrRefused", err)
			}
		})
	}
}

func TestATokenWhoseFileIsGoneGivesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	token := newToken(t, i, acmeWeb)
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(request(t, p256(t), []string{acmeWeb}), token, everyone(t), now); !errors.Is(err, issuer.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestADiskThatCannotForgetTheTokenGivesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	token := newToken(t, i, acmeWeb)
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	// A directory that is not empty cannot be removed, not even by root.
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(files[0], "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	csr := request(t, p256(t), []string{acmeWeb})
	for range 2 {
		if svid, err := i.Issue(csr, token, everyone(t), now); err == nil {
			t.Errorf("gave an SVID to %s although the use could not be recorded", svid.ID)
		}
	}
}

func TestStateIsPrivateAndHoldsNoToken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	token := newToken(t, i, acmeWeb)
	seen := 0
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case d.IsDir():
			want = 0o700
		case filepath.Base(filepath.Dir(path)) == "trust":
			want = 0o644
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		if d.IsDir() {
			return nil
		}
		seen++
		data, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		if strings.Contains(string(data), token) || strings.Contains(path, token) {
			t.Errorf("%s holds the token", path)
		}
		return nil
	})
	if err != nil || seen < 7 { // two roots of three files, one token, the lock
		t.Errorf("%d files, %v", seen, err)
	}
}

func TestAStateDirectoryOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	i, err := issuer.Open(dir, issuer.Options{})
	if err != nil {
		t.Fatalf("an empty directory: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Open(dir, issuer.Options{}); !errors.Is(err, issuer.ErrOpen) {
		t.Errorf("got %v, want ErrOpen", err)
	}
}

// Who owns a directory can put links into it, whatever its mode.
func TestAStateDirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can use another user's directory at all")
	}
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	i, err := issuer.Open(dir, issuer.Options{})
	if !errors.Is(err, issuer.ErrOpen) {
		t.Errorf("got %v, want ErrOpen", err)
	}
	if err == nil {
		_ = i.Close()
	}
}

// A stolen root signs anything; who trusts it believes it only about its own trust domain.
func TestAStolenRootVouchesForItsOwnTrustDomainOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	all, err := i.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	acme := all.All()[0]
	if !acme.Constrained() {
		t.Error("the root is not name-constrained")
	}
	root, err := x509.ParseCertificate(acme.DER()[0])
	if err != nil {
		t.Fatal(err)
	}
	signs := root.IsCA && root.KeyUsage&x509.KeyUsageCertSign != 0 && root.CheckSignatureFrom(root) == nil
	if !signs || root.MaxPathLen != 0 || !root.MaxPathLenZero {
		t.Error("the root is not a self-signed CA with path length 0")
	}
	published, err := os.ReadFile(filepath.Join(dir, "trust", "acme.demo.test.pem"))
	if err != nil || !bytes.Equal(published, acme.PEM()) {
		t.Errorf("published root: %q, %v", published, err)
	}

	key := stolenKey(t, dir)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	// Hosts below the trust domain are left out: RFC 5280 and Envoy refuse them, Go takes them, and identity.Verifier never
	// asks one trust domain's root about another one.
	for uri, trusted := range map[string]bool{acmeWeb: true, globexWeb: false, "spiffe://platform.demo.test/ns/acme/sa/web": false} {
		parsed, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour), URIs: []*url.URL{parsed},
		}, root, p256(t).Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now.Add(time.Minute)})
		if (err == nil) != trusted {
			t.Errorf("%s: %v, want trusted %v", uri, err, trusted)
		}
	}
}

func TestOneBrokenRootDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	key := p256(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	otherKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	for name, damage := range map[string]func(t *testing.T, dir string){
		"no roots":       func(t *testing.T, dir string) { remove(t, rootsFile(dir)) },
		"no key":         func(t *testing.T, dir string) { remove(t, keyFile(t, dir)) },
		"empty key":      func(t *testing.T, dir string) { write(t, keyFile(t, dir), nil) },
		"another key":    func(t *testing.T, dir string) { write(t, keyFile(t, dir), otherKey) },
		"another's root": swapRoots,
		"roots junk":     func(t *testing.T, dir string) { write(t, rootsFile(dir), []byte("junk")) },
		"empty roots":    func(t *testing.T, dir string) { write(t, rootsFile(dir), nil) },
		"newer version":  func(t *testing.T, dir string) { edit(t, rootsFile(dir), `"version": 1`, `"version": 2`) },
		"unknown field":  func(t *testing.T, dir string) { edit(t, rootsFile(dir), `"version"`, `"x": 1, "version"`) },
		"unknown role":   func(t *testing.T, dir string) { edit(t, rootsFile(dir), `"current"`, `"retired"`) },
		"none current":   func(t *testing.T, dir string) { edit(t, rootsFile(dir), `"current"`, `"next"`) },
		"no roots in it": func(t *testing.T, dir string) { write(t, rootsFile(dir), []byte(`{"version": 1}`)) },
		"a key outside": func(t *testing.T, dir string) {
			edit(t, rootsFile(dir), `"file:acme.demo.test/`, `"file:../acme.demo.test/`)
		},
		"junk behind the certificate": func(t *testing.T, dir string) {
			edit(t, rootsFile(dir), `-----END CERTIFICATE-----\n`, `-----END CERTIFICATE-----\njunk`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			if err := open(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, dir)
			i, err := issuer.Open(dir, issuer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = i.Close() }()
			b, err := i.Bundles(now, domains("acme.demo.test", "fresh.demo.test")...)
			if err == nil {
				t.Error("the damage was not noticed")
			}
			if _, ok := b.Get(identity.MustTrustDomain("acme.demo.test")); ok {
				t.Error("the damaged root is trusted")
			}
			if _, ok := b.Get(identity.MustTrustDomain("fresh.demo.test")); !ok {
				t.Error("the other root is missing")
			}
		})
	}
}

func rootsFile(dir string) string { return filepath.Join(dir, "ca", "acme.demo.test", "roots.json") }

// keyFile is where acme's root key lies.
func keyFile(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "key-*.pem"))
	if err != nil || len(found) != 1 {
		t.Fatalf("keys: %v, %v", found, err)
	}
	return found[0]
}

// stolenKey is acme's root key, as whoever took over the control plane would find it.
func stolenKey(t *testing.T, dir string) crypto.Signer {
	t.Helper()
	text, err := os.ReadFile(keyFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}

func edit(t *testing.T, path, old, now string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q, %v", path, old, err)
	}
	write(t, path, []byte(strings.Replace(string(text), old, now, 1)))
}

func swapRoots(t *testing.T, dir string) {
	t.Helper()
	acme := filepath.Join(dir, "ca", "acme.demo.test")
	if err := errors.Join(os.RemoveAll(acme), os.Rename(filepath.Join(dir, "ca", "globex.demo.test"), acme)); err != nil {
		t.Fatal(err)
	}
	edit(t, rootsFile(dir), "file:globex", "file:acme")
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUnusedTokensAreBoundedAndSwept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	made := 0
	for range 40 {
		if _, _, err := i.CreateToken(workload(t, acmeWeb), time.Minute, now); err != nil {
			if !errors.Is(err, issuer.ErrLimited) {
				t.Fatal(err)
			}
			break
		}
		made++
	}
	if made == 0 || made == 40 {
		t.Errorf("%d unused tokens of one workload", made)
	}
	if _, _, err := i.CreateToken(workload(t, acmeOrders), time.Minute, now); err != nil {
		t.Errorf("another workload: %v", err)
	}
	write(t, filepath.Join(dir, "tokens", "junk"), []byte("junk"))
	if _, _, err := i.CreateToken(workload(t, acmeWeb), 4*time.Hour, now.Add(time.Minute)); err != nil {
		t.Errorf("after the others expired: %v", err)
	}
	if left := unusedTokens(t, dir); left != made+3 { // and orders', and the junk
		t.Errorf("%d files: a clock that was set ahead takes tokens away", left)
	}
	if _, _, err := i.CreateToken(workload(t, acmeOrders), time.Minute, now.Add(3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if left := unusedTokens(t, dir); left != 3 {
		t.Errorf("expired tokens lie about: %d files", left)
	}
	open(t, dir) // junk among the tokens stops nothing
	for _, ttl := range []time.Duration{-1, time.Millisecond, issuer.MaxTokenTTL + 1} {
		if _, _, err := i.CreateToken(workload(t, acmeOrders), ttl, now); !errors.Is(err, issuer.ErrTTL) {
			t.Errorf("ttl %s: %v", ttl, err)
		}
	}
}

func unusedTokens(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "tokens", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
