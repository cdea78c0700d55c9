package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	acmeDB      = "spiffe://acme.demo.test/ns/acme/sa/db"
	acmeReports = "spiffe://acme.demo.test/ns/acme/sa/reports"
	globexTool  = "spiffe://globex.demo.test/ns/globex/sa/tool"
)

// tcpDir is a configuration directory with the TCP services of tenancytest and nothing else, so that few Envoys run. acme's
// reports may connect to its db and its mail.
func tcpDir(t testing.TB) string {
	t.Helper()
	files := tenancytest.TCPFiles(t)
	dir := t.TempDir()
	for _, name := range []string{"mesh.yaml", "platform/tenants.yaml", "platform/ledger.yaml", "tenants/acme/tcp.yaml", "tenants/globex/tcp.yaml"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, strings.Replace(files[name], "services: [orders]", "services: [reports]", 1))
	}
	return dir
}

// tcpOutcome is what came of a connection.
type tcpOutcome struct {
	read    string // every byte that was received
	backend int64  // connections that the application saw
}

// silence is how long a connection on which nothing comes is waited for.
const silence = 500 * time.Millisecond

// talk sends a line, or nothing where line is empty, and reads until nothing more comes.
func talk(t testing.TB, conn net.Conn, line string) string {
	t.Helper()
	if line != "" {
		if _, err := conn.Write([]byte(line + "\n")); err != nil {
			return ""
		}
	}
	var all bytes.Buffer
	buffer := make([]byte, 1024)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			return all.String()
		}
	}
}

// connect opens a connection, and closes it with the test.
func connect(t testing.TB, address netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// through is what comes of a connection through the sidecar of from.
func through(t testing.TB, m *demo.Mesh, from, to, line string) string {
	t.Helper()
	port, err := m.OutboundTCP(from, to)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, port)
	defer conn.Close() //nolint:errcheck // only read
	return talk(t, conn, line)
}

// past is what comes of TLS by hand. A handshake that fails has read nothing.
func past(t testing.TB, m *demo.Mesh, c demo.Call, line string) tcpOutcome {
	t.Helper()
	before := hits(m).each[c.To]
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var o tcpOutcome
	if conn, err := m.Connect(ctx, c); err == nil {
		o.read = talk(t, conn, line)
		_ = conn.Close()
	}
	o.backend = hits(m).each[c.To] - before
	return o
}

