package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
	renewalMost  = 30 * time.Second
)

// backoff is the wait between attempts: doubling, and of random length, so that the agents of a mesh do not come back to
// a restarted control plane all at once.
type backoff struct{ next, most time.Duration }

func newBackoff(most time.Duration) *backoff { return &backoff{next: backoffFirst, most: most} }

// reset makes the next wait short again.
func (b *backoff) reset() { b.next = backoffFirst }

// sleep waits between half and all of the current length.
func (b *backoff) sleep(ctx context.Context) error {
	d := b.next/2 + rand.N(b.next/2) //nolint:gosec // spreads load, guards nothing
	b.next = min(2*b.next, b.most)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
