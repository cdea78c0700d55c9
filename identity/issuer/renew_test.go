package issuer_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// joined is an SVID got against a token.
func joined(t testing.TB, i *issuer.Issuer, key crypto.Signer, uri string) issuer.SVID {
	t.Helper()
	svid, err := i.Issue(request(t, key, []string{uri}), newToken(t, i, uri), everyone(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func renew(t testing.TB, i *issuer.Issuer, csr, leaf []byte, at time.Time) (issuer.SVID, error) {
	t.Helper()
	return i.Renew(csr, leaf, mapping(t), everyone(t), at)
}

// Renewals follow each other, with a new key each, in memory and across restarts of an issuer on the disk.
func TestRenewalsFollowEachOther(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	svid, at := joined(t, i, p256(t), acmeWeb), now
	for range 5 {
		at = at.Add(issuer.DefaultTTL / 2)
		key := p256(t)
		next, err := renew(t, i, request(t, key, []string{acmeWeb}), svid.Chain[0], at)
		if err != nil {
			t.Fatal(err)
		}
		if !next.NotAfter.Equal(at.Add(issuer.DefaultTTL)) || !next.ID.Same(svid.ID) {
			t.Errorf("renewed %s until %s", next.ID, next.NotAfter)
		}
		leaf, err := x509.ParseCertificate(next.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		if !key.PublicKey.Equal(leaf.PublicKey) {
			t.Error("the renewed SVID is not for the new key")
		}
		svid = next
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		i = open(t, dir)
	}
	if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], at.Add(issuer.DefaultTTL)); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("after its end: %v", err)
	}
}

// An agent that never got the answer asks again with the SVID that it has.
func TestRenewalMayBeAskedForAgain(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	svid := joined(t, i, p256(t), acmeWeb)
	for range 3 {
		if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRenewRefuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	key := p256(t)
	good := joined(t, i, key, acmeWeb).Chain[0]
	parsed, err := x509.ParseCertificate(good)
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := i.Bundles(now, domains("acme.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(bundles.All()[0].DER()[0])
	if err != nil {
		t.Fatal(err)
	}
	// mint makes a certificate of the same name with acme's stolen root.
	mint := func(change func(*x509.Certificate), public crypto.PublicKey) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: parsed.NotBefore, NotAfter: parsed.NotAfter, URIs: parsed.URIs,
			KeyUsage: parsed.KeyUsage, ExtKeyUsage: parsed.ExtKeyUsage, BasicConstraintsValid: true,
		}
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, root, public, stolenKey(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	unknown := mint(func(*x509.Certificate) {}, key.Public())
	if _, err := identity.NewVerifier(mapping(t), bundles).VerifyLeaf(unknown, nil, now); err != nil {
		t.Fatalf("the minted certificate is no good one, so the test shows nothing: %v", err)
	}
	foreign, _ := inMemory(t)
	nobody := func(string) (identity.WorkloadID, bool) { return identity.WorkloadID{}, false }
	csr := request(t, p256(t), []string{acmeWeb})
	for name, c := range map[string]struct {
		csr, leaf []byte
		named     issuer.Named
		at        time.Time
	}{
		"no certificate":                     {csr, nil, everyone(t), now},
		"minted with the stolen root":        {csr, unknown, everyone(t), now},
		"minted, with a known serial number": {csr, mint(func(c *x509.Certificate) { c.SerialNumber = parsed.SerialNumber }, p256(t).Public()), everyone(t), now},
		"minted, longer-lived":               {csr, mint(func(c *x509.Certificate) { c.NotAfter = now.Add(24 * time.Hour) }, key.Public()), everyone(t), now.Add(2 * time.Hour)},
		"another issuer's":                   {csr, joined(t, foreign, key, acmeWeb).Chain[0], everyone(t), now},
		"expired":                            {csr, good, everyone(t), now.Add(issuer.DefaultTTL)},
		"not yet valid":                      {csr, good, everyone(t), now.Add(-time.Hour)},
		"not named any more":                 {csr, good, nobody, now},
		"for another workload":               {request(t, key, []string{acmeOrders}), good, everyone(t), now},
		"for another tenant":                 {request(t, key, []string{globexWeb}), good, everyone(t), now},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svid, err := i.Renew(c.csr, c.leaf, mapping(t), c.named, c.at)
			if !errors.Is(err, issuer.ErrNotRenewable) || svid.Chain != nil {
				t.Fatalf("got %v, %v; want ErrNotRenewable", svid, err)
			}
			if err.Error() != issuer.ErrNotRenewable.Error() {
				t.Errorf("the error tells more than the others: %q", err)
			}
		})
	}
	known := mint(func(c *x509.Certificate) { c.SerialNumber = parsed.SerialNumber }, p256(t).Public())
	for name, leaf := range map[string][]byte{"minted with the stolen root": unknown, "minted, with a known serial number": known} {
		t.Run("no JWT-SVID, "+name, func(t *testing.T) {
			t.Parallel()
			if _, err := jwt(t, i, leaf, now, "orders"); !errors.Is(err, issuer.ErrNoJWT) {
				t.Errorf("got %v, want ErrNoJWT", err)
			}
		})
	}
	t.Run("a bad request", func(t *testing.T) {
		t.Parallel()
		if _, err := renew(t, i, request(t, key, []string{acmeWeb, acmeOrders}), good, now); !errors.Is(err, issuer.ErrBadRequest) {
			t.Errorf("got %v, want ErrBadRequest", err)
		}
	})
	t.Run("the good one, so that the others are refused for their own faults", func(t *testing.T) {
		t.Parallel()
		if _, err := renew(t, i, csr, good, now); err != nil {
			t.Error(err)
		}
	})
}

// The control plane makes its own SVIDs; who has taken one does not get the next by asking.
func TestTheControlPlanesOwnSVIDIsNotRenewed(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	id, err := mapping(t).ControlPlaneID()
	if err != nil {
		t.Fatal(err)
	}
	own, err := i.ControlPlane(id, now)
	if err != nil {
		t.Fatal(err)
	}
	csr := request(t, p256(t), []string{id.String()})
	if _, err := renew(t, i, csr, own.Certificate[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("got %v, want ErrNotRenewable", err)
	}
}

// At the bound of a tenant nobody joins, everybody renews, and another tenant does not notice.
func TestOutstandingSVIDsAreBounded(t *testing.T) {
	t.Parallel()
	i, err := issuer.OpenMemory(issuer.Options{MaxOutstanding: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test")...); err != nil {
		t.Fatal(err)
	}
	web := joined(t, i, p256(t), acmeWeb)
	joined(t, i, p256(t), acmeOrders)
	csr := request(t, p256(t), []string{acmeWeb})
	token := newToken(t, i, acmeWeb)
	if _, err := i.Issue(csr, token, everyone(t), now); !errors.Is(err, issuer.ErrLimited) {
		t.Fatalf("a third one: %v", err)
	}
	at := now.Add(time.Minute)
	next, err := renew(t, i, csr, web.Chain[0], at)
	if err != nil {
		t.Fatalf("a renewal at the bound: %v", err)
	}
	if _, err := renew(t, i, csr, web.Chain[0], at); !errors.Is(err, issuer.ErrLimited) {
		t.Errorf("a second one from the same SVID: %v", err)
	}
	if _, err := renew(t, i, csr, next.Chain[0], at); err != nil {
		t.Errorf("the next renewal: %v", err)
	}
	joined(t, i, p256(t), globexWeb)
	if _, err := i.Issue(csr, token, everyone(t), now.Add(issuer.DefaultTTL-time.Second)); !errors.Is(err, issuer.ErrLimited) {
		t.Errorf("before the others end: %v", err)
	}
	token, _, err = i.CreateToken(workload(t, acmeWeb), 3*time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(csr, token, everyone(t), at.Add(issuer.DefaultTTL)); err != nil {
		t.Errorf("after the others ended: %v", err)
	}
}

// One tenant's runaway costs another nothing, however many workloads it asks for.
func TestRatesAreBoundedPerTenant(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	limited := 0
	for n := range 60 { // each workload may ask several times at once
		uri := "spiffe://acme.demo.test/ns/acme/sa/w" + big.NewInt(int64(n)).String()
		svid := joinedOrLimited(t, i, uri)
		if svid.Chain == nil {
			limited++
			continue
		}
		for range 6 {
			if _, err := renew(t, i, request(t, p256(t), []string{uri}), svid.Chain[0], now); errors.Is(err, issuer.ErrLimited) {
				limited++
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if limited == 0 {
		t.Error("420 SVIDs at once for one tenant")
	}
	joined(t, i, p256(t), globexWeb)
}

func joinedOrLimited(t *testing.T, i *issuer.Issuer, uri string) issuer.SVID {
	t.Helper()
	svid, err := i.Issue(request(t, p256(t), []string{uri}), newToken(t, i, uri), everyone(t), now)
	if err != nil && !errors.Is(err, issuer.ErrLimited) {
		t.Fatal(err)
	}
	return svid
}
