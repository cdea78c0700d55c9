package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const (
	globexWeb    = "spiffe://globex.demo.test/ns/globex/sa/web"
	globexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	patience     = 20 * time.Second
)

// decisionPoint is a running `ringfence authz` over a copy of the example.
type decisionPoint struct {
	t             *testing.T
	dir           string
	address       string
	acme, globex  *testca.CA
	caller, asker *testca.SVID
	log           *lockedBuffer
	end           func() int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startAuthz(t *testing.T) *decisionPoint {
	t.Helper()
	d := &decisionPoint{
		t: t, dir: t.TempDir(), log: &lockedBuffer{},
		acme: testca.Constrained(t, "acme.demo.test"), globex: testca.Constrained(t, "globex.demo.test"),
	}
	d.caller, d.asker = d.globex.SVID(globexWeb), d.globex.SVID(globexOrders)
	platform := testca.Constrained(t, "platform.demo.test")
	self := platform.SVID("spiffe://platform.demo.test/ns/platform/sa/billing")
	if err := os.CopyFS(filepath.Join(d.dir, "config"), examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	d.write("trust/acme.demo.test.pem", d.acme.Bundle("acme.demo.test").PEM())
	d.write("trust/globex.demo.test.pem", d.globex.Bundle("globex.demo.test").PEM())
	d.write("trust/platform.demo.test.pem", platform.Bundle("platform.demo.test").PEM())
	d.write("svid.pem", self.CertPEM())
	d.write("key.pem", self.KeyPEM())
	d.address = freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{
			"authz", "--config", d.path("config"), "--trust", d.path("trust"), "--listen", "unix:" + d.path("s"), "--asker", globexOrders,
			"--listen", d.address, "--svid", d.path("svid.pem"), "--key", d.path("key.pem"), "--http-listen", "",
		}, process{out: d.log, err: d.log, lookupEnv: func(string) (string, bool) { return "", false }})
	}()
	d.end = sync.OnceValue(func() int { cancel(); return <-done })
	t.Cleanup(func() {
		if code := d.end(); code != exitDone {
			t.Errorf("exit code %d:\n%s", code, d.log)
		}
	})
	return d
}

func (d *decisionPoint) path(name string) string { return filepath.Join(d.dir, name) }

func (d *decisionPoint) write(name string, data []byte) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(d.path(name)), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// ports are given once each, to all tests of this package.
var ports freeport.Finder

func freePort(t *testing.T) string {
	t.Helper()
	port, err := ports.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// overSocket asks through the Unix socket, overTLS with a certificate through the port.
func (d *decisionPoint) overSocket() authv3.AuthorizationClient {
	return d.client("unix:"+d.path("s"), insecure.NewCredentials())
}

func (d *decisionPoint) overTLS(asker *testca.SVID) authv3.AuthorizationClient {
	c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if asker != nil {
		c.Certificates = []tls.Certificate{asker.TLS()}
	}
	return d.client(d.address, credentials.NewTLS(c))
}

func (d *decisionPoint) client(target string, c credentials.TransportCredentials) authv3.AuthorizationClient {
	d.t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

// ask asks as Envoy does whether globex's web may call globex's orders.
func (d *decisionPoint) ask(c authv3.AuthorizationClient, method string) (int32, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
	defer cancel()
	answer, err := c.Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Principal: globexWeb, Certificate: url.PathEscape(string(d.caller.CertPEM()))},
		Destination: &authv3.AttributeContext_Peer{Principal: globexOrders},
		Request: &authv3.AttributeContext_Request{
			Http: &authv3.AttributeContext_HttpRequest{Method: method, Path: "/orders"},
		},
		ContextExtensions: map[string]string{"service": "globex/orders", "port": "http"},
	}})
	return int32(answer.GetDeniedResponse().GetStatus().GetCode()), err
}

const allowed = 0

// until asks until the answer is the wanted one.
func (d *decisionPoint) until(c authv3.AuthorizationClient, method string, want int32) {
	d.t.Helper()
	var (
		got int32
		err error
	)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = d.ask(c, method); err == nil && got == want {
			return
		}
	}
	d.t.Fatalf("%s: got %d, %v; want %d\n%s", method, got, err, want, d.log)
}

