package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// successor makes a root whose certificate bears what sign makes of the message; nil: no signature.
func successor(t *testing.T, td identity.TrustDomain, sign func(message []byte) []byte) (identity.Bundle, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		Subject: pkix.Name{CommonName: "root"},
	}
	if sign != nil {
		message, err := identity.Succession(td, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		extension, err := identity.SuccessionExtension(sign(message))
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{extension}
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

func by(t *testing.T, key crypto.Signer) func([]byte) []byte {
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

func TestBundleContinues(t *testing.T) {
	t.Parallel()
	acme, globex := identity.MustTrustDomain("acme.demo.test"), identity.MustTrustDomain("globex.demo.test")
	one, oneKey := successor(t, acme, nil)
	two, twoKey := successor(t, acme, by(t, oneKey))
	three, _ := successor(t, acme, by(t, twoKey))
	stranger, strangerKey := successor(t, acme, nil)
	signedByStranger, _ := successor(t, acme, by(t, strangerKey))
	otherMessage, _ := successor(t, acme, func([]byte) []byte { return by(t, oneKey)([]byte("something else")) })
	junk, _ := successor(t, acme, func([]byte) []byte { return []byte("junk") })
	none, _ := successor(t, acme, func([]byte) []byte { return nil })
	foreign, _ := successor(t, globex, by(t, oneKey))
	moved, err := identity.NewBundle(acme, foreign.DER()...) // its signature names globex
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
