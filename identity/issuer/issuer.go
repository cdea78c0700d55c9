package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	// DefaultTTL is the life of an SVID if nothing else is said.
	DefaultTTL = time.Hour
	// MinTTL is the shortest life that may be asked for.
	MinTTL = 5 * time.Minute
	// MaxTTL is the longest: an SVID cannot be called back.
	MaxTTL = 30 * 24 * time.Hour
)

// What may be issued by default. The rates bound a runaway; a tenant's leave the others their share of the whole.
const (
	perWorkloadEvery = time.Second
	perWorkloadBurst = 8
	perTenantPerSec  = 50
	perTenantBurst   = 200
	overallPerSecond = 200
	overallBurst     = 400

	// DefaultMaxOutstanding is how many SVIDs of a tenant may live at a time.
	DefaultMaxOutstanding = 10_000
)

// Options are what may be chosen of an Issuer.
type Options struct {
	// TTL is the life of an SVID, at least MinTTL; zero is DefaultTTL.
	TTL time.Duration
	// ShortLived lets TTL and JWTKeyLife be less than their bounds. It is for tests: a renewal need not take minutes there.
	ShortLived bool
	// RootKey is the kind of key that a new root gets.
	RootKey identity.KeyKind
	// Seal encrypts the root keys in the state directory; the zero value leaves them unsealed.
	Seal SealingKey
	// Keys is where root keys are; zero: in the state directory. The Issuer closes it.
	Keys Keys
	// JWTKeyLife is how long one key signs JWT-SVIDs, at least an hour; zero is DefaultJWTKeyLife.
	JWTKeyLife time.Duration
	// MaxOutstanding is how many SVIDs of one tenant may live at a time, those that were renewed left out; zero is
	// DefaultMaxOutstanding. At the bound nobody joins, and everybody renews.
	MaxOutstanding int
	// External reports the trust domains whose roots are somebody else's: no root is made for them, and nothing is issued, renewed
	// or rotated. It may say so of more of them over time. nil: there are none.
	External func(identity.TrustDomain) bool
	// Unlimited leaves the rates out. It is for roots that are thrown away, where nobody's runaway needs a bound.
	Unlimited bool
	// Log is told what an operator should know of the state; nil: nobody is.
	Log *zap.Logger
}

func (o *Options) complete() error {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if shortest := MinTTL; o.TTL > MaxTTL || (o.TTL < shortest && (!o.ShortLived || o.TTL < time.Second)) {
		return fmt.Errorf("an SVID lives between %s and %s, not %s", shortest, MaxTTL, o.TTL)
	}
	if o.JWTKeyLife == 0 {
		o.JWTKeyLife = DefaultJWTKeyLife
	}
	if o.JWTKeyLife < minJWTKeyLife && (!o.ShortLived || o.JWTKeyLife < time.Second) {
		return fmt.Errorf("a key signs JWT-SVIDs for at least %s, not %s", minJWTKeyLife, o.JWTKeyLife)
	}
	if o.MaxOutstanding == 0 {
		o.MaxOutstanding = DefaultMaxOutstanding
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.External == nil {
		o.External = func(identity.TrustDomain) bool { return false }
	}
	return nil
}

// Issuer is one certificate authority for each trust domain. It is safe for concurrent use.
type Issuer struct {
	ttl         time.Duration
	rootKey     identity.KeyKind
	outstanding int
	unlimited   bool
	external    func(identity.TrustDomain) bool
	store       store
	keys        Keys
	tokens      *tokens
	log         *zap.Logger
	step        func(string) // for tests that end the process between two steps

	mu          sync.Mutex
	authorities map[identity.TrustDomain]*authority

	jwt jwtSigner

	giving  sync.Mutex // held from the look at what is outstanding until the ledger has the new one
	overall *rate.Limiter
	tenants sync.Map // identity.TrustDomain -> *rate.Limiter
	limits  sync.Map // identity.WorkloadID -> *rate.Limiter; only of workloads that once held a token
}

// SVID is what a workload gets for its request.
type SVID struct {
	ID       identity.WorkloadID
	Chain    [][]byte // DER, leaf first
	Bundle   identity.Bundle
	NotAfter time.Time
}

// Open makes an Issuer over a state directory, which it makes where it is missing (0700) and holds until Close.
func Open(dir string, o Options) (_ *Issuer, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Keys.Close())
		}
	}()
	if err := o.complete(); err != nil {
		return nil, err
	}
	d, err := openDirectory(dir, o)
	if err != nil {
		return nil, err
	}
	i, err := newIssuer(d, o)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return i, nil
}

