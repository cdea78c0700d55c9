package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"go.step.sm/crypto/kms/apiv1"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate lets a host whose clock is a little behind take a certificate at once.
	backdate = time.Minute
	// A short-lived SVID is backdated by less: who renews looks at the whole life.
	backdateShare = 5
	// maxCommonName is the upper bound of RFC 5280, appendix A.1.
	maxCommonName = 64

	certificateBlock = "CERTIFICATE"
)

// root is one root of a trust domain. It never changes.
type root struct {
	td         identity.TrustDomain
	generation int
	role       role
	cert       *x509.Certificate
	key        crypto.Signer
	keyName    string
}

// fingerprint names the root in the ledger.
func (r *root) fingerprint() [sha256.Size]byte { return sha256.Sum256(r.cert.Raw) }

// newRoot makes a self-signed root that can vouch for identities of td and of no other trust domain, with a new key. It bears
// the signature of the root before it; nil: it is the first.
func newRoot(td identity.TrustDomain, keys Keys, kind identity.KeyKind, before *root, now time.Time) (*root, error) {
	keyName, err := keys.name(td, rootKind)
	if err != nil {
		return nil, err
	}
	made, err := keys.manager.CreateKey(&apiv1.CreateKeyRequest{Name: keyName, SignatureAlgorithm: signature(kind)})
	if err != nil {
		return nil, fmt.Errorf("root key of %s: %w", td, err)
	}
	key, err := keys.manager.CreateSigner(&made.CreateSignerRequest)
	if err != nil {
		return nil, fmt.Errorf("root key of %s: %w", td, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	name := td.String()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Ringfence"}, CommonName: name[:min(len(name), maxCommonName)]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs leaves only: no certificate below it can sign
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// A signing certificate bears the ID of its trust domain, without a path (X509-SVID, section 3.1).
		URIs: []*url.URL{{Scheme: "spiffe", Host: name}},
		// The flag covers the whole extension in spite of its name; a host without a leading dot permits exactly that host.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{name},
	}
	if before != nil {
		succession, err := before.succeededBy(key.Public())
		if err != nil {
			return nil, err
		}
		template.ExtraExtensions = []pkix.Extension{succession}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w", td, err)
	}
	r, err := checkedRoot(td, der, key)
	if err != nil {
		return nil, err
	}
	r.generation, r.role, r.keyName = 1, roleCurrent, keyName
	return r, nil
}

// succeededBy signs that the holder of a key is the root's successor.
func (r *root) succeededBy(public crypto.PublicKey) (pkix.Extension, error) {
	message, err := identity.Succession(r.td, public)
	if err != nil {
		return pkix.Extension{}, err
	}
	digest, hash := message, crypto.Hash(0)
	switch r.cert.SignatureAlgorithm {
	case x509.ECDSAWithSHA256:
		hash = crypto.SHA256
	case x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	default: // Ed25519 signs the message itself
	}
	if hash != 0 {
		h := hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	signature, err := r.key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("root of %s: %w", r.td, err)
	}
	return identity.SuccessionExtension(signature)
}

// signature is what a root of that kind signs with.
func signature(kind identity.KeyKind) apiv1.SignatureAlgorithm {
	switch kind {
	case identity.ECDSAP384:
		return apiv1.ECDSAWithSHA384
	case identity.Ed25519:
		return apiv1.PureEd25519
	case identity.ECDSAP256:
	}
	return apiv1.ECDSAWithSHA256
}

// checkedRoot puts a certificate and its key together. It refuses a root that could vouch for another trust domain, and a
// key that is not the certificate's.
func checkedRoot(td identity.TrustDomain, der []byte, key crypto.Signer) (*root, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w", td, err)
	}
	public, ok := key.Public().(interface {
		Equal(other crypto.PublicKey) bool
	})
	if _, known := identity.KindOf(key.Public()); !ok || !known || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("root of %s: certificate and key do not belong together", td)
	}
	b, err := identity.NewBundle(td, der)
	if err != nil {
		return nil, err
	}
	if !b.Constrained() {
		return nil, fmt.Errorf("root of %s: its name constraints do not confine it to its trust domain", td)
	}
	return &root{td: td, cert: cert, key: key}, nil
}

// sign makes the SVID of that identity for a public key. The life is ttl, or less where the root ends before.
func (r *root) sign(id identity.WorkloadID, public crypto.PublicKey, ttl time.Duration, now time.Time) (*x509.Certificate, error) {
	if id.Tenant().TrustDomain() != r.td {
		return nil, fmt.Errorf("%w: %s is not of trust domain %s", ErrNoWorkload, id, r.td)
	}
	if now.Before(r.cert.NotBefore) || !now.Before(r.cert.NotAfter) {
		return nil, fmt.Errorf("root of %s is outside its validity", r.td)
	}
	uri, err := url.Parse(id.String())
	if err != nil || uri.String() != id.String() {
		return nil, fmt.Errorf("%w: %s cannot be written into a certificate", ErrNoWorkload, id)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The subject stays empty, so there is no second name that a verifier could fall back to; RFC 5280 then wants
		// the SAN critical, which x509.CreateCertificate sees to.
		NotBefore:             latest(now.Add(-min(backdate, ttl/backdateShare)), r.cert.NotBefore),
		NotAfter:              earliest(now.Add(ttl), r.cert.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{uri},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, public, r.key)
	if err != nil {
		return nil, fmt.Errorf("SVID of %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("SVID of %s: %w", id, err)
	}
	return leaf, nil
}

// newSerial is a positive random number of 159 bits: within the 20 octets of RFC 5280, section 4.1.2.2.
func newSerial() (*big.Int, error) {
	const bits = 159
	for {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), bits))
		if err != nil {
			return nil, fmt.Errorf("serial number: %w", err)
		}
		if n.Sign() > 0 {
			return n, nil
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
