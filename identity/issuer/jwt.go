package issuer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"golang.org/x/time/rate"

	"github.com/ringfence-mesh/ringfence/identity"
)

// ErrNoJWT says that whoever asks gets no JWT-SVID: the certificate is not an SVID that this issuer gave to a workload of a
// tenant that the mesh still names, or it has expired. Which of them is not said.
var ErrNoJWT = errors.New("no JWT-SVID is given for this SVID")

// ErrAudience says what is wrong with the audiences that a JWT-SVID is asked for.
var ErrAudience = errors.New("JWT-SVID refused")

// How many JWT-SVIDs may be signed: an agent asks again for each set of audiences after half of a token's life.
const (
	jwtPerWorkloadPerSec = 5
	jwtPerWorkloadBurst  = 50
	jwtPerTenantPerSec   = 100
	jwtPerTenantBurst    = 500
)

// jwtSigner is what an Issuer has for JWT-SVIDs.
type jwtSigner struct {
	plan jwtPlan

	mu      sync.Mutex
	tenants map[identity.TenantID]*jwtTenant

	perTenant   sync.Map // identity.TenantID -> *rate.Limiter
	perWorkload sync.Map // identity.WorkloadID -> *rate.Limiter; only of workloads that hold an SVID
}

// jwtTenant is one tenant's keys, and a channel that is closed when they change.
type jwtTenant struct {
	keys    jwtKeys
	changed chan struct{}
}

// JWTKeySet are the keys that verify the JWT-SVIDs of one tenant.
type JWTKeySet struct {
	// JWKS is a JSON Web Key Set.
	JWKS []byte
	// Changed is closed when there are others, Until is when to ask again at the latest.
	Changed <-chan struct{}
	Until   time.Time
}

// JWTKeys are the keys of a tenant; where there is none the first one is made, which signs at once. A later one
// is published an eighth of a key's life before it signs, and stays until nothing lives any more that it has signed.
func (i *Issuer) JWTKeys(t identity.TenantID, now time.Time) (JWTKeySet, error) {
	i.jwt.mu.Lock()
	defer i.jwt.mu.Unlock()
	d, err := i.jwtTenant(t, now)
	if err != nil {
		return JWTKeySet{}, err
	}
	jwks, err := d.keys.jwks()
	return JWTKeySet{JWKS: jwks, Changed: d.changed, Until: i.jwt.plan.until(d.keys)}, err
}

// WithdrawJWTKeys withdraws every key that signs JWT-SVIDs of a tenant, at once, and puts a new one in their place: whatever
// they have signed is worth nothing for whoever has the new keys. Agents that are connected have them within a second.
func (i *Issuer) WithdrawJWTKeys(t identity.TenantID, now time.Time) error {
	i.jwt.mu.Lock()
	defer i.jwt.mu.Unlock()
	d, err := i.jwtTenant(t, now)
	if err != nil && !errors.Is(err, errJWTKeys) { // what cannot be read is replaced all the same
		return err
	}
	if d == nil {
		d = i.jwt.tenant(t)
	}
	first, err := newJWTKey(t, i.store.rootKeys(), now)
	if err != nil {
		return err
	}
	return i.putJWTKeys(t, d, jwtKeys{first})
}

func (s *jwtSigner) tenant(t identity.TenantID) *jwtTenant {
	d := s.tenants[t]
	if d == nil {
		d = &jwtTenant{changed: make(chan struct{})}
		s.tenants[t] = d
	}
	return d
}

// jwtTenant has the keys as they are to be now. The lock is held.
func (i *Issuer) jwtTenant(t identity.TenantID, now time.Time) (*jwtTenant, error) {
	if t.IsZero() || t.IsPlatform() {
		return nil, ErrNoJWT // a verifier believes no token that names one of the platform's
	}
	if _, err := i.existing(t.TrustDomain()); err != nil {
		return nil, err
	}
	d := i.jwt.tenant(t)
	if len(d.keys) == 0 {
		kept, err := i.store.jwtKeys(t)
		if err != nil {
			return nil, err
		}
		d.keys = kept
	}
	keys := i.jwt.plan.keep(d.keys, now)
	if signs, wanted := i.jwt.plan.next(keys, now); wanted {
		k, err := newJWTKey(t, i.store.rootKeys(), signs)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	} else if len(keys) == len(d.keys) {
		return d, nil
	}
	return d, i.putJWTKeys(t, d, keys)
}

