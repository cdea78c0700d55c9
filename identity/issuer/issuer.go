package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	// DefaultTTL is the life of an SVID if nothing else is said.
	DefaultTTL = 24 * time.Hour
	// MinTTL is the shortest life that may be asked for.
	MinTTL = 5 * time.Minute
	// MaxTTL is the longest: an SVID cannot be called back.
	MaxTTL = 30 * 24 * time.Hour
)

// What may be issued. Each SVID costs a token that an operator made, so these only bound a runaway.
const (
	perWorkloadEvery = time.Second
	perWorkloadBurst = 8
	overallPerSecond = 200
	overallBurst     = 400
)

// Options are what may be chosen of an Issuer.
type Options struct {
	// TTL is the life of an SVID, at least MinTTL; zero is DefaultTTL.
	TTL time.Duration
}

// Issuer is one certificate authority for each trust domain. It is safe for concurrent use.
type Issuer struct {
	ttl    time.Duration
	store  store
	tokens *tokens

	mu    sync.Mutex
	roots map[identity.TrustDomain]*root

	overall *rate.Limiter
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
func Open(dir string, o Options) (*Issuer, error) {
	d, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	i, err := newIssuer(d, o)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return i, nil
}

// OpenMemory makes an Issuer whose roots and tokens end with it.
func OpenMemory(o Options) (*Issuer, error) { return newIssuer(newMemory(), o) }

func newIssuer(s store, o Options) (*Issuer, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.TTL < MinTTL || o.TTL > MaxTTL {
		return nil, fmt.Errorf("an SVID lives between %s and %s, not %s", MinTTL, MaxTTL, o.TTL)
	}
	t, err := loadTokens(s)
	if err != nil {
		return nil, err
	}
	return &Issuer{
		ttl:     o.TTL,
		store:   s,
		tokens:  t,
		roots:   map[identity.TrustDomain]*root{},
		overall: rate.NewLimiter(overallPerSecond, overallBurst),
	}, nil
}

// Close lets go of the state directory.
func (i *Issuer) Close() error { return i.store.close() }

// TTL is the life of the SVIDs it gives.
func (i *Issuer) TTL() time.Duration { return i.ttl }

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
		r, err := i.root(td, now)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b, err := r.bundle()
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

func (i *Issuer) root(td identity.TrustDomain, now time.Time) (*root, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r, ok := i.roots[td]; ok {
		return r, nil
	}
	r, ok, err := i.store.root(td)
	if err != nil {
		return nil, err
	}
	if !ok {
		if r, err = newRoot(td, now); err != nil {
			return nil, err
		}
		if err := i.store.addRoot(r); err != nil {
			return nil, err
		}
	}
	i.roots[td] = r
	return r, nil
}

// existing is the root of a trust domain that Bundles was asked for before.
func (i *Issuer) existing(td identity.TrustDomain) (*root, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r, ok := i.roots[td]; ok {
		return r, nil
	}
	return nil, fmt.Errorf("trust domain %s has no root", td)
}

// CreateToken makes a one-time join token of that workload, good until expires; a ttl of zero is DefaultTokenTTL. The
// identities of Ringfence's own processes cannot be joined.
func (i *Issuer) CreateToken(id identity.WorkloadID, ttl time.Duration, now time.Time) (token string, expires time.Time, err error) {
	if id.IsZero() || reserved(id) {
		return "", time.Time{}, ErrNoWorkload
	}
	return i.tokens.create(id, ttl, now)
}

// Named gives the workload of a SPIFFE ID if the mesh still names it.
type Named func(uri string) (identity.WorkloadID, bool)

// Issue gives the SVID of the workload that the join token is bound to, for the key of the certificate request. The
// token is spent once the request has been found good: a malformed request may be sent again.
//
// The errors are ErrRefused, ErrBadRequest, ErrLimited, or what the disk says.
func (i *Issuer) Issue(csrDER []byte, joinToken string, named Named, now time.Time) (SVID, error) {
	uri, hash, err := i.tokens.find(joinToken, now)
	if err != nil {
		return SVID{}, err
	}
	id, ok := named(uri)
	if !ok || id.String() != uri || reserved(id) {
		return SVID{}, ErrRefused
	}
	if !i.allow(id, now) {
		return SVID{}, ErrLimited
	}
	public, err := judgeRequest(csrDER, uri)
	if errors.Is(err, errOtherName) {
		return SVID{}, ErrRefused
	}
	if err != nil {
		return SVID{}, err
	}
	r, err := i.existing(id.Tenant().TrustDomain())
	if err != nil {
		return SVID{}, err
	}
	if err := i.tokens.use(hash); err != nil {
		return SVID{}, err
	}
	return i.sign(r, id, public, now)
}

func (i *Issuer) sign(r *root, id identity.WorkloadID, public crypto.PublicKey, now time.Time) (SVID, error) {
	leaf, err := r.sign(id, public, i.ttl, now)
	if err != nil {
		return SVID{}, err
	}
	b, err := r.bundle()
	if err != nil {
		return SVID{}, err
	}
	return SVID{ID: id, Chain: [][]byte{leaf.Raw}, Bundle: b, NotAfter: leaf.NotAfter}, nil
}

// allow counts an attempt with a good token against the limits.
func (i *Issuer) allow(id identity.WorkloadID, now time.Time) bool {
	fresh := rate.NewLimiter(rate.Every(perWorkloadEvery), perWorkloadBurst)
	kept, _ := i.limits.LoadOrStore(id, fresh)
	own, ok := kept.(*rate.Limiter)
	return ok && own.AllowN(now, 1) && i.overall.AllowN(now, 1)
}

// ControlPlane gives the control plane its own SVID, with a new key, by the root of the platform.
func (i *Issuer) ControlPlane(id identity.WorkloadID, now time.Time) (tls.Certificate, error) {
	if !reserved(id) {
		return tls.Certificate{}, ErrNoWorkload
	}
	r, err := i.root(id.Tenant().TrustDomain(), now)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key of %s: %w", id, err)
	}
	leaf, err := r.sign(id, key.Public(), i.ttl, now)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// reserved reports whether an ID belongs to Ringfence's own processes.
func reserved(id identity.WorkloadID) bool {
	return id.Tenant().IsPlatform() && id.Namespace() == identity.ControlPlaneNamespace
}
