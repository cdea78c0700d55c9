package identity_test

import (
	"crypto/elliptic"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

func svidMapping(t testing.TB, rules ...identity.MappingRule) identity.Mapping {
	t.Helper()
	if len(rules) == 0 {
		rules = []identity.MappingRule{{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}}
	}
	m, err := identity.NewMapping(identity.MustTrustDomain("platform.demo.test"), rules)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func svidConfig(t testing.TB, m identity.Mapping, name string, keys []byte) identity.TokenIssuerConfig {
	t.Helper()
	id, err := m.TenantID(name)
	if err != nil {
		t.Fatal(err)
	}
	c := issuerConfig(t, keys)
	c.Name, c.Format, c.Mapping, c.Tenants = name+"-svids", identity.FormatSVID, m, []identity.TenantID{id}
	c.Issuer, c.TenantClaim, c.RolesClaim = "", "", ""
	return c
}

// svid is the payload of a JWT-SVID, with some members replaced.
func svid(t testing.TB, changes map[string]any) string {
	t.Helper()
	m := map[string]any{"iss": nil, "tenant": nil, "roles": nil, "sub": acmeWeb}
	maps.Copy(m, changes)
	return payload(t, m)
}

func TestJWTSVID(t *testing.T) {
	t.Parallel()
	key, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	m := svidMapping(t)
	bundle := jwks(
		jwk(t, key, map[string]any{"kid": "k1", "use": "jwt-svid"}), jwk(t, other, map[string]any{"use": "x509-svid", "x5c": []string{"AA"}}),
	)
	users := issuerConfig(t, jwks(jwk(t, other, map[string]any{"kid": "k1"})))
	globex := svidConfig(t, m, "globex", jwks(jwk(t, other, map[string]any{"kid": "k1", "use": "jwt-svid"})))
	v := identity.NewTokenVerifier(newIssuer(t, svidConfig(t, m, "acme", bundle)), newIssuer(t, users), newIssuer(t, globex))
	const header = `{"alg":"ES256","kid":"k1"}`
	now := tokenNow.Unix()
	type change = map[string]any
	for name, tc := range map[string]struct {
		header string
		change change
		want   error
	}{
		"good":                 {header, nil, nil},
		"typ JWT":              {`{"alg":"ES256","kid":"k1","typ":"JWT"}`, nil, nil},
		"typ JOSE":             {`{"alg":"ES256","kid":"k1","typ":"JOSE"}`, nil, nil},
		"an iss of its own":    {header, change{"iss": "https://spire.acme.example.com"}, nil},
		"roles that it claims": {header, change{"roles": []string{"admin"}, "tenant": "globex"}, nil},

		"typ of an access token":      {`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, nil, identity.ErrTokenInvalid},
		"the iss of users":            {header, change{"iss": acmeIDP}, identity.ErrTokenInvalid},
		"another tenant's workload":   {header, change{"sub": "spiffe://globex.demo.test/ns/globex/sa/web"}, identity.ErrTokenInvalid},
		"a tenant without such keys":  {header, change{"sub": "spiffe://initech.demo.test/ns/initech/sa/web"}, identity.ErrIssuerNotAllowed},
		"the platform's":              {header, change{"sub": "spiffe://platform.demo.test/ns/platform/sa/billing"}, identity.ErrIssuerNotAllowed},
		"no workload":                 {header, change{"sub": nil}, identity.ErrIssuerNotAllowed},
		"no SPIFFE ID":                {header, change{"sub": "alice"}, identity.ErrIssuerNotAllowed},
		"no workload of the mesh":     {header, change{"sub": "spiffe://acme.demo.test/x"}, identity.ErrIssuerNotAllowed},
		"the trust domain":            {header, change{"sub": "spiffe://acme.demo.test"}, identity.ErrIssuerNotAllowed},
		"scheme in upper case":        {header, change{"sub": strings.Replace(acmeWeb, "spiffe", "SPIFFE", 1)}, identity.ErrIssuerNotAllowed},
		"trust domain in upper case":  {header, change{"sub": strings.Replace(acmeWeb, "acme.", "ACME.", 1)}, identity.ErrIssuerNotAllowed},
		"a fragment":                  {header, change{"sub": acmeWeb + "#"}, identity.ErrIssuerNotAllowed},
		"a query":                     {header, change{"sub": acmeWeb + "?x"}, identity.ErrIssuerNotAllowed},
		"trust domain with a dot":     {header, change{"sub": strings.Replace(acmeWeb, ".test", ".test.", 1)}, identity.ErrIssuerNotAllowed},
		"no audience":                 {header, change{"aud": nil}, identity.ErrTokenInvalid},
		"another audience":            {header, change{"aud": "spiffe://acme.demo.test/other"}, identity.ErrTokenInvalid},
		"expired":                     {header, change{"exp": now}, identity.ErrTokenExpired},
		"jti no text":                 {header, change{"jti": 7}, identity.ErrTokenInvalid},
		"no exp":                      {header, change{"exp": nil}, identity.ErrTokenInvalid},
		"no iat":                      {header, change{"iat": nil}, identity.ErrTokenInvalid},
		"a life beyond maxLifetime":   {header, change{"iat": now - 301, "exp": now + 600}, identity.ErrTokenInvalid},
		"key that there is not":       {`{"alg":"ES256","kid":"k2"}`, nil, identity.ErrTokenInvalid},
		"key of the X.509 identities": {`{"alg":"ES256","kid":""}`, nil, identity.ErrTokenInvalid},
	} {
		c, err := v.Verify(sign(t, key, "ES256", tc.header, svid(t, tc.change)), tokenNow)
		if !errors.Is(err, tc.want) || c.IsZero() != (tc.want != nil) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if err == nil && (c.Subject() != acmeWeb || !c.Tenant().Same(tenant(t, "acme")) || len(c.Roles()) > 0 || c.Issuer() != "spiffe://acme.demo.test") {
			t.Errorf("%s: it asserts %s of %s, %v, %s", name, c.Subject(), c.Tenant(), c.Roles(), c.Issuer())
		}
	}
}

// TestJWTSVIDsOfASharedTrustDomain: where paths say the tenant, each tenant's issuer names that tenant's workloads only.
func TestJWTSVIDsOfASharedTrustDomain(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	m := svidMapping(t, identity.MappingRule{TrustDomain: "cluster.test", Path: "/tenant/{tenant}/sa/{serviceAccount}"})
	v := identity.NewTokenVerifier(newIssuer(t, svidConfig(t, m, "acme", jwks(jwk(t, key, map[string]any{"use": "jwt-svid"})))))
	for sub, want := range map[string]error{
		"spiffe://cluster.test/tenant/acme/sa/web": nil, "spiffe://cluster.test/tenant/globex/sa/web": identity.ErrIssuerNotAllowed,
	} {
		if _, err := v.Verify(sign(t, key, "ES256", `{"alg":"ES256"}`, svid(t, map[string]any{"sub": sub})), tokenNow); !errors.Is(err, want) {
			t.Errorf("%s: %v", sub, err)
		}
	}
}

func TestNewTokenIssuerRefusesSVIDs(t *testing.T) {
	t.Parallel()
	key := ecKey(t, elliptic.P256())
	m := svidMapping(t)
	marked := jwk(t, key, map[string]any{"kid": "k1", "use": "jwt-svid"})
	for name, change := range map[string]func(*identity.TokenIssuerConfig){
		"format":           func(c *identity.TokenIssuerConfig) { c.Format = 2 },
		"issuer":           func(c *identity.TokenIssuerConfig) { c.Issuer = acmeIDP },
		"tenant claim":     func(c *identity.TokenIssuerConfig) { c.TenantClaim = "tenant" },
		"roles claim":      func(c *identity.TokenIssuerConfig) { c.RolesClaim = "roles" },
		"two tenants":      func(c *identity.TokenIssuerConfig) { c.Tenants = append(c.Tenants, tenant(t, "globex")) },
		"no mapping":       func(c *identity.TokenIssuerConfig) { c.Mapping = identity.Mapping{} },
		"key without use":  func(c *identity.TokenIssuerConfig) { c.JWKS = jwks(jwk(t, key, nil)) },
		"key for users":    func(c *identity.TokenIssuerConfig) { c.JWKS = jwks(marked, jwk(t, key, map[string]any{"use": "sig"})) },
		"only X.509 keys":  func(c *identity.TokenIssuerConfig) { c.JWKS = jwks(jwk(t, key, map[string]any{"use": "x509-svid"})) },
		"a key for users'": func(c *identity.TokenIssuerConfig) { c.Format = identity.FormatJWT },
	} {
		c := svidConfig(t, m, "acme", jwks(marked))
		if change(&c); !newIssuerFails(c) {
			t.Errorf("%s: accepted", name)
		}
	}
	c := issuerConfig(t, jwks(marked))
	if !newIssuerFails(c) {
		t.Error("a key for JWT-SVIDs verifies users' tokens")
	}
}

func newIssuerFails(c identity.TokenIssuerConfig) bool {
	i, err := identity.NewTokenIssuer(c)
	return err != nil && i.IsZero()
}
