package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	acmeWeb   = "spiffe://acme.demo.test/ns/acme/sa/web"
	globexWeb = "spiffe://globex.demo.test/ns/globex/sa/web"
)

type trust struct {
	acme, globex *testca.CA
	verifier     identity.Verifier
}

func newTrust(t testing.TB) trust {
	t.Helper()
	tr := trust{acme: testca.Constrained(t, "acme.demo.test"), globex: testca.Unconstrained(t, "globex.demo.test")}
	tr.verifier = identity.NewVerifier(mapping(t, perTenant), bundles(t, tr.acme.Bundle("acme.demo.test"), tr.globex.Bundle("globex.demo.test")))
	return tr
}

func bundles(t testing.TB, bs ...identity.Bundle) identity.Bundles {
	t.Helper()
	all, err := identity.NewBundles(bs...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A peer that is remembered until NotAfter must not outlive the roots that prove it.
func TestPeerEndsWithItsChain(t *testing.T) {
	t.Parallel()
	tr := newTrust(t)
	p, err := tr.verifier.VerifyLeaf(tr.acme.SVID(acmeWeb, testca.ValidFor(-time.Hour, 100*time.Hour)).Cert.Raw, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if root := tr.acme.Cert.NotAfter; !p.NotAfter().Equal(root) {
		t.Errorf("proved until %v, and its root ends at %v", p.NotAfter(), root)
	}
}

// What a root has proved is withdrawn with that root alone, not with another of its trust domain's, and not where there are none.
func TestAPeerIsWithdrawnWithItsRoot(t *testing.T) {
	t.Parallel()
	one, two, other := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "globex.demo.test")
	bundle := func(cas ...*testca.CA) identity.Bundle {
		var ders [][]byte
		for _, ca := range cas {
			ders = append(ders, ca.Cert.Raw)
		}
		b, err := identity.NewBundle(identity.MustTrustDomain("acme.demo.test"), ders...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	trusting := func(bs ...identity.Bundle) identity.Verifier {
		return identity.NewVerifier(mapping(t, perTenant), bundles(t, bs...))
	}
	p, err := trusting(bundle(two, one)).VerifyLeaf(one.SVID(acmeWeb).Cert.Raw, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by   identity.Verifier
		want bool
	}{
		"its root":                     {trusting(bundle(one)), false},
		"its root beside another":      {trusting(bundle(two, one)), false},
		"another root":                 {trusting(bundle(two)), true},
		"no roots of its own":          {trusting(other.Bundle("globex.demo.test")), false},
		"the zero value":               {identity.Verifier{}, false},
		"another, among other tenants": {trusting(other.Bundle("globex.demo.test"), bundle(two)), true},
	} {
		if got := c.by.Withdrew(p); got != c.want {
			t.Errorf("%s: withdrawn %t", name, got)
		}
	}
}

// Where two chains prove a peer, it is proved as long as one of them holds, whichever is found first.
func TestPeerEndsWithItsLastChain(t *testing.T) {
	t.Parallel()
	ca := testca.Constrained(t, "acme.demo.test")
	short := ca.Again(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Minute) })
	leaf := ca.SVID(acmeWeb)
	for name, roots := range map[string][][]byte{"the short one first": {short.Raw, ca.Cert.Raw}, "the long one first": {ca.Cert.Raw, short.Raw}} {
		b, err := identity.NewBundle(identity.MustTrustDomain("acme.demo.test"), roots...)
		if err != nil {
			t.Fatal(err)
		}
		p, err := identity.NewVerifier(mapping(t, perTenant), bundles(t, b)).VerifyLeaf(leaf.Cert.Raw, nil, time.Now())
		if err != nil || !p.NotAfter().Equal(leaf.Cert.NotAfter) {
			t.Errorf("%s: proved until %v, want %v (%v)", name, p.NotAfter(), leaf.Cert.NotAfter, err)
		}
	}
}

func TestVerifyLeaf(t *testing.T) {
	t.Parallel()
	tr := newTrust(t)
	now := time.Now()
	tests := []struct {
		name string
		leaf *testca.SVID
		now  time.Time
		err  error
	}{
		{"good", tr.acme.SVID(acmeWeb), now, nil},
		{"of an unconstrained root", tr.globex.SVID(globexWeb), now, nil},
		{"with a DNS name beside", tr.acme.SVID(acmeWeb, sans(tagged(2, "web.acme"), tagged(6, acmeWeb))), now, nil},

		{"another tenant's ID by an unconstrained root", tr.globex.SVID(acmeWeb), now, identity.ErrUntrusted},
		{"another tenant's ID by a constrained root", tr.acme.SVID(globexWeb), now, identity.ErrUntrusted},
		{"own root that nobody trusts", testca.Constrained(t, "acme.demo.test").SVID(acmeWeb), now, identity.ErrUntrusted},
		{"no bundle for the trust domain", tr.globex.SVID("spiffe://initech.demo.test/ns/a/sa/web"), now, identity.ErrUntrusted},
		{"unmapped", tr.acme.SVID("spiffe://acme.demo.test/x/acme"), now, identity.ErrUnmapped},
		{"two URIs", tr.acme.SVID("", testca.RawURIs(acmeWeb, "spiffe://acme.demo.test/ns/acme/sa/orders")), now, identity.ErrInvalidID},
		{"the same URI twice", tr.acme.SVID("", testca.RawURIs(acmeWeb, acmeWeb)), now, identity.ErrInvalidID},
		{"no URI", tr.acme.SVID("", sans(tagged(2, "web.acme"))), now, identity.ErrInvalidID},
		{"empty list", tr.acme.SVID("", sans()), now, identity.ErrInvalidID},
		{"upper-case scheme", tr.acme.SVID("SPIFFE://acme.demo.test/ns/acme/sa/web"), now, identity.ErrInvalidID},
		{"empty fragment", tr.acme.SVID(acmeWeb + "#"), now, identity.ErrInvalidID},
		{"NUL", tr.acme.SVID(acmeWeb + "\x00"), now, identity.ErrInvalidID},
		{"NUL and another tenant", tr.acme.SVID("spiffe://acme.demo.test\x00.globex.demo.test/ns/a/sa/b"), now, identity.ErrInvalidID},
		{"expired", tr.acme.SVID(acmeWeb, testca.ValidFor(-2*time.Hour, -time.Hour)), now, identity.ErrExpired},
		{"not yet valid", tr.acme.SVID(acmeWeb, testca.ValidFor(time.Hour, 2*time.Hour)), now, identity.ErrExpired},
		{"no time", tr.acme.SVID(acmeWeb), time.Time{}, identity.ErrExpired},
		{"no time, and valid at all times", tr.acme.SVID(acmeWeb, testca.Template(func(c *x509.Certificate) { c.NotBefore = time.Time{} })), time.Time{}, identity.ErrExpired},
		{"root expired", tr.acme.SVID(acmeWeb, testca.ValidFor(-time.Hour, 100*time.Hour)), now.Add(50 * time.Hour), identity.ErrUntrusted},
		{"a CA as leaf", tr.acme.SVID(acmeWeb, testca.Template(func(c *x509.Certificate) { c.IsCA = true })), now, identity.ErrUntrusted},
		{"may sign certificates", tr.acme.SVID(acmeWeb, testca.Template(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })), now, identity.ErrUntrusted},
		{"may not sign", tr.acme.SVID(acmeWeb, testca.Template(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), now, identity.ErrInvalidID},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := tr.verifier.VerifyLeaf(tt.leaf.Cert.Raw, nil, tt.now)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				if !p.IsZero() || !p.ID().IsZero() {
					t.Fatalf("a peer beside an error: %+v", p)
				}
				return
			}
			if p.Serial() != tt.leaf.Cert.SerialNumber.Text(16) {
				t.Errorf("serial %q", p.Serial())
			}
			if err != nil || p.IsZero() || !p.NotAfter().Equal(tt.leaf.Cert.NotAfter) || p.ID().String() == "" {
				t.Fatalf("%+v, %v", p, err)
			}
		})
	}
}

