package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

func TestParseKeySet(t *testing.T) {
	t.Parallel()
	a, b, big := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), rsaKey(t, 2048)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type members = map[string]any
	ka := jwk(t, a, members{"kid": "a"})
	kb := jwk(t, b, members{"kid": "b", "use": "sig", "alg": "ES384", "x-more": 7})
	kr := jwk(t, big, members{"kid": "r", "alg": "PS256"})
	parse := func(text []byte) identity.KeySet {
		t.Helper()
		set, err := identity.ParseKeySet(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return set
	}
	set := parse(jwks(ka, kb, kr))
	// The order, members that say nothing here and keys for other purposes make no other set.
	for name, text := range map[string][]byte{
		"another order":     jwks(kr, ka, kb),
		"for encryption":    jwks(ka, jwk(t, big, members{"use": "enc", "alg": "RSA-OAEP", "kid": "e"}), kb, kr),
		"unknown type":      jwks(`{"kty":"AKP","kid":"pq","alg":"ML-DSA-44","pub":"AA"}`, ka, kb, kr),
		"unknown curve":     jwks(`{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA","kid":"s"}`, ka, kb, kr),
		"unknown algorithm": jwks(jwk(t, rsaKey(t, 2048), members{"kid": "x", "alg": "RS512"}), ka, kb, kr),
		"short RSA":         jwks(jwk(t, rsaKey(t, 1024), members{"kid": "x"}), ka, kb, kr),
		"unknown use":       jwks(jwk(t, rsaKey(t, 2048), members{"kid": "x", "use": "tls"}), ka, kb, kr),
		"bad kid":           jwks(jwk(t, rsaKey(t, 2048), members{"kid": "x y"}), ka, kb, kr),
		"null":              jwks("null", ka, kb, kr),
		"again":             set.JSON(),
		"further members":   []byte(`{"spiffe_sequence":1,` + string(jwks(ka, kb, kr))[1:]),
	} {
		if parse(text) != set {
			t.Errorf("%s: another set", name)
		}
	}
	if parse(jwks(ka, kr)) == set {
		t.Error("a withdrawn key makes no other set")
	}
	if _, err := identity.NewTokenIssuer(issuerConfig(t, set.JWKS(identity.FormatJWT))); err != nil {
		t.Error(err)
	}
	if set.JWKS(identity.FormatSVID) != nil {
		t.Error("keys for users verify JWT-SVIDs")
	}
	// One text may publish both, each for its own purpose; a kid may stand in both.
	both := parse(jwks(ka, jwk(t, ed, members{"kid": "a", "use": "jwt-svid"})))
	if parse(both.JSON()) != both || len(both.JWKS(identity.FormatSVID)) == 0 || len(both.JWKS(identity.FormatJWT)) == 0 {
		t.Errorf("%s", both.JSON())
	}
	// Keys of workloads alone are a set, too.
	if workloads := parse(jwks(jwk(t, ed, members{"kid": "a", "use": "jwt-svid"}))); workloads.JWKS(identity.FormatJWT) != nil || !bytes.Equal(workloads.JWKS(identity.FormatSVID), both.JWKS(identity.FormatSVID)) {
		t.Errorf("%s", workloads.JSON())
	}
	m := svidMapping(t)
	if _, err := identity.NewTokenIssuer(svidConfig(t, m, "acme", both.JWKS(identity.FormatSVID))); err != nil {
		t.Error(err)
	}
	var none identity.KeySet
	if !none.IsZero() || set.IsZero() || none.JWKS(identity.FormatJWT) != nil {
		t.Error("the zero set holds something")
	}
}

