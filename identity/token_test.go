package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Tokens are put together by hand here, not with the library that reads them.

var b64 = base64.RawURLEncoding

func compact(header, payload string, signature []byte) string {
	return b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload)) + "." + b64.EncodeToString(signature)
}

// sign makes a token from the exact bytes of its parts.
func sign(t testing.TB, key crypto.Signer, alg, header, payload string) string {
	t.Helper()
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	var (
		signature []byte
		err       error
	)
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, digest(alg, input))
		err = e
		if err == nil {
			size := (k.Curve.Params().BitSize + 7) / 8
			signature = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
	case *rsa.PrivateKey:
		if alg == "PS256" {
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest(alg, input), nil)
		} else {
			signature, err = rsa.SignPKCS1v15(
				rand.Reader, k, map[string]crypto.Hash{"RS256": crypto.SHA256, "RS512": crypto.SHA512}[alg],
				digest(alg, input),
			)
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(input))
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64.EncodeToString(signature)
}

func digest(alg, input string) []byte {
	switch {
	case strings.HasSuffix(alg, "384"):
		d := sha512.Sum384([]byte(input))
		return d[:]
	case strings.HasSuffix(alg, "512"):
		d := sha512.Sum512([]byte(input))
		return d[:]
	}
	d := sha256.Sum256([]byte(input))
	return d[:]
}

// jwk is the public key as a JWK with these further members.
func jwk(t testing.TB, key crypto.Signer, members map[string]any) string {
	t.Helper()
	out := map[string]any{}
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		out = map[string]any{"kty": "EC", "crv": k.Params().Name, "x": b64.EncodeToString(x), "y": b64.EncodeToString(y)}
	case *rsa.PublicKey:
		out = map[string]any{"kty": "RSA", "n": b64.EncodeToString(k.N.Bytes()), "e": "AQAB"}
	case ed25519.PublicKey:
		out = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(k)}
	}
	maps.Copy(out, members)
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func jwks(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func tenant(t testing.TB, name string) identity.TenantID {
	t.Helper()
	id, err := identity.ParseTenantID(name, identity.MustTrustDomain(name+".demo.test"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const acmeIDP = "https://idp.acme.example.com"

func issuerConfig(t testing.TB, keys []byte) identity.TokenIssuerConfig {
	t.Helper()
	return identity.TokenIssuerConfig{
		Name: "acme-idp", Issuer: acmeIDP, Audiences: []string{"orders-api", "billing-api"},
		Tenants:     []identity.TenantID{tenant(t, "acme"), tenant(t, "initech")},
		TenantClaim: "tenant", RolesClaim: "roles", MaxLifetime: 15 * time.Minute, JWKS: keys,
	}
}

func newIssuer(t testing.TB, c identity.TokenIssuerConfig) identity.TokenIssuer {
	t.Helper()
	i, err := identity.NewTokenIssuer(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// tokenNow is the time of these tests; payload() is a token that holds then.
var tokenNow = time.Unix(1_800_000_000, 500_000_000)

// payload is a good token's with some members replaced; a nil removes one.
func payload(t testing.TB, changes map[string]any) string {
	t.Helper()
	m := map[string]any{
		"iss": acmeIDP, "aud": "orders-api", "sub": "alice", "tenant": "acme", "roles": []string{"clerk", "manager"},
		"iat": tokenNow.Unix() - 60, "exp": tokenNow.Unix() + 600,
	}
	for k, v := range changes {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestVerifyToken(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(
		newIssuer(t, issuerConfig(t, jwks(jwk(t, key, map[string]any{"kid": "k1", "alg": "ES256", "use": "sig"})))),
		identity.TokenIssuer{},
	)
	c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256","kid":"k1","typ":"JWT"}`, payload(t, nil)), tokenNow)
	if err != nil {
		t.Fatal(err)
	}
	type view struct {
		Issuer, Subject, Tenant string
		Roles                   []string
		Expires                 int64
	}
	want := view{acmeIDP, "alice", "acme", []string{"clerk", "manager"}, tokenNow.Unix() + 600}
	if diff := cmp.Diff(want, view{c.Issuer(), c.Subject(), c.Tenant().Name(), c.Roles(), c.Expires().Unix()}); diff != "" {
		t.Error(diff)
	}
	if !c.Tenant().Same(tenant(t, "acme")) || !c.HasRole("clerk") || c.HasRole("owner") || c.IsZero() {
		t.Error("the claims are not the token's")
	}
	if !c.Begins().Equal(time.Unix(tokenNow.Unix()-90, 0)) {
		t.Errorf("it begins at %v", c.Begins())
	}
	named, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256","kid":"k1"}`, payload(t, map[string]any{"jti": "t-1", "sid": "s-1"})), tokenNow)
	if err != nil || named.TokenID() != "t-1" || named.Session() != "s-1" || c.TokenID() != "" || c.Session() != "" {
		t.Errorf("token %q of session %q: %v", named.TokenID(), named.Session(), err)
	}
	c.Roles()[0] = "owner"
	if c.HasRole("owner") {
		t.Error("the claims can be changed from outside")
	}
	var none identity.Claims
	if !none.IsZero() || none.HasRole("") || none.Subject() != "" || !none.Tenant().IsZero() || !none.Expires().IsZero() ||
		!none.Begins().IsZero() {
		t.Error("the zero claims assert something")
	}
}

func TestVerifyTokenAlgorithms(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521, big := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521()), rsaKey(t, 2048)
	for _, tc := range []struct {
		alg string
		key crypto.Signer
	}{{"ES256", p256}, {"ES384", p384}, {"ES512", p521}, {"RS256", big}, {"PS256", big}, {"EdDSA", ed}} {
		for _, named := range []map[string]any{nil, {"alg": tc.alg}, {"kid": "k1"}} {
			v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, tc.key, named)))))
			if _, err := v.Verify(sign(t, tc.key, tc.alg, `{"alg":"`+tc.alg+`"}`, payload(t, nil)), tokenNow); err != nil {
				t.Errorf("%s, JWK with %v: %v", tc.alg, named, err)
			}
		}
	}
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, big, map[string]any{"alg": "PS256"})))))
	for _, alg := range []string{"RS256", "RS512"} {
		if _, err := v.Verify(
			sign(t, big, alg, `{"alg":"`+alg+`"}`, payload(t, nil)), tokenNow,
		); !errors.Is(err, identity.ErrTokenInvalid) {
			t.Errorf("%s with a key for PS256: %v", alg, err)
		}
	}
}