func TestVerifyLeafGarbage(t *testing.T) {
	t.Parallel()
	tr := newTrust(t)
	leaf := tr.acme.SVID(acmeWeb).Cert.Raw
	if _, err := tr.verifier.VerifyLeaf(leaf[:len(leaf)-1], nil, time.Now()); !errors.Is(err, identity.ErrInvalidID) {
		t.Error(err)
	}
	if _, err := tr.verifier.VerifyLeaf(leaf, [][]byte{{1, 2, 3}}, time.Now()); !errors.Is(err, identity.ErrUntrusted) {
		t.Error(err)
	}
	root := tr.acme.Cert.Raw
	if _, err := tr.verifier.VerifyLeaf(leaf, slices.Repeat([][]byte{root}, 8), time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := tr.verifier.VerifyLeaf(leaf, slices.Repeat([][]byte{root}, 9), time.Now()); !errors.Is(err, identity.ErrUntrusted) {
		t.Error(err)
	}
	if _, err := (identity.Verifier{}).VerifyLeaf(leaf, nil, time.Now()); !errors.Is(err, identity.ErrUnmapped) {
		t.Error(err)
	}
}

func TestVerifyLeafThroughAnIntermediate(t *testing.T) {
	t.Parallel()
	tr := newTrust(t)
	intermediate := tr.acme.SVID("", testca.Template(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		c.Subject = pkix.Name{CommonName: "intermediate"}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
	}))
	leaf := (&testca.CA{Cert: intermediate.Cert, Key: intermediate.Key}).With(t).SVID(acmeWeb)
	stolen := (&testca.CA{Cert: intermediate.Cert, Key: intermediate.Key}).With(t).SVID(globexWeb)
	if _, err := tr.verifier.VerifyLeaf(leaf.Cert.Raw, nil, time.Now()); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("without the intermediate: %v", err)
	}
	if p, err := tr.verifier.VerifyLeaf(leaf.Cert.Raw, [][]byte{intermediate.Cert.Raw}, time.Now()); err != nil || p.ID().String() != acmeWeb {
		t.Errorf("with it: %v, %v", p, err)
	}
	if _, err := tr.verifier.VerifyLeaf(stolen.Cert.Raw, [][]byte{intermediate.Cert.Raw, tr.acme.Cert.Raw}, time.Now()); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("a foreign ID below an intermediate: %v", err)
	}
}

