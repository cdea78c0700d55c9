//go:build spire

package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

const dbService = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: db}
spec:
  namespace: acme
  serviceAccounts: [orders]
  proxy: Direct
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: %d}]
  endpoints: [{address: 127.0.0.1, port: %d}]
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: db}
spec: {service: db, rules: [{name: web-connects, from: {services: [web]}}]}
`

// echo is an application that sends back what it reads, and counts its connections.
func echo(t testing.TB, hits *atomic.Int64) (port int) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			hits.Add(1)
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// tcp: who may connect is said by exact IDs in the handshake, and by ringfence authz.
func (d *direct) tcp(t *testing.T) {
	said := func(conn net.Conn, err error) string {
		if err != nil {
			return ""
		}
		defer conn.Close() //nolint:errcheck // only read
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return ""
		}
		b := make([]byte, len("hello"))
		n, _ := io.ReadFull(conn, b)
		return string(b[:n])
	}
	if got := said(net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.db.outbound))); got != "hello" {
		t.Errorf("web's connection: %q", got)
	}
	globex, err := tls.LoadX509KeyPair(filepath.Join(d.agentState("web"), "svid.pem"), filepath.Join(d.agentState("web"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cert *tls.Certificate
		want string
	}{
		"web itself":              {fromSPIRE(t, d.socket, acmeWeb), "hello"},
		"an account without rule": {fromSPIRE(t, d.socket, acmeStranger), ""},
		"another tenant":          {&globex, ""},
	} {
		before := d.hits.Load()
		config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: d.web.sniOf("service/acme/db"), Certificates: []tls.Certificate{*tt.cert}}
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.db.sidecar), config)
		var plain net.Conn = conn
		if got := said(plain, err); got != tt.want {
			t.Errorf("%s: %q", name, got)
		}
		if reached := d.hits.Load() - before; (reached > 0) != (tt.want != "") {
			t.Errorf("%s: the application was reached %d times", name, reached)
		}
	}
}
