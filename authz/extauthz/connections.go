package extauthz

import (
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/identity"
)

// LimitConnections lets each client certificate's identity hold no more connections at a time than limit, so that one
// asker leaves room for the others. The handshake, which proves the identity, comes first.
func LimitConnections(tls credentials.TransportCredentials, limit int) credentials.TransportCredentials {
	return &limitedConnections{TransportCredentials: tls, limit: limit, open: make(map[string]int)}
}

type limitedConnections struct {
	credentials.TransportCredentials

	limit int
	mu    sync.Mutex
	open  map[string]int
}

// ServerHandshake proves who connects, and counts it.
func (l *limitedConnections) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	tls, _ := info.(credentials.TLSInfo)
	who := "" // who shows no identity shares one bound
	if chain := tls.State.PeerCertificates; len(chain) > 0 {
		who, _ = identity.URISAN(chain[0])
	}
	if !l.take(who) {
		_ = conn.Close()
		return nil, nil, errTooMany
	}
	return &countedConn{Conn: conn, release: sync.OnceFunc(func() { l.release(who) })}, info, nil
}

// Clone shares the count.
func (l *limitedConnections) Clone() credentials.TransportCredentials { return l }

func (l *limitedConnections) take(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] >= l.limit {
		return false
	}
	l.open[who]++
	return true
}

func (l *limitedConnections) release(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] == 0 {
		delete(l.open, who)
	}
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn

	release func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
