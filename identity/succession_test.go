package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// madeRoot makes a root whose certificate bears what sign makes of the message; nil: no signature.
func madeRoot(t testing.TB, td identity.TrustDomain, sign func(message []byte) []byte) (identity.Bundle, crypto.Signer) {
	t.Helper()
	if sign == nil {
		return commentedRoot(t, td, nil)
	}
	return commentedRoot(t, td, func(message []byte) []byte {
		extension, err := identity.SuccessionExtension(sign(message))
		if err != nil {
			t.Fatal(err)
		}
		return extension.Value
	})
}

// commentedRoot makes a root whose comment is what comment makes of the message; nil: no comment.
func commentedRoot(t testing.TB, td identity.TrustDomain, comment func(message []byte) []byte) (identity.Bundle, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		Subject: pkix.Name{CommonName: "root"},
	}
	if comment != nil {
		message, err := identity.Succession(td, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Value: []byte{5, 0}}, {Id: nsComment, Value: comment(message)}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.NewBundle(td, der)
	if err != nil {
		t.Fatal(err)
	}
	return b, key
}

func by(t testing.TB, key crypto.Signer) func([]byte) []byte {
	t.Helper()
	return func(message []byte) []byte {
		sum := sha256.Sum256(message)
		signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
}

func together(t *testing.T, bundles ...identity.Bundle) identity.Bundle {
	t.Helper()
	var ders [][]byte
	for _, b := range bundles {
		ders = append(ders, b.DER()...)
	}
	all, err := identity.NewBundle(bundles[0].TrustDomain(), ders...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var nsComment = asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 13}

// A comment is a succession only as the issuer writes it.
func TestOnlyASuccessionContinues(t *testing.T) {
	t.Parallel()
	td := identity.MustTrustDomain("acme.demo.test")
	known, key := madeRoot(t, td, nil)
	ia5 := func(text string) []byte {
		value, err := asn1.MarshalWithParams(text, "ia5")
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	const prefix = "ringfence-succession-1:"
	for name, tt := range map[string]struct {
		comment func(signature string) []byte
		want    bool
	}{
		"as it is written":       {func(s string) []byte { return ia5(prefix + s) }, true},
		"no ASN.1":               {func(string) []byte { return []byte{0xff} }, false},
		"another ASN.1 type":     {func(string) []byte { return []byte{5, 0} }, false},
		"bytes behind it":        {func(s string) []byte { return append(ia5(prefix+s), 5, 0) }, false},
		"another tool's comment": {func(string) []byte { return ia5("OpenSSL Generated Certificate") }, false},
		"no prefix":              {func(s string) []byte { return ia5(s) }, false},
		"another version":        {func(s string) []byte { return ia5("ringfence-succession-2:" + s) }, false},
		"text behind it":         {func(s string) []byte { return ia5(prefix + s + "!") }, false},
	} {
		b, _ := commentedRoot(t, td, func(message []byte) []byte { return tt.comment(base64.StdEncoding.EncodeToString(by(t, key)(message))) })
		if got := b.Continues(known); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := identity.Succession(td, "no key"); err == nil {
		t.Error("what is no key can be signed")
	}
}

func TestBundleContinues(t *testing.T) {
	t.Parallel()
	acme, globex := identity.MustTrustDomain("acme.demo.test"), identity.MustTrustDomain("globex.demo.test")
	one, oneKey := madeRoot(t, acme, nil)
	two, twoKey := madeRoot(t, acme, by(t, oneKey))
	three, _ := madeRoot(t, acme, by(t, twoKey))
	stranger, strangerKey := madeRoot(t, acme, nil)
	signedByStranger, _ := madeRoot(t, acme, by(t, strangerKey))
	otherMessage, _ := madeRoot(t, acme, func([]byte) []byte { return by(t, oneKey)([]byte("something else")) })
	junk, _ := madeRoot(t, acme, func([]byte) []byte { return []byte("junk") })
	none, _ := madeRoot(t, acme, func([]byte) []byte { return nil })
	foreign, _ := madeRoot(t, globex, by(t, oneKey))
	moved, err := identity.NewBundle(acme, foreign.DER()...) // its signature names globex
	if err != nil {
		t.Fatal(err)
	}
	tampered, err := identity.NewBundle(acme, bytes.ReplaceAll(two.DER()[0], []byte("root"), []byte("toor")))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b, known identity.Bundle
		want     bool
	}{
		"itself":                          {one, one, true},
		"the old and the new":             {together(t, one, two), one, true},
		"the new alone":                   {two, one, true},
		"back to the old":                 {one, together(t, one, two), true},
		"two steps, both there":           {together(t, three, two), one, true},
		"two steps, the middle not there": {three, one, false},
		"the old after it was withdrawn":  {one, two, false},
		"a stranger":                      {stranger, one, false},
		"a stranger beside":               {together(t, one, stranger), one, false},
		"signed by a stranger":            {signedByStranger, one, false},
		"signed by a stranger beside":     {together(t, stranger, signedByStranger), one, false},
		"another message":                 {otherMessage, one, false},
		"junk":                            {junk, one, false},
		"an empty signature":              {none, one, false},
		"changed after it was signed":     {tampered, one, false},
		"another trust domain":            {foreign, one, false},
		"made for another trust domain":   {moved, one, false},
		"none":                            {identity.Bundle{}, one, false},
		"of none":                         {one, identity.Bundle{}, false},
		"none of none":                    {identity.Bundle{}, identity.Bundle{}, false},
	} {
		if got := c.b.Continues(c.known); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzSuccession feeds certificates of anybody's to the question whether they continue a root: only that root itself does, and the
// one successor that it has signed.
func FuzzSuccession(f *testing.F) {
	td := identity.MustTrustDomain("acme.demo.test")
	known, key := madeRoot(f, td, nil)
	next, _ := madeRoot(f, td, by(f, key))
	wrong, _ := madeRoot(f, td, func([]byte) []byte { return []byte("junk") })
	f.Add(known.DER()[0])
	f.Add(wrong.DER()[0])
	f.Add([]byte("junk"))
	signed := next.DER()[0]
	f.Add(signed)
	f.Fuzz(func(t *testing.T, der []byte) {
		b, err := identity.NewBundle(td, der)
		if err != nil {
			return
		}
		if b.Continues(known) != (bytes.Equal(der, known.DER()[0]) || bytes.Equal(der, signed)) {
			t.Errorf("%x continues a root that has not signed it", der)
		}
	})
}