// TestTCP: a stock client reaches a TCP service of its tenant, and a shared one, through its own sidecar. Nobody else reads
// a byte, and the application sees no connection, whichever side speaks first.
func TestTCP(t *testing.T) {
	m := startMeshOf(t, tcpDir(t))
	for to, want := range map[string]string{
		"db": "acme/db: hello\n", "mail": "220 acme/mail\nacme/mail: hello\n", "platform/ledger": "platform/ledger: hello\n",
	} {
		if got := through(t, m, "acme/reports", to, "hello"); got != want {
			t.Errorf("reports to %s: %q, want %q", to, got, want)
		}
	}
	if got := through(t, m, "acme/reports", "mail", ""); got != "220 acme/mail\n" {
		t.Errorf("a silent client reads the greeting %q", got)
	}
	t.Run("a silent client where the client speaks first", func(t *testing.T) {
		before := hits(m).each["acme/db"]
		if got := through(t, m, "acme/reports", "db", ""); got != "" {
			t.Errorf("it reads %q", got)
		}
		if reached := hits(m).each["acme/db"] - before; reached != 0 {
			t.Errorf("the application saw %d connections", reached)
		}
	})
	t.Run("another tenant's sidecar has no way", func(t *testing.T) {
		if got := through(t, m, "globex/tool", "db", "hello"); got != "globex/db: hello\n" {
			t.Errorf("its own db: %q", got)
		}
		port, err := m.OutboundTCP("globex/tool", "platform/ledger")
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", port.String()); err == nil {
			t.Errorf("something listens for a shared service that is not granted: %q", talk(t, conn, "hello"))
			_ = conn.Close()
		}
	})

	acmeRoot, globexRoot := stolenRoot(t, m, "acme.demo.test"), stolenRoot(t, m, "globex.demo.test")
	cert := func(s *testca.SVID) *tls.Certificate { c := s.TLS(); return &c }
	for _, to := range []string{"acme/db", "acme/mail", "platform/ledger"} {
		for _, attack := range []struct {
			name, from string
			raw        demo.Raw
		}{
			{"another tenant's SVID, by the own tenant's label", "globex/tool", demo.Raw{SNI: "acme/reports"}},
			{"another tenant's SVID, by its own label", "globex/tool", demo.Raw{SNI: "globex/tool"}},
			{"another tenant's SVID, without a label", "globex/tool", demo.Raw{}},
			{"no certificate", "acme/reports", demo.Raw{SNI: "acme/reports", Anonymous: true}},
			{"expired", "acme/reports", demo.Raw{SNI: "acme/reports", Certificate: cert(acmeRoot.SVID(acmeReports, testca.ValidFor(-2*time.Hour, -time.Hour)))}},
			{"by another tenant's root", "globex/tool", demo.Raw{SNI: "acme/reports", Certificate: cert(globexRoot.SVID(acmeReports))}},
			{"two URI SANs of another tenant", "globex/tool", demo.Raw{SNI: "acme/reports", Certificate: cert(globexRoot.SVID("", testca.RawURIs(acmeReports, globexTool)))}},
			{"nobody's own name", "globex/tool", demo.Raw{SNI: "acme/reports", Certificate: cert(globexRoot.SVID("ringfence:nobody"))}},
		} {
			for _, line := range []string{"", "hello"} {
				o := past(t, m, demo.Call{From: attack.from, To: to, Raw: &attack.raw}, line)
				if o != (tcpOutcome{}) {
					t.Errorf("%s at %s, sending %q: it reads %q, and the application sees %d connections", attack.name, to, line, o.read, o.backend)
				}
			}
		}
	}
	// Within the tenant: whom no rule names gets as little, and a genuine caller gets through, so the test bed can tell.
	for _, tt := range []struct {
		name, to string
		raw      demo.Raw
		want     tcpOutcome
	}{
		{"genuine", "acme/db", demo.Raw{SNI: "acme/reports"}, tcpOutcome{"acme/db: hello\n", 1}},
		{"genuine, at the server that speaks first", "acme/mail", demo.Raw{SNI: "acme/reports"}, tcpOutcome{"220 acme/mail\nacme/mail: hello\n", 1}},
		{"genuine, at the shared service", "platform/ledger", demo.Raw{SNI: "acme/reports"}, tcpOutcome{"platform/ledger: hello\n", 1}},
		{"whom no rule names", "acme/db", demo.Raw{SNI: "acme/reports", Certificate: cert(acmeRoot.SVID(acmeDB))}, tcpOutcome{}},
		{"whom no rule names, at the server that speaks first", "acme/mail", demo.Raw{SNI: "acme/reports", Certificate: cert(acmeRoot.SVID(acmeDB))}, tcpOutcome{}},
		{"who is not declared", "acme/db", demo.Raw{SNI: "acme/reports", Certificate: cert(acmeRoot.SVID("spiffe://acme.demo.test/ns/acme/sa/ghost"))}, tcpOutcome{}},
		{"two URI SANs, which only ext_authz refuses", "acme/db", demo.Raw{SNI: "acme/reports", Certificate: cert(acmeRoot.SVID("", testca.RawURIs(acmeReports, acmeDB)))}, tcpOutcome{}},
	} {
		if o := past(t, m, demo.Call{From: "acme/reports", To: tt.to, Raw: &tt.raw}, "hello"); o != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, o, tt.want)
		}
	}
}

