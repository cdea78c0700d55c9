package issuer

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// tokenHash names a join token without telling it.
type tokenHash [sha256.Size]byte

// record is what is kept of a join token.
type record struct {
	Workload string    `json:"workload"`
	Expires  time.Time `json:"expires"`
}

// store keeps roots and unused tokens. Every change is durable when the method returns.
type store interface {
	// root is the kept root of a trust domain; false where there is none.
	root(td identity.TrustDomain) (*root, bool, error)
	addRoot(r *root) error
	tokens() (map[tokenHash]record, error)
	addToken(h tokenHash, r record) error
	// dropToken reports false where the token was not there any more.
	dropToken(h tokenHash) (bool, error)
	close() error
}

var (
	_ store = (*memory)(nil)
	_ store = (*directory)(nil)
)

// memory is the store that ends with the process.
type memory struct {
	mu     sync.Mutex
	byName map[identity.TrustDomain]*root
	byHash map[tokenHash]record
}

func newMemory() *memory {
	return &memory{byName: map[identity.TrustDomain]*root{}, byHash: map[tokenHash]record{}}
}

func (m *memory) root(td identity.TrustDomain) (*root, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.byName[td]
	return r, ok, nil
}

func (m *memory) addRoot(r *root) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byName[r.td] = r
	return nil
}

func (*memory) tokens() (map[tokenHash]record, error) { return map[tokenHash]record{}, nil }

func (m *memory) addToken(h tokenHash, r record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byHash[h] = r
	return nil
}

func (m *memory) dropToken(h tokenHash) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.byHash[h]
	delete(m.byHash, h)
	return ok, nil
}

func (*memory) close() error { return nil }
