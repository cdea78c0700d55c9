package extauthz

import (
	"testing"
	"time"
)

func TestCache(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	later := now.Add(time.Minute)
	c := cache[digest, int]{limit: 3}
	k := func(n byte) digest { return digest{n} }
	if _, ok := c.get(k(0), now); ok {
		t.Error("something is in an empty cache")
	}
	c.put(k(0), 7, later)
	if v, ok := c.get(k(0), later.Add(-1)); !ok || v != 7 {
		t.Errorf("%v, %v", v, ok)
	}
	if v, ok := c.get(k(0), later); ok || v != 0 {
		t.Errorf("over, but %v", v)
	}
	for n := range byte(100) {
		c.put(k(n+1), int(n), later)
		if v, ok := c.get(k(0), now); !ok || v != 7 {
			t.Fatalf("what is asked for is forgotten after %d others", n)
		}
		if held := len(c.young) + len(c.old); held > 6 {
			t.Fatalf("%d values are held", held)
		}
	}
	if _, ok := c.get(k(1), now); ok {
		t.Error("what nobody asks for is kept")
	}
}

func TestKeyTellsFieldsApart(t *testing.T) {
	t.Parallel()
	seen := map[digest]bool{}
	for _, fields := range [][]string{{}, {""}, {"", ""}, {"a", "b"}, {"ab"}, {"ab", ""}, {"", "ab"}} {
		if seen[key(fields...)] {
			t.Errorf("%q has another list's key", fields)
		}
		seen[key(fields...)] = true
	}
}
