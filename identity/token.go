package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// The reasons why a token is not accepted. Callers branch on them with errors.Is.
var (
	// ErrTokenInvalid says that the token is malformed, not signed by its issuer, or not meant for here.
	ErrTokenInvalid = errors.New("token is invalid")
	// ErrTokenExpired says that the token is genuine and that its time is over.
	ErrTokenExpired = errors.New("token is expired")
	// ErrIssuerNotAllowed says that nobody named this issuer, or not for the tenant that the token asserts.
	ErrIssuerNotAllowed = errors.New("token issuer is not allowed")
)

// UnknownKeyError is the ErrTokenInvalid of a token that names a key which its issuer does not have here: one that it has
// made since, or never.
type UnknownKeyError struct {
	// Issuer is the name of the issuer's document.
	Issuer string
}

// Error says no part of the token.
func (e *UnknownKeyError) Error() string {
	return ErrTokenInvalid.Error() + ": the issuer has no such key"
}

// Unwrap is ErrTokenInvalid.
func (e *UnknownKeyError) Unwrap() error { return ErrTokenInvalid }

const (
	maxToken = 8 << 10
	maxRoles = 256
	// maxDate bounds a NumericDate, so that no arithmetic on it can overflow.
	maxDate = 1 << 40
	// clockLeeway forgives an issuer's clock that runs ahead (nbf, iat). There is none for exp.
	clockLeeway = 30 * time.Second
)

// Claims are what a verified token asserts. They come only from a TokenVerifier; the zero value asserts nothing.
type Claims struct{ c *claims }

type claims struct {
	issuer, subject  string
	tokenID, session string
	tenant           TenantID
	roles            []string
	begins, expires  time.Time // the first moment that counts, and the first that does not
	authenticated    authentication
}

// IsZero reports whether nothing was asserted.
func (c Claims) IsZero() bool { return c.c == nil }

// Issuer is the "iss" of the token.
func (c Claims) Issuer() string { return c.get().issuer }

// Subject is the "sub" of the token: visible ASCII, possibly empty.
func (c Claims) Subject() string { return c.get().subject }

// TokenID is the "jti" of the token: visible ASCII, possibly empty.
func (c Claims) TokenID() string { return c.get().tokenID }

// Session is the "sid" of the token (OpenID Connect Front-Channel Logout 1.0): visible ASCII, possibly empty.
func (c Claims) Session() string { return c.get().session }

// Tenant is the tenant that the token asserts and that its issuer may assert.
func (c Claims) Tenant() TenantID { return c.get().tenant }

// Roles are the roles that the token asserts.
func (c Claims) Roles() []string { return slices.Clone(c.get().roles) }

// HasRole reports whether the token asserts the role.
func (c Claims) HasRole(role string) bool { return slices.Contains(c.get().roles, role) }

// Expires is when the claims stop to hold.
func (c Claims) Expires() time.Time { return c.get().expires }

// Begins is when the claims begin to hold, with the leeway for its issuer's clock.
func (c Claims) Begins() time.Time { return c.get().begins }

func (c Claims) get() claims {
	if c.c == nil {
		return claims{}
	}
	return *c.c
}

// TokenVerifier verifies bearer tokens: JSON Web Tokens (RFC 7519) in the compact form, signed by one of its issuers,
// under the rules of RFC 8725. It is immutable; the zero value accepts nothing.
type TokenVerifier struct {
	byIssuer map[string][]*tokenIssuer
	// svids are the issuers of JWT-SVIDs by the tenant whose workloads these name, as mapping reads them.
	svids   map[TenantID][]*tokenIssuer
	mapping Mapping
}

// NewTokenVerifier makes a verifier that knows these issuers and no others. Two may share one "iss": each stands for its
// own keys, audiences and tenants. Issuers of JWT-SVIDs share one mapping.
func NewTokenVerifier(issuers ...TokenIssuer) TokenVerifier {
	v := TokenVerifier{byIssuer: make(map[string][]*tokenIssuer, len(issuers)), svids: map[TenantID][]*tokenIssuer{}}
	for _, i := range issuers {
		switch c := i.Config(); {
		case i.IsZero():
		case c.Format == FormatSVID:
			v.svids[c.Tenants[0]] = append(v.svids[c.Tenants[0]], i.i)
			v.mapping = c.Mapping
		default:
			v.byIssuer[c.Issuer] = append(v.byIssuer[c.Issuer], i.i)
		}
	}
	return v
}

// Verify accepts a token at that time or says why not: ErrTokenInvalid, ErrTokenExpired or ErrIssuerNotAllowed, of the
// first perhaps as an UnknownKeyError. No error holds any part of the token.
func (v TokenVerifier) Verify(compact string, now time.Time) (Claims, error) {
	header, unverified, err := splitToken(compact)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrTokenInvalid, err)
	}
	refusal := ErrIssuerNotAllowed
	for n, i := range v.candidates(unverified) {
		c, err := i.verify(compact, header, now)
		if err == nil {
			return c, nil
		}
		if n == 0 || errors.Is(refusal, ErrTokenInvalid) { // the issuer that got furthest says why
			refusal = err
		}
	}
	return Claims{}, refusal
}

