package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/source"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// childPlane holds the configuration of a control plane that a process of this test's binary is to be: it gives SVIDs of
// seconds, which the program does not.
const childPlane = "RINGFENCE_TEST_PLANE"

type planeConfig struct {
	Config string        `json:"config"`
	State  string        `json:"state"`
	XDS    string        `json:"xds"`
	Issuer string        `json:"issuer"`
	HTTP   string        `json:"http"`
	TTL    time.Duration `json:"ttl"`
}

func planeProcess(text string) int {
	var c planeConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log, err := zap.NewProduction(zap.WithCaller(false))
	if err != nil {
		return 2
	}
	cp, err := controlplane.New(ctx, controlplane.Config{
		Source: source.NewDirectory(c.Config, log), State: c.State, XDSListen: c.XDS, IssuerListen: c.Issuer, HTTPListen: c.HTTP,
		AdminSocket: filepath.Join(c.State, "admin.sock"), Issuer: issuer.Options{TTL: c.TTL, ShortLived: true}, Log: log,
	})
	if err == nil {
		err = cp.Run(ctx)
	}
	if err != nil {
		log.Error("control plane", zap.Error(err))
		return 1
	}
	return 0
}

// killable is examples/two-tenants as processes that can be killed one by one, and comes back: the control plane, five agents
// and their Envoys. Applications and callers live in the test.
type killable struct {
	t      testing.TB
	dir    string // configuration
	state  string
	ttl    time.Duration
	ports  map[string]int
	listen map[string]string
	labels map[string]string // server names, by "caller's tenant>tenant/service"

	plane  *process
	agents map[string]*agentProcess

	allowed, attacks, breaches atomic.Int64
	tokens                     int

	mu    sync.Mutex
	heard []func(line string)        // of the control plane's log
	seen  map[string]map[string]bool // serial numbers of SVIDs that agents held, by workload
}

// agentProcess is an agent, and what it is started with, again and again.
type agentProcess struct {
	*process

	name, state, token, http string
}

func killableNames() []string {
	return []string{"globex/web", "globex/orders", "acme/orders", "acme/web", "platform/billing"}
}

func spiffeID(name string) string {
	tenant, account, _ := strings.Cut(name, "/")
	return fmt.Sprintf("spiffe://%s.demo.test/ns/%s/sa/%s", tenant, tenant, account)
}

func startKillable(t testing.TB, state string, ttl time.Duration) *killable {
	t.Helper()
	k := &killable{
		t: t, dir: t.TempDir(), state: state, ttl: ttl, ports: map[string]int{}, listen: map[string]string{}, labels: map[string]string{},
		agents: map[string]*agentProcess{}, seen: map[string]map[string]bool{},
	}
	if err := os.CopyFS(k.dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	replacePorts(t, k.dir, k.ports)
	for _, name := range []string{"xds", "issuer", "http"} {
		k.listen[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	}
	model := tenancytest.TwoTenants(t)
	for _, to := range []string{"globex/orders", "acme/orders", "platform/billing"} {
		owner, service, _ := strings.Cut(to, "/")
		for _, s := range tenancytest.Tenant(t, model, owner).Services() {
			for _, caller := range []string{"acme", "globex"} {
				if s.Name() == service {
					k.labels[caller+">"+to] = s.SNI(tenancytest.Tenant(t, model, caller).ID())
				}
			}
		}
	}
	for port, name := range map[string]string{"20280": "billing", "20281": "acme", "20283": "globex"} {
		k.startApplication(name, k.ports[port])
	}
	k.startPlane()
	k.planeReady()
	for _, name := range killableNames() {
		a := &agentProcess{name: name, http: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		k.agents[name] = a
		k.anew(a)
		k.startAgent(a)
	}
	go k.watchSVIDs(t.Context())
	return k
}

// startApplication counts who gets so far; what an attacker asks for says so in its path.
func (k *killable) startApplication(name string, port int) {
	k.t.Helper()
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "attack") {
			k.breaches.Add(1)
			k.t.Errorf("%s was reached: %s %s", name, r.Method, r.URL.Path)
		}
		_, _ = io.WriteString(w, "ok")
	}))
	l, err := (&net.ListenConfig{}).Listen(k.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		k.t.Fatal(err)
	}
	app.Listener = l
	app.Start()
	k.t.Cleanup(app.Close)
}

