package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxJWKS       = 64 << 10
	maxKeys       = 32
	maxAudiences  = 32
	maxClaimText  = 255 // of a subject, a claim's name, a key's ID (OpenID Connect Core caps sub at 255)
	maxIssuerText = 2048
	minRSABits    = 2048
)

// TokenIssuerConfig is what the documents say of a token issuer.
type TokenIssuerConfig struct {
	// Name is the document's name.
	Name string
	// Issuer is the exact "iss" of its tokens.
	Issuer string
	// Audiences are the values of "aud" that are accepted; a token needs one of them.
	Audiences []string
	// Tenants are the only ones that it may assert.
	Tenants []TenantID
	// TenantClaim and RolesClaim name the claims; RolesClaim may be empty.
	TenantClaim, RolesClaim string
	// MaxLifetime caps exp minus iat.
	MaxLifetime time.Duration
	// JWKS is a JSON Web Key Set (RFC 7517) of public keys.
	JWKS []byte
}

// TokenIssuer is who may assert which tenants, and with which keys. It is immutable; the zero value asserts nothing.
type TokenIssuer struct{ i *tokenIssuer }

type tokenIssuer struct {
	config  TokenIssuerConfig
	tenants map[string]TenantID
	keys    []tokenKey
}

// tokenKey is a public key and the signature algorithms that it may be used with.
type tokenKey struct {
	id         string
	public     any
	algorithms []jose.SignatureAlgorithm
}

// NewTokenIssuer checks the configuration and parses the keys: public, asymmetric, each with a fixed list of algorithms.
// A private or symmetric key in the set is an error: what was meant to be secret has been published.
func NewTokenIssuer(c TokenIssuerConfig) (TokenIssuer, error) {
	switch {
	case !ValidName(c.Name):
		return TokenIssuer{}, fmt.Errorf("token issuer name %q: lower-case letters, digits and inner hyphens, at most 63", clip(c.Name))
	case !visible(c.Issuer, maxIssuerText):
		return TokenIssuer{}, fmt.Errorf("issuer: visible ASCII, 1 to %d characters", maxIssuerText)
	case len(c.Audiences) == 0 || len(c.Audiences) > maxAudiences ||
		slices.ContainsFunc(c.Audiences, func(a string) bool { return !visible(a, maxIssuerText) }):
		return TokenIssuer{}, fmt.Errorf("audiences: 1 to %d of them, each visible ASCII", maxAudiences)
	case !visible(c.TenantClaim, maxClaimText):
		return TokenIssuer{}, errors.New("the claim that names the tenant is not said")
	case c.RolesClaim != "" && !visible(c.RolesClaim, maxClaimText):
		return TokenIssuer{}, errors.New("the claim that names the roles: visible ASCII")
	case c.MaxLifetime < time.Second:
		return TokenIssuer{}, errors.New("maxLifetime: at least one second")
	case len(c.Tenants) == 0:
		return TokenIssuer{}, errors.New("a token issuer asserts at least one tenant")
	}
	i := &tokenIssuer{config: c.clone(), tenants: make(map[string]TenantID, len(c.Tenants))}
	for _, t := range c.Tenants {
		if _, dup := i.tenants[t.Name()]; dup || t.IsZero() || t.IsPlatform() {
			return TokenIssuer{}, fmt.Errorf("%w: tenant %q cannot be asserted, or stands twice", ErrInvalidID, t.Name())
		}
		i.tenants[t.Name()] = t
	}
	var err error
	if i.keys, err = parseJWKS(c.JWKS); err != nil {
		return TokenIssuer{}, fmt.Errorf("jwks: %w", err)
	}
	return TokenIssuer{i: i}, nil
}

func (c TokenIssuerConfig) clone() TokenIssuerConfig {
	c.Audiences, c.Tenants, c.JWKS = slices.Clone(c.Audiences), slices.Clone(c.Tenants), slices.Clone(c.JWKS)
	return c
}

