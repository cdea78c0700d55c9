package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// tcpDoorCall is a connection to a TCP service of acme, and what comes of it.
type tcpDoorCall struct {
	name, to, line string
	certificate    func(acme, globex *testca.CA) *testca.SVID // nil: none
	want           tcpOutcome
}

// tcpDoorCalls is the one table for the sidecar and for examples/envoy-tcp.
func tcpDoorCalls(t *testing.T) []tcpDoorCall {
	t.Helper()
	acme := func(uris ...string) func(acme, globex *testca.CA) *testca.SVID {
		return func(acme, _ *testca.CA) *testca.SVID { return acme.SVID("", testca.RawURIs(uris...)) }
	}
	globex := func(uris ...string) func(acme, globex *testca.CA) *testca.SVID {
		return func(_, globex *testca.CA) *testca.SVID { return globex.SVID("", testca.RawURIs(uris...)) }
	}
	old := func(acme, _ *testca.CA) *testca.SVID {
		return acme.SVID(acmeReports, testca.ValidFor(-2*time.Hour, -time.Hour))
	}
	stranger := func(*testca.CA, *testca.CA) *testca.SVID {
		return testca.Constrained(t, "acme.demo.test").SVID(acmeReports)
	}
	nothing, greeted := tcpOutcome{}, tcpOutcome{"220 acme/mail\n", 1}
	const db, mail = "acme/db", "acme/mail"
	return []tcpDoorCall{
		{"the caller that a rule names", db, "hello", acme(acmeReports), tcpOutcome{"acme/db: hello\n", 1}},
		{"and says nothing", db, "", acme(acmeReports), nothing},
		{"another account of the tenant", db, "hello", acme(acmeDB), nothing},
		{"a workload that nobody declared", db, "hello", acme("spiffe://acme.demo.test/ns/acme/sa/ghost"), nothing},
		{"two identities, the caller's first", db, "hello", acme(acmeReports, acmeDB), nothing},
		{"two identities, the caller's second", db, "hello", acme(acmeDB, acmeReports), nothing},
		{"another tenant", db, "hello", globex(globexTool), nothing},
		{"another tenant's root for the caller's name", db, "hello", globex(acmeReports), nothing},
		{"an expired certificate", db, "hello", old, nothing},
		{"a certificate of an unknown root", db, "hello", stranger, nothing},
		{"no certificate", db, "hello", nil, nothing},

		{"server first: the caller that a rule names", mail, "hello", acme(acmeReports), tcpOutcome{"220 acme/mail\nacme/mail: hello\n", 1}},
		{"server first: and says nothing", mail, "", acme(acmeReports), greeted},
		{"server first: another account of the tenant", mail, "hello", acme(acmeDB), nothing},
		{"server first: and says nothing, another account", mail, "", acme(acmeDB), nothing},
		{"server first: two identities, which only the second guard refuses", mail, "hello", acme(acmeReports, acmeDB), greeted},
		{"server first: another tenant", mail, "hello", globex(globexTool), nothing},
		{"server first: another tenant that says nothing", mail, "", globex(globexTool), nothing},
		{"server first: an expired certificate", mail, "hello", old, nothing},
		{"server first: no certificate", mail, "", nil, nothing},
	}
}

// TestTCPDoors opens the connections of the one table at a real sidecar, and then at the Envoy of examples/envoy-tcp.
func TestTCPDoors(t *testing.T) {
	m := startMeshOf(t, tcpDir(t))
	acme, globex := stolenRoot(t, m, "acme.demo.test"), stolenRoot(t, m, "globex.demo.test")
	f := startTCPForeign(t)
	for _, c := range tcpDoorCalls(t) {
		raw := demo.Raw{SNI: "acme/reports", Anonymous: c.certificate == nil}
		if !raw.Anonymous {
			cert := c.certificate(acme, globex).TLS()
			raw.Certificate = &cert
		}
		sidecar := c.past(t, m, &raw)
		if sidecar != c.want {
			t.Errorf("%s: the sidecar: %+v, want %+v", c.name, sidecar, c.want)
		}
		if got := f.open(t.Context(), t, c); got != sidecar {
			t.Errorf("%s: %+v, but the sidecar gives %+v", c.name, got, sidecar)
		}
	}
	genuine, mail := tcpDoorCalls(t)[0], tcpDoorCalls(t)[11]
	t.Run("a rule taken back holds though Envoy's own list still names the caller", func(t *testing.T) {
		file := filepath.Join(f.config, "tenants/acme/store.yaml")
		write(t, file, strings.ReplaceAll(string(readFile(t, file)), "from: {services: [reports]}", "from: {services: [db]}"))
		eventually(t, 15*time.Second, "the connection is refused", func(ctx context.Context) bool { return f.open(ctx, t, genuine) == tcpOutcome{} })
		eventually(t, 15*time.Second, "nothing but the greeting comes", func(ctx context.Context) bool { return f.open(ctx, t, mail) == tcpOutcome{"220 acme/mail\n", 1} })
		write(t, file, strings.ReplaceAll(string(readFile(t, file)), "from: {services: [db]}", "from: {services: [reports]}"))
		eventually(t, 15*time.Second, "it is let in again", func(ctx context.Context) bool { return f.open(ctx, t, genuine) == genuine.want })
	})
	t.Run("without the decision point", func(t *testing.T) {
		f.authz.stop(t, os.Interrupt)
		if got := f.open(t.Context(), t, genuine); got != (tcpOutcome{}) {
			t.Errorf("%+v", got)
		}
	})
}