func TestVerifyTokenHeaders(t *testing.T) {
	t.Parallel()
	key, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(
		t, issuerConfig(t, jwks(jwk(t, key, map[string]any{"kid": "k1"}), jwk(t, other, map[string]any{"kid": "k2"}))),
	))
	tests := map[string]struct {
		header string
		ok     bool
	}{
		"plain":                   {`{"alg":"ES256","kid":"k1"}`, true},
		"typ JWT":                 {`{"alg":"ES256","kid":"k1","typ":"jwt"}`, true},
		"typ at+jwt":              {`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, true},
		"a parameter of its own":  {`{"alg":"ES256","kid":"k1","x5t":"abc"}`, true},
		"no kid of several":       {`{"alg":"ES256"}`, false},
		"kid of another key":      {`{"alg":"ES256","kid":"k2"}`, false},
		"kid of no key":           {`{"alg":"ES256","kid":"k3"}`, false},
		"kid no text":             {`{"alg":"ES256","kid":1}`, false},
		"empty kid":               {`{"alg":"ES256","kid":""}`, false},
		"no alg":                  {`{"kid":"k1"}`, false},
		"alg no text":             {`{"alg":["ES256"],"kid":"k1"}`, false},
		"alg none":                {`{"alg":"none","kid":"k1"}`, false},
		"alg None":                {`{"alg":"None","kid":"k1"}`, false},
		"alg HS256":               {`{"alg":"HS256","kid":"k1"}`, false},
		"alg ES384":               {`{"alg":"ES384","kid":"k1"}`, false},
		"alg in another case":     {`{"alg":"es256","kid":"k1"}`, false},
		"member in another case":  {`{"ALG":"ES256","kid":"k1"}`, false},
		"typ of an ID token":      {`{"alg":"ES256","kid":"k1","typ":"logout+jwt"}`, false},
		"empty typ":               {`{"alg":"ES256","kid":"k1","typ":""}`, false},
		"typ no text":             {`{"alg":"ES256","kid":"k1","typ":1}`, false},
		"jwk":                     {`{"alg":"ES256","kid":"k1","jwk":` + jwk(t, key, nil) + `}`, false},
		"jku":                     {`{"alg":"ES256","kid":"k1","jku":"https://evil.test/jwks"}`, false},
		"x5u":                     {`{"alg":"ES256","kid":"k1","x5u":"https://evil.test/c"}`, false},
		"x5c":                     {`{"alg":"ES256","kid":"k1","x5c":[]}`, false},
		"crit":                    {`{"alg":"ES256","kid":"k1","crit":["b64"],"b64":true}`, false},
		"empty crit":              {`{"alg":"ES256","kid":"k1","crit":[]}`, false},
		"b64":                     {`{"alg":"ES256","kid":"k1","b64":false}`, false},
		"duplicate alg":           {`{"alg":"none","alg":"ES256","kid":"k1"}`, false},
		"duplicate by an escape":  {`{"alg":"ES256","kid":"k2","\u006bid":"k1"}`, false},
		"not an object":           {`["ES256"]`, false},
		"null":                    {`null`, false},
		"empty":                   {``, false},
		"behind the object":       {`{"alg":"ES256","kid":"k1"}{}`, false},
		"nonce that jose dislike": {`{"alg":"ES256","kid":"k1","nonce":7}`, false},
	}
	for name, tc := range tests {
		_, err := v.Verify(sign(t, key, "ES256", tc.header, payload(t, nil)), tokenNow)
		if (err == nil) != tc.ok || (err != nil && !errors.Is(err, identity.ErrTokenInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyTokenClaims(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	now := tokenNow.Unix()
	type change = map[string]any
	many := slices.Repeat([]string{"clerk"}, 257)
	tests := []struct {
		name   string
		change change
		want   error
	}{
		{"good", nil, nil},
		{"several audiences", change{"aud": []string{"other", "billing-api"}}, nil},
		{"one of ours among the audiences", change{"aud": []string{"billing-api", "other"}}, nil},
		{"no subject", change{"sub": nil}, nil},
		{"jti and sid", change{"jti": "a", "sid": strings.Repeat("b", 255)}, nil},
		{"as many roles as may be", change{"roles": many[:256]}, nil},
		{"no roles", change{"roles": nil}, nil},
		{"roles null", change{"roles": json.RawMessage("null")}, nil},
		{"roles that the mesh cannot name", change{"roles": []string{"offline_access", "Admin", ""}}, nil},
		{"second tenant of the issuer", change{"tenant": "initech"}, nil},
		{"nbf now", change{"nbf": now}, nil},
		{"clock of the issuer 29 s ahead", change{"iat": now + 29, "nbf": now + 29}, nil},
		{"exp in the next second", change{"exp": now + 1}, nil},
		{"exp with a fraction", change{"exp": float64(now) + 1.25}, nil},
		{"exactly maxLifetime", change{"iat": now - 300, "exp": now + 600}, nil},

		{"exp now", change{"exp": now}, identity.ErrTokenExpired},
		{"exp a second ago", change{"exp": now - 1}, identity.ErrTokenExpired},
		{"no exp", change{"exp": nil}, identity.ErrTokenInvalid},
		{"exp null", change{"exp": json.RawMessage("null")}, identity.ErrTokenInvalid},
		{"exp text", change{"exp": fmt.Sprint(now + 600)}, identity.ErrTokenInvalid},
		{"exp huge", change{"exp": json.RawMessage("1e300")}, identity.ErrTokenInvalid},
		{"exp beyond a double", change{"exp": json.RawMessage("1e999")}, identity.ErrTokenInvalid},
		{"exp negative", change{"exp": -1}, identity.ErrTokenInvalid},
		{"no iat", change{"iat": nil}, identity.ErrTokenInvalid},
		{"iat in the future", change{"iat": now + 31}, identity.ErrTokenInvalid},
		{"iat after exp", change{"iat": now + 20, "exp": now + 10}, identity.ErrTokenInvalid},
		{"nbf in the future", change{"nbf": now + 31}, identity.ErrTokenInvalid},
		{"nbf text", change{"nbf": "now"}, identity.ErrTokenInvalid},
		{"a life beyond maxLifetime", change{"iat": now - 301, "exp": now + 600}, identity.ErrTokenInvalid},
		{"no audience", change{"aud": nil}, identity.ErrTokenInvalid},
		{"another audience", change{"aud": "other"}, identity.ErrTokenInvalid},
		{"empty audience", change{"aud": ""}, identity.ErrTokenInvalid},
		{"empty audiences", change{"aud": []string{}}, identity.ErrTokenInvalid},
		{"audiences not all text", change{"aud": []any{"orders-api", 1}}, identity.ErrTokenInvalid},
		{"subject that breaks a header", change{"sub": "a\r\nx-evil: 1"}, identity.ErrTokenInvalid},
		{"subject not ASCII", change{"sub": "ålice"}, identity.ErrTokenInvalid},
		{"subject too long", change{"sub": strings.Repeat("a", 256)}, identity.ErrTokenInvalid},
		{"subject no text", change{"sub": 7}, identity.ErrTokenInvalid},
		{"empty subject", change{"sub": ""}, identity.ErrTokenInvalid},
		{"jti no text", change{"jti": 7}, identity.ErrTokenInvalid},
		{"empty jti", change{"jti": ""}, identity.ErrTokenInvalid},
		{"jti too long", change{"jti": strings.Repeat("a", 256)}, identity.ErrTokenInvalid},
		{"sid no text", change{"sid": []string{"a"}}, identity.ErrTokenInvalid},
		{"empty sid", change{"sid": ""}, identity.ErrTokenInvalid},
		{"sid with a space", change{"sid": "a b"}, identity.ErrTokenInvalid},
		{"no tenant", change{"tenant": nil}, identity.ErrTokenInvalid},
		{"several tenants", change{"tenant": []string{"acme"}}, identity.ErrTokenInvalid},
		{"tenant in upper case", change{"tenant": "ACME"}, identity.ErrTokenInvalid},
		{"tenant with a homograph", change{"tenant": "асme"}, identity.ErrTokenInvalid},
		{"tenant with a space", change{"tenant": "acme "}, identity.ErrTokenInvalid},
		{"tenant of another issuer", change{"tenant": "globex"}, identity.ErrIssuerNotAllowed},
		{"the platform", change{"tenant": "platform"}, identity.ErrIssuerNotAllowed},
		{"roles one text", change{"roles": "clerk"}, identity.ErrTokenInvalid},
		{"roles not all text", change{"roles": []any{"clerk", 1}}, identity.ErrTokenInvalid},
		{"too many roles", change{"roles": many}, identity.ErrTokenInvalid},
		{"another issuer", change{"iss": "https://idp.globex.example.com"}, identity.ErrIssuerNotAllowed},
		{"issuer with a slash more", change{"iss": acmeIDP + "/"}, identity.ErrIssuerNotAllowed},
		{"no issuer", change{"iss": nil}, identity.ErrIssuerNotAllowed},
		{"issuers", change{"iss": []string{acmeIDP}}, identity.ErrIssuerNotAllowed},
	}
	for _, tc := range tests {
		c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, tc.change)), tokenNow)
		if !errors.Is(err, tc.want) || c.IsZero() != (tc.want != nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, change{"roles": []string{"clerk", "offline_access"}})), tokenNow); err != nil || !cmp.Equal(c.Roles(), []string{"clerk"}) {
		t.Errorf("roles %v, %v", c.Roles(), err)
	}
}

// Claims hold from the latest of what their issuer says of it, less what is forgiven to its clock.
func TestClaimsBegin(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	now := tokenNow.Unix()
	type change = map[string]any
	for name, tt := range map[string]struct {
		change change
		want   int64
	}{
		"issued":                        {change{"iat": now - 60}, now - 90},
		"not before, later":             {change{"iat": now - 60, "nbf": now - 10}, now - 40},
		"not before, earlier":           {change{"iat": now - 60, "nbf": now - 100}, now - 90},
		"authenticated, later":          {change{"iat": now - 60, "auth_time": now - 20}, now - 50},
		"authenticated, earlier":        {change{"iat": now - 60, "auth_time": now - 1000}, now - 90},
		"not before, and authenticated": {change{"iat": now - 60, "nbf": now - 10, "auth_time": now - 20}, now - 40},
	} {
		c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, tt.change)), tokenNow)
		if err != nil || c.Begins().Unix() != tt.want {
			t.Errorf("%s: it begins %d s from now, want %d (%v)", name, c.Begins().Unix()-now, tt.want-now, err)
		}
	}
}

// An issuer whose documents name no claim with roles gives none, whatever its tokens say.
func TestIssuerWithoutRoles(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	config := issuerConfig(t, jwks(jwk(t, key, nil)))
	config.RolesClaim = ""
	v := identity.NewTokenVerifier(newIssuer(t, config))
	c, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{"": []string{"clerk"}})), tokenNow)
	if err != nil || len(c.Roles()) != 0 {
		t.Errorf("roles %v, %v", c.Roles(), err)
	}
}

func TestVerifyTokenRefusesBytes(t *testing.T) {
	t.Parallel()
	key, foreign := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	header := `{"alg":"ES256"}`
	good := sign(t, key, "ES256", header, payload(t, nil))
	parts := strings.Split(good, ".")
	mac := hmac.New(sha256.New, []byte(jwk(t, key, nil)))
	mac.Write([]byte(parts[0] + "." + parts[1]))
	signature, _ := b64.DecodeString(parts[2])
	last := parts[2][len(parts[2])-1:]
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for name, token := range map[string]string{
		"empty":                      "",
		"one part":                   "abc",
		"dots":                       "..",
		"thousands of dots":          strings.Repeat(".", 8000),
		"encrypted":                  good + ".a.b",
		"unsigned":                   parts[0] + "." + parts[1] + ".",
		"alg none, unsigned":         compact(`{"alg":"none"}`, payload(t, nil), nil),
		"signed by another key":      sign(t, foreign, "ES256", header, payload(t, nil)),
		"HMAC over the public key":   compact(`{"alg":"HS256"}`, payload(t, nil), mac.Sum(nil)),
		"r = s = 0":                  parts[0] + "." + parts[1] + "." + b64.EncodeToString(make([]byte, 64)),
		"signature cut":              parts[0] + "." + parts[1] + "." + b64.EncodeToString(signature[:63]),
		"signature longer":           parts[0] + "." + parts[1] + "." + b64.EncodeToString(append(slices.Clone(signature), 0)),
		"payload changed":            parts[0] + "." + b64.EncodeToString([]byte(payload(t, map[string]any{"tenant": "initech"}))) + "." + parts[2],
		"space in front":             " " + good,
		"space behind":               good + " ",
		"line break":                 parts[0] + "." + parts[1] + "\n." + parts[2],
		"padding":                    parts[0] + "." + parts[1] + "." + parts[2] + "==",
		"standard base64":            parts[0] + "." + parts[1] + ".++++" + parts[2],
		"unused bits":                good[:len(good)-1] + string(alphabet[strings.Index(alphabet, last)+1]),
		"not ASCII":                  good + "é",
		"too long":                   good + strings.Repeat("A", 8<<10),
		"JSON form":                  `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"duplicate claim":            sign(t, key, "ES256", header, strings.Replace(payload(t, nil), `{`, `{"tenant":"globex",`, 1)),
		"duplicate claim, escaped":   sign(t, key, "ES256", header, strings.Replace(payload(t, nil), `{`, `{"\u0074enant":"acme",`, 1)),
		"duplicate inside a claim":   sign(t, key, "ES256", header, strings.Replace(payload(t, nil), `{`, `{"address":{"a":1,"a":2},`, 1)),
		"claim in another case":      sign(t, key, "ES256", header, strings.Replace(payload(t, nil), `"aud"`, `"AUD"`, 1)),
		"payload no object":          sign(t, key, "ES256", header, `[]`),
		"payload no JSON":            sign(t, key, "ES256", header, `x`),
		"payload nested very deeply": sign(t, key, "ES256", header, strings.Repeat("[", 5000)),
	} {
		if c, err := v.Verify(token, tokenNow); !errors.Is(err, identity.ErrTokenInvalid) || !c.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Verify(good, tokenNow); err != nil {
		t.Errorf("the one that all others were made from: %v", err)
	}
	if _, err := v.Verify(sign(t, foreign, "ES256", header, payload(t, nil)), tokenNow); !strings.Contains(err.Error(), "signature") {
		t.Errorf("signed by another key: %v", err)
	}
	anonymous := sign(t, key, "ES256", header, payload(t, map[string]any{"iss": ""}))
	if _, err := identity.NewTokenVerifier(identity.TokenIssuer{}).Verify(anonymous, tokenNow); !errors.Is(err, identity.ErrIssuerNotAllowed) {
		t.Errorf("an issuer that is none: %v", err)
	}
	if _, err := (identity.TokenVerifier{}).Verify(good, tokenNow); !errors.Is(err, identity.ErrIssuerNotAllowed) {
		t.Errorf("the zero verifier: %v", err)
	}
}

// TestVerifyTokenUpToItsLimit: 8 KiB are read, and not a byte more.
func TestVerifyTokenUpToItsLimit(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	seen := map[bool]bool{}
	for pad := 5850; pad < 5950; pad++ {
		token := sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{"pad": strings.Repeat("a", pad)}))
		_, err := v.Verify(token, tokenNow)
		if ok := len(token) <= 8<<10; (err == nil) != ok {
			t.Fatalf("%d bytes: %v", len(token), err)
		} else {
			seen[ok] = true
		}
	}
	if len(seen) != 2 {
		t.Error("only one side of the limit was tried")
	}
}