// candidates are the issuers that may have signed a token which says this of itself: those of its "iss", else those of
// the workload that it names.
func (v TokenVerifier) candidates(unverified map[string]any) []*tokenIssuer {
	issuer, _ := unverified["iss"].(string)
	if known := v.byIssuer[issuer]; len(known) > 0 {
		return known
	}
	subject, _ := unverified["sub"].(string)
	w, err := v.mapping.Parse(subject)
	if err != nil {
		return nil
	}
	return v.svids[w.Tenant()]
}

// tokenHeader is what is read of a JOSE header.
type tokenHeader struct{ algorithm, keyID, typ string }

// splitToken decodes a token without trusting it. It is strict where libraries are lenient: exactly three parts, no
// byte outside the base64url alphabet, no unused bits, no duplicate member names, objects only.
func splitToken(compact string) (tokenHeader, map[string]any, error) {
	if len(compact) > maxToken {
		return tokenHeader{}, nil, fmt.Errorf("more than %d bytes", maxToken)
	}
	// Counted before anything is decoded: four dots are an encrypted token, and what a decoder does with thousands of
	// them has been a vulnerability more than once.
	if strings.Count(compact, ".") != 2 {
		return tokenHeader{}, nil, errors.New("a signed token has three parts")
	}
	var objects [2]map[string]any
	for n, part := range strings.Split(compact, ".") {
		if strings.ContainsAny(part, "\r\n") { // the decoder skips them
			return tokenHeader{}, nil, errors.New("line break")
		}
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return tokenHeader{}, nil, errors.New("not base64url")
		}
		if n == len(objects) { // the signature
			break
		}
		if err := json.Unmarshal(decoded, &objects[n]); err != nil {
			return tokenHeader{}, nil, errors.New("not a JSON object with unique names")
		}
	}
	header, err := parseTokenHeader(objects[0])
	return header, objects[1], err
}

// deniedParameters let a token bring its own key, change what is signed, or say that it is not a plain signed token.
var deniedParameters = []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip"}

func parseTokenHeader(h map[string]any) (tokenHeader, error) {
	for _, p := range deniedParameters {
		if _, ok := h[p]; ok {
			return tokenHeader{}, fmt.Errorf("header parameter %q", p)
		}
	}
	alg, ok := h["alg"].(string)
	if !ok {
		return tokenHeader{}, errors.New("no algorithm")
	}
	kid, _ := h["kid"].(string)
	if _, present := h["kid"]; present && kid == "" {
		return tokenHeader{}, errors.New("the kid is no text")
	}
	typ, _ := h["typ"].(string)
	if _, present := h["typ"]; present && typ == "" {
		return tokenHeader{}, errors.New("the typ is no text")
	}
	return tokenHeader{algorithm: alg, keyID: kid, typ: strings.ToLower(typ)}, nil
}

// typesOf are the types that a token of each format may say to be; it may say none. A media type of its own keeps ID
// tokens, logout tokens and the like from being taken for access tokens (RFC 8725 section 3.11).
var typesOf = [...][]string{FormatJWT: {"", "jwt", "at+jwt"}, FormatSVID: {"", "jwt", "jose"}}

// verify checks the signature first; only what was signed is read afterwards.
func (i *tokenIssuer) verify(compact string, h tokenHeader, now time.Time) (Claims, error) {
	if !slices.Contains(typesOf[i.config.Format], h.typ) {
		return Claims{}, fmt.Errorf("%w: type", ErrTokenInvalid)
	}
	key, ok := i.key(h.keyID)
	if !ok {
		return Claims{}, &UnknownKeyError{Issuer: i.config.Name}
	}
	if !slices.Contains(key.algorithms, jose.SignatureAlgorithm(h.algorithm)) {
		return Claims{}, fmt.Errorf("%w: algorithm", ErrTokenInvalid)
	}
	jws, err := jose.ParseSignedCompact(compact, key.algorithms)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: malformed", ErrTokenInvalid)
	}
	payload, err := jws.Verify(key.public)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: signature", ErrTokenInvalid)
	}
	var members map[string]any
	if err := json.Unmarshal(payload, &members); err != nil {
		return Claims{}, fmt.Errorf("%w: claims", ErrTokenInvalid)
	}
	c, err := i.claims(members, now)
	if err != nil {
		return Claims{}, err
	}
	return Claims{c: c}, nil
}

// claims reads a verified payload.
func (i *tokenIssuer) claims(m map[string]any, now time.Time) (*claims, error) {
	c := &claims{issuer: i.config.Issuer}
	if i.config.Format == FormatJWT && m["iss"] != i.config.Issuer {
		return nil, fmt.Errorf("%w: issuer", ErrTokenInvalid)
	}
	if !i.audience(m["aud"]) {
		return nil, fmt.Errorf("%w: audience", ErrTokenInvalid)
	}
	if err := i.times(c, m, now); err != nil {
		return nil, err
	}
	// By these a token is revoked: one that cannot be read could not be.
	var ok bool
	if c.tokenID, ok = claimText(m, "jti"); !ok {
		return nil, fmt.Errorf("%w: jti", ErrTokenInvalid)
	}
	if i.config.Format == FormatSVID {
		return c, i.readWorkload(c, m)
	}
	if c.session, ok = claimText(m, "sid"); !ok {
		return nil, fmt.Errorf("%w: sid", ErrTokenInvalid)
	}
	return c, i.readUser(c, m, now)
}

