package issuer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	// DefaultTokenTTL is how long a join token may wait for its use if nothing else is said.
	DefaultTokenTTL = time.Hour
	// MaxTokenTTL is the longest that it may.
	MaxTokenTTL = 7 * 24 * time.Hour

	// tokenPrefix lets a scanner of logs and repositories recognise a lost token.
	tokenPrefix = "rfjoin_"
	tokenBytes  = 32

	maxTokens            = 10_000
	maxTokensPerWorkload = 16
)

// tokens are the unused join tokens. The lock is held across the disk write: of two uses at once one sees the other.
type tokens struct {
	mu    sync.Mutex
	store store
	open  map[tokenHash]record
}

func loadTokens(s store) (*tokens, error) {
	open, err := s.tokens()
	if err != nil {
		return nil, err
	}
	return &tokens{store: s, open: open}, nil
}

// create makes a token of that workload. It is durable when it is returned.
func (t *tokens) create(id identity.WorkloadID, ttl time.Duration, now time.Time) (token string, expires time.Time, err error) {
	switch {
	case ttl == 0:
		ttl = DefaultTokenTTL
	case ttl < time.Second || ttl > MaxTokenTTL:
		return "", time.Time{}, fmt.Errorf("%w: between 1s and %s", ErrTTL, MaxTokenTTL)
	}
	secret := make([]byte, tokenBytes)
	if _, err := rand.Read(secret); err != nil {
		return "", time.Time{}, fmt.Errorf("join token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	r := record{Workload: id.String(), Expires: now.Add(ttl).Truncate(time.Second)}

	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.makeRoom(r.Workload, now); err != nil {
		return "", time.Time{}, err
	}
	h := hashToken(token)
	if err := t.store.addToken(h, r); err != nil {
		return "", time.Time{}, err
	}
	t.open[h] = r
	return token, r.Expires, nil
}

// makeRoom drops what has expired and counts the rest.
func (t *tokens) makeRoom(workload string, now time.Time) error {
	same := 0
	for h, r := range t.open {
		if !now.Before(r.Expires) {
			if _, err := t.store.dropToken(h); err != nil {
				return err
			}
			delete(t.open, h)
			continue
		}
		if r.Workload == workload {
			same++
		}
	}
	if same >= maxTokensPerWorkload || len(t.open) >= maxTokens {
		return fmt.Errorf("%w: too many unused join tokens", ErrLimited)
	}
	return nil
}

// find is the workload that an unused, unexpired token is bound to. The look-up is by the hash of a 256-bit random secret:
// however long it takes says nothing about another token.
func (t *tokens) find(token string, now time.Time) (workload string, h tokenHash, err error) {
	// The length is public; anything longer need not be hashed.
	if !strings.HasPrefix(token, tokenPrefix) || len(token) != len(tokenPrefix)+base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return "", tokenHash{}, ErrRefused
	}
	h = hashToken(token)
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.open[h]
	if !ok || !now.Before(r.Expires) {
		return "", tokenHash{}, ErrRefused
	}
	return r.Workload, h, nil
}

// use spends the token. Only one caller ever gets nil, and only when the use is durable. Where the disk fails the token is
// spent all the same as far as this process goes: an error never leaves a token that might give a second SVID.
func (t *tokens) use(h tokenHash) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[h]; !ok {
		return ErrRefused
	}
	delete(t.open, h)
	there, err := t.store.dropToken(h)
	if err != nil {
		return err
	}
	if !there {
		return ErrRefused
	}
	return nil
}

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }
