//go:build spire

package e2e_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/ringfence-mesh/ringfence/internal/child"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/realspire"
)

const (
	planeID = "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"
	authzID = "spiffe://platform.demo.test/ns/platform/sa/authz"
)

// spireWithin is how long SPIRE's agent may take to learn of what its server was told: it asks every five seconds.
const spireWithin = time.Minute

// directEnvoy is an Envoy that has SPIRE's agent beside it, run by a user of its own, by which SPIRE knows it.
type directEnvoy struct {
	*child.Process

	t     testing.TB
	uid   int
	dir   string
	admin string
	ready bool
}

// startDirect prints the bootstrap of a workload and runs Envoy with it.
func startDirect(t testing.TB, uid int, flags ...string) *directEnvoy {
	t.Helper()
	dir := shortDir(t)
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatalf("Envoys are run by users of their own, which takes root: %v", err)
	}
	e := &directEnvoy{t: t, uid: uid, dir: dir, admin: filepath.Join(dir, "admin.sock")}
	var problem strings.Builder
	print := exec.CommandContext(t.Context(), binary, append([]string{"bootstrap", "--admin", e.admin}, flags...)...)
	print.Stderr = &problem
	bootstrap, err := print.Output()
	if err != nil {
		t.Fatalf("bootstrap: %v\n%s", err, problem.String())
	}
	e.write("bootstrap.json", bootstrap)
	e.start()
	return e
}

func (e *directEnvoy) write(name string, data []byte) {
	e.t.Helper()
	path := filepath.Join(e.dir, name)
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chown(path, e.uid, e.uid)); err != nil {
		e.t.Fatal(err)
	}
}

func (e *directEnvoy) start() {
	e.t.Helper()
	user := strconv.Itoa(e.uid)
	args := []string{"--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL", realenvoy.Path(e.t), "--log-level", "warning", "-c", filepath.Join(e.dir, "bootstrap.json")}
	p, err := child.Start("/usr/bin/setpriv", append(args, realenvoy.Flags()...)...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.Process = p
	e.t.Cleanup(func() {
		p.Stop()
		if e.t.Failed() {
			log := p.Log()
			e.t.Logf("Envoy of user %d:\n%s", e.uid, log[max(0, len(log)-8<<10):])
		}
	})
}

// get asks the admin interface; empty where it does not answer.
func (e *directEnvoy) get(ctx context.Context, path string) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.admin)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, http.NoBody)
	if err != nil {
		return ""
	}
	response, err := client.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close() //nolint:errcheck // only read
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

func (e *directEnvoy) stat(ctx context.Context, name string) string {
	_, value, _ := strings.Cut(strings.TrimSpace(e.get(ctx, "/stats?filter=^"+name+"$")), ": ")
	return value
}

// waitFor waits until that many listeners take connections.
func (e *directEnvoy) waitFor(listeners int) {
	e.t.Helper()
	eventually(e.t, spireWithin, "Envoy's listeners", func(ctx context.Context) bool {
		return e.stat(ctx, "listener_manager.total_listeners_active") == strconv.Itoa(listeners) && e.stat(ctx, "listener_manager.total_listeners_warming") == "0"
	})
}

// svid is the serial number of the SVID that Envoy holds.
func (e *directEnvoy) svid(ctx context.Context) string {
	var held struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if json.Unmarshal([]byte(e.get(ctx, "/certs")), &held) != nil {
		return ""
	}
	for _, c := range held.Certificates {
		if len(c.Chain) > 0 {
			return c.Chain[0].Serial
		}
	}
	return ""
}

// direct is a mesh in which acme has SPIRE and no agent, and globex our issuer and agents.
type direct struct {
	*apart

	spire  *realspire.Server
	socket string
	authz  *process
	ask    string // where ringfence authz listens
	key    *ecdsa.PrivateKey
	hits   atomic.Int64
	web    *directEnvoy
	orders *directEnvoy
	id     func(tenant, account string) string // SPIFFE IDs
}

const (
	webUID    = 61001
	ordersUID = 61002
)

func startDirectMesh(t *testing.T) *direct {
	t.Helper()
	d := &direct{spire: realspire.Start(t, "acme.demo.test", time.Hour)}
	d.id = func(tenant, account string) string {
		return "spiffe://" + tenant + ".demo.test/ns/" + tenant + "/sa/" + account
	}
	d.socket = d.spire.Agent()
	d.spire.Entry(acmeWeb, webUID)
	d.spire.Entry(acmeOrders, ordersUID, "-x509SVIDTTL", "60")
	for _, id := range []string{acmeWeb, acmeOrders, acmeStranger} {
		d.spire.Entry(id, os.Getuid()) // so that the test can be anybody of acme
	}
	d.apart = startApart(t, func(a *apart) {
		for _, name := range []string{"orders", "web"} {
			editFile(t, filepath.Join(a.dir, "tenants/acme/"+name+".yaml"), "serviceAccounts: ["+name+"]", "serviceAccounts: ["+name+"]\n  proxy: Direct")
		}
		write(t, filepath.Join(a.dir, "platform/authz.yaml"),
			"apiVersion: ringfence.dev/v1alpha1\nkind: Service\nmetadata: {name: authz}\nspec: {namespace: platform, serviceAccounts: [authz]}\n")
		d.key = issue(t, filepath.Join(a.dir, "platform/acme-jwks.json"))
		external := filepath.Join(a.state, "spire")
		if err := os.Mkdir(external, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(external, "acme.demo.test.pem"), string(d.spire.Bundle()))
		a.flags = []string{"--trust-bundles", external, "--svid-ttl", "5m"}
	})
	d.startAuthz()
	serveApp(t, d.ports["20281"], &d.hits)
	d.web = startDirect(t, webUID, d.bootstrap(acmeWeb)...)
	d.orders = startDirect(t, ordersUID, append(d.bootstrap(acmeOrders), "--sotw", "--svid-ttl", "1m")...)
	d.web.waitFor(1)
	d.orders.waitFor(2)
	return d
}

// startAuthz runs the decision point as a workload of the platform, whose SVID our own agent keeps.
func (d *direct) startAuthz() {
	t := d.t
	t.Helper()
	state, token := d.agentState("authz"), filepath.Join(d.apart.state, "authz.token")
	out, err := exec.CommandContext(t.Context(), binary, "token", "create", authzID, "--state", d.planeState()).Output()
	if err != nil {
		t.Fatal(err)
	}
	write(t, token, string(out))
	startProcess(t, nil, "agent", "--id", authzID, "--state", state, "--control-plane", d.listen["xds"], "--issuer", d.listen["issuer"],
		"--control-plane-id", planeID, "--platform-root", d.root("platform.demo.test"), "--join-token-file", token)
	svid, key := filepath.Join(state, "svid.pem"), filepath.Join(state, "key.pem")
	eventually(t, 15*time.Second, "an SVID for ringfence authz", func(context.Context) bool { _, err := os.Stat(svid); return err == nil })
	d.runAuthz(svid, key, "acme.demo.test", "globex.demo.test", "platform.demo.test")
}

// runAuthz starts the decision point with the roots of these trust domains: SPIRE's, and of the others the control plane's.
func (d *direct) runAuthz(svid, key string, domains ...string) {
	t := d.t
	t.Helper()
	trust := filepath.Join(d.apart.state, "all")
	if err := os.Mkdir(trust, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(trust, domains[0]+".pem"), string(d.spire.Bundle()))
	for _, td := range domains[1:] {
		write(t, filepath.Join(trust, td+".pem"), string(readFile(t, d.root(td))))
	}
	d.ask = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	http := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	d.authz = startProcess(t, nil, "authz", "--config", d.dir, "--trust", trust, "--listen", d.ask, "--svid", svid, "--key", key, "--http-listen", http,
		"--revocations", filepath.Join(d.planeState(), "revocations.yaml"))
	eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, http) })
}

func (d *direct) root(td string) string { return filepath.Join(d.planeState(), "trust", td+".pem") }

func (d *direct) bootstrap(workload string) []string {
	return []string{
		"--workload", workload, "--spire", d.socket, "--control-plane", d.listen["xds"], "--control-plane-id", planeID,
		"--platform-root", d.root("platform.demo.test"), "--authz", d.ask, "--authz-id", authzID, "--authz-root", d.root("platform.demo.test"),
	}
}

