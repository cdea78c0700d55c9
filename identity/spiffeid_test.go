package identity_test

import (
	"errors"
	"strings"
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

// Every byte, alone and inside a segment of a path.
func TestSegmentsCompletely(t *testing.T) {
	t.Parallel()
	const inner = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	for c := range 256 {
		b := string([]byte{byte(c)})
		for segment, want := range map[string]bool{b: strings.Contains(inner, b) && b != ".", "a" + b + "a": strings.Contains(inner, b) || b == "/"} {
			if _, err := identity.ParseSPIFFEID("spiffe://acme.test/" + segment); (err == nil) != want {
				t.Errorf("segment %q: %v", segment, err)
			}
		}
	}
	const prefix = "spiffe://acme.test/"
	for n, want := range map[int]bool{2048: true, 2049: false} {
		if _, err := identity.ParseSPIFFEID(prefix + strings.Repeat("a", n-len(prefix))); (err == nil) != want {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestWorkloadIDSame(t *testing.T) {
	t.Parallel()
	parse := func(m identity.Mapping, uri string) identity.WorkloadID {
		w, err := m.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	m := mapping(t, perTenant)
	web := parse(m, acmeWeb)
	if !web.Same(parse(mapping(t, perTenant), acmeWeb)) {
		t.Error("a workload is not the same as itself")
	}
	for _, uri := range []string{globexWeb, "spiffe://acme.demo.test/ns/acme/sa/orders", "spiffe://acme.demo.test/ns/other/sa/web"} {
		if web.Same(parse(m, uri)) || parse(m, uri).Same(web) {
			t.Errorf("%s is the same as %s", uri, web)
		}
	}
	// One text that two meshes read as workloads of two tenants.
	other := mapping(t, identity.MappingRule{TrustDomain: "acme.demo.test", Path: "/ns/{tenant}/sa/{serviceAccount}"})
	if same := parse(other, "spiffe://acme.demo.test/ns/other/sa/web"); same.Same(parse(m, same.String())) {
		t.Errorf("%s of two tenants is the same", same)
	}
	if web.Same(identity.WorkloadID{}) || (identity.WorkloadID{}).Same(web) || (identity.WorkloadID{}).Same(identity.WorkloadID{}) {
		t.Error("nobody is the same as somebody")
	}
}