func (k *killable) planeState() string { return filepath.Join(k.state, "plane") }

func (k *killable) startPlane() {
	k.t.Helper()
	self, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	text, err := json.Marshal(planeConfig{
		Config: k.dir, State: k.planeState(), XDS: k.listen["xds"], Issuer: k.listen["issuer"], HTTP: k.listen["http"], TTL: k.ttl,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.plane = startProgram(k.t, self, []string{childPlane + "=" + string(text)}, k.hear)
}

func (k *killable) planeReady() {
	k.t.Helper()
	eventually(k.t, time.Minute, "the control plane is ready", func(ctx context.Context) bool { return ready(ctx, k.listen["http"]) })
}

func (k *killable) hear(line string) {
	k.mu.Lock()
	listeners := k.heard
	k.mu.Unlock()
	for _, f := range listeners {
		f(line)
	}
}

// once waits for a line of the control plane's log that holds both texts, and calls as soon as it was read.
func (k *killable) once(message, about string, do func(line string)) (happened <-chan struct{}) {
	done := make(chan struct{})
	var first sync.Once
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = append(slices.Clip(k.heard), func(line string) {
		if strings.Contains(line, message) && strings.Contains(line, about) {
			first.Do(func() { do(line); close(done) })
		}
	})
	return done
}

// deaf forgets what is waited for.
func (k *killable) deaf() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = nil
}

// anew gives an agent a new state directory and a new token.
func (k *killable) anew(a *agentProcess) {
	k.t.Helper()
	k.tokens++
	k.mu.Lock()
	a.state = filepath.Join(k.state, fmt.Sprintf("a%d", k.tokens))
	k.mu.Unlock()
	a.token = a.state + ".token"
	out, err := exec.CommandContext(k.t.Context(), binary, "token", "create", spiffeID(a.name), "--state", k.planeState()).Output()
	if err != nil {
		k.t.Fatalf("token: %v\n%s\n%s", err, out, k.plane.output.tail())
	}
	write(k.t, a.token, string(out))
}

func (k *killable) startAgent(a *agentProcess) {
	k.t.Helper()
	a.process = startProcess(k.t, nil, "agent", "--id", spiffeID(a.name), "--state", a.state, "--control-plane", k.listen["xds"],
		"--issuer", k.listen["issuer"], "--control-plane-id", "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane",
		"--platform-root", filepath.Join(k.planeState(), "trust", "platform.demo.test.pem"),
		"--envoy", realenvoy.Path(k.t), "--envoy-concurrency", "1", "--http-listen", a.http, "--join-token-file", a.token)
}

// kill sends SIGKILL and waits until the process is gone.
func (p *process) kill() {
	p.killed.Store(true)
	p.signal(syscall.SIGKILL)
	<-p.done
}

// killEnvoy kills the Envoy of an agent; false where there is none at this moment.
func (k *killable) killEnvoy(a *agentProcess) bool {
	killed := false
	for _, pid := range envoys(k.t, a.state+"/") {
		killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
	}
	return killed
}

// outbound is where a sidecar takes calls whose port in the example is this one.
func (k *killable) outbound(port string) string { return fmt.Sprintf("127.0.0.1:%d", k.ports[port]) }

// pairs are the calls that must pass.
func (k *killable) pairs() map[string]func(context.Context) int {
	through := func(port, target string) func(context.Context) int {
		proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: k.outbound(port)})
		client := &http.Client{Transport: &http.Transport{Proxy: proxy, DisableKeepAlives: true}, Timeout: 3 * time.Second}
		return func(ctx context.Context) int {
			status, err := get(ctx, client, target)
			if err != nil {
				return 0
			}
			return status
		}
	}
	return map[string]func(context.Context) int{
		"globex/web>globex/orders":     through("20184", "http://orders/orders/7"),
		"acme/orders>platform/billing": through("20181", "http://billing/invoices/7"),
	}
}

