// Package freeport finds TCP ports on 127.0.0.1 for processes that will listen on them a little later.
package freeport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// first and last lie below the range that the kernel gives to outgoing connections (from 32768 on Linux), so none of those
// takes a port between the moment it is found and the moment somebody listens on it.
const first, last = 21_000, 32_000

var errNone = errors.New("no free port on 127.0.0.1")

// Finder gives each port once. Its zero value is ready, and safe for concurrent use.
type Finder struct {
	once  sync.Once
	start int64 // finders of one machine begin at different ports
	next  atomic.Int64
}

// Find gives a port that nobody listens on now.
func (f *Finder) Find(ctx context.Context) (uint16, error) {
	f.once.Do(func() { f.start = rand.Int64N(last - first) }) //nolint:gosec // no secret
	for range last - first {
		port := uint16(first + (f.start+f.next.Add(1))%(last-first))
		if Free(ctx, port) {
			return port, nil
		}
	}
	return 0, errNone
}

// Free reports whether nobody listens on the port now.
func Free(ctx context.Context, port uint16) bool {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	return err == nil && l.Close() == nil
}
