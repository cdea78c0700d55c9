package issuer

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// tokenHash names a join token without telling it.
type tokenHash [sha256.Size]byte

// record is what is kept of a join token. One that is spent has no Expires, so a version that does not know of Spent takes
// it for one that has expired.
type record struct {
	Workload string    `json:"workload"`
	Expires  time.Time `json:"expires,omitzero"`
	Spent    *spent    `json:"spent,omitempty"`
}

// spent is what a token was used for: one SVID, for one key. Who has that key may ask for that SVID again, because nobody knows
// whether the answer has arrived.
type spent struct {
	Key   []byte    `json:"key"`  // SHA-256 of the SubjectPublicKeyInfo
	SVID  []byte    `json:"svid"` // DER
	Until time.Time `json:"until"`
}

// store keeps roots, join tokens and the ledger. Every change is durable when the method returns.
type store interface {
	ledger
	tokenStore

	// authority is the kept roots of a trust domain; false where there are none.
	authority(td identity.TrustDomain) (*authority, bool, error)
	putAuthority(a *authority) error
	rootKeys() Keys
	// trustFile is where the roots of a trust domain lie alone, for those who only verify; empty: nowhere.
	trustFile(td identity.TrustDomain) string
	// jwtKeys are the kept keys of a tenant for JWT-SVIDs; none where there were none.
	jwtKeys(t identity.TenantID) (jwtKeys, error)
	// putJWTKeys puts these in force, and removes those that are not among them any more.
	putJWTKeys(t identity.TenantID, k jwtKeys) error
	close() error
}

// tokenStore keeps join tokens.
type tokenStore interface {
	tokens() (map[tokenHash]record, error)
	addToken(h tokenHash, r record) error
	// spendToken replaces what is kept of a token, and reports false where the token was not there any more.
	spendToken(h tokenHash, r record) (bool, error)
	// dropToken reports false where the token was not there any more.
	dropToken(h tokenHash) (bool, error)
}

var (
	_ store = (*memory)(nil)
	_ store = (*directory)(nil)
)

// memory is the store that ends with the process.
type memory struct {
	*memoryLedger

	keys   Keys
	mu     sync.Mutex
	byName map[identity.TrustDomain]*authority
	byHash map[tokenHash]record
}

func newMemory() *memory {
	return &memory{
		memoryLedger: newMemoryLedger(), keys: looseKeys(),
		byName: map[identity.TrustDomain]*authority{}, byHash: map[tokenHash]record{},
	}
}

func (m *memory) authority(td identity.TrustDomain) (*authority, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.byName[td]
	return a, ok, nil
}

func (m *memory) putAuthority(a *authority) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byName[a.td] = a
	return nil
}

func (m *memory) rootKeys() Keys { return m.keys }

func (*memory) trustFile(identity.TrustDomain) string      { return "" }
func (*memory) jwtKeys(identity.TenantID) (jwtKeys, error) { return nil, nil } // the Issuer has them

func (*memory) putJWTKeys(identity.TenantID, jwtKeys) error { return nil }

func (*memory) tokens() (map[tokenHash]record, error) { return map[tokenHash]record{}, nil }

func (m *memory) addToken(h tokenHash, r record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byHash[h] = r
	return nil
}

func (m *memory) spendToken(h tokenHash, r record) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.byHash[h]; !ok {
		return false, nil
	}
	m.byHash[h] = r
	return true, nil
}

func (m *memory) dropToken(h tokenHash) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.byHash[h]
	delete(m.byHash, h)
	return ok, nil
}

func (*memory) close() error { return nil }
