package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

// tickets is a session cache that counts what it is given.
type tickets struct {
	tls.ClientSessionCache

	given atomic.Int64
}

func newTickets() *tickets { return &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(8)} }

func (k *tickets) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		k.given.Add(1)
	}
	k.ClientSessionCache.Put(key, s)
}

// greet opens a connection of HTTP/2, and reads what the server sends first, which comes after its session tickets.
func greet(t *testing.T, address string, config *tls.Config) tls.ConnectionState {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only read
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatalf("%s says nothing: %v", address, err)
	}
	return conn.(*tls.Conn).ConnectionState()
}

// TestNoSessionIsResumed: a resumed session would keep an old judgement of a certificate. No server of the mesh gives a client what
// it needs to resume one, and no Envoy resumes one with a server that would.
func TestNoSessionIsResumed(t *testing.T) {
	t.Run("Envoy as a server", func(t *testing.T) {
		m := startMesh(t)
		cache := newTickets()
		call := demo.Call{From: "acme/web", To: "platform/billing", Raw: &demo.Raw{SNI: "acme/web", Sessions: cache}, Method: http.MethodGet, Path: "/invoices/1"}
		for range 3 {
			session, err := m.Open(call)
			if err != nil {
				t.Fatal(err)
			}
			if r := doOn(t, session, call); !r.As(allowed) {
				t.Errorf("%d by %s", r.Status, r.Layer)
			}
			session.Close()
		}
		if cache.given.Load() != 0 {
			t.Errorf("Envoy gave %d session tickets", cache.given.Load())
		}
	})

	t.Run("Envoy as a client", func(t *testing.T) {
		a := startApart(t)
		svid, err := tls.LoadX509KeyPair(filepath.Join(a.agentState("orders"), "svid.pem"), filepath.Join(a.agentState("orders"), "key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		// In place of orders' Envoy there is a server that resumes sessions, and ends the connection after each answer.
		a.agents["orders"].stop(t, syscall.SIGTERM)
		address := fmt.Sprintf("127.0.0.1:%d", a.ports["20083"])
		var connections, resumed atomic.Int64
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			connections.Add(1)
			if r.TLS.DidResume {
				resumed.Add(1)
			}
			w.Header().Set("connection", "close")
		}))
		if server.Listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address); err != nil {
			t.Fatal(err)
		}
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{
			Certificates: []tls.Certificate{svid}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		}
		server.StartTLS()
		t.Cleanup(server.Close)
		wants := newTickets()
		client := &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: "x",
			Certificates: []tls.Certificate{svid}, ClientSessionCache: wants,
		}
		greet(t, address, client)
		if again := greet(t, address, client); wants.given.Load() == 0 || !again.DidResume {
			t.Fatal("the server of the test resumes nothing")
		}
		const least = 5
		eventually(t, 30*time.Second, "Envoy calls the server", func(ctx context.Context) bool {
			a.call(ctx, http.MethodGet)
			return connections.Load() >= least
		})
		if resumed.Load() > 0 {
			t.Errorf("Envoy resumed %d of %d sessions", resumed.Load(), connections.Load())
		}
	})

	t.Run("the control plane, the issuer and the decision point", func(t *testing.T) {
		a := startApart(t)
		svid := func(name string) (cert, key string) {
			return filepath.Join(a.agentState(name), "svid.pem"), filepath.Join(a.agentState(name), "key.pem")
		}
		cert, key := svid("orders")
		for _, name := range []string{"authz", "authz http"} {
			a.listen[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		}
		startProcess(t, nil, "authz", "--config", a.dir, "--trust", filepath.Join(a.planeState(), "trust"), "--listen", a.listen["authz"],
			"--svid", cert, "--key", key, "--http-listen", a.listen["authz http"])
		eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, a.listen["authz http"]) })
		own, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"xds", "issuer", "authz"} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				if version == tls.VersionTLS12 && name != "authz" {
					continue // refused
				}
				cache := newTickets()
				config := &tls.Config{
					InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: version, NextProtos: []string{"h2"},
					Certificates: []tls.Certificate{own}, ClientSessionCache: cache, ServerName: "x",
				}
				for range 3 {
					if state := greet(t, a.listen[name], config); state.DidResume || cache.given.Load() > 0 {
						t.Errorf("%s, %s: resumed %t, %d session tickets", name, tls.VersionName(version), state.DidResume, cache.given.Load())
					}
				}
			}
		}
	})
}