// TestEachTCPGuardAlone takes guards out of a copy of the configuration that the Envoy in front of a TCP service really
// holds. The copy listens at the service's port, which the decision point goes by, at another address.
//
// Guard 1 is the handshake: the roots, and the list of exact callers. Guard 2 is ext_authz. Where the server speaks first,
// guard 2 alone cannot keep its greeting, and keeps everything after it.
func TestEachTCPGuardAlone(t *testing.T) {
	m := startMeshOf(t, tcpDir(t))
	var roots []byte
	for _, td := range []string{"acme.demo.test", "globex.demo.test"} {
		roots = append(roots, readFile(t, m.TrustBundle(td))...)
	}
	trust := func(t *testing.T, c *copied) { c.trust(t, roots) }
	admit := func(t *testing.T, c *copied) { c.admit(t, globexTool, acmeReports) }
	everybody := func(t *testing.T, c *copied) { c.admit(t) }
	noAuthz := func(t *testing.T, c *copied) { c.withoutTCPAuthz(t) }
	noAgent := func(t *testing.T, c *copied) {
		c.servers[0].GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().Address = &corev3.Address{Address: &corev3.Address_Pipe{
			Pipe: &corev3.Pipe{Path: filepath.Join(t.TempDir(), "none.sock")},
		}}
	}
	early := func(t *testing.T, c *copied) {
		c.eachProxy(t, func(p *tcpproxyv3.TcpProxy) {
			p.UpstreamConnectMode, p.MaxEarlyDataBytes = tcpproxyv3.UpstreamConnectMode_IMMEDIATE, nil
		})
	}
	type changes = []func(*testing.T, *copied)
	for _, tt := range []struct {
		name, to, from string
		change         changes
		want           tcpOutcome
	}{
		{"the copy as it is", "acme/db", "globex/tool", nil, tcpOutcome{}},
		{"roots alone", "acme/db", "globex/tool", changes{noAuthz, admit}, tcpOutcome{}},
		{"the list of callers alone", "acme/db", "globex/tool", changes{noAuthz, trust}, tcpOutcome{}},
		{"ext_authz alone", "acme/db", "globex/tool", changes{trust, admit}, tcpOutcome{}},
		{"ext_authz alone, with an empty list", "acme/db", "globex/tool", changes{trust, everybody}, tcpOutcome{}},
		{"an empty list lets everybody in", "acme/db", "globex/tool", changes{noAuthz, trust, everybody}, tcpOutcome{"acme/db: hello\n", 1}},
		{"no guard", "acme/db", "globex/tool", changes{noAuthz, trust, admit}, tcpOutcome{"acme/db: hello\n", 1}},
		{"server first: roots alone", "acme/mail", "globex/tool", changes{noAuthz, admit}, tcpOutcome{}},
		{"server first: the list of callers alone", "acme/mail", "globex/tool", changes{noAuthz, trust}, tcpOutcome{}},
		{"server first: ext_authz alone keeps what follows the greeting", "acme/mail", "globex/tool", changes{trust, admit}, tcpOutcome{"220 acme/mail\n", 1}},
		{"server first: no guard", "acme/mail", "globex/tool", changes{noAuthz, trust, admit}, tcpOutcome{"220 acme/mail\nacme/mail: hello\n", 1}},
		{"server first: a proxy that connects before the handshake is over", "acme/mail", "globex/tool", changes{early}, tcpOutcome{"", 1}},
		{"a genuine caller at the copy", "acme/db", "acme/reports", nil, tcpOutcome{"acme/db: hello\n", 1}},
		{"a genuine caller while the decision point is away", "acme/db", "acme/reports", changes{noAgent}, tcpOutcome{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := copyInbound(t, m.AdminSocket("acme/db"), "inbound/"+tt.to)
			for _, change := range tt.change {
				change(t, c)
			}
			inbound, err := m.Inbound(tt.to)
			if err != nil {
				t.Fatal(err)
			}
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), inbound.Port()).String()
			raw := &demo.Raw{SNI: "acme/reports", Address: runCopyAt(t, m, "acme/db", c, at)}
			if o := past(t, m, demo.Call{From: tt.from, To: tt.to, Raw: raw}, "hello"); o != tt.want {
				t.Errorf("%+v, want %+v", o, tt.want)
			}
		})
	}
	t.Run("a connection ends at its age", func(t *testing.T) {
		c := copyInbound(t, m.AdminSocket("acme/db"), "inbound/acme/db")
		c.eachProxy(t, func(p *tcpproxyv3.TcpProxy) {
			if p.GetMaxDownstreamConnectionDuration().AsDuration() != 12*time.Hour {
				t.Errorf("connections live %v", p.GetMaxDownstreamConnectionDuration().AsDuration())
			}
			p.MaxDownstreamConnectionDuration = durationpb.New(time.Second)
		})
		inbound, err := m.Inbound("acme/db")
		if err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), inbound.Port()).String()
		conn, err := m.Connect(t.Context(), demo.Call{From: "acme/reports", To: "acme/db", Raw: &demo.Raw{SNI: "acme/reports", Address: runCopyAt(t, m, "acme/db", c, at)}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // only read
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(conn); string(text) != "acme/db: hello\n" || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q, %v", text, err)
		}
	})
}

