package controlplane

import (
	"net"
	"sync"
)

// maxJoining is how many connections the issuer's listener holds at a time. Who connects there is not known yet: without
// a bound anybody could use up the descriptors that configuration streams need.
const maxJoining = 256

// bounded accepts no more connections than it may hold; further ones wait in the kernel.
type bounded struct {
	net.Listener

	free chan struct{}
	done chan struct{}
	once sync.Once
}

func newBounded(l net.Listener, limit int) *bounded {
	return &bounded{Listener: l, free: make(chan struct{}, limit), done: make(chan struct{})}
}

// Accept waits for a place and then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.free <- struct{}{}:
	case <-b.done:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &counted{Conn: c, release: sync.OnceFunc(func() { <-b.free })}, nil
}

// Close ends the listener, also where it waits for a place.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Listener.Close()
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn

	release func()
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
