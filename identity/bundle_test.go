package identity_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func TestBundle(t *testing.T) {
	t.Parallel()
	td := identity.MustTrustDomain("acme.demo.test")
	one, two := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "acme.demo.test")
	b, err := identity.NewBundle(td, one.Cert.Raw, two.Cert.Raw, one.Cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.DER(); len(got) != 2 || !bytes.Equal(got[0], one.Cert.Raw) || !bytes.Equal(got[1], two.Cert.Raw) {
		t.Errorf("%d roots", len(got))
	}
	again, err := identity.ParseBundlePEM(td, b.PEM())
	if err != nil || again.Digest() != b.Digest() || again.TrustDomain() != td {
		t.Errorf("PEM and back: %v", err)
	}
	onlyTwo := two.Bundle("acme.demo.test")
	moved, err := identity.NewBundle(identity.MustTrustDomain("globex.demo.test"), b.DER()...)
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := identity.NewBundle(identity.MustTrustDomain("emca.demo.test"), b.DER()...)
	if err != nil {
		t.Fatal(err)
	}
	digests := map[[32]byte]bool{}
	for _, other := range []identity.Bundle{b, one.Bundle("acme.demo.test"), onlyTwo, moved, renamed, {}} {
		digests[other.Digest()] = true
	}
	if len(digests) != 6 {
		t.Errorf("six bundles have %d digests", len(digests))
	}
	if !b.Constrained() || b.IsZero() {
		t.Error("both roots are constrained")
	}
}

func TestBundleConstrained(t *testing.T) {
	t.Parallel()
	acme := identity.MustTrustDomain("acme.demo.test")
	good := testca.Constrained(t, "acme.demo.test").Cert.Raw
	for name, der := range map[string][]byte{
		"no constraint":     testca.Unconstrained(t, "acme").Cert.Raw,
		"of another tenant": testca.Constrained(t, "globex.demo.test").Cert.Raw,
		"of two tenants": testca.Root(t, func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, []string{"acme.demo.test", "globex.demo.test"}
		}).Cert.Raw,
		"that may be passed over": testca.Root(t, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"acme.demo.test"} }).Cert.Raw,
	} {
		b, err := identity.NewBundle(acme, good, der)
		if err != nil {
			t.Fatal(err)
		}
		if b.Constrained() {
			t.Errorf("%s: the bundle counts as constrained", name)
		}
	}
	if (identity.Bundle{}).Constrained() {
		t.Error("nothing counts as constrained")
	}
}

func TestBundleRefuses(t *testing.T) {
	t.Parallel()
	td := identity.MustTrustDomain("acme.demo.test")
	ca := testca.Constrained(t, "acme.demo.test")
	leaf := ca.SVID(acmeWeb)
	for name, bundle := range map[string]func() (identity.Bundle, error){
		"no trust domain": func() (identity.Bundle, error) { return identity.NewBundle(identity.TrustDomain{}, ca.Cert.Raw) },
		"no root":         func() (identity.Bundle, error) { return identity.NewBundle(td) },
		"garbage":         func() (identity.Bundle, error) { return identity.NewBundle(td, []byte("x")) },
		"a leaf":          func() (identity.Bundle, error) { return identity.NewBundle(td, leaf.Cert.Raw) },
		"a key in the PEM": func() (identity.Bundle, error) {
			return identity.ParseBundlePEM(td, append(ca.Bundle("acme.demo.test").PEM(), leaf.KeyPEM()...))
		},
		"a certificate by another name": func() (identity.Bundle, error) {
			return identity.ParseBundlePEM(td, pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: ca.Cert.Raw}))
		},
		"text behind the PEM": func() (identity.Bundle, error) {
			return identity.ParseBundlePEM(td, append(ca.Bundle("acme.demo.test").PEM(), "x"...))
		},
		"no PEM": func() (identity.Bundle, error) { return identity.ParseBundlePEM(td, nil) },
	} {
		if b, err := bundle(); err == nil || !b.IsZero() {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestBundles(t *testing.T) {
	t.Parallel()
	acme, globex := testca.Constrained(t, "acme.demo.test").Bundle("acme.demo.test"), testca.Constrained(t, "globex.demo.test").Bundle("globex.demo.test")
	all, err := identity.NewBundles(globex, acme)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := all.Get(acme.TrustDomain()); !ok || got.Digest() != acme.Digest() {
		t.Error("acme's bundle is not found")
	}
	if _, ok := all.Get(identity.MustTrustDomain("other.test")); ok {
		t.Error("a bundle that nobody gave")
	}
	names := []string{}
	for _, b := range all.All() {
		names = append(names, b.TrustDomain().String())
	}
	if !slices.Equal(names, []string{"acme.demo.test", "globex.demo.test"}) {
		t.Errorf("order: %v", names)
	}
	if _, err := identity.NewBundles(acme, acme); err == nil {
		t.Error("two bundles for one trust domain")
	}
	if _, err := identity.NewBundles(identity.Bundle{}); err == nil {
		t.Error("a bundle that vouches for nobody")
	}
}

// A root cannot be trusted and withdrawn at a time, and what vouches does not depend on what once did.
func TestBundleWithout(t *testing.T) {
	t.Parallel()
	ca := testca.Constrained(t, "acme.demo.test")
	b := ca.Bundle("acme.demo.test")
	if _, err := b.Without(sha256.Sum256(ca.Cert.Raw)); err == nil {
		t.Error("a bundle without a root that it holds")
	}
	gone := [][sha256.Size]byte{{1}, {2}}
	without, err := b.Without(gone...)
	if err != nil || !slices.Equal(without.Withdrawn(), gone) || without.Digest() != b.Digest() || len(b.Withdrawn()) != 0 {
		t.Errorf("%v, %v", without.Withdrawn(), err)
	}
}