// through is a client of acme/web's application.
func (d *direct) through(anew bool) *http.Client {
	proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", d.ports["20182"])})
	return &http.Client{Transport: signed{d, &http.Transport{Proxy: proxy, DisableKeepAlives: anew}}, Timeout: 5 * time.Second}
}

// signed gives each call a token of its own, where it has none.
type signed struct {
	d    *direct
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s signed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("authorization") == "" {
		r.Header.Set("authorization", "Bearer "+s.d.token("acme", "clerk"))
	}
	return s.next.RoundTrip(r)
}

func (d *direct) token(tenant, role string) string {
	return sign(d.t, d.key, "https://idp.acme.example.com", tenant, time.Now(), role)
}

// call is one call of acme/web's application; 0: no answer.
func (d *direct) call(ctx context.Context, method, path, token string) (status int, decision string) {
	request, err := http.NewRequestWithContext(ctx, method, "http://orders"+path, http.NoBody)
	if err != nil {
		return 0, ""
	}
	if token != "" {
		request.Header.Set("authorization", "Bearer "+token)
	}
	return answered(d.through(true), request)
}

func answered(client *http.Client, request *http.Request) (status int, decision string) {
	response, err := client.Do(request)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close() //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header.Get("x-ringfence-decision")
}

// raw is a call to a sidecar's port by whoever holds the certificate; 0: TLS refused.
func raw(t testing.TB, cert *tls.Certificate, sni, address, path, token string) (status int, decision string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: sni,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("authorization", "Bearer "+token)
	}
	return answered(client, request)
}

// sniOf is the label by which a sidecar's callers choose their chain.
func (e *directEnvoy) sniOf(cluster string) string {
	e.t.Helper()
	dump := e.get(e.t.Context(), "/config_dump?resource=dynamic_active_clusters&name_regex="+cluster)
	_, rest, _ := strings.Cut(dump, `"sni": "`)
	sni, _, ok := strings.Cut(rest, `"`)
	if !ok {
		e.t.Fatalf("no label of %s in %s", cluster, dump)
	}
	return sni
}

// fromSPIRE is the SVID of a workload of SPIRE's that the test may be.
func fromSPIRE(t testing.TB, socket, id string) *tls.Certificate {
	t.Helper()
	var cert *tls.Certificate
	eventually(t, spireWithin, "SPIRE gives "+id, func(ctx context.Context) bool {
		all, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr("unix://"+socket))
		if err != nil {
			return false
		}
		for _, svid := range all.SVIDs {
			if svid.ID.String() == id {
				chain := [][]byte{}
				for _, c := range svid.Certificates {
					chain = append(chain, c.Raw)
				}
				cert = &tls.Certificate{Certificate: chain, PrivateKey: svid.PrivateKey}
			}
		}
		return cert != nil
	})
	return cert
}

// reason is what a process logged of a decision.
func (p *process) reason(t testing.TB, decision string) string {
	t.Helper()
	var line struct {
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
	}
	eventually(t, 5*time.Second, "the record of "+decision, func(context.Context) bool {
		lines := bufio.NewScanner(strings.NewReader(p.output.String()))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Decision == decision {
				return true
			}
		}
		return false
	})
	return line.Reason
}

