package identity_test

import (
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

func TestVerifyTokenAuthentication(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	now := tokenNow.Unix()
	null := json.RawMessage("null")
	for _, tc := range []struct {
		name  string
		claim string
		value any
		want  error
	}{
		{"acr", "acr", "urn:mace:incommon:iap:silver", nil},
		{"acr null", "acr", null, nil},
		{"acr empty", "acr", "", identity.ErrTokenInvalid},
		{"acr a number", "acr", 1, identity.ErrTokenInvalid},
		{"acr a truth value", "acr", false, identity.ErrTokenInvalid},
		{"acr a list", "acr", []string{"mfa"}, identity.ErrTokenInvalid},
		{"acr several in one", "acr", "mfa phr", identity.ErrTokenInvalid},
		{"acr that breaks a header", "acr", "a\r\nx-evil: 1", identity.ErrTokenInvalid},
		{"acr not ASCII", "acr", "mfå", identity.ErrTokenInvalid},
		{"acr long", "acr", strings.Repeat("a", 255), nil},
		{"acr too long", "acr", strings.Repeat("a", 256), identity.ErrTokenInvalid},
		{"amr", "amr", []string{"pwd", "hwk"}, nil},
		{"amr null", "amr", null, nil},
		{"amr empty", "amr", []string{}, nil},
		{"amr one text", "amr", "mfa", identity.ErrTokenInvalid},
		{"amr an object", "amr", map[string]any{"mfa": true}, identity.ErrTokenInvalid},
		{"amr not all text", "amr", []any{"pwd", 1}, identity.ErrTokenInvalid},
		{"amr with null", "amr", []any{"pwd", nil}, identity.ErrTokenInvalid},
		{"amr with an empty one", "amr", []string{""}, identity.ErrTokenInvalid},
		{"amr many", "amr", slices.Repeat([]string{"pwd"}, 32), nil},
		{"amr too many", "amr", slices.Repeat([]string{"pwd"}, 33), identity.ErrTokenInvalid},
		{"auth_time now", "auth_time", now, nil},
		{"auth_time long ago", "auth_time", 0, nil},
		{"auth_time null", "auth_time", null, nil},
		{"auth_time of a clock 30 s ahead", "auth_time", now + 30, nil},
		{"auth_time in the future", "auth_time", now + 31, identity.ErrTokenInvalid},
		{"auth_time negative", "auth_time", -1, identity.ErrTokenInvalid},
		{"auth_time text", "auth_time", "1", identity.ErrTokenInvalid},
		{"auth_time a truth value", "auth_time", false, identity.ErrTokenInvalid},
		{"auth_time huge", "auth_time", json.RawMessage("1e300"), identity.ErrTokenInvalid},
	} {
		c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{tc.claim: tc.value})), tokenNow)
		if !errors.Is(err, tc.want) || c.IsZero() != (tc.want != nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestClaimsOfAuthentication(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	verify := func(changes map[string]any) identity.Claims {
		t.Helper()
		c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, changes)), tokenNow)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := verify(map[string]any{"acr": "mfa", "amr": []string{"pwd", "hwk"}, "auth_time": 0})
	if at, said := c.AuthTime(); c.ACR() != "mfa" || !c.HasMethod("hwk") || c.HasMethod("HWK") || !said || at.Unix() != 0 {
		t.Errorf("%q, %v, %v", c.ACR(), at, said)
	}
	for name, c := range map[string]identity.Claims{"none": {}, "a token without": verify(nil)} {
		if _, said := c.AuthTime(); said || c.ACR() != "" || c.HasMethod("") {
			t.Errorf("%s: it says how its user was authenticated", name)
		}
	}
}
