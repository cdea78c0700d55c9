package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// What a process that a test starts finds in its environment: an agent's configuration, or the path of a socket.
const (
	childConfig = "RINGFENCE_TEST_AGENT"
	childDial   = "RINGFENCE_TEST_DIAL"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childConfig); text != "" {
		os.Exit(child(text))
	}
	if path := os.Getenv(childDial); path != "" {
		os.Exit(dialAsNobody(path))
	}
	goleak.VerifyTestMain(m)
}

// dialAsNobody connects as another user and says what it hears.
func dialAsNobody(path string) int {
	const nobody = 65534
	if err := syscall.Setuid(nobody); err != nil {
		return 2
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 1
	}
	heard, _ := io.ReadAll(conn)
	fmt.Fprintf(os.Stdout, "connected, heard %q", heard)
	return 0
}

// childAgent is what of a configuration goes through the environment.
type childAgent struct {
	ID             string `json:"id"`
	StateDir       string `json:"stateDir"`
	ControlPlane   string `json:"controlPlane"`
	Issuer         string `json:"issuer"`
	ControlPlaneID string `json:"controlPlaneId"`
	JoinToken      string `json:"joinToken"`
	EnvoyPath      string `json:"envoyPath"`
	PlatformRoot   []byte `json:"platformRoot"`
}

// child is an agent in a process of its own, to be killed.
func child(text string) int {
	var c childAgent
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return 2
	}
	err := agent.Run(context.Background(), agent.Config{
		ID: c.ID, StateDir: c.StateDir, ControlPlane: c.ControlPlane, Issuer: c.Issuer, ControlPlaneID: c.ControlPlaneID,
		PlatformRoot: c.PlatformRoot, JoinToken: c.JoinToken, EnvoyPath: c.EnvoyPath, Log: zap.NewNop(),
	})
	if err != nil {
		return 1
	}
	return 0
}

func TestFromFirstStartToRestart(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	first := a.Status()
	eventually(t, "the control plane knows", func() bool {
		all := p.server.Status()
		return len(all) == 1 && all[0].Acked != "" && all[0].Acked == all[0].Target && strings.HasPrefix(all[0].Acked, first.Snapshot)
	})
	if !strings.Contains(a.dump(), "service/acme/orders") {
		t.Error("Envoy does not have its configuration")
	}
	private(t, dir)

	// Envoy dies: it is started again, and comes to what it had.
	if err := syscall.Kill(first.EnvoyPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another Envoy", func() bool { s := a.Status(); return s.EnvoyPID != 0 && s.EnvoyPID != first.EnvoyPID })
	a.ready()
	if got := a.Status().Restarts; got != 1 {
		t.Errorf("%d restarts", got)
	}

	// Everything stops, and Envoy with it.
	pid := a.Status().EnvoyPID
	p.stop()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("Envoy outlived its agent")
	}

	// Without the control plane and without a token: what is on disk serves.
	a = start(t, p.config(dir, false))
	a.ready()
	if s := a.Status(); s.ControlPlane || s.Snapshot != first.Snapshot || !s.NotAfter.Equal(first.NotAfter) {
		t.Errorf("status %+v, before %+v", s, first)
	}

	// The control plane is back, and has something new.
	p.files["tenants/acme/orders.yaml"] = strings.Replace(p.files["tenants/acme/orders.yaml"], "services: [web]", "services: [web, orders]", 1)
	p.publish()
	p.restart()
	eventually(t, "the change arrives", func() bool { return a.Status().Snapshot != first.Snapshot && a.Ready() == nil })
}

// private: nobody else can read or open anything in the state directory.
func private(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"", "key.pem", "svid.pem", "bundle.pem", "identity.json", "state", "bootstrap.json", "envoy.sock", "admin.sock"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q has mode %o", name, info.Mode().Perm())
		}
	}
}

// Envoy can be given a directory of its own: it holds the bootstrap and the sockets, and nothing that is the agent's.
func TestEnvoyDir(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	root := realenvoy.Dir(t)
	c := p.config(filepath.Join(root, "a"), true)
	c.EnvoyDir = filepath.Join(root, "e")
	a := start(t, c)
	a.ready()
	names := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := names(c.EnvoyDir); !slices.Equal(got, []string{"admin.sock", "bootstrap.json", "envoy.sock", "lock"}) {
		t.Errorf("Envoy sees %v", got)
	}
	if info, err := os.Stat(c.EnvoyDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its directory: %v %v", info.Mode(), err)
	}
	for _, name := range names(c.StateDir) {
		if strings.HasSuffix(name, ".sock") && name != "workload.sock" || name == "bootstrap.json" { // that one is for applications
			t.Errorf("%s is in the state directory", name)
		}
	}
	second := p.config(filepath.Join(root, "b"), true)
	second.EnvoyDir = c.EnvoyDir
	if _, err := agent.New(second); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("two agents in one directory: %v", err)
	}
}

func TestForeignClusterFromHostileControlPlane(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	globex, err := p.Mapping().Parse("spiffe://globex.demo.test/ns/globex/sa/web")
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, ok := p.Snapshot(globex)
	if !ok {
		t.Fatal("globex/web has no snapshot")
	}
	a := start(t, p.config(filepath.Join(realenvoy.Dir(t), "a"), true))
	a.ready()
	before := a.Status().Snapshot

	foreign := theirs.Resources(xds.ClusterType)[0]
	p.mu.Lock()
	p.hostile = func(w identity.WorkloadID, s xds.Snapshot) xds.Snapshot {
		s, err := xds.NewSnapshot(w, append(slices.Clone(s.All()), foreign)...)
		if err != nil {
			t.Error(err)
		}
		return s
	}
	p.mu.Unlock()
	p.tell()
	key := delta.Key{TypeURL: xds.ClusterType, Name: foreign.Name()}
	eventually(t, "the foreign cluster is refused", func() bool {
		all := p.server.Status()
		return len(all) == 1 && strings.Contains(all[0].Refused[key].Text, "refused")
	})
	if got := a.Status().Snapshot; got != before {
		t.Errorf("configuration %s, want the old one, %s", got, before)
	}
	if strings.Contains(a.dump(), "globex") {
		t.Error("Envoy knows of globex")
	}

	p.mu.Lock()
	p.hostile = nil
	p.mu.Unlock()
	p.files["tenants/acme/orders.yaml"] = strings.Replace(p.files["tenants/acme/orders.yaml"], "services: [web]", "services: [web, orders]", 1)
	p.publish()
	eventually(t, "an honest change arrives", func() bool { return a.Status().Snapshot != before && a.Ready() == nil })
}

func TestJoining(t *testing.T) { //nolint:tparallel // see below
	t.Parallel()
	p := newPlane(t)
	joined := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(joined, true))
	a.ready()
	if _, err := agent.New(p.config(joined, false)); err == nil {
		t.Error("two agents on one state directory")
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(c *agent.Config){
		"no token":             func(c *agent.Config) { c.StateDir = filepath.Join(realenvoy.Dir(t), "b") },
		"a token that is none": func(c *agent.Config) { c.StateDir = filepath.Join(realenvoy.Dir(t), "b"); c.JoinToken = "nonsense" },
		"another workload's": func(c *agent.Config) {
			c.StateDir, c.ID, c.JoinToken = filepath.Join(realenvoy.Dir(t), "b"), strings.Replace(acmeOrders, "orders", "web", 1), p.config("", true).JoinToken
		},
		"another workload's dir": func(c *agent.Config) { c.ID = strings.Replace(acmeOrders, "orders", "web", 1) },
		"the SVID has expired":   func(c *agent.Config) { c.Clock = func() time.Time { return time.Now().Add(48 * time.Hour) } },
		"no ID":                  func(c *agent.Config) { c.ID = "" },
		"no log":                 func(c *agent.Config) { c.Log = nil },
		"no root":                func(c *agent.Config) { c.PlatformRoot = nil },
		"no SPIFFE ID":           func(c *agent.Config) { c.ControlPlaneID = "https://control-plane" },
		"a tenant's ID":          func(c *agent.Config) { c.ControlPlaneID = "spiffe://platform.demo.test/control-plane" },
		"an open directory": func(c *agent.Config) {
			c.StateDir = realenvoy.Dir(t)
			if err := errors.Join(os.Chmod(c.StateDir, 0o755), os.WriteFile(filepath.Join(c.StateDir, "x"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"a long path": func(c *agent.Config) { c.StateDir = filepath.Join(realenvoy.Dir(t), strings.Repeat("x", 100)) },
	}
	for name, change := range tests { //nolint:paralleltest // they share a directory that one agent holds at a time
		t.Run(name, func(t *testing.T) {
			c := p.config(joined, false)
			change(&c)
			if err := agent.Run(t.Context(), c); err == nil {
				t.Error("it ran")
			}
		})
	}
}

// A server that is not the control plane gets no token and is given nothing.
func TestOnlyTheControlPlaneIsBelieved(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	other := newPlane(t)
	tests := map[string]func(c *agent.Config){
		"another identity": func(c *agent.Config) { c.ControlPlaneID = strings.Replace(controlPlane, "control-plane", "other", 1) },
		"another root":     func(c *agent.Config) { c.PlatformRoot = other.root },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zap.WarnLevel)
			c := p.config(filepath.Join(realenvoy.Dir(t), "a"), true)
			c.Log = zap.New(core)
			change(&c)
			a := start(t, c)
			eventually(t, "it says why", func() bool {
				return slices.ContainsFunc(logs.All(), func(e observer.LoggedEntry) bool {
					return strings.Contains(errorOf(e), "not the control plane")
				})
			})
			if err := a.Ready(); !errors.Is(err, agent.ErrNotIdentified) {
				t.Errorf("ready: %v", err)
			}
		})
	}
}

func errorOf(e observer.LoggedEntry) string {
	text, _ := e.ContextMap()["error"].(string)
	return text
}

func TestCorruptStateIsSetAside(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(state, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p.stop()
	core, logs := observer.New(zap.ErrorLevel)
	c := p.config(dir, false)
	c.Log = zap.New(core)
	a = start(t, c)
	eventually(t, "it is identified", func() bool { return !a.Status().NotAfter.IsZero() })
	if err := a.Ready(); !errors.Is(err, agent.ErrNoConfiguration) {
		t.Errorf("ready: %v", err)
	}
	aside, err := filepath.Glob(state + ".corrupt-*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %v %v", aside, err)
	}
	if !slices.ContainsFunc(logs.All(), func(e observer.LoggedEntry) bool { return e.ContextMap()["aside"] == aside[0] }) {
		t.Errorf("the log does not name %s: %v", aside[0], logs.All())
	}
	p.restart()
	a.ready()
}

// A new destination: clusters, then what Envoy asks for to warm them, then the routes; and all of it gone again.
func TestDestinationsComeAndGo(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	a := start(t, p.config(filepath.Join(realenvoy.Dir(t), "a"), true))
	a.ready()
	first := a.Status().Snapshot
	p.files["tenants/acme/stock.yaml"] = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: stock}
spec:
  namespace: acme
  serviceAccounts: [stock]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 39999}]
  endpoints: [{address: 127.0.0.1, port: 39998}]
`
	began := time.Now()
	p.publish()
	eventually(t, "the destination arrives", func() bool { return a.Status().Snapshot != first && a.Ready() == nil })
	if took := time.Since(began); took >= delta.DefaultLimits().Hold {
		t.Errorf("after %v: Envoy did not ask for the new cluster's endpoints, or was not heard", took)
	}
	if dump := a.dump(); strings.Count(dump, "service/acme/stock") < 3 {
		t.Error("Envoy lacks the cluster, its endpoints or its route")
	}
	delete(p.files, "tenants/acme/stock.yaml")
	p.publish()
	eventually(t, "the destination goes", func() bool { return a.Status().Snapshot == first && a.Ready() == nil })
	eventually(t, "Envoy forgets it", func() bool { return !strings.Contains(a.dump(), "service/acme/stock") })
	eventually(t, "the control plane knows", func() bool { all := p.server.Status(); return len(all) == 1 && all[0].Acked == all[0].Target })
}

// recorder keeps the reasons of decisions.
type recorder chan authz.Reason

func (r recorder) Record(e extauthz.Entry) { r <- e.Reason }

func TestSVIDExpiresWhileRunning(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	left := time.Until(a.Status().NotAfter)
	c := p.config(dir, false)
	reasons := make(recorder, 100)
	c.Recorder = reasons
	c.Clock = func() time.Time { return time.Now().Add(left - 3*time.Second) }
	a = start(t, c)
	a.ready()
	if got := check(t, dir, reasons); got == authz.NotReady {
		t.Errorf("before: %v", got)
	}
	eventually(t, "every call is denied", func() bool { return check(t, dir, reasons) == authz.NotReady })
	if err := a.Ready(); !errors.Is(err, agent.ErrExpired) {
		t.Errorf("ready: %v", err)
	}
}

// A timer does not see that the clock was set, and stands still while the machine sleeps.
func TestSVIDExpiresWhenTheClockJumps(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	reasons := make(recorder, 10_000)
	c.Recorder = reasons
	var ahead atomic.Int64
	c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	a := start(t, c)
	a.ready()
	if got := check(t, dir, reasons); got == authz.NotReady {
		t.Errorf("before: %v", got)
	}
	ahead.Store(int64(time.Until(a.Status().NotAfter) + time.Second))
	eventually(t, "every call is denied", func() bool { return check(t, dir, reasons) == authz.NotReady })
	if err := a.Ready(); !errors.Is(err, agent.ErrExpired) {
		t.Errorf("ready: %v", err)
	}
	// Nothing is lost by it: what holds again is believed again, and renewed in its time.
	ahead.Store(0)
	eventually(t, "calls are decided again", func() bool { return check(t, dir, reasons) != authz.NotReady })
	a.ready()
}

// check asks for a decision about nothing in particular.
func check(t *testing.T, dir string, reasons recorder) authz.Reason {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "envoy.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // one call
	if _, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{}); err != nil {
		t.Fatal(err)
	}
	return <-reasons
}

// However an agent dies, its Envoy dies with it.
func TestNoOrphan(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	for name, end := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "aborted": syscall.SIGABRT} {
		text, err := json.Marshal(childAgent{
			ID: c.ID, StateDir: c.StateDir, ControlPlane: c.ControlPlane, Issuer: c.Issuer, ControlPlaneID: c.ControlPlaneID,
			PlatformRoot: c.PlatformRoot, JoinToken: c.JoinToken, EnvoyPath: c.EnvoyPath,
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childConfig+"="+string(text))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		eventually(t, "the child's Envoy runs", func() bool { pid = envoyOf(t, dir); return pid != 0 })
		if err := cmd.Process.Signal(end); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		eventually(t, name+": Envoy is gone", func() bool { return !alive(pid) })
	}
}

// envoyOf is the process that runs with this state directory's bootstrap.
func envoyOf(t *testing.T, dir string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), filepath.Join(dir, "bootstrap.json")) {
			continue
		}
		var pid int
		for _, digit := range filepath.Base(filepath.Dir(path)) {
			pid = 10*pid + int(digit-'0')
		}
		return pid
	}
	return 0
}
