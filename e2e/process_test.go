package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// binary is the real program, built once for all tests of this package.
var binary string

func TestMain(m *testing.M) {
	if text := os.Getenv(childPlane); text != "" {
		os.Exit(planeProcess(text))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rfbin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	binary = filepath.Join(dir, "ringfence")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, "github.com/ringfence-mesh/ringfence/cmd/ringfence")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	return m.Run()
}

// process is a child that does not outlive the test.
type process struct {
	cmd    *exec.Cmd
	done   chan struct{}
	err    error
	output *lockedBuffer
	killed atomic.Bool // on purpose
}

func startProcess(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return startProgram(t, binary, env, nil, args...)
}

// startProgram starts any program; heard, if it is not nil, is called with each line that it writes.
func startProgram(t testing.TB, program string, env []string, heard func(line string), args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{}), output: &lockedBuffer{heard: heard}}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.stop(t, syscall.SIGTERM)
		if t.Failed() && !p.killed.Load() {
			t.Logf("%s %s:\n%s", program, strings.Join(args, " "), p.output.tail())
		}
	})
	return p
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// stop sends the signal and waits for the end.
func (p *process) stop(t testing.TB, s os.Signal) {
	t.Helper()
	p.signal(s)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		t.Errorf("%s does not end on %v", strings.Join(p.cmd.Args, " "), s)
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

type lockedBuffer struct {
	heard func(line string)

	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer. A logger writes whole lines.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	if l.heard != nil {
		for line := range strings.Lines(string(p)) {
			l.heard(line)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) tail() string {
	const most = 8 << 10
	s := l.String()
	return s[max(0, len(s)-most):]
}

// apart is globex's half of examples/two-tenants as separate processes, as an operator would run them.
type apart struct {
	t      testing.TB
	dir    string // configuration
	state  string
	ports  map[string]int
	listen map[string]string // of the control plane
	serve  *process
	agents map[string]*process
	status map[string]string // where agents serve /status
	flags  []string          // of serve, besides
	hits   atomic.Int64
}

// newApart are the processes of a configuration, of which none runs yet.
func newApart(t testing.TB, dir string) *apart {
	t.Helper()
	a := &apart{t: t, dir: dir, state: shortDir(t), ports: map[string]int{}, listen: map[string]string{}, agents: map[string]*process{}, status: map[string]string{}}
	replacePorts(t, a.dir, a.ports)
	for _, name := range []string{"xds", "issuer", "http"} {
		a.listen[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	}
	return a
}

// newExample starts the control plane of the example alone; prepare may change the directory and the flags before.
func newExample(t testing.TB, prepare ...func(*apart)) *apart {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	a := newApart(t, dir)
	for _, p := range prepare {
		p(a)
	}
	a.startServe()
	return a
}

// startApart starts the processes of the example; prepare may change the directory and the flags before.
func startApart(t testing.TB, prepare ...func(*apart)) *apart {
	t.Helper()
	a := newExample(t, prepare...)
	a.startApp("20283")
	for _, name := range []string{"orders", "web"} {
		a.startAgent(name, true)
	}
	return a
}

// startApp starts an application where the example has that port.
func (a *apart) startApp(port string) {
	a.t.Helper()
	serveApp(a.t, a.ports[port], &a.hits)
}

// serveApp is an application that counts its requests.
func serveApp(t testing.TB, port int, hits *atomic.Int64) {
	t.Helper()
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { hits.Add(1); _, _ = io.WriteString(w, "ok") }))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	app.Listener = l
	app.Start()
	t.Cleanup(app.Close)
}

// replacePorts replaces the example's ports in the copy, and notes which took which place: another test may use them at this
// moment.
func replacePorts(t testing.TB, dir string, ports map[string]int) {
	t.Helper()
	number := regexp.MustCompile(`\b20[0-9]{3}\b`)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		write(t, path, number.ReplaceAllStringFunc(string(data), func(port string) string {
			if ports[port] == 0 {
				ports[port] = freePort(t)
			}
			return strconv.Itoa(ports[port])
		}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ports are given once each, to all tests of this package.
var ports freeport.Finder

func freePort(t testing.TB) int {
	t.Helper()
	port, err := ports.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(port)
}

func (a *apart) planeState() string { return filepath.Join(a.state, "plane") }

func (a *apart) startServe() {
	a.t.Helper()
	args := []string{
		"serve", "--config", a.dir, "--state", a.planeState(),
		"--xds-listen", a.listen["xds"], "--issuer-listen", a.listen["issuer"], "--http-listen", a.listen["http"],
	}
	a.serve = startProcess(a.t, nil, append(args, a.flags...)...)
	eventually(a.t, 15*time.Second, "the control plane is ready", func(ctx context.Context) bool { return ready(ctx, a.listen["http"]) })
}

func ready(ctx context.Context, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close() //nolint:errcheck // not read
	return response.StatusCode == http.StatusOK
}

func globexID(name string) string { return "spiffe://globex.demo.test/ns/globex/sa/" + name }

// id is whose agent has that name: globex's, or billing's, which is the platform's.
func (a *apart) id(name string) string {
	if name == "billing" {
		return "spiffe://platform.demo.test/ns/platform/sa/billing"
	}
	return globexID(name)
}

func (a *apart) agentState(name string) string { return filepath.Join(a.state, name) }

// startAgent starts an agent and its Envoy; a first start takes a join token from the control plane.
func (a *apart) startAgent(name string, first bool) {
	a.t.Helper()
	a.launchAgent(name, first)
	eventually(a.t, 15*time.Second, name+"'s agent is ready", func(ctx context.Context) bool { return ready(ctx, a.status[name]) })
}

// launchAgent does not wait for it.
func (a *apart) launchAgent(name string, first bool) {
	a.t.Helper()
	http := fmt.Sprintf("127.0.0.1:%d", freePort(a.t))
	args := []string{
		"agent", "--id", a.id(name), "--state", a.agentState(name), "--control-plane", a.listen["xds"], "--issuer", a.listen["issuer"],
		"--control-plane-id", "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane",
		"--platform-root", filepath.Join(a.planeState(), "trust", "platform.demo.test.pem"),
		"--envoy", realenvoy.Path(a.t), "--http-listen", http,
	}
	if first {
		token := filepath.Join(a.state, name+".token")
		out, err := exec.CommandContext(a.t.Context(), binary, "token", "create", a.id(name), "--state", a.planeState()).Output()
		if err != nil {
			a.t.Fatalf("token: %v\n%s", err, out)
		}
		write(a.t, token, string(out))
		args = append(args, "--join-token-file", token)
	}
	a.agents[name], a.status[name] = startProcess(a.t, nil, args...), http
}

// call is globex/web asking globex/orders through both sidecars. 0: no answer.
func (a *apart) call(ctx context.Context, method string) int {
	return a.ask(ctx, method, "http://orders/orders/7")
}

// ask is globex/web asking for a URL through its sidecar.
func (a *apart) ask(ctx context.Context, method, target string) int {
	proxy := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", a.ports["20184"])}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, Timeout: 5 * time.Second}
	request, err := http.NewRequestWithContext(ctx, method, target, http.NoBody)
	if err != nil {
		a.t.Error(err)
		return 0
	}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close() //nolint:errcheck // not read
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (a *apart) goesOn(within time.Duration) {
	a.t.Helper()
	took := eventually(a.t, within, "calls are allowed", func(ctx context.Context) bool { return a.call(ctx, http.MethodGet) == 200 })
	a.t.Logf("allowed after %v", took)
}

// envoys are the processes that run with this state directory's bootstrap.
func envoys(t testing.TB, state string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		if strings.Contains(string(line), state) && strings.Contains(filepath.Base(args[0]), "envoy") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestFailClosedAndGoOn runs serve and two agents as processes and takes them away one after the other.
func TestFailClosedAndGoOn(t *testing.T) {
	a := startApart(t)
	a.goesOn(10 * time.Second)

	t.Run("the agent hangs: 503, nothing passes; it goes on: calls pass", func(t *testing.T) {
		before := a.hits.Load()
		a.agents["orders"].signal(syscall.SIGSTOP)
		for range 3 {
			if got := a.call(t.Context(), http.MethodGet); got != 503 {
				t.Errorf("got %d, want 503", got)
			}
		}
		if reached := a.hits.Load() - before; reached != 0 {
			t.Errorf("the backend was reached %d times", reached)
		}
		a.agents["orders"].signal(syscall.SIGCONT)
		a.goesOn(5 * time.Second)
	})

	t.Run("Envoy is killed: it comes back by itself", func(t *testing.T) {
		pids := envoys(t, a.agentState("orders"))
		if len(pids) != 1 {
			t.Fatalf("Envoys of orders: %v", pids)
		}
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		a.goesOn(10 * time.Second)
		if again := envoys(t, a.agentState("orders")); len(again) != 1 || again[0] == pids[0] {
			t.Errorf("Envoys after: %v", again)
		}
	})

	t.Run("the control plane is killed: calls go on", func(t *testing.T) {
		a.serve.stop(t, syscall.SIGKILL)
		for range 20 {
			if got := a.call(t.Context(), http.MethodGet); got != 200 {
				t.Errorf("got %d", got)
			}
		}
		if got := a.call(t.Context(), http.MethodDelete); got != 403 {
			t.Errorf("what no rule allows: %d", got)
		}
	})

	t.Run("the agents restart while the control plane is away: calls go on", func(t *testing.T) {
		for name, s := range map[string]syscall.Signal{"orders": syscall.SIGKILL, "web": syscall.SIGTERM} {
			a.agents[name].stop(t, s)
			eventually(t, 5*time.Second, "no Envoy outlives its agent", func(context.Context) bool { return len(envoys(t, a.agentState(name))) == 0 })
			a.startAgent(name, false)
		}
		a.goesOn(10 * time.Second)
		if got := a.call(t.Context(), http.MethodDelete); got != 403 {
			t.Errorf("what no rule allows: %d", got)
		}
	})

	t.Run("the control plane is back: a change arrives", func(t *testing.T) {
		a.startServe()
		path := filepath.Join(a.dir, "tenants/globex/orders.yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, strings.Replace(string(data), "methods: [GET]", "methods: [GET, DELETE]", 1))
		eventually(t, 15*time.Second, "the new rule holds", func(ctx context.Context) bool { return a.call(ctx, http.MethodDelete) == 200 })
	})

	t.Run("proxy list says where the sidecars stand", func(t *testing.T) {
		eventually(t, 10*time.Second, "both are in sync", func(ctx context.Context) bool { return strings.Count(a.proxies(ctx), "in sync") == 2 })
		a.agents["web"].stop(t, syscall.SIGTERM)
		eventually(t, 10*time.Second, "one is not connected", func(ctx context.Context) bool {
			return strings.Contains(a.proxies(ctx), globexID("web")+"     not connected")
		})
		a.startAgent("web", false)
		eventually(t, 10*time.Second, "both are in sync again", func(ctx context.Context) bool { return strings.Count(a.proxies(ctx), "in sync") == 2 })
	})

	t.Run("a bad file is named, and the last good one stays", func(t *testing.T) {
		path := filepath.Join(a.dir, "tenants/globex/orders.yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, strings.Replace(string(data), "methods:", "mehtods:", 1))
		eventually(t, 5*time.Second, "the problem is named", func(context.Context) bool {
			return strings.Contains(a.serve.output.String(), "tenants/globex/orders.yaml") && strings.Contains(a.serve.output.String(), "mehtods")
		})
		if got := a.call(t.Context(), http.MethodGet); got != 200 {
			t.Errorf("got %d", got)
		}
	})

	t.Run("the control plane restarts with the bad file: the last good one stays", func(t *testing.T) {
		a.serve.stop(t, syscall.SIGKILL)
		a.startServe()
		eventually(t, 15*time.Second, "both are in sync again", func(ctx context.Context) bool { return strings.Count(a.proxies(ctx), "in sync") == 2 })
		if got := a.call(t.Context(), http.MethodGet); got != 200 {
			t.Errorf("got %d", got)
		}
		if out := a.serve.output.String(); !strings.Contains(out, "mehtods") || !strings.Contains(out, "staying on the last accepted documents") {
			t.Error("the problem is not named again")
		}
	})

	t.Run("metrics and logs", func(t *testing.T) {
		for _, name := range []string{
			`ringfence_xds_streams{tenant="globex"} 2`, "ringfence_xds_pushes_total", "ringfence_generation", "ringfence_proof_duration_seconds",
		} {
			eventually(t, 10*time.Second, name, func(ctx context.Context) bool { return strings.Contains(metrics(ctx, a.listen["http"]), name) })
		}
		for name, p := range a.agents {
			if out := p.output.String(); strings.Contains(out, "acme") || strings.Contains(out, "eyJ") {
				t.Errorf("%s's agent logs a foreign name or a token", name)
			}
		}
	})
}

// proxies is what `ringfence proxy list` says of globex.
func (a *apart) proxies(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, binary, "proxy", "list", "--state", a.planeState(), "--tenant", "globex").Output()
	return string(out)
}

func metrics(ctx context.Context, address string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		return ""
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close() //nolint:errcheck // only read
	text, _ := io.ReadAll(response.Body)
	return string(text)
}
