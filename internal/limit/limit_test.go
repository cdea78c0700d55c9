package limit

import (
	"strconv"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	l := New(Limits{Concurrent: 2, PerSecond: 10, Burst: 4})
	const a, b = "a", "b"
	begin := func(who string, want bool) func() {
		t.Helper()
		running, ok := l.Begin(who, now)
		if ok != want {
			t.Fatalf("begun: %v, want %v", ok, want)
		}
		return running.End
	}
	first, second := begin(a, true), begin(a, true)
	begin(a, false) // a third at a time
	first()
	second()
	begin(b, true)
	begin(a, true)()
	begin(a, true)()
	begin(a, false) // a fifth within the burst
	now = now.Add(100 * time.Millisecond)
	begin(a, true)()
	begin(a, false)
	now = now.Add(-time.Hour) // a clock that jumps gives nothing
	begin(a, false)
	now = now.Add(2 * time.Hour)
	for range 4 {
		begin(a, true)()
	}
	begin(a, false)

	var none Limiter
	for range 100 {
		if _, ok := none.Begin(a, now); !ok {
			t.Fatal("limited without limits")
		}
	}
}

// However many askers there are, a bounded number is told apart, and who does nothing makes room.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	l := New(Limits{Concurrent: 1, PerSecond: 1, Burst: 1})
	for i := range maxLoads {
		if _, ok := l.Begin(strconv.Itoa(i), now); !ok {
			t.Fatalf("asker %d is refused", i)
		}
	}
	if _, ok := l.Begin("one more", now); ok {
		t.Error("one more than can be told apart")
	}
	l.loads["7"].running = 0
	now = now.Add(time.Minute)
	if _, ok := l.Begin("one more", now); !ok || len(l.loads) != maxLoads {
		t.Errorf("nobody made room: %d", len(l.loads))
	}
}
