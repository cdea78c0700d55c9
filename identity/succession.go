package identity

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// A new root of a trust domain bears the signature of the root before it, so that who trusts the old one can tell on its own
// that the new one is its successor. It stands in the certificate's comment: every verifier passes over that extension, and
// it is the one that may hold any text (Netscape Certificate Extensions, nsComment).
const successionText = "ringfence-succession-1:"

func commentID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 13} }

// Succession is what the key of a trust domain's root signs of its successor: the trust domain and the new public key.
func Succession(td TrustDomain, public crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("successor of a root of %s: %w", td, err)
	}
	return bytes.Join([][]byte{[]byte(successionText), []byte(td.name), spki}, []byte{0}), nil
}

// SuccessionExtension is the extension of the successor's certificate that holds the signature over Succession.
func SuccessionExtension(signature []byte) (pkix.Extension, error) {
	value, err := asn1.MarshalWithParams(successionText+base64.StdEncoding.EncodeToString(signature), "ia5")
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("succession: %w", err)
	}
	return pkix.Extension{Id: commentID(), Value: value}, nil
}

// Continues reports whether every root of b is one of known, or the successor of a root that is: whoever held that root's key has
// signed the successor's key, and that key the rest of its certificate. A bundle of another trust domain continues none, and the
// zero value neither continues nor is continued.
func (b Bundle) Continues(known Bundle) bool {
	if b.IsZero() || b.td != known.td {
		return false
	}
	trusted, left := known.roots, b.roots
	for len(left) > 0 {
		var unknown []*x509.Certificate
		for _, r := range left {
			if succeeds(b.td, r, trusted) {
				trusted = append(slices.Clip(trusted), r)
			} else {
				unknown = append(unknown, r)
			}
		}
		if len(unknown) == len(left) {
			return false
		}
		left = unknown
	}
	return true
}

// succeeds reports whether a root is one of those, or bears the signature of one.
func succeeds(td TrustDomain, r *x509.Certificate, trusted []*x509.Certificate) bool {
	signature := successionOf(r)
	message, err := Succession(td, r.PublicKey)
	named := err == nil && len(signature) > 0 && r.CheckSignature(r.SignatureAlgorithm, r.RawTBSCertificate, r.Signature) == nil
	for _, t := range trusted {
		if t.Equal(r) {
			return true
		}
		// A root is self-signed, so its own algorithm is one of its key's.
		if named && t.CheckSignature(t.SignatureAlgorithm, message, signature) == nil {
			return true
		}
	}
	return false
}

// successionOf is the signature that a certificate bears; nil for none.
func successionOf(c *x509.Certificate) []byte {
	for _, e := range c.Extensions {
		if !e.Id.Equal(commentID()) {
			continue
		}
		var text string
		if rest, err := asn1.UnmarshalWithParams(e.Value, &text, "ia5"); err != nil || len(rest) > 0 {
			return nil
		}
		encoded, ok := strings.CutPrefix(text, successionText)
		if !ok {
			return nil
		}
		signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return nil
		}
		return signature
	}
	return nil
}
