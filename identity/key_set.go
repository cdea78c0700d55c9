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
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxJWKS    = 64 << 10
	maxKeys    = 32
	minRSABits = 2048
	// maxRSAExponent is the one that everybody uses.
	maxRSAExponent = 65537
	// maxPublished bounds the usable keys of a published set, so that one issuer cannot fill a Table that holds many.
	maxPublished = 8 << 10
)

// tokenKey is a public key and the signature algorithms that it may be used with.
type tokenKey struct {
	id         string
	named      string // the algorithm that the key names itself, if it does
	public     any
	algorithms []jose.SignatureAlgorithm
}

// privateMembers are the JWK members that hold secrets (RFC 7518 section 6, RFC 9964).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// splitJWKS are the keys of a set, as they are written.
func splitJWKS(data []byte) ([]json.RawMessage, error) {
	if len(data) > maxJWKS {
		return nil, fmt.Errorf("more than %d bytes", maxJWKS)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	return set.Keys, nil
}

// parseJWKS reads a key set that somebody wrote for the mesh. Keys for other purposes that everybody has beside those for
// tokens are left out; everything else that cannot be used is an error, because a key that is silently ignored is an
// outage found later.
func parseJWKS(data []byte, f TokenFormat) ([]tokenKey, error) {
	list, err := splitJWKS(data)
	if err != nil {
		return nil, err
	}
	var keys []tokenKey
	for n, raw := range list {
		k, use, err := parseJWK(raw)
		switch {
		case use == useOtherThan[f]: // said only of a key that is public, and one
			continue
		case err != nil:
			return nil, fmt.Errorf("key %d: %w", n+1, err)
		case !usedFor(use, f):
			return nil, fmt.Errorf("key %d: use %q is neither %s nor %s", n+1, clip(use), useOf[f], useOtherThan[f])
		}
		keys = append(keys, k)
	}
	return keys, checkKeys(keys)
}

// What "use" says of a key: that it verifies tokens of a format, and what else such a set holds.
var (
	useOf        = [...]string{FormatJWT: "sig", FormatSVID: "jwt-svid"}
	useOtherThan = [...]string{FormatJWT: "enc", FormatSVID: "x509-svid"}
)

// usedFor reports whether a key of that use verifies tokens. A SPIFFE bundle marks each key; elsewhere use is optional.
func usedFor(use string, f TokenFormat) bool {
	return use == useOf[f] || use == "" && f == FormatJWT
}

func checkKeys(keys []tokenKey) error {
	if len(keys) == 0 {
		return errors.New("no key that verifies signatures")
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	for n, k := range keys {
		if slices.ContainsFunc(keys[:n], func(o tokenKey) bool { return o.id == k.id || o.id == "" || k.id == "" }) {
			return fmt.Errorf("key %d: where there are several keys, each has a kid of its own", n+1)
		}
	}
	return nil
}

// KeySet are the keys that an issuer publishes for everybody. It comes only from ParseKeySet, so whoever makes a
// TokenIssuer of it cannot fail by what the publisher wrote. It is immutable; the zero value holds no key.
type KeySet struct{ jwks [2]string } // by TokenFormat

// ParseKeySet reads a published key set (RFC 7517, or a SPIFFE bundle). Issuers publish keys for other purposes beside
// those for tokens, so a key that cannot be used is left out, as section 5 of the RFC wants it. The whole set is refused
// where it holds a private or symmetric key or what is no key at all, where two keys have one kid, and where nothing is left.
func ParseKeySet(jwks []byte) (KeySet, error) {
	list, err := splitJWKS(jwks)
	if err != nil {
		return KeySet{}, err
	}
	var (
		keys [2][]tokenKey
		set  KeySet
	)
	for n, raw := range list {
		k, use, err := parseJWK(raw)
		if errors.Is(err, errSecretKey) || errors.Is(err, errNoKey) {
			return KeySet{}, fmt.Errorf("key %d: %w", n+1, err)
		}
		for f := range keys {
			if err == nil && usedFor(use, TokenFormat(f)) {
				keys[f] = append(keys[f], k)
			}
		}
	}
	for f, of := range keys {
		if len(of) == 0 && len(keys[1-f]) > 0 {
			continue
		}
		if set.jwks[f], err = canonical(of, useOf[f]); err != nil {
			return KeySet{}, err
		}
	}
	return set, nil
}

// canonical is the one text of a set of keys.
func canonical(keys []tokenKey, use string) (string, error) {
	if err := checkKeys(keys); err != nil {
		return "", err
	}
	slices.SortFunc(keys, func(a, b tokenKey) int { return strings.Compare(a.id, b.id) })
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.id, Use: use, Algorithm: k.named})
	}
	text, err := json.Marshal(set)
	if err == nil && len(text) > maxPublished {
		err = fmt.Errorf("its keys have more than %d bytes", maxPublished)
	}
	return string(text), err
}

// JWKS are the keys for tokens of that format, in the one form in which equal sets are equal bytes; nil where there are none.
func (s KeySet) JWKS(f TokenFormat) []byte {
	if s.jwks[f] == "" {
		return nil
	}
	return []byte(s.jwks[f])
}

// JSON is the whole set, from which ParseKeySet makes the same one again.
func (s KeySet) JSON() []byte {
	var lists []string
	for _, text := range s.jwks {
		if text != "" {
			lists = append(lists, strings.TrimSuffix(strings.TrimPrefix(text, `{"keys":[`), `]}`))
		}
	}
	return []byte(`{"keys":[` + strings.Join(lists, ",") + `]}`)
}

// IsZero reports whether the set holds no key.
func (s KeySet) IsZero() bool { return s == KeySet{} }

// What condemns a whole key set: a key that was meant to be secret, and one of which nobody can say what it is.
var (
	errSecretKey = errors.New("this key is no secret any more, replace it")
	errNoKey     = errors.New("not an object with unique names")
)

// parseJWK reads one key. use is what the key says of itself, also where it cannot be used.
func parseJWK(raw []byte) (k tokenKey, use string, err error) {
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		return k, "", fmt.Errorf("%w: %w", errNoKey, err)
	}
	for m := range maps.Keys(members) {
		if slices.Contains(privateMembers, m) {
			return k, "", fmt.Errorf("it holds the private member %q: %w", m, errSecretKey)
		}
	}
	use, _ = members["use"].(string)
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return k, use, err
	}
	if jwk.KeyID != "" && !visible(jwk.KeyID, maxClaimText) {
		return k, use, fmt.Errorf("kid: visible ASCII, at most %d characters", maxClaimText)
	}
	k = tokenKey{id: jwk.KeyID, named: jwk.Algorithm, public: jwk.Key}
	k.algorithms, err = algorithms(jwk)
	return k, use, err
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
		// The library bounds it above (jose.MaxRSAModulusBits), and with it what one verification costs.
		if n := key.N.BitLen(); n < minRSABits {
			return nil, fmt.Errorf("an RSA key has at least %d bits, this one has %d", minRSABits, n)
		}
		// Who chooses the key chooses what others pay for each signature: a large exponent makes that many times as much.
		if key.E > maxRSAExponent {
			return nil, fmt.Errorf("the public exponent of an RSA key is at most %d, this one is %d", maxRSAExponent, key.E)
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