// readWorkload reads whom a JWT-SVID names: a workload of the issuer's own tenant, and so of its own trust domain.
func (i *tokenIssuer) readWorkload(c *claims, m map[string]any) error {
	subject, _ := m["sub"].(string)
	w, err := i.config.Mapping.Parse(subject)
	if err != nil || !w.Tenant().Same(i.config.Tenants[0]) {
		return fmt.Errorf("%w: subject", ErrTokenInvalid)
	}
	c.subject, c.tenant, c.issuer = subject, w.Tenant(), w.Tenant().TrustDomain().ID()
	return nil
}

// readUser reads whom an access token names, and what it says of that user.
func (i *tokenIssuer) readUser(c *claims, m map[string]any, now time.Time) error {
	var ok bool
	if c.subject, ok = claimText(m, "sub"); !ok {
		return fmt.Errorf("%w: subject", ErrTokenInvalid)
	}
	if c.authenticated, ok = readAuthentication(m, now); !ok {
		return fmt.Errorf("%w: acr, amr or auth_time", ErrTokenInvalid)
	}
	if begins := c.authenticated.at.Add(-clockLeeway); begins.After(c.begins) {
		c.begins = begins
	}
	if c.roles, ok = roles(m, i.config.RolesClaim); !ok {
		return fmt.Errorf("%w: roles", ErrTokenInvalid)
	}
	tenant, _ := m[i.config.TenantClaim].(string)
	if !ValidName(tenant) {
		return fmt.Errorf("%w: tenant", ErrTokenInvalid)
	}
	if c.tenant, ok = i.tenants[tenant]; !ok {
		return fmt.Errorf("%w: not for this tenant", ErrIssuerNotAllowed)
	}
	return nil
}

// claimText reads a claim that is a text or absent.
func claimText(m map[string]any, name string) (string, bool) {
	value, present := m[name]
	text, _ := value.(string)
	return text, !present || ValidClaim(text)
}

// ValidClaim reports whether a text can be the jti, sub, sid or iss of a token that is believed: 1 to 255 characters of
// visible ASCII.
func ValidClaim(text string) bool { return visible(text, maxClaimText) }

// audience reports whether "aud", one string or several, names one of ours.
func (i *tokenIssuer) audience(aud any) bool {
	if one, ok := aud.(string); ok {
		return slices.Contains(i.config.Audiences, one)
	}
	several, _ := aud.([]any)
	found := false
	for _, a := range several {
		text, ok := a.(string)
		if !ok {
			return false
		}
		found = found || slices.Contains(i.config.Audiences, text)
	}
	return found
}

// times demands exp and iat, a life of at most maxLifetime, and that the token holds now.
func (i *tokenIssuer) times(c *claims, m map[string]any, now time.Time) error {
	exp, hasExp := date(m, "exp")
	iat, hasIat := date(m, "iat")
	nbf, okNbf := date(m, "nbf")
	if _, present := m["nbf"]; !hasExp || !hasIat || (present && !okNbf) {
		return fmt.Errorf("%w: exp and iat are needed, each a number of seconds", ErrTokenInvalid)
	}
	soon := now.Add(clockLeeway)
	switch {
	case soon.Before(iat), soon.Before(nbf):
		return fmt.Errorf("%w: not valid yet", ErrTokenInvalid)
	case !iat.Before(exp) || exp.Sub(iat) > i.config.MaxLifetime:
		return fmt.Errorf("%w: lifetime", ErrTokenInvalid)
	case !now.Before(exp):
		return ErrTokenExpired
	}
	c.begins, c.expires = iat.Add(-clockLeeway), exp
	if nbf.After(iat) {
		c.begins = nbf.Add(-clockLeeway)
	}
	return nil
}

// date reads a NumericDate (RFC 7519 section 2); fractions of a second are cut off.
func date(m map[string]any, name string) (time.Time, bool) {
	n, ok := m[name].(float64)
	if !ok || n < 0 || n > maxDate {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0), true
}

// roles reads an array of strings. An issuer has roles that the mesh cannot name (upper case, underscores): no rule can
// mean them, so they are left out.
func roles(m map[string]any, name string) ([]string, bool) {
	if name == "" || m[name] == nil { // absent, or null
		return nil, true
	}
	list, ok := m[name].([]any)
	if !ok || len(list) > maxRoles {
		return nil, false
	}
	var out []string
	for _, r := range list {
		text, ok := r.(string)
		if !ok {
			return nil, false
		}
		if ValidName(text) {
			out = append(out, text)
		}
	}
	return out, true
}
