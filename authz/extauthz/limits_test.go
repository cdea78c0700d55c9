package extauthz

import (
	"crypto/tls"
	"net"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// One identity holds a bounded number of connections, and another one's are its own.
func TestLimitConnections(t *testing.T) {
	t.Parallel()
	ca := testca.Constrained(t, "acme.demo.test")
	server, one, two := ca.SVID("spiffe://acme.demo.test/server"), ca.SVID("spiffe://acme.demo.test/one"), ca.SVID("spiffe://acme.demo.test/two")
	creds := LimitConnections(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{server.TLS()}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
	}), 2).Clone()
	connect := func(svid *testca.SVID) (net.Conn, error) {
		t.Helper()
		client, raw := net.Pipe()
		go func() {
			c := tls.Client(client, &tls.Config{
				Certificates: []tls.Certificate{svid.TLS()}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			})
			_ = c.HandshakeContext(t.Context())
			_, _ = c.Read(make([]byte, 1)) // until the server closes
		}()
		conn, _, err := creds.ServerHandshake(raw)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return conn, err
	}
	must := func(svid *testca.SVID) net.Conn {
		t.Helper()
		c, err := connect(svid)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := must(one)
	must(one)
	if _, err := connect(one); err == nil {
		t.Error("a third connection of one asker")
	}
	must(two)
	_ = first.Close()
	_ = first.Close() // twice gives back one place
	must(one)
	if _, err := connect(one); err == nil {
		t.Error("a place was given back twice")
	}
}
