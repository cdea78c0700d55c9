package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
)

// KeyKind is a kind of key that roots, and most of them SVIDs, are made with. The zero value is ECDSA over P-256.
//
// A test of identity/issuer holds what is accepted here against the real Envoy: no more, so that no workload gets an SVID
// that its Envoy cannot use, and no less.
type KeyKind uint8

// The kinds of keys.
const (
	ECDSAP256 KeyKind = iota
	ECDSAP384
	// Ed25519 is for roots alone: Envoy verifies what it has signed, and takes no such key in a handshake.
	Ed25519
)

// ErrKeyKind says that a kind of key is not used here, and why.
var ErrKeyKind = errors.New("kind of key not accepted")

// ParseKeyKind reads ecdsa-p256, ecdsa-p384 or ed25519.
func ParseKeyKind(name string) (KeyKind, error) {
	for k := ECDSAP256; k <= Ed25519; k++ {
		if name == k.String() {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%w: %.40q is none of %s, %s and %s", ErrKeyKind, name, ECDSAP256, ECDSAP384, Ed25519)
}

// String is the name that ParseKeyKind reads.
func (k KeyKind) String() string {
	switch k {
	case ECDSAP256:
		return "ecdsa-p256"
	case ECDSAP384:
		return "ecdsa-p384"
	case Ed25519:
		return "ed25519"
	default:
		return "unknown"
	}
}

// ForSVID fails where an SVID cannot have such a key, and says why.
func (k KeyKind) ForSVID() error {
	if k != ECDSAP256 && k != ECDSAP384 {
		return fmt.Errorf("%w: Envoy takes no %s key in a handshake; use %s or %s", ErrKeyKind, k, ECDSAP256, ECDSAP384)
	}
	return nil
}

// KindOf is the kind of a public key, false for one that is used nowhere here.
func KindOf(public crypto.PublicKey) (KeyKind, bool) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return ECDSAP256, true
		case elliptic.P384():
			return ECDSAP384, true
		}
	case ed25519.PublicKey:
		return Ed25519, true
	}
	return 0, false
}
