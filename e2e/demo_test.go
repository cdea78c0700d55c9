package e2e_test

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// TestDemoCheck is `ringfence demo --check` as a user runs it: every call of the matrix as expected, exit 0, no Envoy left.
func TestDemoCheck(t *testing.T) {
	p := startDemo(t, "--check")
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	if p.err != nil {
		t.Errorf("it failed: %v", p.err)
	}
	if got, want := strings.Count(p.output.String(), "✓\n"), len(demo.Matrix()); got < want {
		t.Errorf("%d calls as expected, want %d", got, want)
	}
	p.noEnvoy(t)
}

// TestDemoOfANewDirectory runs what `ringfence init` writes: the calls are its policy tests, and what it suggests works.
func TestDemoOfANewDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	if out, err := exec.CommandContext(t.Context(), binary, "init", dir).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	checkDemo(t, dir, true, "all 4 calls ended as expected")

	p := startDemo(t, "--config", dir)
	eventually(t, 40*time.Second, "the demo stays up", func(context.Context) bool { return strings.Contains(p.output.String(), "Ctrl-C") })
	seen := map[int]int{}
	for _, c := range regexp.MustCompile(`(?m)^\s+(curl .*)$`).FindAllStringSubmatch(p.output.String(), -1) {
		seen[runCurl(t, c[1])]++
	}
	if seen[http.StatusOK] != 2 || seen[http.StatusForbidden] != 2 || len(seen) != 2 {
		t.Errorf("the suggestions show %v", seen)
	}
	p.stop(t, syscall.SIGTERM)

	// The demo says so when the mesh and its tests differ.
	test := filepath.Join(dir, "tests", "orders.yaml")
	changed := strings.Replace(string(readFile(t, test)), "expect: allow", "expect: {deny: no_rule}", 1)
	if err := os.WriteFile(test, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	checkDemo(t, dir, false, "1 of 4 calls did NOT end as expected")
	if err := os.RemoveAll(filepath.Dir(test)); err != nil {
		t.Fatal(err)
	}
	checkDemo(t, dir, false, "nothing was called")
}

// TestDemoSendsPolicyTests takes the shared service out of the example, so that its policy tests are sent in place of the
// matrix: with tokens, and across tenants.
func TestDemoSendsPolicyTests(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"platform/billing.yaml", "tests/billing.yaml"} {
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	p := checkDemo(t, dir, true, "all 11 calls ended as expected", "cannot be sent as calls: 4;")
	for _, token := range []string{"acme clerk", "acme manager", "globex clerk", "acme for globex"} {
		if !strings.Contains(p.output.String(), token) {
			t.Errorf("no call with a token %q", token)
		}
	}
}

// checkDemo runs `ringfence demo --check` on a directory.
func checkDemo(t *testing.T, dir string, good bool, says ...string) demoProcess {
	t.Helper()
	p := startDemo(t, "--config", dir, "--check")
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	if (p.err == nil) != good {
		t.Errorf("it ended with %v", p.err)
	}
	for _, text := range says {
		if !strings.Contains(p.output.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, p.output.tail())
		}
	}
	return p
}

// TestDemoLeavesNoEnvoy ends the demo in every way there is.
func TestDemoLeavesNoEnvoy(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(s.String(), func(t *testing.T) {
			p := startDemo(t)
			eventually(t, 40*time.Second, "the demo stays up", func(context.Context) bool { return strings.Contains(p.output.String(), "Try next") })
			if n := len(envoys(t, p.state(t))); n != 5 {
				t.Errorf("%d Envoys run", n)
			}
			p.stop(t, s)
			if s != syscall.SIGKILL && p.err != nil {
				t.Errorf("%v is a failure: %v", s, p.err)
			}
			p.noEnvoy(t)
		})
	}
}

// TestDemoSuggestions runs the commands that the demo says to try next, just as they stand there.
func TestDemoSuggestions(t *testing.T) {
	p := startDemo(t)
	eventually(t, 40*time.Second, "the demo stays up", func(context.Context) bool { return strings.Contains(p.output.String(), "Ctrl-C") })
	commands := regexp.MustCompile(`(?m)^\s+(curl .*)$`).FindAllStringSubmatch(p.output.String(), -1)
	if len(commands) < 3 {
		t.Fatalf("%d commands:\n%s", len(commands), p.output.tail())
	}
	seen := map[int]bool{}
	for _, c := range commands {
		seen[runCurl(t, c[1])] = true
	}
	if !seen[http.StatusOK] || !seen[http.StatusForbidden] || len(seen) != 2 {
		t.Errorf("the suggestions show %v", seen)
	}
	well := regexp.MustCompile(`ringfence (check --state \S+)`).FindStringSubmatch(p.output.String())
	if well == nil {
		t.Fatal("no way to ask whether it is well")
	}
	if out, err := exec.CommandContext(t.Context(), binary, strings.Fields(well[1])...).CombinedOutput(); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
	why := regexp.MustCompile(`ringfence why X-RINGFENCE-DECISION (--log \S+)`).FindStringSubmatch(p.output.String())
	decision := regexp.MustCompile(`"msg":"call refused","decision":"([0-9a-f]{32})"`).FindSubmatch(readFile(t, filepath.Join(p.state(t), "log")))
	if why == nil || decision == nil {
		t.Fatalf("no way from a refusal to its reason: %q, %q", why, decision)
	}
	out, err := exec.CommandContext(t.Context(), binary, append([]string{"why", string(decision[1])}, strings.Fields(why[1])...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "what to do") {
		t.Errorf("why: %v\n%s", err, out)
	}
}

// runCurl runs a suggested command and gives the status of its answer. Where there is no curl, which nothing else here
// needs, it does what the command's few options say.
func runCurl(t *testing.T, line string) int {
	t.Helper()
	if _, err := exec.LookPath("curl"); err == nil {
		out, err := exec.CommandContext(t.Context(), "bash", "-c", line+` -o /dev/null -w '%{http_code}'`).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		status, err := strconv.Atoi(string(out))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return status
	}
	m := regexp.MustCompile(`^curl -s -x (\S+)(?: -H "authorization: Bearer \$\(cat (\S+)\)")?(?: -X (\S+))? (\S+)$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("not understood: %s", line)
	}
	proxy, err := url.Parse(m[1])
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), cmp.Or(m[3], http.MethodGet), m[4], http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if m[2] != "" {
		request.Header.Set("authorization", "Bearer "+string(readFile(t, m[2])))
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // not read
	return response.StatusCode
}

type demoProcess struct{ *process }

func startDemo(t testing.TB, args ...string) demoProcess {
	t.Helper()
	return demoProcess{startProcess(t, []string{"ENVOY=" + realenvoy.Path(t)}, append([]string{"demo"}, args...)...)}
}

// state is the directory that the demo says it uses.
func (p demoProcess) state(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`state\s+(/\S+)`).FindStringSubmatch(p.output.String())
	if m == nil {
		t.Fatalf("the demo does not say where its state is:\n%s", p.output.tail())
	}
	return m[1]
}

func (p demoProcess) noEnvoy(t *testing.T) {
	t.Helper()
	state := p.state(t)
	eventually(t, 5*time.Second, "no Envoy is left", func(context.Context) bool { return len(envoys(t, state)) == 0 })
}
