package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

func TestKeyKinds(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]identity.KeyKind{
		"ecdsa-p256": identity.ECDSAP256, "ecdsa-p384": identity.ECDSAP384, "ed25519": identity.Ed25519,
	} {
		k, err := identity.ParseKeyKind(name)
		if err != nil || k != want || k.String() != name {
			t.Errorf("%s: %v, %v", name, k, err)
		}
		if err := k.ForSVID(); errors.Is(err, identity.ErrKeyKind) != (k == identity.Ed25519) {
			t.Errorf("%s for an SVID: %v", name, err)
		}
	}
	for _, name := range []string{"", "rsa-2048", "ecdsa-p521", "ECDSA-P256", "unknown"} {
		if k, err := identity.ParseKeyKind(name); !errors.Is(err, identity.ErrKeyKind) {
			t.Errorf("%q: %v, %v", name, k, err)
		}
	}
	if err := identity.KeyKind(9).ForSVID(); identity.KeyKind(9).String() != "unknown" || err == nil {
		t.Errorf("a kind that does not exist: %v", err)
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		public crypto.PublicKey
		want   identity.KeyKind
		ok     bool
	}{
		{&ecdsa.PublicKey{Curve: elliptic.P256()}, identity.ECDSAP256, true},
		{&ecdsa.PublicKey{Curve: elliptic.P384()}, identity.ECDSAP384, true},
		{&ecdsa.PublicKey{Curve: elliptic.P521()}, 0, false},
		{ed25519.PublicKey{}, identity.Ed25519, true},
		{&rsa.PublicKey{}, 0, false},
		{nil, 0, false},
	} {
		if got, ok := identity.KindOf(c.public); got != c.want || ok != c.ok {
			t.Errorf("%T: %v, %v", c.public, got, ok)
		}
	}
}