// TestSPIREDirect runs a mixed mesh: acme's two Envoys have SPIRE's agent beside them, one asking for changes and one for the state
// of the world, and globex has Ringfence's agents.
func TestSPIREDirect(t *testing.T) {
	d := startDirectMesh(t)
	eventually(t, 15*time.Second, "a call is allowed", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet, "/orders/7", "")
		return status == http.StatusOK
	})
	d.goesOn(10 * time.Second) // globex
	t.Run("who is refused, and by which guard", d.refusals)
	t.Run("each guard alone", d.eachGuard)
	t.Run("SPIRE renews SVIDs under load: no call fails", d.rotation)
	t.Run("the control plane is away: Envoys keep what they have", d.planeAway)
	t.Run("a changed rule takes effect", func(t *testing.T) {
		if status, _ := d.call(t.Context(), http.MethodDelete, "/orders/7", ""); status != 403 {
			t.Errorf("before: %d", status)
		}
		editFile(t, filepath.Join(d.dir, "tenants/acme/orders.yaml"), "methods: [GET]", "methods: [GET, DELETE]")
		eventually(t, 15*time.Second, "the new rule holds", func(ctx context.Context) bool {
			status, _ := d.call(ctx, http.MethodDelete, "/orders/7", "")
			return status == 200
		})
	})
	t.Run("a changed caller takes effect at both guards", func(t *testing.T) {
		stranger, clerk := fromSPIRE(t, d.socket, acmeStranger), d.token("acme", "clerk")
		write(t, filepath.Join(d.dir, "tenants/acme/stranger.yaml"), strangerCalls)
		eventually(t, 15*time.Second, "the stranger is let in", func(context.Context) bool {
			status, _ := raw(t, stranger, d.web.sniOf("service/acme/orders"), fmt.Sprintf("127.0.0.1:%d", d.ports["20081"]), "/orders/7", clerk)
			return status == 200
		})
	})
	t.Run("who is revoked", d.revoked)
	t.Run("ringfence authz is gone: nothing passes", func(t *testing.T) {
		d.authz.stop(t, os.Interrupt)
		before := d.hits.Load()
		if status, _ := d.call(t.Context(), http.MethodGet, "/orders/7", ""); status != 503 {
			t.Errorf("got %d, want 503", status)
		}
		if d.hits.Load() != before {
			t.Error("the application was reached")
		}
	})
	t.Run("the tenant is removed: its Envoys have nothing any more, others notice nothing", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(d.dir, "tenants/acme")); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(d.dir, "platform/tenants.yaml"),
			"apiVersion: ringfence.dev/v1alpha1\nkind: Tenant\nmetadata: {name: globex}\nspec: {namespaces: [globex]}\n")
		editFile(t, filepath.Join(d.dir, "platform/token-issuers.yaml"), "tenants: [acme]", "tenants: [globex]")
		editFile(t, filepath.Join(d.dir, "platform/billing.yaml"), "tenant: acme", "tenant: globex")
		for _, e := range []*directEnvoy{d.web, d.orders} {
			eventually(t, 20*time.Second, "no listener is left", func(ctx context.Context) bool {
				return e.stat(ctx, "listener_manager.total_listeners_active") == "0"
			})
		}
		d.goesOn(10 * time.Second)
	})
}

const acmeStranger = "spiffe://acme.demo.test/ns/acme/sa/stranger"

