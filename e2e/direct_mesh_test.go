//go:build spire

package e2e_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
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
	printed := exec.CommandContext(t.Context(), binary, append([]string{"bootstrap", "--admin", e.admin}, flags...)...)
	printed.Stderr = &problem
	bootstrap, err := printed.Output()
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
				Serial string `json:"serial_number"` //nolint:tagliatelle // Envoy's
			} `json:"cert_chain"` //nolint:tagliatelle // Envoy's
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
	db     dbPorts
	id     func(tenant, account string) string // SPIFFE IDs
}

// dbPorts are those of acme's TCP service, which orders runs: of its application, its sidecar and web's way to it.
type dbPorts struct{ app, sidecar, outbound int }

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
		d.db = dbPorts{echo(t, &d.hits), freePort(t), freePort(t)}
		write(t, filepath.Join(a.dir, "tenants/acme/db.yaml"), fmt.Sprintf(dbService, d.db.app, d.db.sidecar))
		editFile(t, filepath.Join(a.dir, "tenants/acme/web.yaml"), "outbound: {", fmt.Sprintf("outbound: {tcp: [{port: %d, service: db}], ", d.db.outbound))
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
	d.web.waitFor(2)
	d.orders.waitFor(3)
	return d
}

// startAuthz runs the decision point as a workload of the platform, whose SVID our own agent keeps.
func (d *direct) startAuthz() {
	t := d.t
	t.Helper()
	state, token := d.agentState("authz"), filepath.Join(d.state, "authz.token")
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
	trust := filepath.Join(d.state, "all")
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
		r.Header.Set("authorization", "Bearer "+s.d.token("acme"))
	}
	return s.next.RoundTrip(r)
}

func (d *direct) token(tenant string) string {
	return sign(d.t, d.key, "https://idp.acme.example.com", tenant, time.Now(), "clerk")
}

// call is one call of acme/web's application; 0: no answer.
func (d *direct) call(ctx context.Context, method string) (status int, decision string) {
	request, err := http.NewRequestWithContext(ctx, method, "http://orders/orders/7", http.NoBody)
	if err != nil {
		return 0, ""
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
func raw(ctx context.Context, cert *tls.Certificate, sni, address, path, token string) (status int, decision string) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: sni,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, http.NoBody)
	if err != nil {
		return 0, ""
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