// TestTCPCallersChange takes a caller out of the rules and puts it back: each holds for the next connection, no byte of the
// listener changes, and a connection that is open goes on.
func TestTCPCallersChange(t *testing.T) {
	m := startMeshOf(t, tcpDir(t))
	const rules = "tenants/acme/tcp.yaml"
	port, err := m.OutboundTCP("acme/reports", "db")
	if err != nil {
		t.Fatal(err)
	}
	open := connect(t, port)
	answers := bufio.NewReader(open)
	goesOn := func() {
		t.Helper()
		if _, err := open.Write([]byte("still\n")); err != nil {
			t.Fatal(err)
		}
		if err := open.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if line, err := answers.ReadString('\n'); line != "acme/db: still\n" || err != nil {
			t.Errorf("the open connection: %q, %v", line, err)
		}
	}
	goesOn()
	before := dbListener(t, m)
	call := demo.Call{From: "acme/reports", To: "acme/db", Raw: &demo.Raw{SNI: "acme/reports"}}
	within := func(what string, want bool) {
		t.Helper()
		start := time.Now()
		for {
			conn, err := m.Connect(t.Context(), call)
			admitted := false
			if err == nil {
				admitted = echoes(conn)
				_ = conn.Close()
			}
			took := time.Since(start)
			if admitted == want {
				t.Logf("%s after %v", what, took)
				return
			}
			if took > effectiveWithin {
				t.Fatalf("%s: not after %v", what, took)
			}
		}
	}
	within("at the start", true)
	edit(t, m, rules, "name: reports-connects, from: {services: [reports]}", "name: reports-connects, from: {services: [db]}")
	within("a caller is taken out", false)
	goesOn()
	edit(t, m, rules, "name: reports-connects, from: {services: [db]}", "name: reports-connects, from: {services: [db, reports]}")
	within("a caller is let in", true)
	edit(t, m, rules, "service: db\n  rules:", "service: mail\n  rules:")
	within("nobody is left", false)
	if got := through(t, m, "acme/reports", "db", "hello"); got != "" {
		t.Errorf("with an empty list of callers: %q", got)
	}
	edit(t, m, rules, "metadata: {name: db}\nspec:\n  service: mail\n", "metadata: {name: db}\nspec:\n  service: db\n")
	within("all are back", true)
	goesOn()
	if !bytes.Equal(before, dbListener(t, m)) {
		t.Error("the listener changed with its callers")
	}
}

// TestTCPGrantAfterItsTime: the Grant's time is up while its tenant's chain still stands. What the client sends is refused.
func TestTCPGrantAfterItsTime(t *testing.T) {
	m := startMeshOf(t, tcpDir(t))
	if got := through(t, m, "acme/reports", "platform/ledger", "hello"); got != "platform/ledger: hello\n" {
		t.Fatalf("before: %q", got)
	}
	edit(t, m, "platform/ledger.yaml", "2100-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
	ended := func(context.Context) bool { return through(t, m, "acme/reports", "platform/ledger", "hello") == "" } //nolint:contextcheck // t's
	eventually(t, 5*time.Second, "the Grant is over", ended)
	before := hits(m).each["platform/ledger"]
	if got := through(t, m, "acme/reports", "platform/ledger", "hello"); got != "" || hits(m).each["platform/ledger"] != before {
		t.Errorf("after: %q", got)
	}
}

// echoes reports whether the application answers.
func echoes(conn net.Conn) bool {
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasSuffix(line, ": hello\n")
}

// dbListener is the listener of acme's db as its Envoy holds it, with the version and the time of its last change.
func dbListener(t testing.TB, m *demo.Mesh) []byte {
	t.Helper()
	for _, section := range configDump(t, m.AdminSocket("acme/db")).GetConfigs() {
		dump := &adminv3.ListenersConfigDump{}
		if !section.MessageIs(dump) {
			continue
		}
		for _, d := range unpack(t, section, dump).GetDynamicListeners() {
			if d.GetName() != "inbound/acme/db" {
				continue
			}
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
	}
	t.Fatal("the sidecar has no listener")
	return nil
}