// OpenMemory makes an Issuer whose roots, tokens and ledger end with it. Options that say where keys lie are not used.
func OpenMemory(o Options) (*Issuer, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return newIssuer(newMemory(), o)
}

func newIssuer(s store, o Options) (*Issuer, error) {
	t, err := loadTokens(s)
	if err != nil {
		return nil, err
	}
	return &Issuer{
		ttl:         o.TTL,
		rootKey:     o.RootKey,
		outstanding: o.MaxOutstanding,
		unlimited:   o.Unlimited,
		external:    o.External,
		store:       s,
		keys:        o.Keys,
		tokens:      t,
		log:         o.Log,
		step:        func(string) {},
		authorities: map[identity.TrustDomain]*authority{},
		jwt:         jwtSigner{plan: jwtPlan{life: o.JWTKeyLife}, tenants: map[identity.TenantID]*jwtTenant{}},
		overall:     rate.NewLimiter(overallPerSecond, overallBurst),
	}, nil
}

// Close lets go of the state directory and of the root keys.
func (i *Issuer) Close() error { return errors.Join(i.store.close(), i.keys.Close()) }

// TTL is the life of the SVIDs it gives.
func (i *Issuer) TTL() time.Duration { return i.ttl }

// TrustFile is where the roots of a trust domain lie for those who only verify; empty for an Issuer in memory.
func (i *Issuer) TrustFile(td identity.TrustDomain) string { return i.store.trustFile(td) }

