package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.step.sm/crypto/kms/apiv1"

	"github.com/ringfence-mesh/ringfence/identity"
)

// DefaultJWTKeyLife is how long a key signs JWT-SVIDs if nothing else is said.
const DefaultJWTKeyLife = 24 * time.Hour

const (
	// minJWTKeyLife is the shortest that may be asked for.
	minJWTKeyLife = time.Hour
	// jwtLeadShare is the share of its life for which a key is published before it signs.
	jwtLeadShare = 8
	// jwtLeeway is how long after its end a verifier may believe a token: that of go-spiffe.
	jwtLeeway = time.Minute

	jwtVersion = 1
	maxJWTFile = 1 << 16
)

// jwtKey signs JWT-SVIDs of one tenant. It never changes.
type jwtKey struct {
	id      string    // the key's own hash (RFC 7638), so no other ever has it
	keyName string    // what it is called where keys are
	signs   time.Time // from then on, until the next one does
	key     crypto.Signer
}

func newJWTKey(t identity.TenantID, keys Keys, signs time.Time) (jwtKey, error) {
	name, err := keys.name(t.TrustDomain(), jwtKind+t.Name())
	if err != nil {
		return jwtKey{}, err
	}
	if _, err := keys.manager.CreateKey(&apiv1.CreateKeyRequest{Name: name, SignatureAlgorithm: apiv1.ECDSAWithSHA256}); err != nil {
		return jwtKey{}, fmt.Errorf("JWT key of %s: %w", t, err)
	}
	return openJWTKey(t, keys, name, signs)
}

func openJWTKey(t identity.TenantID, keys Keys, name string, signs time.Time) (jwtKey, error) {
	if !strings.HasPrefix(name, keys.scheme) {
		return jwtKey{}, fmt.Errorf("%w: a JWT key of %s is %q", errElsewhere, t, name)
	}
	key, err := keys.manager.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: name})
	if err != nil {
		return jwtKey{}, fmt.Errorf("JWT key of %s: %w", t, err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return jwtKey{}, fmt.Errorf("JWT key of %s: not an ECDSA key over P-256", t)
	}
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return jwtKey{}, fmt.Errorf("JWT key of %s: %w", t, err)
	}
	return jwtKey{id: base64.RawURLEncoding.EncodeToString(sum), keyName: name, signs: signs, key: key}, nil
}

// jwtKeys are the keys of one tenant, in the order in which they sign.
type jwtKeys []jwtKey

// current is the key that signs now.
func (k jwtKeys) current(now time.Time) jwtKey {
	for _, key := range slices.Backward(k) {
		if !key.signs.After(now) {
			return key
		}
	}
	return k[0] // the clock went back
}

// jwtPlan says when keys come and go.
type jwtPlan struct{ life time.Duration }

// lead is how long a key is published before it signs: time for every verifier to have it.
func (p jwtPlan) lead() time.Duration { return p.life / jwtLeadShare }

// rest is how long a key is published after it signed last: nothing that it signed is believed any more after that.
func (jwtPlan) rest() time.Duration { return identity.MaxJWTSVIDLife + jwtLeeway }

// keep are the keys that are still published at a time: those that have signed what may live, the one that signs, and those that
// will. A key that would sign only after a whole life comes from a clock that was wrong.
func (p jwtPlan) keep(keys jwtKeys, now time.Time) jwtKeys {
	var kept jwtKeys
	for n, k := range keys {
		over := n+1 < len(keys) && !now.Before(keys[n+1].signs.Add(p.rest()))
		if !over && !k.signs.After(now.Add(p.life)) {
			kept = append(kept, k)
		}
	}
	return kept
}

// next is when a further key is to sign; false: none is wanted yet. The first one signs at once: nobody has a key that could be
// waited for.
func (p jwtPlan) next(keys jwtKeys, now time.Time) (time.Time, bool) {
	if len(keys) == 0 {
		return now, true
	}
	due := keys[len(keys)-1].signs.Add(p.life)
	if now.Before(due.Add(-p.lead())) {
		return time.Time{}, false
	}
	return latest(due, now.Add(p.lead())), true
}

// until is when the keys are to be looked at again.
func (p jwtPlan) until(keys jwtKeys) time.Time {
	until := keys[len(keys)-1].signs.Add(p.life - p.lead())
	if len(keys) > 1 {
		until = earliest(until, keys[1].signs.Add(p.rest()))
	}
	return until
}

// jwks are the public keys as a JSON Web Key Set (RFC 7517, SPIFFE Trust Domain and Bundle section 4).
func (k jwtKeys) jwks() ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, key := range k {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.key.Public(), KeyID: key.id, Use: "jwt-svid", Algorithm: string(jose.ES256)})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("JWT keys: %w", err)
	}
	return text, nil
}

// storedJWTKeys is jwt.TENANT.json: one file, replaced as a whole.
type storedJWTKeys struct {
	Version int            `json:"version"`
	Keys    []storedJWTKey `json:"keys"`
}

type storedJWTKey struct {
	Key   string    `json:"key"` // what it is called where keys are
	Signs time.Time `json:"signs"`
}

func (k jwtKeys) encode() ([]byte, error) {
	s := storedJWTKeys{Version: jwtVersion}
	for _, key := range k {
		s.Keys = append(s.Keys, storedJWTKey{Key: key.keyName, Signs: key.signs})
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("JWT keys: %w", err)
	}
	return append(text, '\n'), nil
}

// errJWTKeys is about a jwt.TENANT.json. Nobody's trust outlives a token of a few minutes, so losing it costs little.
var errJWTKeys = errors.New("JWT keys cannot be read: restore the jwt.TENANT.json in the state directory, or remove it, which makes new keys")

func parseJWTKeys(t identity.TenantID, text []byte, keys Keys) (jwtKeys, error) {
	var s storedJWTKeys
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || s.Version != jwtVersion || len(text) > maxJWTFile {
		return nil, fmt.Errorf("%s: %w", t, errJWTKeys)
	}
	var all jwtKeys
	for n, stored := range s.Keys {
		if n > 0 && stored.Signs.Before(s.Keys[n-1].Signs) {
			return nil, fmt.Errorf("%s: %w", t, errJWTKeys)
		}
		k, err := openJWTKey(t, keys, stored.Key, stored.Signs)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errJWTKeys, err)
		}
		all = append(all, k)
	}
	return all, nil
}
