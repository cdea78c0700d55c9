package extauthz

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
)

// How many proofs of one tenant are remembered, at most twice as many.
const (
	maxLeaves  = 1024
	maxTokens  = 4096
	maxRefused = 256
)

// refusedFor is how long it is remembered that a certificate can prove nobody.
const refusedFor = time.Minute

// proofs verifies certificates and tokens, and remembers what it verified, so that a warm check costs no signature. Good
// proofs are remembered under the hash of the whole text and the version of the Table, so that a withdrawn key or another
// issuer ends them, and only for the time in which they hold; certificates that can prove nobody apart from them and for a
// while, so that refusing one that comes again costs no more than allowing one. Each tenant has its own memory: who floods
// it pushes out nobody else's.
type proofs struct {
	mu      sync.Mutex
	tenants map[identity.TenantID]*memory
	hashers sync.Pool // of *hasher
}

type memory struct {
	leaves  cache[proof, authz.Caller]
	refused cache[proof, authz.Caller]
	tokens  cache[proof, authz.Token]
}

// proof is a text and the Table that it was proved by.
type proof struct {
	table string // its version
	text  [sha256.Size]byte
}

// hasher is reused, because a hash behind an interface costs an allocation.
type hasher struct {
	hash hash.Hash
	sum  [sha256.Size]byte
}

func (p *proofs) proof(t *authz.Table, text string) proof {
	h, ok := p.hashers.Get().(*hasher)
	if !ok {
		h = &hasher{hash: sha256.New()}
	}
	defer p.hashers.Put(h)
	h.hash.Reset()
	h.hash.Write(bytesOf(text))
	h.hash.Sum(h.sum[:0])
	return proof{t.Version(), h.sum}
}

func (p *proofs) of(t *authz.Table) *memory {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.tenants[t.Tenant()]
	if !ok {
		m = &memory{
			leaves:  cache[proof, authz.Caller]{limit: maxLeaves},
			refused: cache[proof, authz.Caller]{limit: maxRefused},
			tokens:  cache[proof, authz.Token]{limit: maxTokens},
		}
		p.tenants[t.Tenant()] = m
	}
	return m
}

// caller proves who calls by the certificate, which must say what Envoy says.
func (p *proofs) caller(t *authz.Table, req *request, now time.Time) authz.Caller {
	text := req.certificate
	switch {
	case text == "":
		return authz.Caller{}
	case len(text) > maxCertificate:
		return authz.InvalidCaller()
	}
	m := p.of(t)
	k := p.proof(t, text)
	if c, known := m.refused.get(k, now); known {
		return c
	}
	c, known := m.leaves.get(k, now)
	if !known {
		der, ok := leafDER(text)
		if !ok {
			return authz.InvalidCaller()
		}
		switch c = t.Caller(der, nil, now); {
		case c.Unprovable():
			m.refused.put(k, c, now, now.Add(refusedFor))
			return c
		case c.Peer().IsZero():
			return c
		}
		m.leaves.put(k, c, time.Time{}, c.Peer().NotAfter())
	}
	if c.Peer().ID().String() != req.principal {
		return authz.InvalidCaller()
	}
	return c
}

// token verifies the request's bearer token, if it has one.
func (p *proofs) token(t *authz.Table, h header, now time.Time) authz.Token {
	text, present, ok := bearer(h)
	switch {
	case !ok:
		return authz.InvalidToken()
	case !present:
		return authz.Token{}
	}
	return p.verified(t, text, now)
}

// verified is what the Table says of a token, from memory where it was asked before. It allocates nothing then.
func (p *proofs) verified(t *authz.Table, text string, now time.Time) authz.Token {
	m := p.of(t)
	k := p.proof(t, text)
	token, known := m.tokens.get(k, now)
	if !known {
		if token = t.Token(text, now); !token.Claims().IsZero() {
			m.tokens.put(k, token, token.Claims().Begins(), token.Claims().Expires())
		}
	}
	return token
}

type digest [sha256.Size]byte

// key hashes fields with their lengths, so that no two lists of fields are one.
func key[T string | []byte](fields ...T) digest {
	h := sha256.New()
	for _, f := range fields {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(f)))
		h.Write(n[:])
		h.Write([]byte(f))
	}
	return digest(h.Sum(nil))
}

// cache remembers values for the time in which they hold. It has two halves: what is asked for moves into the young half,
// and when that is full the old half is forgotten. So it is bounded, and what is in use stays.
type cache[K comparable, V any] struct {
	limit      int
	mu         sync.Mutex
	young, old map[K]remembered[V]
}

type remembered[V any] struct {
	value       V
	from, until time.Time
}

func (c *cache[K, V]) get(k K, now time.Time) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.young[k]
	if !ok {
		if r, ok = c.old[k]; ok {
			c.store(k, r)
		}
	}
	if now.Before(r.from) || !now.Before(r.until) { // what is not there never holds
		var none V
		return none, false
	}
	return r.value, true
}

// put remembers a value that holds from a time on, and not at the other and later.
func (c *cache[K, V]) put(k K, v V, from, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(k, remembered[V]{v, from, until})
}

func (c *cache[K, V]) store(k K, r remembered[V]) {
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[K]remembered[V])
	}
	c.young[k] = r
}
