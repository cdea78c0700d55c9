package demo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// idp stands for a tenant's identity provider: it signs tokens.
type idp struct {
	issuer   string
	audience string
	signer   jose.Signer
	jwks     []byte
}

func newIDPKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newIDP(issuer, audience string, key *ecdsa.PrivateKey) (*idp, error) {
	const kid = "demo"
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: key.Public(), KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"},
	}})
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("signer of %s: %w", issuer, err)
	}
	return &idp{issuer: issuer, audience: audience, signer: signer, jwks: jwks}, nil
}

// Token describes a bearer token; the zero value is no token at all.
type Token struct {
	// Issuer is the tenant whose identity provider signs.
	Issuer string
	// Tenant is what the token claims; empty: the issuer's own.
	Tenant string
	// Audience is whom the token is for; empty: the audience that the issuer's document names.
	Audience string
	Roles    []string
	// Age is how long ago it was issued; it lives for five minutes.
	Age time.Duration
	// Claims are further ones, such as acr, amr and auth_time.
	Claims map[string]any
}

const tokenLife = 5 * time.Minute

// IsZero reports whether no token is sent.
func (t Token) IsZero() bool { return t.Issuer == "" }

// String says in a word or two which token it is.
func (t Token) String() string {
	switch {
	case t.IsZero():
		return "-"
	case t.Age > tokenLife:
		return t.Issuer + ", expired"
	case t.Tenant != "" && t.Tenant != t.Issuer:
		return t.Issuer + " for " + t.Tenant
	case len(t.Roles) > 0:
		return t.Issuer + " " + t.Roles[0]
	default:
		return t.Issuer
	}
}

func (p *idp) sign(t Token, now time.Time) (string, error) {
	tenant := t.Tenant
	if tenant == "" {
		tenant = t.Issuer
	}
	audience := t.Audience
	if audience == "" {
		audience = p.audience
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	issued := now.Add(-t.Age)
	claims := struct {
		jwt.Claims
		Tenant string   `json:"tenant"`
		Roles  []string `json:"roles,omitempty"`
	}{
		Claims: jwt.Claims{
			Issuer: p.issuer, Subject: "user@" + tenant, Audience: jwt.Audience{audience}, ID: hex.EncodeToString(id),
			IssuedAt: jwt.NewNumericDate(issued), Expiry: jwt.NewNumericDate(issued.Add(tokenLife)),
		},
		Tenant: tenant,
		Roles:  t.Roles,
	}
	further := t.Claims
	if further == nil {
		further = map[string]any{}
	}
	return jwt.Signed(p.signer).Claims(claims).Claims(further).Serialize()
}
