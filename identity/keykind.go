package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
)

// KeyKind is a kind of key that identities are made with. The zero value is ECDSA over P-256.
type KeyKind struct{ p384 bool }

// ErrKeyKind says that a kind of key is not used here, and why.
var ErrKeyKind = errors.New("kind of key not accepted")

const (
	nameP256 = "ecdsa-p256"
	nameP384 = "ecdsa-p384"
)

// ParseKeyKind reads ecdsa-p256 or ecdsa-p384. What Envoy cannot serve or verify is refused with that reason: a test of
// identity/issuer holds this list against the real Envoy.
func ParseKeyKind(name string) (KeyKind, error) {
	switch name {
	case nameP256:
		return KeyKind{}, nil
	case nameP384:
		return KeyKind{p384: true}, nil
	case "ed25519":
		return KeyKind{}, fmt.Errorf("%w: Envoy takes no Ed25519 key in a handshake; use %s or %s", ErrKeyKind, nameP256, nameP384)
	default:
		return KeyKind{}, fmt.Errorf("%w: %.40q is neither %s nor %s", ErrKeyKind, name, nameP256, nameP384)
	}
}

// String is the name that ParseKeyKind reads.
func (k KeyKind) String() string {
	if k.p384 {
		return nameP384
	}
	return nameP256
}

// Curve is what keys of this kind are made over.
func (k KeyKind) Curve() elliptic.Curve {
	if k.p384 {
		return elliptic.P384()
	}
	return elliptic.P256()
}

// AcceptedKey reports whether a public key is of a kind that ParseKeyKind reads.
func AcceptedKey(public crypto.PublicKey) bool {
	key, ok := public.(*ecdsa.PublicKey)
	return ok && (key.Curve == elliptic.P256() || key.Curve == elliptic.P384())
}
