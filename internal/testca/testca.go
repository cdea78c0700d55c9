// Package testca is a throw-away certificate authority for tests: roots with and without name constraints, SVIDs good and
// bad in every way a test needs, keys that never leave the process.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// CA is a root certificate with its key.
type CA struct {
	t    testing.TB
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Constrained makes a root that may only vouch for the trust domain, critically so.
func Constrained(t testing.TB, trustDomain string) *CA {
	t.Helper()
	return newRoot(t, trustDomain, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical = true
		c.PermittedURIDomains = []string{trustDomain}
	})
}

// Unconstrained makes a root that can vouch for anybody wherever it is trusted.
func Unconstrained(t testing.TB, name string) *CA {
	t.Helper()
	return newRoot(t, name, func(*x509.Certificate) {})
}

// Root makes a root of a shape of its own.
func Root(t testing.TB, shape func(*x509.Certificate)) *CA {
	t.Helper()
	return newRoot(t, "a shape of its own", shape)
}

func newRoot(t testing.TB, name string, shape func(*x509.Certificate)) *CA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{CommonName: "root of " + name},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	shape(template)
	return &CA{t: t, Key: key, Cert: create(t, template, template, key.Public(), key)}
}

// Again is another certificate of the root's name and key.
func (ca *CA) Again(shape func(*x509.Certificate)) *x509.Certificate {
	ca.t.Helper()
	template := *ca.Cert
	template.SerialNumber = serial(ca.t)
	shape(&template)
	return create(ca.t, &template, &template, ca.Key.Public(), ca.Key)
}

// Bundle is the bundle that trusts this root for the trust domain.
func (ca *CA) Bundle(trustDomain string) identity.Bundle {
	ca.t.Helper()
	b, err := identity.NewBundle(identity.MustTrustDomain(trustDomain), ca.Cert.Raw)
	if err != nil {
		ca.t.Fatal(err)
	}
	return b
}

// SVID is a leaf certificate with its key.
type SVID struct {
	t    testing.TB
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Option changes the leaf before it is signed.
type Option func(*x509.Certificate)

// ValidFor sets the validity, relative to now.
func ValidFor(from, until time.Duration) Option {
	return func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(until)
	}
}

// RawURIs replaces the SANs by these URIs, byte for byte: also what no URL parser takes.
func RawURIs(uris ...string) Option {
	const uri = 6
	return names(uri, uris)
}

// Hosts replaces the SANs by these DNS names: a certificate as public authorities give them, which is no SVID.
func Hosts(hosts ...string) Option {
	const dns = 2
	return names(dns, hosts)
}

// names replaces the SANs by GeneralNames of that tag (RFC 5280, 4.2.1.6).
func names(tag int, texts []string) Option {
	return func(c *x509.Certificate) {
		var names []asn1.RawValue
		for _, text := range texts {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)})
		}
		value, err := asn1.Marshal(names)
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value})
	}
}

// Template changes anything else.
func Template(change func(*x509.Certificate)) Option { return change }

// SVID mints a leaf for the SPIFFE ID, valid for an hour unless an option says otherwise. A constrained root signs any ID
// without complaint, as a stolen one would.
func (ca *CA) SVID(id string, options ...Option) *SVID {
	ca.t.Helper()
	template := &x509.Certificate{
		SerialNumber:          serial(ca.t),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, o := range options {
		o(template)
	}
	if len(template.ExtraExtensions) == 0 {
		RawURIs(id)(template)
	}
	key := newKey(ca.t)
	return &SVID{t: ca.t, Key: key, Cert: create(ca.t, template, ca.Cert, key.Public(), ca.Key)}
}

// TLS is the leaf as Go's TLS takes it.
func (s *SVID) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{s.Cert.Raw}, PrivateKey: s.Key, Leaf: s.Cert}
}

// CertPEM is the leaf in PEM.
func (s *SVID) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Cert.Raw})
}

// KeyPEM is the key in PEM (PKCS #8).
func (s *SVID) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func create(t testing.TB, template, parent *x509.Certificate, public, signer any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		// A leaf that Go itself cannot parse is a legitimate test subject: the raw bytes are what counts.
		return &x509.Certificate{Raw: der}
	}
	return cert
}

// With binds a CA made by hand, such as an intermediate, to the test that uses it.
func (ca *CA) With(t testing.TB) *CA {
	t.Helper()
	return &CA{t: t, Cert: ca.Cert, Key: ca.Key}
}
