package identity_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func TestVerifyID(t *testing.T) {
	t.Parallel()
	const gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"
	ca, other := testca.Constrained(t, "cluster.local"), testca.Unconstrained(t, "cluster.local")
	bundles, err := identity.NewBundles(ca.Bundle("cluster.local"))
	if err != nil {
		t.Fatal(err)
	}
	v, now := identity.NewVerifier(identity.Mapping{}, bundles), time.Now() // no mapping: it says nothing of tenants
	good := ca.SVID(gateway)
	id, until, err := v.VerifyID(good.Cert.Raw, nil, now)
	if err != nil || id.String() != gateway || id.TrustDomain().String() != "cluster.local" || !until.Equal(good.Cert.NotAfter) || id.IsZero() {
		t.Fatalf("%v until %v, %v", id, until, err)
	}
	for _, tc := range []struct {
		name string
		leaf []byte
		want error
	}{
		{"no certificate", []byte("x"), identity.ErrInvalidID},
		{"another root", other.SVID(gateway).Cert.Raw, identity.ErrUntrusted},
		{"a trust domain without roots", other.SVID("spiffe://elsewhere.test/x").Cert.Raw, identity.ErrNoBundle},
		{"two URIs", ca.SVID("", testca.RawURIs(gateway, gateway)).Cert.Raw, identity.ErrInvalidID},
		{"no SPIFFE ID", ca.SVID("", testca.RawURIs("https://cluster.local/x")).Cert.Raw, identity.ErrInvalidID},
		{"upper case", ca.SVID("", testca.RawURIs("SPIFFE://cluster.local/x")).Cert.Raw, identity.ErrInvalidID},
		{"over", ca.SVID(gateway, testca.ValidFor(-2*time.Hour, -time.Hour)).Cert.Raw, identity.ErrExpired},
	} {
		if id, until, err := v.VerifyID(tc.leaf, nil, now); !errors.Is(err, tc.want) || !id.IsZero() || !until.IsZero() {
			t.Errorf("%s: %v, %v, %v", tc.name, id, until, err)
		}
	}
}