const strangerCalls = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: stranger}
spec: {namespace: acme, serviceAccounts: [stranger], proxy: Direct}
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: stranger}
spec: {service: orders, rules: [{name: reads, from: {services: [stranger], roles: [clerk]}, to: {methods: [GET], paths: ["/orders/*"]}}]}
`

// eachGuard takes one guard at a time out of a copy of what orders' Envoy really holds. The roots are both tenants', so that
// guard 1's other half, the exact SPIFFE IDs, is seen alone, too.
func (d *direct) eachGuard(t *testing.T) {
	globex, err := tls.LoadX509KeyPair(filepath.Join(d.agentState("web"), "svid.pem"), filepath.Join(d.agentState("web"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := append(d.spire.Bundle(), readFile(t, d.root("globex.demo.test"))...)
	forward := func(t *testing.T, c *copied) { c.trust(t, roots) }
	d.alone(t, &globex, []aloneCase{
		{"TLS alone", []func(*testing.T, *copied){noRBAC, noAuthz}, 0, ""},
		{"RBAC alone", []func(*testing.T, *copied){forward, noAuthz}, 403, ""},
		{"ext_authz alone", []func(*testing.T, *copied){forward, noRBAC}, 403, "cross_tenant"},
		{"none", []func(*testing.T, *copied){forward, noRBAC, noAuthz}, 200, ""},
	})
}

func noRBAC(t *testing.T, c *copied)  { c.withoutHTTPFilter(t, filterRBAC) }
func noAuthz(t *testing.T, c *copied) { c.withoutHTTPFilter(t, filterExtAuthz) }

// aloneCase is what a call across tenants meets at a copy that was changed so.
type aloneCase struct {
	name   string
	change []func(*testing.T, *copied)
	status int
	reason string // of guard 2; empty: it was not asked, or allowed
}

// alone calls the copies of orders' sidecar with a certificate of another tenant, after acme/web has been let in by each.
func (d *direct) alone(t *testing.T, foreign *tls.Certificate, cases []aloneCase) {
	t.Helper()
	web, sni := fromSPIRE(t, d.socket, d.id("acme", "web")), d.web.sniOf("service/acme/orders")
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			c := copyInbound(t, d.orders.admin, "inbound/acme/orders")
			for _, change := range tt.change {
				change(t, c)
			}
			address := d.orders.runCopy(t, c)
			eventually(t, spireWithin, "acme/web is let in", func(context.Context) bool {
				status, _ := raw(t, web, sni, address, "/orders/7", d.token("acme", "clerk"))
				return status == 200
			})
			before := d.hits.Load()
			status, decision := raw(t, foreign, sni, address, "/orders/7", d.token("acme", "clerk"))
			d.expect(t, status, decision, tt.status, tt.reason, before)
		})
	}
}

// expect compares an answer, its reason, and whether the application was reached.
func (d *direct) expect(t *testing.T, status int, decision string, wantStatus int, wantReason string, before int64) {
	t.Helper()
	if status != wantStatus || (decision != "") != (wantReason != "") {
		t.Errorf("got %d, decision %q; want %d, %s", status, decision, wantStatus, wantReason)
	} else if decision != "" {
		if got := d.authz.reason(t, decision); got != wantReason {
			t.Errorf("refused for %s, not for %s", got, wantReason)
		}
	}
	if reached := d.hits.Load() - before; (reached > 0) != (wantStatus == 200) {
		t.Errorf("the application was reached %d times", reached)
	}
}

// runCopy runs a copy as the same user, so that SPIRE gives it the same SVID, and returns where it listens.
func (e *directEnvoy) runCopy(t *testing.T, c *copied) string {
	t.Helper()
	port := freePort(t)
	again := &directEnvoy{t: t, uid: e.uid, dir: shortDir(t)}
	if err := os.Chown(again.dir, e.uid, e.uid); err != nil {
		t.Fatal(err)
	}
	again.admin = filepath.Join(again.dir, "admin.sock")
	again.write("bootstrap.json", c.directBootstrap(t, port, again.admin))
	again.start()
	again.waitFor(1)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// rotation lets SPIRE give both Envoys new SVIDs: three times at once, and then by itself, at half of the life of orders' SVID
// of a minute. The stream that was opened with an SVID which has ended since is opened again with the next one.
func (d *direct) rotation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{ctx: ctx, cancel: cancel}
	defer l.stop()
	for _, anew := range []bool{false, true} {
		l.start(d.through(anew), "http://orders/orders/7")
	}
	for i := range 3 {
		web, orders := d.web.svid(t.Context()), d.orders.svid(t.Context())
		d.spire.Reissue(acmeWeb, time.Hour-time.Duration(i+1)*time.Second)
		d.spire.Reissue(acmeOrders, time.Minute+time.Duration(i)*time.Second)
		eventually(t, spireWithin, "both Envoys hold new SVIDs", func(ctx context.Context) bool {
			return d.web.svid(ctx) != web && d.orders.svid(ctx) != orders
		})
	}
	orders := d.orders.svid(t.Context())
	eventually(t, 2*time.Minute, "SPIRE renews by itself", func(ctx context.Context) bool { return d.orders.svid(ctx) != orders })
	eventually(t, 2*time.Minute, "the stream of an SVID that has ended ends", func(context.Context) bool {
		for line := range strings.Lines(d.serve.output.String()) {
			if strings.Contains(line, acmeOrders) && strings.Contains(line, "the client's SVID has expired") {
				return true
			}
		}
		return false
	})
	eventually(t, 15*time.Second, "and is opened again", func(ctx context.Context) bool { return d.inSync(ctx) == 2 })
	l.ended(t, "renewals by SPIRE", 200)
}

// inSync is how many of acme's Envoys have acknowledged what they shall have.
func (d *direct) inSync(ctx context.Context) int {
	out, _ := exec.CommandContext(ctx, binary, "proxy", "list", "--state", d.planeState(), "--tenant", "acme").Output()
	return strings.Count(string(out), "in sync")
}

func (d *direct) planeAway(t *testing.T) {
	d.serve.stop(t, syscall.SIGKILL)
	for range 20 {
		if status, _ := d.call(t.Context(), http.MethodGet, "/orders/7", ""); status != 200 {
			t.Errorf("got %d", status)
		}
	}
	if status, _ := d.call(t.Context(), http.MethodDelete, "/orders/7", ""); status != 403 {
		t.Errorf("what no rule allows: %d", status)
	}
	// What there is no disk for: an Envoy that is started now has nothing, and lets nobody in.
	d.web.Stop()
	d.web.start()
	eventually(t, 10*time.Second, "Envoy runs", func(ctx context.Context) bool { return d.web.get(ctx, "/server_info") != "" })
	if status, _ := d.call(t.Context(), http.MethodGet, "/orders/7", ""); status != 0 {
		t.Errorf("an Envoy without configuration answers %d", status)
	}
	d.startServe()
	d.web.waitFor(1)
	eventually(t, 15*time.Second, "calls pass, both are in sync", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet, "/orders/7", "")
		return status == 200 && d.inSync(ctx) == 2
	})
}

// revoked: the next call is refused by ringfence authz, and the control plane ends the stream and takes no other; by a document,
// and by an operator.
func (d *direct) revoked(t *testing.T) {
	path := filepath.Join(d.dir, "tenants/acme/revoked.yaml")
	write(t, path, revocationHead+"workload: "+acmeWeb+"\n")
	d.isRevoked(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.isBack(t)
	name, err := exec.CommandContext(t.Context(), binary, "revoke", "workload", acmeWeb, "--reason", "lost", "--state", d.planeState(), "--yes").Output()
	if err != nil {
		t.Fatal(err)
	}
	d.isRevoked(t)
	if err := exec.CommandContext(t.Context(), binary, "revoke", "undo", strings.TrimSpace(string(name)), "--state", d.planeState(), "--yes").Run(); err != nil {
		t.Fatal(err)
	}
	d.isBack(t)
}

func (d *direct) isRevoked(t *testing.T) {
	t.Helper()
	var decision string
	eventually(t, 15*time.Second, "the call is refused", func(ctx context.Context) bool {
		var status int
		status, decision = d.call(ctx, http.MethodGet, "/orders/7", "")
		return status == 403 && decision != ""
	})
	if got := d.authz.reason(t, decision); got != "revoked" {
		t.Errorf("refused for %s", got)
	}
	eventually(t, 15*time.Second, "web is not connected", func(ctx context.Context) bool {
		return d.web.stat(ctx, "control_plane.connected_state") == "0" && d.inSync(ctx) == 1
	})
}

func (d *direct) isBack(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "all is as before", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet, "/orders/7", "")
		return status == 200 && d.inSync(ctx) == 2
	})
}

func (d *direct) refusals(t *testing.T) {
	address, sni := fmt.Sprintf("127.0.0.1:%d", d.ports["20081"]), d.web.sniOf("service/acme/orders")
	globex, err := tls.LoadX509KeyPair(filepath.Join(d.agentState("web"), "svid.pem"), filepath.Join(d.agentState("web"), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	web, stranger := fromSPIRE(t, d.socket, acmeWeb), fromSPIRE(t, d.socket, acmeStranger)
	clerk := d.token("acme", "clerk")
	for name, tt := range map[string]struct {
		cert             *tls.Certificate
		sni, path, token string
		status           int
		reason           string // of guard 2; empty: it was not asked, or allowed
	}{
		"web itself":                {web, sni, "/orders/7", clerk, 200, ""},
		"without a label":           {web, "", "/orders/7", clerk, 0, ""},
		"without a certificate":     {&tls.Certificate{}, sni, "/orders/7", clerk, 0, ""},
		"another tenant":            {&globex, sni, "/orders/7", clerk, 0, ""},
		"an account without rule":   {stranger, sni, "/orders/7", clerk, 403, ""},
		"a path without rule":       {web, sni, "/admin", clerk, 403, "no_rule"},
		"no token":                  {web, sni, "/orders/7", "", 401, "token_missing"},
		"a token of another tenant": {web, sni, "/orders/7", d.token("globex", "clerk"), 403, "issuer_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			before := d.hits.Load()
			status, decision := raw(t, tt.cert, tt.sni, address, tt.path, tt.token)
			d.expect(t, status, decision, tt.status, tt.reason, before)
		})
	}
}

// TestSPIREDirectUnderOneRoot: two tenants in one trust domain of SPIRE's, parted by the paths of their SPIFFE IDs alone. TLS lets
// both in, which is what is lost; the exact IDs of guard 1 refuse one tenant at the other's service, and so does guard 2 alone.
// The decision point's SVID and roots are SPIRE's, too.
func TestSPIREDirectUnderOneRoot(t *testing.T) {
	d := &direct{spire: realspire.Start(t, "prod.test", time.Hour)}
	d.socket = d.spire.Agent()
	d.id = func(tenant, account string) string { return "spiffe://prod.test/ns/" + tenant + "/sa/" + account }
	d.spire.Entry(d.id("acme", "web"), webUID)
	d.spire.Entry(d.id("acme", "orders"), ordersUID)
	authz := d.id("mesh", "authz")
	for _, id := range []string{d.id("acme", "web"), d.id("globex", "web"), authz} {
		d.spire.Entry(id, os.Getuid())
	}
	d.apart = newApart(t, func(a *apart) {
		mesh := filepath.Join(a.dir, "mesh.yaml")
		editFile(t, mesh, `"{tenant}.demo.test"`, "prod.test")
		editFile(t, mesh, "/ns/{namespace}/sa/{serviceAccount}", "/ns/{tenant}/sa/{serviceAccount}")
		for _, tenant := range []string{"acme", "globex"} {
			for _, name := range []string{"orders", "web"} {
				editFile(t, filepath.Join(a.dir, "tenants", tenant, name+".yaml"), "serviceAccounts: ["+name+"]", "serviceAccounts: ["+name+"]\n  proxy: Direct")
			}
		}
		d.key = issue(t, filepath.Join(a.dir, "platform/acme-jwks.json"))
		external := filepath.Join(a.state, "spire")
		if err := os.Mkdir(external, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(external, "prod.test.pem"), string(d.spire.Bundle()))
		a.flags = []string{"--trust-bundles", external}
		out, err := exec.CommandContext(t.Context(), binary, "validate", a.dir).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "RF2580") || !strings.Contains(string(out), "2 tenants share the trust domain prod.test") {
			t.Errorf("validate does not say what is lost: %v\n%s", err, out)
		}
	})
	own := fromSPIRE(t, d.socket, authz)
	svid, key := filepath.Join(d.apart.state, "authz.pem"), filepath.Join(d.apart.state, "authz.key")
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, svid, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	d.runAuthz(svid, key, "prod.test", "platform.demo.test")
	serveApp(t, d.ports["20281"], &d.hits)
	flags := func(account string) []string {
		return []string{
			"--workload", d.id("acme", account), "--spire", d.socket, "--control-plane", d.listen["xds"], "--control-plane-id", planeID,
			"--platform-root", d.root("platform.demo.test"), "--authz", d.ask, "--authz-id", authz,
		}
	}
	d.web = startDirect(t, webUID, flags("web")...)
	d.orders = startDirect(t, ordersUID, append(flags("orders"), "--sotw")...)
	d.web.waitFor(1)
	d.orders.waitFor(2)
	eventually(t, 15*time.Second, "a call within a tenant is allowed", func(ctx context.Context) bool {
		status, _ := d.call(ctx, http.MethodGet, "/orders/7", "")
		return status == http.StatusOK
	})
	globex := fromSPIRE(t, d.socket, d.id("globex", "web"))
	d.alone(t, globex, []aloneCase{
		{"both guards", nil, 403, ""},
		{"guard 1 alone, which is RBAC", []func(*testing.T, *copied){noAuthz}, 403, ""},
		{"guard 2 alone", []func(*testing.T, *copied){noRBAC}, 403, "cross_tenant"},
		{"TLS alone: it passes", []func(*testing.T, *copied){noRBAC, noAuthz}, 200, ""},
	})
}