func TestVerifyTokenOfIssuersThatShareAName(t *testing.T) {
	t.Parallel()
	one, two := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	acme, globex := issuerConfig(t, jwks(jwk(t, one, nil))), issuerConfig(t, jwks(jwk(t, two, nil)))
	globex.Name, globex.Tenants = "globex-idp", []identity.TenantID{tenant(t, "globex")}
	v := identity.NewTokenVerifier(newIssuer(t, acme), newIssuer(t, globex))
	header := `{"alg":"ES256"}`
	ofGlobex := map[string]any{"tenant": "globex"}
	for _, tc := range []struct {
		name, token string
		want        error
	}{
		{"first", sign(t, one, "ES256", header, payload(t, nil)), nil},
		{"second", sign(t, two, "ES256", header, payload(t, ofGlobex)), nil},
		{"first's key, second's tenant", sign(t, one, "ES256", header, payload(t, ofGlobex)), identity.ErrIssuerNotAllowed},
		{"second's key, first's tenant", sign(t, two, "ES256", header, payload(t, nil)), identity.ErrIssuerNotAllowed},
		{
			"second's, expired",
			sign(t, two, "ES256", header, payload(t, map[string]any{"tenant": "globex", "exp": tokenNow.Unix()})),
			identity.ErrTokenExpired,
		},
		{"nobody's key", sign(t, ecKey(t, elliptic.P256()), "ES256", header, payload(t, nil)), identity.ErrTokenInvalid},
	} {
		if _, err := v.Verify(tc.token, tokenNow); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestTokenErrorsHoldNothingOfTheToken(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	v := identity.NewTokenVerifier(newIssuer(t, issuerConfig(t, jwks(jwk(t, key, nil)))))
	const secret = "s3cret"
	for _, token := range []string{
		secret, secret + ".b.c",
		sign(t, key, "ES256", `{"alg":"`+secret+`"}`, payload(t, nil)),
		sign(t, key, "ES256", `{"alg":"ES256","typ":"`+secret+`"}`, payload(t, nil)),
		sign(t, key, "ES256", `{"alg":"ES256","`+secret+`":1,"`+secret+`":1}`, payload(t, nil)),
		sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{"iss": secret})),
		sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{"tenant": secret})),
		sign(t, key, "ES256", `{"alg":"ES256"}`, payload(t, map[string]any{"aud": secret})),
	} {
		if _, err := v.Verify(token, tokenNow); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%v", err)
		}
	}
}

