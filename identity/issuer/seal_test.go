package issuer_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

func sealingKey(t *testing.T, fill byte) issuer.SealingKey {
	t.Helper()
	key, err := issuer.ParseSealingKey([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)) + "\n"))
	if err != nil || key.IsZero() {
		t.Fatalf("zero %v, %v", key.IsZero(), err)
	}
	return key
}

func digest(t *testing.T, i *issuer.Issuer) [32]byte {
	t.Helper()
	b, err := i.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	return b.All()[0].Digest()
}

func openSealed(t *testing.T, dir string, key issuer.SealingKey) (*issuer.Issuer, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	i, err := issuer.Open(dir, issuer.Options{Seal: key, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i, logs
}

// A key that lies unsealed is sealed by the first start with a sealing key, and the root stays the same. From then on nothing
// starts without that key.
func TestRootKeysAreSealed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i, logs := openSealed(t, dir, issuer.SealingKey{})
	before := digest(t, i)
	if logs.FilterMessageSnippet("unsealed").Len() != 1 {
		t.Error("nobody is told that keys lie unsealed")
	}
	plain, err := x509.MarshalPKCS8PrivateKey(stolenKey(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}

	i, logs = openSealed(t, dir, sealingKey(t, 1))
	if digest(t, i) != before {
		t.Error("the root changed")
	}
	if logs.FilterMessageSnippet("is sealed now").Len() != 1 {
		t.Error("nobody is told that a key was sealed")
	}
	joined(t, i, p256(t), acmeWeb)
	sealed, err := os.ReadFile(keyFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(sealed)
	if block == nil || block.Type != "RINGFENCE SEALED KEY" || bytes.Contains(block.Bytes, plain[len(plain)-32:]) {
		t.Error("the key is not sealed")
	}
	if info, err := os.Stat(keyFile(t, dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}

	for name, key := range map[string]issuer.SealingKey{"no key": {}, "another key": sealingKey(t, 2)} {
		if _, err := issuer.Open(dir, issuer.Options{Seal: key}); !errors.Is(err, issuer.ErrSealed) || !strings.Contains(err.Error(), "acme.demo.test") {
			t.Errorf("%s: %v, want ErrSealed that names the root", name, err)
		}
	}
	i, logs = openSealed(t, dir, sealingKey(t, 1))
	if digest(t, i) != before || logs.Len() != 0 {
		t.Errorf("once more: %v", logs.All())
	}
}

// A sealed key is bound to its place: one root's is not taken for another's.
func TestASealedKeyIsBoundToItsRoot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i, _ := openSealed(t, dir, sealingKey(t, 1))
	if _, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test")...); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob(filepath.Join(dir, "ca", "globex.demo.test", "key-*.pem"))
	if err != nil || len(others) != 1 {
		t.Fatalf("%v, %v", others, err)
	}
	other, err := os.ReadFile(others[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, keyFile(t, dir), other)
	if _, err := issuer.Open(dir, issuer.Options{Seal: sealingKey(t, 1)}); !errors.Is(err, issuer.ErrSealed) {
		t.Errorf("got %v, want ErrSealed", err)
	}
}

func TestParseSealingKey(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "hunter2", strings.Repeat("A", 44), base64.StdEncoding.EncodeToString(make([]byte, 31)),
		base64.StdEncoding.EncodeToString(make([]byte, 33)), base64.StdEncoding.EncodeToString(make([]byte, 32)) + "x",
	} {
		key, err := issuer.ParseSealingKey([]byte(text))
		if !errors.Is(err, issuer.ErrSealingKey) || !key.IsZero() {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
}

// oldForm turns acme's roots into what earlier versions kept: root.pem and key.pem.
func oldForm(t *testing.T, dir string) {
	t.Helper()
	key, err := os.ReadFile(keyFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, "trust", "acme.demo.test.pem"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "ca", "acme.demo.test")
	remove(t, keyFile(t, dir))
	remove(t, rootsFile(dir))
	remove(t, filepath.Join(dir, "ledger.db"))
	write(t, filepath.Join(at, "root.pem"), cert)
	write(t, filepath.Join(at, "key.pem"), key)
}

// What an earlier version has left goes on, sealed where there is a sealing key, and wherever a crash interrupts the change.
func TestRootsOfEarlierVersionsGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		seal  issuer.SealingKey
		crash func(t *testing.T, at string)
	}{
		"unsealed": {issuer.SealingKey{}, func(*testing.T, string) {}},
		"sealed":   {sealingKey(t, 1), func(*testing.T, string) {}},
		"a key was written already": {sealingKey(t, 1), func(t *testing.T, at string) {
			t.Helper()
			write(t, filepath.Join(at, "key-00000000.pem"), []byte("half"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			i := open(t, dir)
			before := digest(t, i)
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			oldForm(t, dir)
			at := filepath.Join(dir, "ca", "acme.demo.test")
			c.crash(t, at)
			for range 2 {
				i, _ := openSealed(t, dir, c.seal)
				if digest(t, i) != before {
					t.Error("the root changed")
				}
				joined(t, i, p256(t), acmeWeb)
				if err := i.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for _, old := range []string{"root.pem", "key.pem"} {
				if _, err := os.Stat(filepath.Join(at, old)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", old, err)
				}
			}
		})
	}
}

// A crash after roots.json and before the old files are gone leaves both: the old ones, with their unsealed key, go.
func TestLeftoversOfTheOldFormGo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "ca", "acme.demo.test")
	write(t, filepath.Join(at, "root.pem"), []byte("old"))
	write(t, filepath.Join(at, "key.pem"), []byte("old"))
	open(t, dir)
	left, err := filepath.Glob(filepath.Join(at, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}
