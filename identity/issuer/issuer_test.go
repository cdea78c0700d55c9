package issuer_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

const (
	acmeWeb    = "spiffe://acme.demo.test/ns/acme/sa/web"
	acmeOrders = "spiffe://acme.demo.test/ns/acme/sa/orders"
	globexWeb  = "spiffe://globex.demo.test/ns/globex/sa/web"
)

// now is a whole second, as times in certificates are.
var now = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC)

func mapping(t testing.TB) identity.Mapping {
	t.Helper()
	m, err := identity.NewMapping(identity.MustTrustDomain("platform.demo.test"), []identity.MappingRule{
		{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func workload(t testing.TB, uri string) identity.WorkloadID {
	t.Helper()
	id, err := mapping(t).Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// everyone is a mesh that names whatever its mapping reads.
func everyone(t testing.TB) issuer.Named {
	m := mapping(t)
	return func(uri string) (identity.WorkloadID, bool) {
		id, err := m.Parse(uri)
		return id, err == nil
	}
}

func domains(names ...string) []identity.TrustDomain {
	var tds []identity.TrustDomain
	for _, n := range names {
		tds = append(tds, identity.MustTrustDomain(n))
	}
	return tds
}

func inMemory(t testing.TB) (*issuer.Issuer, identity.Bundles) {
	t.Helper()
	i, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test", "platform.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	return i, b
}

func newToken(t testing.TB, i *issuer.Issuer, uri string) string {
	t.Helper()
	token, _, err := i.CreateToken(workload(t, uri), 0, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request makes a certificate request for these URIs, shaped further by the changes.
func request(t testing.TB, key crypto.Signer, uris []string, changes ...func(*x509.CertificateRequest)) []byte {
	t.Helper()
	template := &x509.CertificateRequest{}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestIssueGivesAnSVIDThatVerifies(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": p256(t), "P-384": p384} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, bundles := inMemory(t)
			svid, err := i.Issue(request(t, key, []string{acmeWeb}), newToken(t, i, acmeWeb), everyone(t), now)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := identity.NewVerifier(mapping(t), bundles).VerifyLeaf(svid.Chain[0], svid.Chain[1:], now)
			if err != nil {
				t.Fatal(err)
			}
			if !peer.ID().Same(workload(t, acmeWeb)) || !svid.ID.Same(peer.ID()) {
				t.Errorf("peer is %s, issued to %s", peer.ID(), svid.ID)
			}
			leaf, err := x509.ParseCertificate(svid.Chain[0])
			if err != nil {
				t.Fatal(err)
			}
			checkLeaf(t, leaf, key.Public())
			if want := now.Add(issuer.DefaultTTL); !leaf.NotAfter.Equal(want) || !svid.NotAfter.Equal(want) {
				t.Errorf("not after %s, want %s", leaf.NotAfter, want)
			}
			acme, _ := bundles.Get(identity.MustTrustDomain("acme.demo.test"))
			if diff := cmp.Diff(acme.DER(), svid.Bundle.DER()); diff != "" {
				t.Errorf("bundle (-want +got):\n%s", diff)
			}
		})
	}
}

// checkLeaf holds a leaf against sections 4 and 5 of the X509-SVID standard.
func checkLeaf(t *testing.T, leaf *x509.Certificate, public crypto.PublicKey) {
	t.Helper()
	key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(public) {
		t.Error("the leaf is not for the key of the request")
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Error("the leaf must say that it is no CA")
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %v", leaf.KeyUsage)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, leaf.ExtKeyUsage); diff != "" {
		t.Errorf("extended key usage (-want +got):\n%s", diff)
	}
	if len(leaf.Subject.Names) != 0 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		t.Errorf("the leaf has another name: %s %v", leaf.Subject, leaf.DNSNames)
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 159 {
		t.Errorf("serial number %v", leaf.SerialNumber)
	}
	critical := false
	for _, e := range leaf.Extensions {
		if e.Id.String() == "2.5.29.17" {
			critical = e.Critical
		}
	}
	if !critical {
		t.Error("with an empty subject the SAN must be critical")
	}
	if !leaf.NotBefore.Before(now) {
		t.Errorf("not before %s: a clock that is a little behind would refuse it", leaf.NotBefore)
	}
}

func TestIssueRefusesTokens(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	key := p256(t)
	used := newToken(t, i, acmeWeb)
	if _, err := i.Issue(request(t, p256(t), []string{acmeWeb}), used, everyone(t), now); err != nil {
		t.Fatal(err)
	}
	fresh := newToken(t, i, acmeWeb)
	nobody := func(string) (identity.WorkloadID, bool) { return identity.WorkloadID{}, false }
	other := workload(t, acmeOrders)
	somebody := func(string) (identity.WorkloadID, bool) { return other, true }
	for name, c := range map[string]struct {
		token string
		uri   string
		named issuer.Named
		at    time.Time
	}{
		"empty":                         {"", acmeWeb, everyone(t), now},
		"no token":                      {"hello", acmeWeb, everyone(t), now},
		"unknown":                       {"rfjoin_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", acmeWeb, everyone(t), now},
		"used":                          {used, acmeWeb, everyone(t), now},
		"expired":                       {fresh, acmeWeb, everyone(t), now.Add(issuer.DefaultTokenTTL)},
		"longer":                        {fresh + "A", acmeWeb, everyone(t), now},
		"another workload":              {fresh, acmeOrders, everyone(t), now},
		"another tenant":                {fresh, globexWeb, everyone(t), now},
		"the control plane":             {fresh, "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane", everyone(t), now},
		"upper-case scheme":             {fresh, "SPIFFE://acme.demo.test/ns/acme/sa/web", everyone(t), now},
		"workload is not named anymore": {fresh, acmeWeb, nobody, now},
		"name now means somebody else":  {fresh, acmeWeb, somebody, now},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			csr := request(t, key, []string{acmeWeb})
			if c.uri != acmeWeb {
				csr = rawRequest(t, key, uriName(c.uri))
			}
			svid, err := i.Issue(csr, c.token, c.named, c.at)
			if !errors.Is(err, issuer.ErrRefused) || svid.Chain != nil {
				t.Errorf("got %v, %v; want ErrRefused", svid, err)
			}
			if err != nil && err.Error() != issuer.ErrRefused.Error() {
				t.Errorf("the error tells more than the others: %q", err)
			}
		})
	}
}

func TestIssueRefusesRequests(t *testing.T) {
	t.Parallel()
	key := p256(t)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := request(t, key, []string{acmeWeb})
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	for name, csr := range map[string][]byte{
		"nothing":                nil,
		"no DER":                 []byte("-----BEGIN CERTIFICATE REQUEST-----"),
		"trailing bytes":         append(bytes.Clone(good), 0),
		"too long":               append(bytes.Clone(good), make([]byte, 8<<10)...),
		"wrong signature":        forged,
		"no name":                request(t, key, nil),
		"two URIs":               request(t, key, []string{acmeWeb, acmeOrders}),
		"the same URI twice":     request(t, key, []string{acmeWeb, acmeWeb}),
		"a DNS name beside":      request(t, key, []string{acmeWeb}, func(c *x509.CertificateRequest) { c.DNSNames = []string{"web"} }),
		"an e-mail beside":       request(t, key, []string{acmeWeb}, func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"a@b"} }),
		"a subject":              request(t, key, []string{acmeWeb}, func(c *x509.CertificateRequest) { c.Subject.CommonName = "web" }),
		"another extension":      request(t, key, []string{acmeWeb}, withExtension("2.5.29.19", []byte{0x30, 3, 1, 1, 0xff})),
		"a second SAN":           request(t, key, []string{acmeWeb}, withExtension("2.5.29.17", sanOf(t, uriName(acmeWeb)))),
		"P-521":                  request(t, p521, []string{acmeWeb}),
		"Ed25519":                request(t, ed, []string{acmeWeb}),
		"second attribute":       rawRequestWith(t, key, extensionRequest(t, uriName(acmeWeb)), challenge(t)),
		"attribute stands twice": rawRequestWith(t, key, extensionRequest(t, uriName(acmeWeb)), extensionRequest(t, uriName(acmeWeb))),
		"two values":             rawRequestWith(t, key, twoValues(t, uriName(acmeWeb))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, _ := inMemory(t)
			token := newToken(t, i, acmeWeb)
			svid, err := i.Issue(csr, token, everyone(t), now)
			if !errors.Is(err, issuer.ErrBadRequest) || svid.Chain != nil {
				t.Fatalf("got %v, %v; want ErrBadRequest", svid, err)
			}
			if _, err := i.Issue(good, token, everyone(t), now); err != nil {
				t.Errorf("a bad request must not spend the token: %v", err)
			}
		})
	}
}