// load calls what is allowed, and tries what is not, until the context ends.
func (k *killable) load(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	for _, call := range k.pairs() {
		wg.Go(func() {
			for ctx.Err() == nil {
				if call(ctx) == http.StatusOK {
					k.allowed.Add(1)
				}
				rest(ctx, 10*time.Millisecond)
			}
		})
	}
	through := func(port, target, method string) func(context.Context) {
		proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: k.outbound(port)})
		client := &http.Client{Transport: &http.Transport{Proxy: proxy, DisableKeepAlives: true}, Timeout: 3 * time.Second}
		return func(ctx context.Context) { k.attack(ctx, client, target, method) }
	}
	for _, attack := range []func(context.Context){
		k.stolen("acme/orders", "globex>globex/orders", "20083", "/orders/attack"),
		k.stolen("acme/orders", "acme>globex/orders", "20083", "/orders/attack"),
		k.stolen("globex/web", "acme>platform/billing", "20080", "/invoices/attack"),
		k.stolen("globex/web", "globex>platform/billing", "20080", "/invoices/attack"),
		k.stolen("", "globex>globex/orders", "20083", "/orders/attack"),
		through("20184", "http://billing/invoices/attack", http.MethodGet),
		through("20184", "http://orders/orders/attack", http.MethodDelete),
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				attack(ctx)
				rest(ctx, 20*time.Millisecond)
			}
		})
	}
	return &wg
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (k *killable) attack(ctx context.Context, client *http.Client, target, method string) {
	request, err := http.NewRequestWithContext(ctx, method, target, http.NoBody)
	if err != nil {
		return
	}
	response, err := client.Do(request)
	if ctx.Err() != nil {
		return
	}
	k.attacks.Add(1)
	if err != nil {
		return
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if response.StatusCode < 300 {
		k.breaches.Add(1)
		k.t.Errorf("%s %s: %s", method, target, response.Status)
	}
}

// stolen asks past all sidecars of its own, with the SVID that lies in an agent's directory; without a name with none.
func (k *killable) stolen(name, label, port, path string) func(context.Context) {
	address := k.outbound(port)
	return func(ctx context.Context) {
		config := &tls.Config{
			InsecureSkipVerify: true, // an attacker does not care who answers
			MinVersion:         tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: k.labels[label],
		}
		if name != "" {
			own, err := tls.LoadX509KeyPair(filepath.Join(k.agentState(name), "svid.pem"), filepath.Join(k.agentState(name), "key.pem"))
			if err != nil {
				return // it is being renewed
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
		}
		transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
		}}
		defer transport.CloseIdleConnections()
		k.attack(ctx, &http.Client{Transport: transport, Timeout: 3 * time.Second}, "https://"+address+path, http.MethodGet)
	}
}

func (k *killable) agentState(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.agents[name].state
}

// watchSVIDs notes every SVID that an agent holds.
func (k *killable) watchSVIDs(ctx context.Context) {
	for ctx.Err() == nil {
		for _, name := range killableNames() {
			k.note(name)
		}
		rest(ctx, 20*time.Millisecond)
	}
}

func (k *killable) note(name string) {
	text, err := os.ReadFile(filepath.Join(k.agentState(name), "svid.pem"))
	if err != nil {
		return
	}
	block, _ := pem.Decode(text)
	if block == nil {
		k.t.Errorf("%s: half an SVID: %q", name, text)
		return
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		k.t.Errorf("%s: no SVID: %v", name, err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen[name] == nil {
		k.seen[name] = map[string]bool{}
	}
	k.seen[name][fmt.Sprintf("%040x", leaf.SerialNumber)] = true
}
