package freeport_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/ringfence-mesh/ringfence/internal/freeport"
)

func TestFind(t *testing.T) {
	t.Parallel()
	var f freeport.Finder
	given := map[uint16]bool{}
	for range 100 {
		port, err := f.Find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if given[port] || port < 21_000 || port >= 32_000 {
			t.Errorf("port %d, given before: %v", port, given[port])
		}
		given[port] = true
	}
}

func TestFree(t *testing.T) {
	t.Parallel()
	var f freeport.Finder
	port, err := f.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if freeport.Free(t.Context(), port) {
		t.Error("a port that somebody listens on is free")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !freeport.Free(t.Context(), port) {
		t.Error("a port that nobody listens on any more is not free")
	}
}
