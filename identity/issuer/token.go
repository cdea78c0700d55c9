package issuer

import (
	"bytes"
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

	// spentFor is how long the SVID that a token gave may at least be asked for again, by who has its key.
	spentFor = time.Hour
	// tokenSlack is how long what is over is kept: a clock that was set ahead for a while takes no token away.
	tokenSlack = 2 * time.Hour
)

// tokens are the join tokens, unused ones and those that were used lately. The lock is held across the disk write: of two
// uses at once one sees the other.
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

// makeRoom drops what is over for good and counts the rest.
func (t *tokens) makeRoom(workload string, now time.Time) error {
	same, unused := 0, 0
	for h, r := range t.open {
		switch end := r.end(); {
		case !now.Before(end.Add(tokenSlack)):
			if _, err := t.store.dropToken(h); err != nil {
				return err
			}
			delete(t.open, h)
		case r.Spent == nil && now.Before(end):
			unused++
			if r.Workload == workload {
				same++
			}
		}
	}
	if same >= maxTokensPerWorkload || unused >= maxTokens {
		return fmt.Errorf("%w: too many unused join tokens", ErrLimited)
	}
	return nil
}

// end is when nothing can be had for the token any more.
func (r record) end() time.Time {
	if r.Spent != nil {
		return r.Spent.Until
	}
	return r.Expires
}

// find is what is known of a token that is not over. The look-up is by the hash of a 256-bit random secret: however long it
// takes says nothing about another token.
func (t *tokens) find(token string, now time.Time) (r record, h tokenHash, err error) {
	// The length is public; anything longer need not be hashed.
	if !strings.HasPrefix(token, tokenPrefix) || len(token) != len(tokenPrefix)+base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return record{}, tokenHash{}, ErrRefused
	}
	h = hashToken(token)
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.open[h]
	if !ok || !now.Before(r.end()) {
		return record{}, tokenHash{}, ErrRefused
	}
	return r, h, nil
}

// spend uses the token for an SVID, which nobody has yet. It is durable when nil is returned. Where the disk fails the token is
// that key's all the same, as far as this process goes: an error never leaves a token that might be good for two keys.
func (t *tokens) spend(h tokenHash, key [sha256.Size]byte, svid []byte, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.open[h]
	if !ok || !r.free(key) {
		return ErrRefused
	}
	until := r.end()
	if least := now.Add(spentFor); r.Spent == nil && least.After(until) {
		until = least
	}
	r = record{Workload: r.Workload, Spent: &spent{Key: key[:], SVID: svid, Until: until}}
	t.open[h] = r
	there, err := t.store.spendToken(h, r)
	if err != nil {
		return err
	}
	if !there {
		delete(t.open, h)
		return ErrRefused
	}
	return nil
}

// free reports whether an SVID for that key can be asked for.
func (r record) free(key [sha256.Size]byte) bool {
	return r.Spent == nil || bytes.Equal(r.Spent.Key, key[:])
}

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }
