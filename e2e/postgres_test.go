package e2e_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// postgresBin names the directory with the binaries of a PostgreSQL server; make test-tcp sets it.
const postgresBin = "RINGFENCE_POSTGRES"

// postgres is a real server that runs until the test ends.
type postgres struct{ log string }

// startPostgres makes a database and serves it on loopback. A server refuses to run as root, so there it runs as nobody.
func startPostgres(t *testing.T, address netip.AddrPort) *postgres {
	t.Helper()
	dir, err := os.MkdirTemp("", "rfpg") //nolint:usetesting // TempDir is within directories that nobody else may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, gid := id(t, nobody.Uid), id(t, nobody.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // of the system's user list
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, filepath.Join(os.Getenv(postgresBin), name), args...)
		c.SysProcAttr, c.Dir, c.Env = attr, dir, []string{"HOME=" + dir, "LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := command(t.Context(), "initdb", "-D", data, "-U", "app", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p := &postgres{log: filepath.Join(t.TempDir(), "log")}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	// A server ends on SIGINT in order; the context kills only what does not.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	server := command(ctx, "postgres", "-D", data, "-p", strconv.Itoa(int(address.Port())),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "log_connections=on", "-c", "fsync=off")
	server.Stdout, server.Stderr = log, log
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGINT) }
	server.WaitDelay = 10 * time.Second
	attr.Pdeathsig = syscall.SIGINT
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the kernel sends the signal when the thread ends that started the server
		err := server.Start()
		started <- err
		if err == nil {
			_ = server.Wait()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = log.Close()
	})
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "PostgreSQL is ready", func(context.Context) bool {
		return strings.Contains(string(readFile(t, p.log)), "database system is ready to accept connections")
	})
	return p
}

func id(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// connections is how many the server has taken, whatever came of them.
func (p *postgres) connections(t *testing.T) int {
	t.Helper()
	return strings.Count(string(readFile(t, p.log)), "connection received:")
}

// psql asks a question through a loopback port with the stock client, as its defaults are.
func psql(t *testing.T, port netip.AddrPort, question string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), filepath.Join(os.Getenv(postgresBin), "psql"),
		"-h", port.Addr().String(), "-p", strconv.Itoa(int(port.Port())), "-U", "app", "-d", "postgres", "-XAtc", question)
	c.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=5")
	out, err := c.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// hello is the first packet of PostgreSQL's protocol: who connects to which database.
const hello = "\x00\x00\x00\x1f\x00\x03\x00\x00user\x00app\x00database\x00\x00"

// TestPostgres: a stock psql reaches its tenant's database, and a shared one, through its sidecar. Another tenant's sidecar
// and SVID get not one byte, and PostgreSQL's own log has no connection of theirs.
func TestPostgres(t *testing.T) {
	if os.Getenv(postgresBin) == "" {
		t.Skip("make test-tcp runs this with a PostgreSQL")
	}
	m, err := demo.Start(t.Context(), demo.Config{
		Dir: tcpDir(t), State: shortDir(t), Envoy: realenvoy.Path(t), Foreign: []string{"acme/db", "platform/ledger"},
		Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	servers, ports := map[string]*postgres{}, map[string]netip.AddrPort{}
	for name, as := range map[string]string{"acme/db": "db", "platform/ledger": "platform/ledger"} {
		backend, err := m.Backend(name)
		if err != nil {
			t.Fatal(err)
		}
		servers[name] = startPostgres(t, backend)
		if ports[name], err = m.OutboundTCP("acme/reports", as); err != nil {
			t.Fatal(err)
		}
		if got, err := psql(t, ports[name], "create table t as select g, repeat('x', 1000) as x from generate_series(1, 2000) g"); err != nil {
			t.Fatalf("%s: %s, %v", name, got, err)
		}
		if got, err := psql(t, ports[name], "select sum(g), length(string_agg(x, '')) from t"); got != "2001000|2000000" || err != nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if got, err := psql(t, ports[name], "select string_agg(x, '') from t"); len(got) != 2_000_000 || err != nil {
			t.Errorf("%s: %d bytes of two million, %v", name, len(got), err)
		}
	}

	for name, server := range servers {
		before := server.connections(t)
		for what, raw := range map[string]demo.Raw{
			"by the own tenant's label": {SNI: "acme/reports"}, "by its own label": {SNI: "globex/tool"}, "without a label": {},
		} {
			for _, first := range []string{"", hello} {
				if conn, err := m.Connect(t.Context(), demo.Call{From: "globex/tool", To: name, Raw: &raw}); err == nil {
					if got := talk(t, conn, first); got != "" {
						t.Errorf("another tenant's SVID, %s, at %s reads %q", what, name, got)
					}
					_ = conn.Close()
				}
			}
		}
		if port, err := m.OutboundTCP("globex/tool", "platform/ledger"); err != nil {
			t.Error(err)
		} else if got, err := psql(t, port, "select 1"); err == nil {
			t.Errorf("another tenant's sidecar leads to the ledger: %s", got)
		}
		// Its port to a database of that name is its own tenant's, whose application is the demo's.
		if port, err := m.OutboundTCP("globex/tool", "db"); err != nil {
			t.Error(err)
		} else if got := talk(t, connect(t, port), "x"); got != "globex/db: x\n" {
			t.Errorf("another tenant's sidecar leads to %q", got)
		}
		// A client that says nothing is nobody's connection yet, genuine or not.
		if got := talk(t, connect(t, ports[name]), ""); got != "" {
			t.Errorf("a silent client reads %q", got)
		}
		if after := server.connections(t); after != before {
			t.Errorf("%s saw %d connections of others", name, after-before)
		}
	}

	t.Run("a caller that is taken out", func(t *testing.T) {
		const rules = "tenants/acme/tcp.yaml"
		before := dbListener(t, m)
		session := make(chan string, 1)
		started := servers["acme/db"].connections(t)
		go func() {
			got, _ := psql(t, ports["acme/db"], "select 'open' from pg_sleep(4)")
			session <- got
		}()
		eventually(t, 5*time.Second, "the long session is open", func(context.Context) bool { return servers["acme/db"].connections(t) > started })
		within := func(what string, want bool) {
			t.Helper()
			start := time.Now()
			for {
				got, err := psql(t, ports["acme/db"], "select 1")
				took := time.Since(start)
				if (got == "1" && err == nil) == want {
					t.Logf("%s after %v", what, took)
					return
				}
				if took > effectiveWithin {
					t.Fatalf("%s: not after %v", what, took)
				}
			}
		}
		edit(t, m, rules, "name: reports-connects, from: {services: [reports]}", "name: reports-connects, from: {services: [db]}")
		within("it is refused", false)
		edit(t, m, rules, "name: reports-connects, from: {services: [db]}", "name: reports-connects, from: {services: [reports]}")
		within("it is let in again", true)
		if string(before) != string(dbListener(t, m)) {
			t.Error("the listener changed with its callers")
		}
		if got := <-session; got != "open" {
			t.Errorf("the session that was open ended with %q", got)
		}
	})
}