func TestURISANMalformed(t *testing.T) {
	t.Parallel()
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	extension := func(value ...byte) pkix.Extension { return pkix.Extension{Id: san, Value: value} }
	for name, exts := range map[string][]pkix.Extension{
		"none":           nil,
		"no sequence":    {extension(0x04, 0x00)},
		"no list":        {extension(0x31, 0x03, 0x86, 0x01, 'a')},
		"trailing bytes": {extension(0x30, 0x03, 0x86, 0x01, 'a', 0x00)},
		"a cut name":     {extension(0x30, 0x05, 0x86, 0x01, 'a', 0x86, 0x01)},
		"cut short":      {extension(0x30, 0x03, 0x86, 0x05, 'a')},
		"twice":          {extension(0x30, 0x03, 0x86, 0x01, 'a'), extension(0x30, 0x00)},
	} {
		if uri, err := identity.URISAN(&x509.Certificate{Extensions: exts}); !errors.Is(err, identity.ErrInvalidID) || uri != "" {
			t.Errorf("%s: %q, %v", name, uri, err)
		}
	}
}

func tagged(tag int, text string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)}
}

func sans(names ...asn1.RawValue) testca.Option {
	return testca.Template(func(c *x509.Certificate) {
		value, err := asn1.Marshal(names)
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value})
	})
}

// FuzzPeerCertificate: whatever the bytes, a peer is proved only if one root of its own trust domain signed them.
func FuzzPeerCertificate(f *testing.F) {
	tr := newTrust(f)
	now := time.Now()
	for _, s := range []*testca.SVID{
		tr.acme.SVID(acmeWeb), tr.globex.SVID(globexWeb), tr.globex.SVID(acmeWeb), tr.acme.SVID(acmeWeb + "#"),
		tr.acme.SVID("", testca.RawURIs(acmeWeb, globexWeb)), tr.acme.SVID("", testca.RawURIs()), tr.acme.SVID(acmeWeb + "\x00"),
		tr.acme.SVID(acmeWeb, testca.Template(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) })),
	} {
		f.Add(s.Cert.Raw)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		p, err := tr.verifier.VerifyLeaf(der, [][]byte{der}, now)
		if err != nil {
			if !p.IsZero() {
				t.Fatal("a peer beside an error")
			}
			return
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		root := map[string]*testca.CA{"acme": tr.acme, "globex": tr.globex}[p.ID().Tenant().Name()]
		if root == nil || leaf.CheckSignatureFrom(root.Cert) != nil {
			t.Fatalf("%s was proved by nobody", p.ID())
		}
	})
}