func TestIssueTakesAnRSAKeyNever(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	if _, err := i.Issue(rsaRequest(t), newToken(t, i, acmeWeb), everyone(t), now); !errors.Is(err, issuer.ErrBadRequest) {
		t.Errorf("got %v, want ErrBadRequest", err)
	}
}

func TestIssueNeedsARoot(t *testing.T) {
	t.Parallel()
	i, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	token := newToken(t, i, acmeWeb)
	csr := request(t, p256(t), []string{acmeWeb})
	if _, err := i.Issue(csr, token, everyone(t), now); err == nil {
		t.Fatal("issued without a root")
	}
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(csr, token, everyone(t), now); err != nil {
		t.Errorf("a missing root must not spend the token: %v", err)
	}
}

func TestSVIDNeverOutlivesTheRoot(t *testing.T) {
	t.Parallel()
	i, bundles := inMemory(t)
	acme, _ := bundles.Get(identity.MustTrustDomain("acme.demo.test"))
	root, err := x509.ParseCertificate(acme.DER()[0])
	if err != nil {
		t.Fatal(err)
	}
	late := root.NotAfter.Add(-time.Hour)
	token, _, err := i.CreateToken(workload(t, acmeWeb), 3*time.Hour, late)
	if err != nil {
		t.Fatal(err)
	}
	csr := request(t, p256(t), []string{acmeWeb})
	if svid, err := i.Issue(csr, token, everyone(t), root.NotAfter); err == nil {
		t.Errorf("an expired root issued until %s", svid.NotAfter)
	}
	token, _, err = i.CreateToken(workload(t, acmeWeb), 3*time.Hour, late)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := i.Issue(csr, token, everyone(t), late)
	if err != nil {
		t.Fatal(err)
	}
	if !svid.NotAfter.Equal(root.NotAfter) {
		t.Errorf("SVID until %s, root until %s", svid.NotAfter, root.NotAfter)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	bad := request(t, p256(t), nil)
	token := newToken(t, i, acmeWeb)
	limited := 0
	for range 20 {
		if _, err := i.Issue(bad, token, everyone(t), now); errors.Is(err, issuer.ErrLimited) {
			limited++
		}
	}
	if limited == 0 {
		t.Error("20 requests at once for one workload were all looked at")
	}
	if _, err := i.Issue(request(t, p256(t), []string{globexWeb}), newToken(t, i, globexWeb), everyone(t), now); err != nil {
		t.Errorf("another workload pays for it: %v", err)
	}
	if _, err := i.Issue(request(t, p256(t), []string{acmeWeb}), token, everyone(t), now.Add(time.Minute)); err != nil {
		t.Errorf("still limited a minute later: %v", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, ttl := range []time.Duration{time.Second, issuer.MinTTL - 1, -time.Hour, 100 * 24 * time.Hour} {
		if _, err := issuer.OpenMemory(issuer.Options{TTL: ttl}); err == nil {
			t.Errorf("a life of %s was accepted", ttl)
		}
	}
	if _, err := issuer.OpenMemory(issuer.Options{TTL: time.Second, ShortLived: true}); err != nil {
		t.Errorf("for a test: %v", err)
	}
	i, err := issuer.OpenMemory(issuer.Options{TTL: issuer.MinTTL})
	if err != nil || i.TTL() != issuer.MinTTL {
		t.Errorf("got %v, %v", i, err)
	}
}

func TestControlPlaneSVID(t *testing.T) {
	t.Parallel()
	i, bundles := inMemory(t)
	id, err := mapping(t).ControlPlaneID()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := i.ControlPlane(id, now)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := identity.NewVerifier(mapping(t), bundles).VerifyLeaf(cert.Certificate[0], nil, now)
	if err != nil || !peer.ID().Same(id) {
		t.Errorf("got %v, %v", peer, err)
	}
	if _, err := i.ControlPlane(workload(t, acmeWeb), now); !errors.Is(err, issuer.ErrNoWorkload) {
		t.Errorf("made itself an SVID of a tenant's workload: %v", err)
	}
	if _, _, err := i.CreateToken(id, 0, now); !errors.Is(err, issuer.ErrNoWorkload) {
		t.Errorf("a token of the control plane itself: %v", err)
	}
	if _, _, err := i.CreateToken(identity.WorkloadID{}, 0, now); !errors.Is(err, issuer.ErrNoWorkload) {
		t.Errorf("a token of nobody: %v", err)
	}
}

func FuzzCSR(f *testing.F) {
	key := p256(f)
	f.Add(request(f, key, []string{acmeWeb}))
	f.Add(request(f, key, []string{acmeOrders}))
	f.Add(request(f, key, []string{acmeWeb, acmeOrders}))
	f.Add(rawRequest(f, key, uriName("spiffe://acme.demo.test/ns/acme/sa/web\x00")))
	f.Add(rawRequestWith(f, key, twoValues(f, uriName(acmeWeb))))
	f.Add([]byte{0x30, 0x80})
	want := workload(f, acmeWeb)
	f.Fuzz(func(t *testing.T, csr []byte) {
		// A fresh one each time: neither a spent token nor a limit is to stand in the way.
		i, bundles := inMemory(t)
		svid, err := i.Issue(csr, newToken(t, i, acmeWeb), everyone(t), now)
		if err != nil {
			if svid.Chain != nil {
				t.Error("an SVID beside an error")
			}
			return
		}
		peer, err := identity.NewVerifier(mapping(t), bundles).VerifyLeaf(svid.Chain[0], nil, now)
		if err != nil || !peer.ID().Same(want) {
			t.Errorf("issued %v, %v", peer, err)
		}
		parsed, err := x509.ParseCertificateRequest(csr)
		if err != nil || parsed.CheckSignature() != nil || len(parsed.URIs) != 1 || parsed.URIs[0].String() != acmeWeb {
			t.Error("issued for a request that another reader refuses")
		}
	})
}
