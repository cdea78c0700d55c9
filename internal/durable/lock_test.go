package durable_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/durable"
)

// One holds the file at a time; who comes just before its end gets it, and who waits in vain is told.
func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := durable.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Lock(path); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("while it is held: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = first.Close() })
	second, err := durable.Lock(path)
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := durable.Lock(filepath.Join(path, "x")); err == nil || errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("what is no file: %v", err)
	}
}
