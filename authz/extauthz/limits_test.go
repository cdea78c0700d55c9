package extauthz

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	l := &limiter{limits: Limits{Concurrent: 2, PerSecond: 10, Burst: 4}, loads: map[Asking]*load{}}
	a, b := Named(tenancy.KeyOfSocket("/a")), Named(tenancy.KeyOfSocket("/b"))
	begin := func(who Asking, want bool) (end func()) {
		t.Helper()
		of, ok := l.begin(who, now)
		if ok != want {
			t.Fatalf("begun: %v, want %v", ok, want)
		}
		return func() { l.end(of) }
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

	none := &limiter{}
	for range 100 {
		of, ok := none.begin(a, now)
		if !ok {
			t.Fatal("limited without limits")
		}
		none.end(of)
	}
}

// However many askers there are, a bounded number is told apart, and who does nothing makes room.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	l := &limiter{limits: Limits{Concurrent: 1, PerSecond: 1, Burst: 1}, loads: map[Asking]*load{}}
	who := func(i int) Asking { return Named(tenancy.KeyOfSocket(fmt.Sprintf("/%d", i))) }
	for i := range maxLoads {
		if _, ok := l.begin(who(i), now); !ok {
			t.Fatalf("asker %d is refused", i)
		}
	}
	if _, ok := l.begin(who(maxLoads), now); ok {
		t.Error("one more than can be told apart")
	}
	l.loads[who(7)].running = 0
	now = now.Add(time.Minute)
	if _, ok := l.begin(who(maxLoads), now); !ok || len(l.loads) != maxLoads {
		t.Errorf("nobody made room: %d", len(l.loads))
	}
}

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
