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
	again := must(one)
	if _, err := connect(one); err == nil {
		t.Error("a place was given back twice")
	}
	_ = again.Close()
	must(one)
}

// Who shows no identity shares one bound, who does not get through the handshake counts for nothing, and who is gone is
// forgotten.
func TestLimitConnectionsOfNobody(t *testing.T) {
	t.Parallel()
	ca := testca.Constrained(t, "acme.demo.test")
	server := ca.SVID("spiffe://acme.demo.test/server")
	config := &tls.Config{Certificates: []tls.Certificate{server.TLS()}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	limited, _ := LimitConnections(credentials.NewTLS(config), 1).(*limitedConnections)
	connect := func(protocol string, chain ...tls.Certificate) (net.Conn, error) {
		t.Helper()
		client, raw := net.Pipe()
		go func() {
			c := tls.Client(client, &tls.Config{Certificates: chain, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}})
			_ = c.HandshakeContext(t.Context())
			_, _ = c.Read(make([]byte, 1)) // until the server closes
			_ = client.Close()
		}()
		conn, _, err := limited.ServerHandshake(raw)
		return conn, err
	}
	if _, err := connect("other"); err == nil {
		t.Error("a handshake that failed is a connection")
	}
	first, err := connect("h2")
	if err != nil {
		t.Fatal(err)
	}
	noURI := ca.SVID("", testca.Hosts("a.test")).TLS()
	if _, err := connect("h2", noURI); err == nil {
		t.Error("who shows another certificate without an identity has a bound of its own")
	}
	_ = first.Close()
	second, err := connect("h2", noURI)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if len(limited.open) != 0 {
		t.Errorf("remembered: %v", limited.open)
	}
}
