package identity_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence-mesh/ringfence/identity"
)

func TestNewTokenIssuer(t *testing.T) {
	t.Parallel()
	key := jwk(t, ecKey(t, elliptic.P256()), map[string]any{"kid": "sig"})
	enc := jwk(t, rsaKey(t, 2048), map[string]any{"use": "enc", "alg": "RSA-OAEP"})
	want := issuerConfig(t, jwks(enc, key, enc))
	i := newIssuer(t, want)
	got := i.Config()
	if diff := cmp.Diff(want, got, cmp.Comparer(identity.TenantID.Same), cmpopts.EquateComparable(identity.Mapping{})); diff != "" {
		t.Error(diff)
	}
	for _, outside := range []identity.TokenIssuerConfig{want, got} {
		outside.Audiences[0], outside.Tenants[0], outside.JWKS[0] = "other", tenant(t, "globex"), 'x'
		if again := i.Config(); again.Audiences[0] != "orders-api" || again.Tenants[0].Name() != "acme" || again.JWKS[0] != '{' {
			t.Error("the issuer can be changed from outside")
		}
	}
	for name, change := range map[string]func(*identity.TokenIssuerConfig){
		"a second":           func(c *identity.TokenIssuerConfig) { c.MaxLifetime = time.Second },
		"as many audiences":  func(c *identity.TokenIssuerConfig) { c.Audiences = slices.Repeat([]string{"a"}, 32) },
		"every character":    func(c *identity.TokenIssuerConfig) { c.Audiences = []string{"!~"} },
		"the longest issuer": func(c *identity.TokenIssuerConfig) { c.Issuer = strings.Repeat("a", 2048) },
	} {
		c := issuerConfig(t, jwks(key))
		if change(&c); newIssuerFails(c) {
			t.Errorf("%s: refused", name)
		}
	}
	var none identity.TokenIssuer
	if !none.IsZero() || i.IsZero() || none.Config().Issuer != "" {
		t.Error("the zero issuer is somebody")
	}
}

