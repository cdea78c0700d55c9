package identity

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	maxAudiences  = 32
	maxClaimText  = 255 // of a subject, a claim's name, a key's ID (OpenID Connect Core caps sub at 255)
	maxIssuerText = 2048
)

// TokenFormat is what kind of tokens an issuer signs.
type TokenFormat int

const (
	// FormatJWT are access tokens (RFC 9068, or any JWT with these claims): "iss" says the issuer, a claim the tenant.
	FormatJWT TokenFormat = iota
	// FormatSVID are JWT-SVIDs (SPIFFE JWT-SVID standard): "sub" is the SPIFFE ID of a workload, which says the tenant.
	FormatSVID
)

// TokenIssuerConfig is what the documents say of a token issuer.
type TokenIssuerConfig struct {
	// Name is the document's name.
	Name string
	// Format is what it signs.
	Format TokenFormat
	// Issuer is the exact "iss" of its tokens. JWT-SVIDs need none, and it is not read there: it is empty.
	Issuer string
	// Audiences are the values of "aud" that are accepted; a token needs one of them.
	Audiences []string
	// Tenants are the only ones that it may assert; of JWT-SVIDs the one whose workloads they name.
	Tenants []TenantID
	// TenantClaim and RolesClaim name the claims; RolesClaim may be empty. For JWT-SVIDs both are.
	TenantClaim, RolesClaim string
	// Mapping reads the SPIFFE IDs of JWT-SVIDs; zero for other tokens.
	Mapping Mapping
	// MaxLifetime caps exp minus iat.
	MaxLifetime time.Duration
	// JWKS is a JSON Web Key Set (RFC 7517) of public keys, for JWT-SVIDs a SPIFFE bundle. Empty: its keys are not known yet,
	// and no token of its verifies.
	JWKS []byte
}

// TokenIssuer is who may assert which tenants, and with which keys. It is immutable; the zero value asserts nothing.
type TokenIssuer struct{ i *tokenIssuer }

type tokenIssuer struct {
	config  TokenIssuerConfig
	tenants map[string]TenantID
	keys    []tokenKey
}

// NewTokenIssuer checks the configuration and parses the keys: public, asymmetric, each with a fixed list of algorithms.
// A private or symmetric key in the set is an error: what was meant to be secret has been published.
func NewTokenIssuer(c TokenIssuerConfig) (TokenIssuer, error) {
	switch {
	case !ValidName(c.Name):
		return TokenIssuer{}, fmt.Errorf("token issuer name %q: lower-case letters, digits and inner hyphens, at most 63", clip(c.Name))
	case len(c.Audiences) == 0 || len(c.Audiences) > maxAudiences ||
		slices.ContainsFunc(c.Audiences, func(a string) bool { return !visible(a, maxIssuerText) }):
		return TokenIssuer{}, fmt.Errorf("audiences: 1 to %d of them, each visible ASCII", maxAudiences)
	case c.MaxLifetime < time.Second:
		return TokenIssuer{}, errors.New("maxLifetime: at least one second")
	case len(c.Tenants) == 0:
		return TokenIssuer{}, errors.New("a token issuer asserts at least one tenant")
	}
	if err := c.checkFormat(); err != nil {
		return TokenIssuer{}, err
	}
	i := &tokenIssuer{config: c.clone(), tenants: make(map[string]TenantID, len(c.Tenants))}
	for _, t := range c.Tenants {
		if _, dup := i.tenants[t.Name()]; dup || t.IsZero() || t.IsPlatform() {
			return TokenIssuer{}, fmt.Errorf("%w: tenant %q cannot be asserted, or stands twice", ErrInvalidID, t.Name())
		}
		i.tenants[t.Name()] = t
	}
	if len(c.JWKS) > 0 {
		var err error
		if i.keys, err = parseJWKS(c.JWKS, c.Format); err != nil {
			return TokenIssuer{}, fmt.Errorf("jwks: %w", err)
		}
	}
	return TokenIssuer{i: i}, nil
}

func (c TokenIssuerConfig) checkFormat() error {
	switch c.Format {
	case FormatJWT:
		switch {
		case !visible(c.Issuer, maxIssuerText):
			return fmt.Errorf("issuer: visible ASCII, 1 to %d characters", maxIssuerText)
		case !visible(c.TenantClaim, maxClaimText):
			return errors.New("the claim that names the tenant is not said")
		case c.RolesClaim != "" && !visible(c.RolesClaim, maxClaimText):
			return errors.New("the claim that names the roles: visible ASCII")
		}
		return nil
	case FormatSVID:
		switch {
		case c.Issuer != "" || c.TenantClaim != "" || c.RolesClaim != "":
			return errors.New("a JWT-SVID names a workload in sub: neither an issuer nor claims are read")
		case len(c.Tenants) != 1 || c.Mapping.IsZero():
			return errors.New("JWT-SVIDs name the workloads of one tenant, by the rules of the mesh")
		}
		return nil
	default:
		return errors.New("unknown format of tokens")
	}
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