// Bundles are the bundles of these trust domains; a root that is missing is made. Where a root cannot be had the others
// are returned all the same, with the error: one trust domain must not hold up the rest.
func (i *Issuer) Bundles(now time.Time, domains ...identity.TrustDomain) (identity.Bundles, error) {
	var (
		bundles []identity.Bundle
		errs    []error
		seen    = map[identity.TrustDomain]bool{}
	)
	for _, td := range domains {
		if td.IsZero() || seen[td] {
			continue
		}
		seen[td] = true
		a, err := i.authority(td, now)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b, err := a.bundle()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		bundles = append(bundles, b)
	}
	all, err := identity.NewBundles(bundles...)
	if err != nil {
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

func (i *Issuer) authority(td identity.TrustDomain, now time.Time) (*authority, error) {
	if i.external(td) {
		return nil, externalError(td)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if a, ok := i.authorities[td]; ok {
		return a, nil
	}
	a, ok, err := i.store.authority(td)
	if err != nil {
		return nil, err
	}
	if !ok {
		r, err := newRoot(td, i.store.rootKeys(), i.rootKey, nil, now)
		if err != nil {
			return nil, err
		}
		a = &authority{td: td, roots: []*root{r}, last: r.generation}
		if err := i.store.putAuthority(a); err != nil {
			return nil, err
		}
	}
	i.retain(a) // the process may have ended between the withdrawal of a root and this
	i.authorities[td] = a
	return a, nil
}

// retain drops from the ledger what compromised roots have signed. Nothing of that is renewed in any case; it would only count
// as outstanding. What a rotation has left behind stays until it has ended.
func (i *Issuer) retain(a *authority) {
	if a.underway == nil || a.underway.Step != Attesting {
		return
	}
	if err := i.store.retain(a.td, a.has); err != nil {
		i.log.Warn("SVIDs of a withdrawn root stay in the ledger until they have expired", zap.Stringer("trust_domain", a.td), zap.Error(err))
	}
}

// existing is the authority of a trust domain that Bundles was asked for before.
func (i *Issuer) existing(td identity.TrustDomain) (*authority, error) {
	if i.external(td) {
		return nil, externalError(td)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if a, ok := i.authorities[td]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("trust domain %s has no root", td)
}

func externalError(td identity.TrustDomain) error {
	return fmt.Errorf("trust domain %s: %w", td, ErrExternal)
}

// CreateToken makes a one-time join token of that workload, good until expires; a ttl of zero is DefaultTokenTTL. The
// identities of Ringfence's own processes cannot be joined.
func (i *Issuer) CreateToken(id identity.WorkloadID, ttl time.Duration, now time.Time) (token string, expires time.Time, err error) {
	if id.IsZero() || reserved(id) {
		return "", time.Time{}, ErrNoWorkload
	}
	if td := id.Tenant().TrustDomain(); i.external(td) {
		return "", time.Time{}, externalError(td)
	}
	return i.tokens.create(id, ttl, now)
}

// Named gives the workload of a SPIFFE ID if the mesh still names it.
type Named func(uri string) (identity.WorkloadID, bool)

// Issue gives the SVID of the workload that the join token is bound to, for the key of the certificate request. The
// token is spent once the request has been found good: a malformed request may be sent again. A token gives one SVID, for one
// key; to a request with that key it gives the same one again, for an hour or until its own end, unless it was renewed.
//
// The errors are ErrRefused, ErrBadRequest, ErrLimited, or what the disk says.
func (i *Issuer) Issue(csrDER []byte, joinToken string, named Named, now time.Time) (SVID, error) {
	r, hash, err := i.tokens.find(joinToken, now)
	if err != nil {
		return SVID{}, err
	}
	id, ok := named(r.Workload)
	if !ok || id.String() != r.Workload || reserved(id) || i.external(id.Tenant().TrustDomain()) {
		return SVID{}, ErrRefused
	}
	if !i.allow(id, now) {
		return SVID{}, ErrLimited
	}
	public, err := judgeRequest(csrDER, r.Workload)
	if errors.Is(err, errOtherName) {
		return SVID{}, ErrRefused
	}
	if err != nil {
		return SVID{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return SVID{}, fmt.Errorf("%w: a key that cannot be encoded", ErrBadRequest)
	}
	key := sha256.Sum256(spki)
	a, err := i.existing(id.Tenant().TrustDomain())
	if err != nil {
		return SVID{}, err
	}
	i.step("found")
	i.giving.Lock()
	defer i.giving.Unlock()
	if r, hash, err = i.tokens.find(joinToken, now); err != nil { // as it is now that nobody else uses it
		return SVID{}, err
	}
	if again, ok, err := i.given(id, a, r, key, now); ok || err != nil {
		return again, err
	}
	count, err := i.store.outstanding(a.td, now)
	if err != nil {
		return SVID{}, err
	}
	if count >= i.outstanding {
		return SVID{}, errOutstanding // before the token is spent for nothing
	}
	return i.give(id, public, grounds{
		how: agentv1alpha1.Attestation_ATTESTATION_JOIN_TOKEN, limit: i.outstanding,
		note: func(leaf *x509.Certificate) error {
			defer i.step("spent")
			return i.tokens.spend(hash, key, leaf.Raw, now)
		},
	}, now)
}

// given is the SVID that a token was used for already, for the workload that asks again with the same key: its agent, or this
// process, may have ended before the answer arrived. false: there is none, or nobody can have got it, since it is not in the
// ledger. i.giving is held.
func (i *Issuer) given(id identity.WorkloadID, a *authority, r record, key [sha256.Size]byte, now time.Time) (SVID, bool, error) {
	if !r.free(key) {
		return SVID{}, false, ErrRefused
	}
	if r.Spent == nil {
		return SVID{}, false, nil
	}
	leaf, err := x509.ParseCertificate(r.Spent.SVID)
	if err != nil || !now.Before(leaf.NotAfter) {
		return SVID{}, false, ErrRefused
	}
	if !a.signed(leaf) {
		return SVID{}, false, ErrRefused // its root was withdrawn, and with it whatever the token stood for
	}
	s, ok := serialOf(leaf.SerialNumber)
	if !ok {
		return SVID{}, false, ErrRefused
	}
	e, ok, err := i.store.find(a.td, s)
	if err != nil || !ok {
		return SVID{}, false, err
	}
	if e.superseded || e.key != key || e.workload != id.String() {
		return SVID{}, false, ErrRefused // whoever renewed it has it
	}
	b, err := a.bundle()
	if err != nil {
		return SVID{}, false, err
	}
	return SVID{ID: id, Chain: [][]byte{leaf.Raw}, Bundle: b, NotAfter: leaf.NotAfter}, true, nil
}

// grounds are what an SVID is given on.
type grounds struct {
	how    agentv1alpha1.Attestation
	renews serial // zero: none
	limit  int    // of what may be outstanding
	// note is called with the SVID before the ledger has it; nil: nothing is to be noted.
	note func(*x509.Certificate) error
}

// give signs, and has the SVID in the ledger before anybody gets it.
// It is called while giving is held, so the root that signs is the one that does so now.
func (i *Issuer) give(id identity.WorkloadID, public crypto.PublicKey, on grounds, now time.Time) (SVID, error) {
	a, err := i.existing(id.Tenant().TrustDomain())
	if err != nil {
		return SVID{}, err
	}
	leaf, err := a.current().sign(id, public, i.ttl, now)
	if err != nil {
		return SVID{}, err
	}
	b, err := a.bundle()
	if err != nil {
		return SVID{}, err
	}
	e, err := newEntry(id, leaf, a.current(), on)
	if err != nil {
		return SVID{}, err
	}
	i.step("signed")
	if on.note != nil {
		if err := on.note(leaf); err != nil {
			return SVID{}, err
		}
	}
	if err := i.store.add(a.td, e, on.limit, now); err != nil {
		return SVID{}, err
	}
	i.step("recorded")
	return SVID{ID: id, Chain: [][]byte{leaf.Raw}, Bundle: b, NotAfter: leaf.NotAfter}, nil
}

// allow counts an attempt with a good token or certificate against the limits.
func (i *Issuer) allow(id identity.WorkloadID, now time.Time) bool {
	return i.unlimited || limiter(&i.limits, id, rate.Every(perWorkloadEvery), perWorkloadBurst).AllowN(now, 1) &&
		limiter(&i.tenants, id.Tenant().TrustDomain(), perTenantPerSec, perTenantBurst).AllowN(now, 1) &&
		i.overall.AllowN(now, 1)
}

// limiter is the one that is kept under a key.
func limiter(kept *sync.Map, key any, every rate.Limit, burst int) *rate.Limiter {
	if l, ok := kept.Load(key); ok {
		return l.(*rate.Limiter) //nolint:forcetypeassert // nothing else is put in
	}
	l, _ := kept.LoadOrStore(key, rate.NewLimiter(every, burst))
	return l.(*rate.Limiter) //nolint:forcetypeassert // nothing else is put in
}

// ControlPlane gives the control plane its own SVID, with a new key, by the root of the platform.
func (i *Issuer) ControlPlane(id identity.WorkloadID, now time.Time) (tls.Certificate, error) {
	if !reserved(id) {
		return tls.Certificate{}, ErrNoWorkload
	}
	if _, err := i.authority(id.Tenant().TrustDomain(), now); err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key of %s: %w", id, err)
	}
	i.giving.Lock()
	defer i.giving.Unlock()
	own, err := i.give(id, key.Public(), grounds{how: agentv1alpha1.Attestation_ATTESTATION_CONTROL_PLANE, limit: math.MaxInt}, now)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(own.Chain[0])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("SVID of %s: %w", id, err)
	}
	return tls.Certificate{Certificate: own.Chain, PrivateKey: key, Leaf: leaf}, nil
}

// reserved reports whether an ID belongs to Ringfence's own processes.
func reserved(id identity.WorkloadID) bool {
	return id.Tenant().IsPlatform() && id.Namespace() == identity.ControlPlaneNamespace
}