// putJWTKeys puts keys in force, on the disk first.
func (i *Issuer) putJWTKeys(t identity.TenantID, d *jwtTenant, keys jwtKeys) error {
	if err := i.store.putJWTKeys(t, keys); err != nil {
		return err
	}
	d.keys = keys
	close(d.changed)
	d.changed = make(chan struct{})
	return nil
}

// JWTSVID is a token that names a workload.
type JWTSVID struct {
	ID       identity.WorkloadID
	Token    string
	NotAfter time.Time // a whole second
}

// JWT signs a JWT-SVID for the workload whose certificate the caller has proved to hold the key of; what that certificate must
// be, Renew says. It lives for identity.MaxJWTSVIDLife, and no longer than the certificate. Its claims are sub, aud, exp and iat:
// nobody needs an iss to find the keys, which are those of the trust domain of sub.
//
// The errors are ErrNoJWT, ErrAudience, ErrLimited, or what the disk says.
func (i *Issuer) JWT(audience []string, leafDER []byte, mapping identity.Mapping, named Named, now time.Time) (JWTSVID, error) {
	h, err := i.holder(leafDER, mapping, named, i.allowJWT, now)
	if errors.Is(err, ErrNotRenewable) {
		return JWTSVID{}, ErrNoJWT
	}
	if err != nil {
		return JWTSVID{}, err
	}
	if err := identity.CheckAudience(audience); err != nil {
		return JWTSVID{}, fmt.Errorf("%w: %w", ErrAudience, err)
	}
	issued, ends := now.Truncate(time.Second), earliest(now.Add(identity.MaxJWTSVIDLife), h.entry.notAfter).Truncate(time.Second)
	k, err := i.signingJWTKey(h.id.Tenant(), now)
	if err != nil {
		return JWTSVID{}, err
	}
	token, err := k.sign(jwtClaims{Subject: h.id.String(), Audience: audience, Expires: ends.Unix(), Issued: issued.Unix()})
	return JWTSVID{ID: h.id, Token: token, NotAfter: ends}, err
}

func (i *Issuer) signingJWTKey(t identity.TenantID, now time.Time) (jwtKey, error) {
	i.jwt.mu.Lock()
	defer i.jwt.mu.Unlock()
	d, err := i.jwtTenant(t, now)
	if err != nil {
		return jwtKey{}, err
	}
	return d.keys.current(now), nil
}

// allowJWT counts against limits of their own, so that tokens cost nobody a renewal.
func (i *Issuer) allowJWT(id identity.WorkloadID, now time.Time) bool {
	return i.unlimited || limiter(&i.jwt.perWorkload, id, rate.Limit(jwtPerWorkloadPerSec), jwtPerWorkloadBurst).AllowN(now, 1) &&
		limiter(&i.jwt.perTenant, id.Tenant(), rate.Limit(jwtPerTenantPerSec), jwtPerTenantBurst).AllowN(now, 1)
}

type jwtClaims struct {
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"`
	Issued   int64    `json:"iat"`
}

func (k jwtKey) sign(c jwtClaims) (string, error) {
	var payload bytes.Buffer
	e := json.NewEncoder(&payload)
	e.SetEscapeHTML(false) // six bytes for one would make a token longer than verifiers read
	if err := e.Encode(c); err != nil {
		return "", fmt.Errorf("JWT-SVID: %w", err)
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", k.id)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: cryptosigner.Opaque(k.key)}, options)
	if err != nil {
		return "", fmt.Errorf("JWT-SVID: %w", err)
	}
	jws, err := signer.Sign(bytes.TrimSpace(payload.Bytes()))
	if err != nil {
		return "", fmt.Errorf("JWT-SVID: %w", err)
	}
	return jws.CompactSerialize()
}

// uses reports whether a key of that name is one of them.
func (k jwtKeys) uses(name string) bool {
	return slices.ContainsFunc(k, func(key jwtKey) bool { return key.keyName == name })
}
