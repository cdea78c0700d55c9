package extauthz

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
)

// How many proofs of one tenant are remembered, at most twice as many.
const (
	maxLeaves = 1024
	maxTokens = 4096
)

// proofs verifies certificates and tokens, and remembers what it verified, so that a warm check costs no signature. Only
// good proofs are remembered, under a hash of all of the proof and of the version of the Table, so that a withdrawn key or
// another issuer ends them, and only for the time in which they hold. Each tenant has its own memory: who floods it with
// tokens pushes out nobody else's.
type proofs struct {
	mu      sync.Mutex
	tenants map[identity.TenantID]*memory
}

type memory struct {
	leaves cache[authz.Caller]
	tokens cache[authz.Token]
}

func (p *proofs) of(t *authz.Table) *memory {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.tenants[t.Tenant()]
	if !ok {
		m = &memory{leaves: cache[authz.Caller]{limit: maxLeaves}, tokens: cache[authz.Token]{limit: maxTokens}}
		p.tenants[t.Tenant()] = m
	}
	return m
}

// caller proves who calls by the certificate, which must say what Envoy says.
func (p *proofs) caller(t *authz.Table, source *authv3.AttributeContext_Peer, now time.Time) authz.Caller {
	text := source.GetCertificate()
	if text == "" {
		return authz.Caller{}
	}
	m := p.of(t)
	k := key(t.Version(), text)
	c, known := m.leaves.get(k, now)
	if !known {
		der, ok := leafDER(text)
		if !ok {
			return authz.InvalidCaller()
		}
		if c = t.Caller(der, nil, now); c.Peer().IsZero() {
			return c
		}
		m.leaves.put(k, c, time.Time{}, c.Peer().NotAfter())
	}
	if c.Peer().ID().String() != source.GetPrincipal() {
		return authz.InvalidCaller()
	}
	return c
}

// token verifies the request's bearer token, if it has one.
func (p *proofs) token(t *authz.Table, h *authv3.AttributeContext_HttpRequest, now time.Time) authz.Token {
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
	k := key(t.Version(), text)
	token, known := m.tokens.get(k, now)
	if !known {
		if token = t.Token(text, now); !token.Claims().IsZero() {
			m.tokens.put(k, token, token.Claims().Begins(), token.Claims().Expires())
		}
	}
	return token
}

type digest [sha256.Size]byte

// buffers are what is hashed, for the next hash.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// key hashes fields with their lengths, so that no two lists of fields are one.
func key[T string | []byte](fields ...T) digest {
	const keep = 64 << 10 // what is larger is no proof, and is not kept
	buffer, _ := buffers.Get().(*[]byte)
	b := (*buffer)[:0]
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	sum := sha256.Sum256(b)
	if cap(b) <= keep {
		*buffer = b
		buffers.Put(buffer)
	}
	return sum
}

// cache remembers values for the time in which they hold. It has two halves: what is asked for moves into the young half,
// and when that is full the old half is forgotten. So it is bounded, and what is in use stays.
type cache[V any] struct {
	limit      int
	mu         sync.Mutex
	young, old map[digest]remembered[V]
}

type remembered[V any] struct {
	value       V
	from, until time.Time
}

func (c *cache[V]) get(k digest, now time.Time) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.young[k]
	if !ok {
		if r, ok = c.old[k]; ok {
			c.store(k, r)
		}
	}
	if !ok || now.Before(r.from) || !now.Before(r.until) {
		var none V
		return none, false
	}
	return r.value, true
}

// put remembers a value that holds from a time on, and not at the other and later.
func (c *cache[V]) put(k digest, v V, from, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(k, remembered[V]{v, from, until})
}

func (c *cache[V]) store(k digest, r remembered[V]) {
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[digest]remembered[V])
	}
	c.young[k] = r
}