// talk speaks as the protocol's client does: where the server speaks first, it listens before it says anything.
func (c tcpDoorCall) talk(t *testing.T, conn net.Conn) string {
	t.Helper()
	if c.to != "acme/mail" || c.line == "" {
		return talk(t, conn, c.line)
	}
	greeting := talk(t, conn, "")
	return greeting + talk(t, conn, c.line)
}

// past is what comes of the call at the sidecar.
func (c tcpDoorCall) past(t *testing.T, m *demo.Mesh, raw *demo.Raw) (o tcpOutcome) {
	t.Helper()
	before := hits(m).each[c.to]
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if conn, err := m.Connect(ctx, demo.Call{From: "acme/reports", To: c.to, Raw: raw}); err == nil {
		o.read = c.talk(t, conn)
		_ = conn.Close()
	}
	o.backend = hits(m).each[c.to] - before
	return o
}

// tcpForeign is the configuration of examples/envoy-tcp as it stands there, ports and paths apart, beside `ringfence authz`.
type tcpForeign struct {
	acme, globex *testca.CA
	config       string
	ports        map[string]int // by service
	hits         map[string]*atomic.Int64
	authz        *process
}

func startTCPForeign(t *testing.T) *tcpForeign {
	t.Helper()
	f := &tcpForeign{
		acme: testca.Constrained(t, "acme.demo.test"), globex: testca.Constrained(t, "globex.demo.test"),
		ports: map[string]int{"acme/db": freePort(t), "acme/mail": freePort(t)}, hits: map[string]*atomic.Int64{},
	}
	db, mail := f.app(t, "acme/db", ""), f.app(t, "acme/mail", "220 acme/mail\n")
	work := shortDir(t)
	trust, certs := filepath.Join(work, "trust"), filepath.Join(work, "certs")
	f.config = filepath.Join(work, "config")
	if err := os.CopyFS(f.config, os.DirFS("../examples/envoy-tcp/ringfence")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{trust, certs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(f.config, "mesh.yaml")
	write(t, file, strings.ReplaceAll(string(readFile(t, file)), "/run/ringfence/", work+"/"))
	for td, ca := range map[string]*testca.CA{
		"acme.demo.test": f.acme, "globex.demo.test": f.globex, "platform.demo.test": testca.Constrained(t, "platform.demo.test"),
	} {
		write(t, filepath.Join(trust, td+".pem"), string(ca.Bundle(td).PEM()))
	}
	svid := f.acme.SVID(acmeDB)
	write(t, filepath.Join(certs, "svid.pem"), string(svid.CertPEM()))
	write(t, filepath.Join(certs, "key.pem"), string(svid.KeyPEM()))
	write(t, filepath.Join(certs, "bundle.pem"), string(f.acme.Bundle("acme.demo.test").PEM()))
	health := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	f.authz = startProcess(t, nil, "authz", "--config", f.config, "--trust", trust, "--listen", "unix:"+filepath.Join(work, "own.sock"),
		"--asker", acmeDB, "--http-listen", health)
	eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, health) })
	text := strings.NewReplacer(
		"certs/", certs+"/", "path: admin.sock", "path: "+filepath.Join(work, "admin.sock"), "/run/ringfence/", work+"/",
		"port_value: 20412", fmt.Sprintf("port_value: %d", f.ports["acme/db"]), "port_value: 20414", fmt.Sprintf("port_value: %d", f.ports["acme/mail"]),
		"port_value: 20411", "port_value: "+db, "port_value: 20413", "port_value: "+mail,
	).Replace(string(readFile(t, "../examples/envoy-tcp/envoy.yaml")))
	bootstrap, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	realenvoy.Start(t, bootstrap)
	return f
}

// app greets, and answers each line with its name and that line.
func (f *tcpForeign) app(t *testing.T, name, greeting string) (port string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	hits := &atomic.Int64{}
	f.hits[name] = hits
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			hits.Add(1)
			go func() {
				defer conn.Close() //nolint:errcheck // nothing is lost
				if _, err := conn.Write([]byte(greeting)); err != nil {
					return
				}
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if _, err := fmt.Fprintf(conn, "%s: %s\n", name, lines.Text()); err != nil {
						return
					}
				}
			}()
		}
	}()
	return fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
}

func (f *tcpForeign) open(ctx context.Context, t *testing.T, c tcpDoorCall) tcpOutcome {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if c.certificate != nil {
		cert := c.certificate(f.acme, f.globex).TLS()
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	before := f.hits[c.to].Load()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", f.ports[c.to]))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close() //nolint:errcheck // only read
	var o tcpOutcome
	if conn := tls.Client(plain, config); conn.HandshakeContext(ctx) == nil {
		o.read = c.talk(t, conn)
	}
	o.backend = f.hits[c.to].Load() - before
	return o
}