func TestNewTokenIssuerRefuses(t *testing.T) {
	t.Parallel()
	p256, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	good := jwk(t, p256, map[string]any{"kid": "k1"})
	type members = map[string]any
	platform, err := identity.PlatformID(identity.MustTrustDomain("platform.demo.test"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		keys   []byte
		change func(*identity.TokenIssuerConfig)
		text   string
	}{
		"name":               {nil, func(c *identity.TokenIssuerConfig) { c.Name = "Acme" }, "name"},
		"no issuer":          {nil, func(c *identity.TokenIssuerConfig) { c.Issuer = "" }, "issuer"},
		"issuer with a NUL":  {nil, func(c *identity.TokenIssuerConfig) { c.Issuer = "a\x00" }, "issuer"},
		"no audience":        {nil, func(c *identity.TokenIssuerConfig) { c.Audiences = nil }, "audiences"},
		"empty audience":     {nil, func(c *identity.TokenIssuerConfig) { c.Audiences = []string{""} }, "audiences"},
		"too many audiences": {nil, func(c *identity.TokenIssuerConfig) { c.Audiences = slices.Repeat([]string{"a"}, 33) }, "audiences"},
		"a long issuer":      {nil, func(c *identity.TokenIssuerConfig) { c.Issuer = strings.Repeat("a", 2049) }, "issuer"},
		"less than a second": {nil, func(c *identity.TokenIssuerConfig) { c.MaxLifetime = time.Second - 1 }, "maxLifetime"},
		"no tenant claim":    {nil, func(c *identity.TokenIssuerConfig) { c.TenantClaim = "" }, "claim"},
		"bad roles claim":    {nil, func(c *identity.TokenIssuerConfig) { c.RolesClaim = "my roles" }, "claim"},
		"no lifetime":        {nil, func(c *identity.TokenIssuerConfig) { c.MaxLifetime = 0 }, "maxLifetime"},
		"negative lifetime":  {nil, func(c *identity.TokenIssuerConfig) { c.MaxLifetime = -time.Hour }, "maxLifetime"},
		"no tenant":          {nil, func(c *identity.TokenIssuerConfig) { c.Tenants = nil }, "tenant"},
		"zero tenant":        {nil, func(c *identity.TokenIssuerConfig) { c.Tenants = []identity.TenantID{{}} }, "tenant"},
		"a tenant twice":     {nil, func(c *identity.TokenIssuerConfig) { c.Tenants = append(c.Tenants, c.Tenants[0]) }, "twice"},
		"the platform":       {nil, func(c *identity.TokenIssuerConfig) { c.Tenants = []identity.TenantID{platform} }, "platform"},
		"no object":          {[]byte("[]"), nil, "jwks"},
		"no keys":            {jwks(), nil, "no key"},
		"null key":           {jwks("null"), nil, "key 1"},
		"duplicate member":   {[]byte(`{"keys":[],"keys":[` + good + `]}`), nil, "duplicate"},
		"duplicate in a key": {jwks(strings.Replace(good, "{", `{"kid":"k0",`, 1)), nil, "duplicate"},
		"too long":           {jwks(good, strings.Repeat(" ", 64<<10)), nil, "bytes"},
		"too many":           {jwks(strings.Split(strings.Repeat(good+"\n", 33), "\n")[:33]...), nil, "more than 32"},
		"private EC":         {jwks(jwk(t, p256, members{"d": b64.EncodeToString(make([]byte, 32))})), nil, "private"},
		"private RSA":        {jwks(jwk(t, rsaKey(t, 2048), members{"d": "AQAB"})), nil, "private"},
		"half a private RSA": {jwks(jwk(t, rsaKey(t, 2048), members{"p": "AQAB"})), nil, "private"},
		"private, for enc":   {jwks(good, jwk(t, other, members{"d": "AQAB", "use": "enc"})), nil, "key 2: it holds the private"},
		"symmetric":          {jwks(`{"kty":"oct","k":"` + b64.EncodeToString(make([]byte, 32)) + `"}`), nil, "private"},
		"oct without k":      {jwks(`{"kty":"oct"}`), nil, "key 1"},
		"unknown type":       {jwks(`{"kty":"OKP","crv":"X25519","x":"AA"}`), nil, "key 1"},
		"point off the curve": {
			jwks(`{"kty":"EC","crv":"P-256","x":"` + b64.EncodeToString(make(
				[]byte, 32,
			)) + `","y":"` + b64.EncodeToString(make([]byte, 32)) + `"}`), nil, "key 1",
		},
		"short RSA": {jwks(jwk(t, rsaKey(t, 1024), nil)), nil, "2048"},
		"very long RSA": {
			jwks(`{"kty":"RSA","e":"AQAB","n":"` + b64.EncodeToString(bytes.Repeat([]byte{0xff}, 513)) + `"}`), nil, "modulus",
		},
		"alg of another curve": {jwks(jwk(t, p256, members{"alg": "ES384"})), nil, "alg"},
		"alg none":             {jwks(jwk(t, p256, members{"alg": "none"})), nil, "alg"},
		"alg HS256":            {jwks(jwk(t, p256, members{"alg": "HS256"})), nil, "alg"},
		"alg RS512":            {jwks(jwk(t, rsaKey(t, 2048), members{"alg": "RS512"})), nil, "alg"},
		"unknown use":          {jwks(good, jwk(t, other, members{"kid": "k2", "use": "tls"})), nil, "key 2: use"},
		"kid with a space":     {jwks(jwk(t, p256, members{"kid": "a b"})), nil, "kid"},
		"two without kid":      {jwks(jwk(t, p256, nil), jwk(t, other, nil)), nil, "kid"},
		"one without kid":      {jwks(good, jwk(t, other, nil)), nil, "kid"},
		"one kid twice":        {jwks(good, jwk(t, other, members{"kid": "k1"})), nil, "kid"},
		"only for encryption":  {jwks(jwk(t, p256, members{"use": "enc"})), nil, "no key"},
	}
	for name, tc := range tests {
		if tc.keys == nil {
			tc.keys = jwks(good)
		}
		c := issuerConfig(t, tc.keys)
		if tc.change != nil {
			tc.change(&c)
		}
		i, err := identity.NewTokenIssuer(c)
		if err == nil || !i.IsZero() {
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v does not speak of %q", name, err, tc.text)
		}
	}
}

func FuzzTokenIssuerJWKS(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	f.Add(jwks(jwk(f, key, map[string]any{"kid": "k1", "alg": "ES256"})))
	f.Add(jwks(jwk(f, rsaKey(f, 2048), nil), jwk(f, key, map[string]any{"use": "enc"})))
	f.Add(jwks(jwk(f, key, map[string]any{"d": "AQAB"})))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AQAB"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := identity.NewTokenIssuer(issuerConfig(t, data))
		if (err == nil) == i.IsZero() {
			t.Errorf("an issuer and the error %v", err)
		}
		if err == nil && len(data) > 0 && !json.Valid(i.Config().JWKS) { // nothing at all: no key is known yet
			t.Errorf("accepted what is no JSON: %q", data)
		}
	})
}