// Config is a copy of what the issuer was made from.
func (i TokenIssuer) Config() TokenIssuerConfig {
	if i.i == nil {
		return TokenIssuerConfig{}
	}
	return i.i.config.clone()
}

// IsZero reports whether there is no issuer.
func (i TokenIssuer) IsZero() bool { return i.i == nil }

// privateMembers are the JWK members that hold secrets (RFC 7518 section 6, RFC 9964).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// parseJWKS reads a key set. Keys for encryption are left out, as they sign nothing; everything else that cannot be used
// is an error, because a key that is silently ignored is an outage found later.
func parseJWKS(data []byte) ([]tokenKey, error) {
	if len(data) > maxJWKS {
		return nil, fmt.Errorf("more than %d bytes", maxJWKS)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	}
	var keys []tokenKey
	for n, raw := range set.Keys {
		k, use, err := parseJWK(raw)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", n+1, err)
		}
		if use == "enc" {
			continue
		}
		if slices.ContainsFunc(keys, func(o tokenKey) bool { return o.id == k.id || o.id == "" || k.id == "" }) {
			return nil, fmt.Errorf("key %d: where there are several keys, each has a kid of its own", n+1)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key that verifies signatures")
	}
	return keys, nil
}

func parseJWK(raw []byte) (k tokenKey, use string, err error) {
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		return k, "", err
	}
	for m := range maps.Keys(members) {
		if slices.Contains(privateMembers, m) {
			return k, "", fmt.Errorf("it holds the private member %q: this key is no secret any more, replace it", m)
		}
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return k, "", err
	}
	if jwk.Use != "" && jwk.Use != "sig" && jwk.Use != "enc" {
		return k, "", fmt.Errorf("use %q is neither sig nor enc", clip(jwk.Use))
	}
	if jwk.KeyID != "" && !visible(jwk.KeyID, maxClaimText) {
		return k, "", fmt.Errorf("kid: visible ASCII, at most %d characters", maxClaimText)
	}
	k = tokenKey{id: jwk.KeyID, public: jwk.Key}
	if jwk.Use == "enc" {
		return k, jwk.Use, nil
	}
	if k.algorithms, err = algorithms(jwk); err != nil {
		return tokenKey{}, "", err
	}
	return k, jwk.Use, nil
}

// algorithms are the ones that a key may be used with: what its type allows, or of those the one that it names itself.
func algorithms(jwk jose.JSONWebKey) ([]jose.SignatureAlgorithm, error) {
	var fit []jose.SignatureAlgorithm
	switch key := jwk.Key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			fit = []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			fit = []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			fit = []jose.SignatureAlgorithm{jose.ES512}
		}
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("an RSA key has at least %d bits, this one has %d", minRSABits, key.N.BitLen())
		}
		fit = []jose.SignatureAlgorithm{jose.RS256, jose.PS256}
	case ed25519.PublicKey:
		fit = []jose.SignatureAlgorithm{jose.EdDSA}
	}
	if jwk.Algorithm != "" {
		named := jose.SignatureAlgorithm(jwk.Algorithm)
		if !slices.Contains(fit, named) {
			return nil, fmt.Errorf("alg %q is not allowed for this key, but %q", clip(jwk.Algorithm), fit)
		}
		return []jose.SignatureAlgorithm{named}, nil
	}
	if len(fit) == 0 {
		return nil, errors.New("a key of this type is not allowed")
	}
	return fit, nil
}

// key is the one that signed a token with that kid, which may be absent where there is only one.
func (i *tokenIssuer) key(kid string) (tokenKey, bool) {
	for _, k := range i.keys {
		if k.id == kid || (kid == "" && len(i.keys) == 1) {
			return k, true
		}
	}
	return tokenKey{}, false
}

// visible reports whether s is 1 to limit characters of ASCII without spaces and controls.
func visible(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