// signed is what the signature of a token is over.
func signed(token string) string { return token[:max(0, strings.LastIndexByte(token, '.'))] }

func FuzzToken(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	v := identity.NewTokenVerifier(
		newIssuer(f, issuerConfig(f, jwks(jwk(f, key, map[string]any{"kid": "k1"})))),
		newIssuer(f, svidConfig(f, svidMapping(f), "acme", jwks(jwk(f, key, map[string]any{"kid": "k1", "use": "jwt-svid"})))),
	)
	good := sign(f, key, "ES256", `{"alg":"ES256","kid":"k1"}`, payload(f, nil))
	f.Add(good)
	f.Add(good + ".")
	f.Add("..")
	f.Add(strings.Replace(good, ".", ".\n", 1))
	f.Add(sign(f, key, "ES256", `{"alg":"none","alg":"ES256"}`, payload(f, map[string]any{"aud": []any{1}})))
	f.Add(sign(f, key, "ES256", `{"alg":"ES256"}`, payload(f, map[string]any{"exp": "x", "tenant": nil})))
	f.Add(sign(f, key, "ES256", `{"alg":"ES256","kid":"k2","crit":["b64"],"b64":false}`, payload(f, nil)))
	workload := sign(f, key, "ES256", `{"alg":"ES256","kid":"k1","typ":"JOSE"}`, svid(f, nil))
	f.Add(workload)
	f.Add(sign(f, key, "ES256", `{"alg":"ES256","kid":"k1"}`, svid(f, map[string]any{"sub": acmeWeb + "#"})))
	f.Add(strings.Repeat(".", 4) + good)
	f.Add(sign(f, key, "ES256", `{"alg":"ES256"}`, payload(f, map[string]any{"acr": "mfa", "amr": []any{"hwk", 1}, "auth_time": -1})))
	f.Add(compact(`{"alg":"ES256","jwk":{"kty":"oct","k":""}}`, `{"iss":"`+acmeIDP+`"}`, make([]byte, 64)))
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Verify(token, tokenNow)
		switch {
		case err == nil:
			// Nobody but the key's holder makes another token: whatever is accepted was signed here.
			if c.IsZero() || c.Tenant().IsZero() || !tokenNow.Before(c.Expires()) ||
				(signed(token) != signed(good) && signed(token) != signed(workload)) {
				t.Errorf("accepted %q", token)
			}
		case !c.IsZero():
			t.Errorf("claims beside the error %v", err)
		case !errors.Is(err, identity.ErrTokenInvalid) && !errors.Is(err, identity.ErrTokenExpired) &&
			!errors.Is(err, identity.ErrIssuerNotAllowed):
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