func TestAuthzAnswersAndFollows(t *testing.T) {
	t.Parallel()
	d := startAuthz(t)
	socket, own := d.overSocket(), d.overTLS(d.asker)
	d.until(socket, "GET", allowed)
	d.until(own, "GET", allowed)
	d.until(socket, "POST", 403)
	d.until(d.overTLS(d.acme.SVID(acmeOrders)), "GET", 403)
	for name, asker := range map[string]*testca.SVID{
		"none":            nil,
		"of another root": testca.Unconstrained(t, "x").SVID(globexOrders),
		"expired":         d.globex.SVID(globexOrders, testca.ValidFor(-2*time.Hour, -time.Hour)),
	} {
		if got, err := d.ask(d.overTLS(asker), "GET"); err == nil {
			t.Errorf("an asker with certificate %s is answered: %d", name, got)
		}
	}

	file := d.path("config/tenants/globex/orders.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d.write("config/tenants/globex/orders.yaml", bytes.Replace(before, []byte("[GET]"), []byte("[GET, POST]"), 1))
	d.until(socket, "POST", allowed)
	d.write("config/tenants/globex/orders.yaml", []byte("kind: Nonsense"))
	d.until(own, "POST", allowed)

	// Another root: the caller of before is nobody any more, and so is the asker.
	d.write("trust/globex.demo.test.pem", testca.Constrained(t, "globex.demo.test").Bundle("globex.demo.test").PEM())
	d.until(socket, "POST", 403)
	if got, err := d.ask(d.overTLS(d.asker), "GET"); err == nil {
		t.Errorf("an asker of a root that is not trusted any more is answered: %d", got)
	}
	if code := d.end(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(d.path("s")); err == nil {
		t.Error("the socket stays behind")
	}
	if !strings.Contains(d.log.String(), `"code":"RF1012"`) {
		t.Errorf("the broken file is not named:\n%s", d.log)
	}
}

func TestKeyPairFollowsItsFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := testca.Constrained(t, "platform.demo.test")
	pair := &keyPair{cert: filepath.Join(dir, "svid.pem"), key: filepath.Join(dir, "key.pem")}
	if _, err := pair.certificate(nil); err == nil {
		t.Error("a certificate out of nothing")
	}
	put := func(cert, key []byte) {
		t.Helper()
		if err := os.WriteFile(pair.cert, cert, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(pair.key, key, 0o600); err != nil {
			t.Fatal(err)
		}
		pair.looked = time.Time{}
	}
	shown := func() []byte {
		t.Helper()
		c, err := pair.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	first, second := ca.SVID(globexOrders), ca.SVID(globexOrders)
	put(first.CertPEM(), first.KeyPEM())
	if !bytes.Equal(shown(), first.Cert.Raw) {
		t.Error("not the first")
	}
	put(second.CertPEM(), first.KeyPEM()) // halfway
	if !bytes.Equal(shown(), first.Cert.Raw) {
		t.Error("half a pair took the place of the first")
	}
	put(second.CertPEM(), second.KeyPEM())
	if !bytes.Equal(shown(), second.Cert.Raw) {
		t.Error("not the second")
	}
}

// TestAuthzRefusesRevokedAskers: a connection that is open is worth nothing within a second of the revocation of its certificate or
// its workload, a new one neither, and the socket of the workload is not answered any more. Others are.
func TestAuthzRefusesRevokedAskers(t *testing.T) {
	t.Parallel()
	d := startAuthz(t)
	const revoked = "config/platform/revoked.yaml"
	leaf, err := x509.ParseCertificate(d.asker.TLS().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	again := d.globex.SVID(globexOrders)
	for name, c := range map[string]struct {
		spec          string
		socket, other bool // whether they are answered still
	}{
		"workload": {"workload: \"" + globexOrders + "\"", false, false},
		"serial":   {fmt.Sprintf("certificate: {trustDomain: globex.demo.test, serial: %q}", leaf.SerialNumber.Text(16)), true, true},
	} {
		d.write(revoked, nil)
		own, other, socket := d.overTLS(d.asker), d.overTLS(again), d.overSocket()
		for _, asks := range []authv3.AuthorizationClient{own, other, socket} {
			d.until(asks, "GET", allowed)
		}
		start := time.Now()
		d.write(revoked, []byte("apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: lost}\nspec:\n  reason: lost\n"+
			"  notAfter: \"2036-01-01T00:00:00Z\"\n  "+c.spec+"\n"))
		for deadline := start.Add(patience); ; {
			if _, err := d.ask(own, "GET"); status.Code(err) == codes.PermissionDenied {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: it is answered still\n%s", name, d.log)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: it took %v", name, took)
		} else {
			t.Logf("%s: refused after %v", name, took)
		}
		for who, asks := range map[string]struct {
			client   authv3.AuthorizationClient
			answered bool
		}{
			"a new connection": {d.overTLS(d.asker), false}, "another certificate": {other, c.other}, "the socket": {socket, c.socket},
			"another tenant": {d.overTLS(d.acme.SVID(acmeOrders)), true},
		} {
			if _, err := d.ask(asks.client, "GET"); (err == nil) != asks.answered {
				t.Errorf("%s revoked, %s: %v", name, who, err)
			}
		}
	}
}