func TestParseKeySetRefuses(t *testing.T) {
	t.Parallel()
	a, b := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	type members = map[string]any
	good := jwk(t, a, members{"kid": "a"})
	costly := jwk(t, rsaKey(t, 2048), members{"e": "f____w"}) // 1<<31 - 1
	large := jwk(t, rsaKey(t, 4096), members{"kid": "k"})
	var many []string
	for n := range 16 {
		many = append(many, strings.Replace(large, `"kid":"k"`, `"kid":"`+strings.Repeat("k", n+1)+`"`, 1))
	}
	for name, tc := range map[string]struct {
		text []byte
		says string
	}{
		"nothing":                {nil, ""},
		"an exponent that costs": {jwks(costly), "no key"},
		"HTML":                   {[]byte("<html>"), ""},
		"no set":                 {[]byte("[]"), ""},
		"no keys":                {[]byte("{}"), "no key"},
		"empty":                  {jwks(), "no key"},
		"only unusable":          {jwks(`{"kty":"none"}`), "no key"},
		"only for encryption":    {jwks(jwk(t, a, members{"use": "enc"})), "no key"},
		"private":                {jwks(good, jwk(t, b, members{"kid": "b", "d": "AA"})), "key 2: it holds"},
		"private, for enc":       {jwks(good, jwk(t, b, members{"kid": "b", "use": "enc", "d": "AA"})), "no secret any more"},
		"symmetric":              {jwks(good, `{"kty":"oct","k":"AA","kid":"b"}`), "no secret any more"},
		"hidden in a double":     {jwks(good, `{"kty":"oct","k":"AA","k":"AA"}`), "unique"},
		"two of one kid":         {jwks(good, jwk(t, b, members{"kid": "a"})), "kid"},
		"two without kid":        {jwks(jwk(t, a, nil), jwk(t, b, nil)), "key 2: where"},
		"the first without kid":  {jwks(jwk(t, b, nil), good), "key 2: where"},
		"the second without kid": {jwks(good, jwk(t, b, nil)), "key 2: where"},
		"SVIDs of one kid": {
			jwks(good, jwk(t, a, members{"kid": "s", "use": "jwt-svid"}), jwk(t, b, members{"kid": "s", "use": "jwt-svid"})), "kid",
		},
		"duplicate":        {[]byte(`{"keys":[],"keys":[` + good + `]}`), "duplicate"},
		"text behind":      {append(jwks(good), '{'), ""},
		"too long":         {append(jwks(good), strings.Repeat(" ", 64<<10)...), "65536"},
		"too many":         {jwks(strings.Split(strings.Repeat(good+"\n", 33), "\n")[:33]...), "more than 32"},
		"too large":        {jwks(many...), "8192 bytes"},
		"nested very deep": {[]byte(`{"keys":` + strings.Repeat("[", 60<<10)), ""},
	} {
		set, err := identity.ParseKeySet(tc.text)
		if err == nil || !set.IsZero() || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The limits themselves are allowed: 64 KiB of text, 32 keys, 8 KiB of usable keys.
func TestKeySetLimits(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	numbered := func(n int) []string {
		var keys []string
		for i := range n {
			keys = append(keys, jwk(t, key, map[string]any{"kid": fmt.Sprintf("k%02d", i)}))
		}
		return keys
	}
	text := jwks(numbered(1)...)
	for n, ok := range map[int]bool{64 << 10: true, 64<<10 + 1: false} {
		if _, err := identity.ParseKeySet(append(bytes.Clone(text), strings.Repeat(" ", n-len(text))...)); (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for n, ok := range map[int]bool{32: true, 33: false} {
		if _, err := identity.ParseKeySet(jwks(numbered(n)...)); (err == nil) != ok {
			t.Errorf("%d keys: %v", n, err)
		}
	}
	set, err := identity.ParseKeySet(jwks(numbered(32)...))
	if err != nil {
		t.Fatal(err)
	}
	// Longer kids fill the set up to the limit.
	missing := 8<<10 - len(set.JWKS(identity.FormatJWT))
	for more, ok := range map[int]bool{missing: true, missing + 1: false} {
		keys := numbered(32)
		for i := 0; more > 0; i++ {
			pad := min(more, 250)
			keys[i] = strings.Replace(keys[i], `"kid":"`, `"kid":"`+strings.Repeat("x", pad), 1)
			more -= pad
		}
		if _, err := identity.ParseKeySet(jwks(keys...)); (err == nil) != ok {
			t.Errorf("%v: %v", ok, err)
		}
	}
}

// TestKeysThatAreNotKnownYet: an issuer without keys is one, and nothing that it signs is believed.
func TestKeysThatAreNotKnownYet(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, nil)))
	for _, header := range []string{`{"alg":"ES256"}`, `{"alg":"ES256","kid":"k1"}`} {
		_, err := v.Verify(sign(t, key, "ES256", header, payload(t, nil)), tokenNow)
		unknown, ok := errors.AsType[*identity.UnknownKeyError](err)
		if !errors.Is(err, identity.ErrTokenInvalid) || !ok || unknown.Issuer != "acme-idp" {
			t.Errorf("%s: %v", header, err)
		}
	}
	// Only a key that the issuer does not have is one that it may have since.
	v = identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, map[string]any{"kid": "k1"})))))
	for header, want := range map[string]bool{
		`{"alg":"ES256","kid":"k2"}`: true, `{"alg":"ES256","kid":"k1"}`: false, `{"alg":"ES384","kid":"k1"}`: false,
	} {
		_, err := v.Verify(sign(t, ecKey(t, elliptic.P256()), "ES256", header, payload(t, nil)), tokenNow)
		if _, ok := errors.AsType[*identity.UnknownKeyError](err); ok != want || strings.Contains(err.Error(), "k2") {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func FuzzKeySet(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	f.Add(jwks(jwk(f, key, map[string]any{"kid": "k1", "alg": "ES256"})))
	f.Add(jwks(jwk(f, key, nil), `{"kty":"none"}`, `null`, `{}`))
	f.Add(jwks(jwk(f, key, map[string]any{"use": "jwt-svid", "kid": "s"}), jwk(f, key, map[string]any{"kid": "s"})))
	f.Add([]byte(`{"spiffe_sequence":1,"keys":[` + jwk(f, key, map[string]any{"use": "x509-svid", "x5c": []string{"AA"}}) + `]}`))
	f.Add(jwks(jwk(f, key, map[string]any{"d": "AQAB"})))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte("<html>"))
	m := svidMapping(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := identity.ParseKeySet(data)
		if (err == nil) == set.IsZero() {
			t.Fatalf("a set and the error %v", err)
		}
		if err != nil {
			return
		}
		if again, err := identity.ParseKeySet(set.JSON()); err != nil || again != set {
			t.Errorf("%q is not its own set: %v", set.JSON(), err)
		}
		// Whatever a publisher wrote, an issuer can be made of it: no server stops a publication.
		if _, err := identity.NewTokenIssuer(issuerConfig(t, set.JWKS(identity.FormatJWT))); err != nil {
			t.Error(err)
		}
		if _, err := identity.NewTokenIssuer(svidConfig(t, m, "acme", set.JWKS(identity.FormatSVID))); err != nil {
			t.Error(err)
		}
	})
}
