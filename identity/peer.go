package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const maxIntermediates = 8

// Peer is the proved other end of a connection: a workload whose certificate was verified against the roots of its own
// trust domain. It comes only from a Verifier; the zero value is nobody.
type Peer struct {
	id       WorkloadID
	serial   string
	notAfter time.Time
	root     [sha256.Size]byte // of its certificate
}

// ID is who the peer is.
func (p Peer) ID() WorkloadID { return p.id }

// Serial is the serial number of the leaf certificate, in lower-case hex without leading zeros.
func (p Peer) Serial() string { return p.serial }

// NotAfter is the end of the proof: no certificate of the chain, the root's included, ends before.
func (p Peer) NotAfter() time.Time { return p.notAfter }

// IsZero reports whether nobody was proved.
func (p Peer) IsZero() bool { return p.id.IsZero() }

// Verifier proves peers by their X.509-SVIDs. It is immutable; the zero value proves nobody.
type Verifier struct {
	mapping Mapping
	bundles Bundles
}

// NewVerifier makes a verifier that trusts, for each trust domain, its own bundle only.
func NewVerifier(m Mapping, b Bundles) Verifier { return Verifier{mapping: m, bundles: b} }

// VerifyLeaf proves the peer that holds this leaf certificate. intermediates are untrusted DER certificates that may lead
// to a root. now must lie within the validity of every certificate of the chain.
//
// The URI SAN is read from the certificate's raw bytes: Go's URL parser accepts and repairs what Envoy compares byte for
// byte. The errors are ErrInvalidID, ErrUnmapped, ErrUntrusted and ErrExpired.
func (v Verifier) VerifyLeaf(leafDER []byte, intermediates [][]byte, now time.Time) (Peer, error) {
	leaf, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrInvalidID, err)
	}
	uri, err := URISAN(leaf)
	if err != nil {
		return Peer{}, err
	}
	id, err := v.mapping.Parse(uri)
	if err != nil {
		return Peer{}, err
	}
	until, root, err := v.verify(leaf, uri, id.tenant.td, intermediates, now)
	if err != nil {
		return Peer{}, err
	}
	return Peer{id: id, serial: leaf.SerialNumber.Text(16), notAfter: until, root: root}, nil
}

// Withdrew reports whether the root that a peer was proved by is none of its trust domain's any more. It says nothing of the time,
// nor of a trust domain that has no roots now, and costs no signature.
func (v Verifier) Withdrew(p Peer) bool {
	b, ok := v.bundles.Get(p.id.tenant.td)
	return ok && !slices.ContainsFunc(b.roots, func(r *x509.Certificate) bool { return sha256.Sum256(r.Raw) == p.root })
}

// VerifyID proves, by the same rules, a certificate whose identity need not be a workload of this mesh, and says until
// when the proof holds. It says nothing of tenants.
func (v Verifier) VerifyID(leafDER []byte, intermediates [][]byte, now time.Time) (SPIFFEID, time.Time, error) {
	leaf, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return SPIFFEID{}, time.Time{}, fmt.Errorf("%w: %w", ErrInvalidID, err)
	}
	uri, err := URISAN(leaf)
	if err != nil {
		return SPIFFEID{}, time.Time{}, err
	}
	id, err := ParseSPIFFEID(uri)
	if err != nil {
		return SPIFFEID{}, time.Time{}, err
	}
	until, _, err := v.verify(leaf, uri, id.td, intermediates, now)
	if err != nil {
		return SPIFFEID{}, time.Time{}, err
	}
	return id, until, nil
}

// verify proves that the roots of the trust domain vouch for the leaf, whose one URI SAN is uri, and says until when and which.
func (v Verifier) verify(
	leaf *x509.Certificate, uri string, td TrustDomain, intermediates [][]byte, now time.Time,
) (until time.Time, root [sha256.Size]byte, err error) {
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return time.Time{}, root, fmt.Errorf("%w: the key of %s may not sign", ErrInvalidID, uri)
	}
	if now.IsZero() || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return time.Time{}, root, fmt.Errorf("%w: %s", ErrExpired, uri)
	}
	chain := []*x509.Certificate{leaf}
	if len(intermediates) > maxIntermediates {
		return time.Time{}, root, fmt.Errorf("%w: more than %d intermediate certificates", ErrUntrusted, maxIntermediates)
	}
	for _, der := range intermediates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return time.Time{}, root, fmt.Errorf("%w: intermediate: %w", ErrUntrusted, err)
		}
		chain = append(chain, c)
	}
	bundle, ok := v.bundles.Get(td)
	if !ok {
		return time.Time{}, root, fmt.Errorf("%w: %s", ErrNoBundle, td)
	}
	verified, chains, err := x509svid.Verify(chain, source(bundle), x509svid.WithTime(now))
	if err != nil {
		return time.Time{}, root, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if verified.String() != uri {
		return time.Time{}, root, fmt.Errorf("%w: the certificate can be read as two identities", ErrInvalidID)
	}
	until, root = lasting(chains)
	return until, root, nil
}

// lasting is the end of the chain that holds longest, with its root; a chain holds until the first of its certificates ends.
func lasting(chains [][]*x509.Certificate) (last time.Time, root [sha256.Size]byte) {
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last, root = end, sha256.Sum256(chain[len(chain)-1].Raw)
		}
	}
	return last, root
}

// source presents one bundle to go-spiffe as the only one there is.
func source(b Bundle) x509bundle.Source {
	td, err := spiffeid.TrustDomainFromString(b.td.name)
	if err != nil { // our grammar is the narrower one
		return x509bundle.NewSet()
	}
	return x509bundle.FromX509Authorities(td, b.roots)
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// URISAN is the one URI subject alternative name of a certificate, byte for byte. It fails, with ErrInvalidID, where there
// is none, more than one, or a malformed list: the X509-SVID standard allows exactly one, and Envoy leaves that check to us.
func URISAN(leaf *x509.Certificate) (string, error) {
	uris, err := uriSANs(leaf)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: subject alternative names: %w", ErrInvalidID, err)
	case len(uris) != 1:
		return "", fmt.Errorf("%w: a certificate has exactly one URI SAN, this one has %d", ErrInvalidID, len(uris))
	}
	return uris[0], nil
}

func uriSANs(leaf *x509.Certificate) ([]string, error) {
	const uniformResourceIdentifier = 6 // GeneralName, RFC 5280 section 4.2.1.6
	var (
		uris []string
		seen bool
	)
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		if seen {
			return nil, errors.New("the extension stands twice")
		}
		seen = true
		in := cryptobyte.String(ext.Value)
		var names cryptobyte.String
		if !in.ReadASN1(&names, casn1.SEQUENCE) || !in.Empty() {
			return nil, errors.New("malformed list")
		}
		for !names.Empty() {
			var (
				name cryptobyte.String
				tag  casn1.Tag
			)
			if !names.ReadAnyASN1(&name, &tag) {
				return nil, errors.New("malformed name")
			}
			if tag == casn1.Tag(uniformResourceIdentifier).ContextSpecific() {
				uris = append(uris, string(name))
			}
		}
	}
	return uris, nil
}
