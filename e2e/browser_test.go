//go:build browser

package e2e_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// browserProgram names the Chromium to test with; make test-browser sets it.
const browserProgram = "RINGFENCE_BROWSER"

// How long a browser may take for its first page, and a page for a call.
const (
	browserStarts = time.Minute
	browserCalls  = 20 * time.Second
)

// page is one page in a browser of its own, which makes the calls that it is given and tells what it saw of the answers.
type page struct {
	calls chan fetchCall
	seen  chan fetchSeen
}

// fetchCall is what the page gives to fetch.
type fetchCall struct {
	URL  string    `json:"url"`
	Init fetchInit `json:"init"`
}

type fetchInit struct {
	Method      string            `json:"method,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Body        string            `json:"body,omitempty"`
	Mode        string            `json:"mode,omitempty"`
	Credentials string            `json:"credentials,omitempty"`
}

// fetchSeen is what a script of the page can read of the answer. Blocked is that fetch failed, which is all that it then says.
type fetchSeen struct {
	Blocked bool              `json:"blocked"`
	Type    string            `json:"type"` // cors, or opaque where the page may not look at it
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

const pageText = `<!doctype html><meta charset="utf-8"><title>calls</title><link rel="icon" href="data:,"><script type="module">
for (;;) {
  const call = await (await fetch("/call")).json();
  let seen = {};
  try {
    const answer = await fetch(call.url, call.init);
    seen = {type: answer.type, status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text()};
  } catch { seen = {blocked: true}; }
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
}
</script>`

// ServeHTTP is the page's own server.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, pageText)
	case "/call":
		select {
		case c := <-p.calls:
			if err := json.NewEncoder(w).Encode(c); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		case <-r.Context().Done():
		}
	case "/seen":
		var seen fetchSeen
		if err := json.NewDecoder(r.Body).Decode(&seen); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case p.seen <- seen:
		case <-r.Context().Done():
		}
	default:
		http.NotFound(w, r)
	}
}

// openPage serves the page as https://host and starts a browser on it. The browser finds that host, and those of the
// ingress, on loopback and no other host at all. It trusts this run's keys beside the authorities that it always trusts.
func (i *ingress) openPage(t *testing.T, host string) *page {
	t.Helper()
	p := &page{calls: make(chan fetchCall), seen: make(chan fetchSeen)}
	own := i.public.SVID("", testca.Hosts(host))
	server := httptest.NewUnstartedServer(p)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own.TLS()}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	at := func(host string, port int) string { return fmt.Sprintf("MAP %s:443 127.0.0.1:%d", host, port) }
	hosts := []string{
		at(host, server.Listener.Addr().(*net.TCPAddr).Port), at(acmeHost, i.port), at(globexHost, i.port), "MAP * ^NOTFOUND",
	}
	var pins []string
	for _, cert := range append(i.certs, own.Cert) {
		pin := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		pins = append(pins, base64.StdEncoding.EncodeToString(pin[:]))
	}
	startBrowser(t, "--host-resolver-rules="+strings.Join(hosts, ","), "--ignore-certificate-errors-spki-list="+strings.Join(pins, ","), "https://"+host+"/")
	return p
}

// startBrowser runs a headless Chromium until the test ends.
func startBrowser(t *testing.T, args ...string) {
	t.Helper()
	program := os.Getenv(browserProgram)
	if program == "" {
		t.Fatalf("%s is not set: run make test-browser", browserProgram)
	}
	dir := shortDir(t)
	args = append([]string{
		"--headless", "--user-data-dir=" + filepath.Join(dir, "profile"), "--no-proxy-server", "--no-first-run", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
	}, args...)
	if os.Geteuid() == 0 {
		args = append([]string{"--no-sandbox"}, args...) // it has none for root; its pages are this test's
	}
	output := &lockedBuffer{}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = output, output, 5*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the kernel sends the signal when the thread ends that started the browser
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it and its children
		<-ended
		if t.Failed() {
			t.Logf("the browser:\n%s", output.tail())
		}
	})
}

// do lets the page make a call.
func (p *page) do(t *testing.T, c fetchCall) fetchSeen {
	t.Helper()
	select {
	case p.calls <- c:
	case <-time.After(browserStarts):
		t.Fatal("no page asks for a call")
	}
	select {
	case seen := <-p.seen:
		return seen
	case <-time.After(browserCalls):
		t.Fatal("the page does not say what it saw")
	}
	return fetchSeen{}
}

// counted is what has reached the ingress, the decision point and the applications.
type counted struct{ Requests, Allowed, Denied, Acme, Globex int }

var ingressCounter = regexp.MustCompile(`(?m)^http\.ingress\.(downstream_rq_total|ext_authz\.ok|ext_authz\.denied): (\d+)$`)

func (i *ingress) counted(t *testing.T) counted {
	t.Helper()
	c := counted{Acme: int(i.acmeHits.Load()), Globex: int(i.globexes.Load())}
	found := ingressCounter.FindAllStringSubmatch(i.envoy.Admin(t, "/stats"), -1)
	for _, m := range found {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		*map[string]*int{"downstream_rq_total": &c.Requests, "ext_authz.ok": &c.Allowed, "ext_authz.denied": &c.Denied}[m[1]] = n
	}
	if len(found) != 3 {
		t.Fatalf("Envoy has not the counters, but %q", found)
	}
	return c
}

func (c counted) since(before counted) counted {
	return counted{c.Requests - before.Requests, c.Allowed - before.Allowed, c.Denied - before.Denied, c.Acme - before.Acme, c.Globex - before.Globex}
}

// TestBrowser loads examples/ingress in a real Envoy and calls it from pages in a real browser: what scripts of the page can
// read, and what reached the ingress, the decision point and the applications meanwhile. A preflight is a request to the
// ingress that comes to no decision.
func TestBrowser(t *testing.T) {
	i := startIngress(t)
	now := time.Now()
	clerk, manager := sign(t, i.acme, acmeIDP, "acme", now, "clerk"), sign(t, i.acme, acmeIDP, "acme", now, "manager")
	expired, globex := sign(t, i.acme, acmeIDP, "acme", now.Add(-time.Hour), "clerk"), sign(t, i.globex, globexIDP, "globex", now)
	bearer := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }
	order := func(n int, init fetchInit) fetchCall {
		return fetchCall{fmt.Sprintf("https://%s/orders/%d", acmeHost, n), init}
	}
	const refusal = `{"type":"about:blank","title":"request refused","status":%d}`
	read := fetchSeen{Type: "cors", Status: 200}
	refused := func(status int) fetchSeen {
		return fetchSeen{Type: "cors", Status: status, Body: fmt.Sprintf(refusal, status)}
	}
	blocked, opaque := fetchSeen{Blocked: true}, fetchSeen{Type: "opaque"}

	type step struct {
		name string
		call fetchCall
		want fetchSeen
		came counted
	}
	for _, of := range []struct {
		host  string
		steps []step
	}{
		{"app.acme.example.com", []step{
			{"a clerk reads", order(1, fetchInit{Headers: bearer(clerk)}), read, counted{Requests: 2, Allowed: 1, Acme: 1}},
			{"and again: the preflight is remembered", order(1, fetchInit{Headers: bearer(clerk)}), read, counted{Requests: 1, Allowed: 1, Acme: 1}},
			{"a manager orders", fetchCall{"https://" + acmeHost + "/orders", fetchInit{
				Method: "POST", Body: "{}", Headers: map[string]string{"Authorization": "Bearer " + manager, "Content-Type": "application/json"},
			}}, read, counted{Requests: 2, Allowed: 1, Acme: 1}},
			{"a clerk may not order", fetchCall{"https://" + acmeHost + "/orders?2", fetchInit{Method: "POST", Headers: bearer(clerk)}}, refused(403), counted{Requests: 2, Denied: 1}},
			{"no token, no preflight", order(2, fetchInit{}), refused(401), counted{Requests: 1, Denied: 1}},
			{"an expired token", order(3, fetchInit{Headers: bearer(expired)}), refused(401), counted{Requests: 2, Denied: 1}},
			{"another tenant's token", order(4, fetchInit{Headers: bearer(globex)}), refused(403), counted{Requests: 2, Denied: 1}},
			{"a method that no page may use", order(5, fetchInit{Method: "DELETE", Headers: bearer(manager)}), blocked, counted{Requests: 1}},
			{"a header that no page may set", order(6, fetchInit{Headers: map[string]string{"X-Ringfence-Tenant": "globex"}}), blocked, counted{Requests: 1}},
			{"with cookies", order(7, fetchInit{Headers: bearer(clerk), Credentials: "include"}), blocked, counted{Requests: 1}},
			{"without CORS a page sends no token", order(8, fetchInit{Headers: bearer(clerk), Mode: "no-cors"}), opaque, counted{Requests: 1, Denied: 1}},
			{"at another tenant's host", fetchCall{"https://" + globexHost + "/orders/1", fetchInit{Headers: bearer(globex)}}, blocked, counted{Requests: 1, Denied: 1}},
		}},
		{"app.globex.example.com", []step{
			{"a user of globex reads", fetchCall{"https://" + globexHost + "/orders/1", fetchInit{Headers: bearer(globex)}}, read, counted{Requests: 2, Allowed: 1, Globex: 1}},
			{"at another tenant's host", order(1, fetchInit{Headers: bearer(clerk)}), blocked, counted{Requests: 1, Denied: 1}},
		}},
		{"evil.example.com", []step{
			{"a good token: not beyond the preflight", order(1, fetchInit{Headers: bearer(clerk)}), blocked, counted{Requests: 1, Denied: 1}},
			{"no token: decided, and not shown", order(1, fetchInit{}), blocked, counted{Requests: 1, Denied: 1}},
			{"without CORS", order(1, fetchInit{Headers: bearer(clerk), Mode: "no-cors"}), opaque, counted{Requests: 1, Denied: 1}},
			{"a form's POST", fetchCall{"https://" + acmeHost + "/orders", fetchInit{Method: "POST", Body: "x", Mode: "no-cors", Credentials: "include"}}, opaque, counted{Requests: 1, Denied: 1}},
		}},
	} {
		t.Run(of.host, func(t *testing.T) {
			p := i.openPage(t, of.host)
			for _, s := range of.steps {
				before := i.counted(t)
				seen := p.do(t, s.call)
				if diff := cmp.Diff(s.came, i.counted(t).since(before)); diff != "" {
					t.Errorf("%s: what came (-want +got):\n%s", s.name, diff)
				}
				checkRead(t, s.name, s.want, seen)
			}
		})
	}
}

// checkRead holds what a page saw against what it should. Of an allowed call it reads what the application says, of a
// refused one the refusal, its id and, without a good token, the challenge; and no header more.
func checkRead(t *testing.T, name string, want, seen fetchSeen) {
	t.Helper()
	headers, body := seen.Headers, seen.Body
	seen.Headers = nil
	if want.Status == http.StatusOK {
		var told http.Header
		tenant, subject := "", ""
		if err := json.Unmarshal([]byte(body), &told); err == nil {
			tenant, subject = told.Get("x-ringfence-tenant"), told.Get("x-ringfence-subject")
		}
		if tenant == "" || subject != "somebody" || !strings.Contains(told.Get("user-agent"), "Chrome/") {
			t.Errorf("%s: the page reads %q", name, body)
		}
		seen.Body = ""
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("%s: what the page saw (-want +got):\n%s", name, diff)
	}
	allowed := map[string]bool{"content-type": true, "content-length": true}
	if want.Type == "cors" && want.Status != http.StatusOK {
		allowed["x-ringfence-decision"], allowed["www-authenticate"] = true, want.Status == http.StatusUnauthorized
		if len(headers["x-ringfence-decision"]) != 32 || (headers["www-authenticate"] != "") != (want.Status == http.StatusUnauthorized) {
			t.Errorf("%s: the page reads %v", name, headers)
		}
	}
	for header := range headers {
		if !allowed[header] {
			t.Errorf("%s: the page can read %s", name, header)
		}
	}
}
