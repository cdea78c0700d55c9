package controlplane

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestBoundedHoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	under, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newBounded(under, 2)
	accepted := make(chan net.Conn, 10)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	var first net.Conn
	for n := range 3 {
		c, err := net.Dial("tcp", under.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if n == 0 {
			first = <-accepted
		}
	}
	t.Cleanup(func() { _ = (<-accepted).Close() }) // the third
	second := <-accepted
	defer func() { _ = second.Close() }()
	select {
	case <-accepted:
		t.Fatal("a third connection is held")
	case <-time.After(50 * time.Millisecond):
	}
	if err := errors.Join(first.Close(), closed(first.Close())); err != nil {
		t.Fatal(err)
	}
	select {
	case third := <-accepted:
		accepted <- third
	case <-time.After(10 * time.Second):
		t.Fatal("a place was not given back")
	}
	if err := closed(errors.Join(l.Close(), closed(l.Close()))); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}
