package issuer

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/ringfence-mesh/ringfence/identity"
)

// maxRequest is far above any request of the accepted shape: the longest SPIFFE ID has 2,048 bytes.
const maxRequest = 8 << 10

var (
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// errOtherName says that a well-formed request asks for another identity.
var errOtherName = errors.New("the request names another identity")

// judgeRequest takes the public key out of a certificate request that asks for exactly the identity want: one URI SAN
// with these very bytes and nothing else, no subject, no other attribute or extension, signed by the key it holds.
//
// The names are read from the raw bytes, as those of a peer's certificate are: Go's parser repairs and drops what another
// reader of the same request would see.
func judgeRequest(der []byte, want string) (crypto.PublicKey, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrBadRequest, maxRequest)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not a PKCS #10 request", ErrBadRequest)
	}
	if err := judgeKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: not signed by the key that it holds", ErrBadRequest)
	}
	name, err := onlyName(csr.RawTBSCertificateRequest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if !bytes.Equal(name, []byte(want)) {
		return nil, errOtherName
	}
	return csr.PublicKey, nil
}

func judgeKey(public crypto.PublicKey) error {
	kind, ok := identity.KindOf(public)
	if !ok {
		return fmt.Errorf("%w: %w: it must be %s or %s", ErrBadRequest, identity.ErrKeyKind, identity.ECDSAP256, identity.ECDSAP384)
	}
	if err := kind.ForSVID(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return nil
}

// onlyName reads the request information (RFC 2986, section 4.1) and gives back its one URI SAN.
//
//	CertificationRequestInfo ::= SEQUENCE { version, subject Name, subjectPKInfo, attributes [0] SET OF Attribute }
func onlyName(info []byte) ([]byte, error) {
	in := cryptobyte.String(info)
	var body, subject, attributes cryptobyte.String
	ok := in.ReadASN1(&body, casn1.SEQUENCE) && in.Empty() &&
		body.SkipASN1(casn1.INTEGER) &&
		body.ReadASN1(&subject, casn1.SEQUENCE) &&
		body.SkipASN1(casn1.SEQUENCE) &&
		body.ReadASN1(&attributes, casn1.Tag(0).Constructed().ContextSpecific()) && body.Empty()
	if !ok {
		return nil, errors.New("malformed request information")
	}
	if !subject.Empty() {
		return nil, errors.New("the subject must be empty")
	}
	value, err := onlyAttribute(attributes)
	if err != nil {
		return nil, err
	}
	names, err := onlyExtension(value)
	if err != nil {
		return nil, err
	}
	const uniformResourceIdentifier = 6 // GeneralName, RFC 5280 section 4.2.1.6
	var name cryptobyte.String
	if !names.ReadASN1(&name, casn1.Tag(uniformResourceIdentifier).ContextSpecific()) || !names.Empty() {
		return nil, errors.New("there must be exactly one subject alternative name, a URI")
	}
	return name, nil
}

// onlyAttribute reads a set that holds one extension request and nothing else, and gives back the extensions.
func onlyAttribute(attributes cryptobyte.String) (cryptobyte.String, error) {
	var (
		attribute, values, extensions cryptobyte.String
		oid                           asn1.ObjectIdentifier
	)
	ok := attributes.ReadASN1(&attribute, casn1.SEQUENCE) && attributes.Empty() &&
		attribute.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidExtensionRequest) &&
		attribute.ReadASN1(&values, casn1.SET) && attribute.Empty() &&
		values.ReadASN1(&extensions, casn1.SEQUENCE) && values.Empty()
	if !ok {
		return nil, errors.New("there must be exactly one attribute, an extension request")
	}
	return extensions, nil
}

// onlyExtension reads a list that holds one subject alternative name extension and nothing else, and gives back the names.
func onlyExtension(extensions cryptobyte.String) (cryptobyte.String, error) {
	var (
		extension, value, names cryptobyte.String
		oid                     asn1.ObjectIdentifier
	)
	ok := extensions.ReadASN1(&extension, casn1.SEQUENCE) && extensions.Empty() &&
		extension.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidSubjectAltName) &&
		extension.SkipOptionalASN1(casn1.BOOLEAN) &&
		extension.ReadASN1(&value, casn1.OCTET_STRING) && extension.Empty() &&
		value.ReadASN1(&names, casn1.SEQUENCE) && value.Empty()
	if !ok {
		return nil, errors.New("there must be exactly one extension, the subject alternative name")
	}
	return names, nil
}
