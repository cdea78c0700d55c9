package issuer_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// A trust domain may have a next and a previous root beside the current one: all are trusted, the current one signs, and an
// SVID of any of them is renewed.
func TestSeveralRoots(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	i := open(t, first)
	held := joined(t, i, p256(t), acmeWeb)
	other := open(t, second)
	if err := errors.Join(i.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	// The second directory's root becomes the current one of the first, whose own becomes the previous.
	type kept struct {
		Version  int              `json:"version"`
		Roots    []map[string]any `json:"roots"`
		Rotation map[string]any   `json:"rotation,omitempty"`
	}
	read := func(dir string) (k kept) {
		text, err := os.ReadFile(rootsFile(dir))
		if err == nil {
			err = json.Unmarshal(text, &k)
		}
		if err != nil || len(k.Roots) != 1 {
			t.Fatalf("%v, %v", k, err)
		}
		return k
	}
	one, two := read(first), read(second)
	key, err := os.ReadFile(keyFile(t, second))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(first, "ca", "acme.demo.test", "key-2.pem"), key)
	one.Roots[0]["role"] = "previous"
	two.Roots[0]["key"], two.Roots[0]["generation"] = "file:acme.demo.test/key-2.pem", 2
	one.Roots = append(one.Roots, two.Roots[0])
	one.Rotation = map[string]any{"step": "signing", "started": now, "since": now}
	text, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	write(t, rootsFile(first), text)

	i = open(t, first)
	bundles, err := i.Bundles(now, domains("acme.demo.test")...)
	if err != nil || len(bundles.All()[0].DER()) != 2 || !bundles.All()[0].Constrained() {
		t.Fatalf("%v, %v", bundles, err)
	}
	if published, err := os.ReadFile(filepath.Join(first, "trust", "acme.demo.test.pem")); err != nil || string(published) != string(bundles.All()[0].PEM()) {
		t.Errorf("published: %v", err)
	}
	next, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), held.Chain[0], now)
	if err != nil {
		t.Fatalf("an SVID of the previous root: %v", err)
	}
	leaf, err := x509.ParseCertificate(next.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(two.Roots[0]["certificate"].(string)))
	current, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.CheckSignatureFrom(current); err != nil {
		t.Errorf("not signed by the current root: %v", err)
	}

	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	one.Roots[0]["role"] = "current" // two of them
	if text, err = json.Marshal(one); err != nil {
		t.Fatal(err)
	}
	write(t, rootsFile(first), text)
	i, err = issuer.Open(first, issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err == nil {
		t.Error("two current roots")
	}
}

func TestKindsOfRoots(t *testing.T) {
	t.Parallel()
	for kind, by := range map[identity.KeyKind]x509.SignatureAlgorithm{
		identity.ECDSAP256: x509.ECDSAWithSHA256, identity.ECDSAP384: x509.ECDSAWithSHA384, identity.Ed25519: x509.PureEd25519,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			rootOf(t, kind, by)
		})
	}
}

func rootOf(t *testing.T, kind identity.KeyKind, by x509.SignatureAlgorithm) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	i, err := issuer.Open(dir, issuer.Options{RootKey: kind})
	if err != nil {
		t.Fatal(err)
	}
	b, err := i.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(b.All()[0].DER()[0])
	if err != nil || root.SignatureAlgorithm != by {
		t.Fatalf("signs by %v, %v", root.SignatureAlgorithm, err)
	}
	joined(t, i, p256(t), acmeWeb)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir) // the kind is that of new roots; the old one stays
}
