package issuer_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strconv"
	"strings"
	"testing"
)

// The requests here are put together by hand: x509.CreateCertificateRequest does not make them.

var (
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidChallenge        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidECDSAWithSHA256  = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func uriName(uri string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}
}

func sanOf(t testing.TB, names ...asn1.RawValue) []byte {
	t.Helper()
	return marshal(t, names)
}

func withExtension(oid string, value []byte) func(*x509.CertificateRequest) {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(oid, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			panic(err)
		}
		id = append(id, n)
	}
	return func(c *x509.CertificateRequest) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: value})
		if id.Equal(oidSAN) { // CreateCertificateRequest would leave its own out
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: value})
		}
	}
}

type attribute struct {
	ID     asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

func extensions(t testing.TB, names ...asn1.RawValue) asn1.RawValue {
	t.Helper()
	return asn1.RawValue{FullBytes: marshal(t, []pkix.Extension{{Id: oidSAN, Value: sanOf(t, names...)}})}
}

func extensionRequest(t testing.TB, names ...asn1.RawValue) attribute {
	t.Helper()
	return attribute{ID: oidExtensionRequest, Values: []asn1.RawValue{extensions(t, names...)}}
}

func twoValues(t testing.TB, names ...asn1.RawValue) attribute {
	t.Helper()
	return attribute{ID: oidExtensionRequest, Values: []asn1.RawValue{extensions(t, names...), extensions(t, uriName(acmeOrders))}}
}

func challenge(t testing.TB) attribute {
	t.Helper()
	return attribute{ID: oidChallenge, Values: []asn1.RawValue{{FullBytes: marshal(t, "secret")}}}
}

func rawRequest(t testing.TB, key crypto.Signer, names ...asn1.RawValue) []byte {
	t.Helper()
	return rawRequestWith(t, key, extensionRequest(t, names...))
}

// rawRequestWith signs a request with these attributes, whatever they are.
func rawRequestWith(t testing.TB, key crypto.Signer, attributes ...attribute) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	info := marshal(t, struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []attribute `asn1:"tag:0,set"`
	}{0, asn1.RawValue{FullBytes: []byte{0x30, 0}}, asn1.RawValue{FullBytes: spki}, attributes})
	digest := sha256.Sum256(info)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return marshal(t, struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		Info:      asn1.RawValue{FullBytes: info},
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256},
		Signature: asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
}

func rsaRequest(t testing.TB) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return request(t, key, []string{acmeWeb})
}
