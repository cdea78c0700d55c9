package e2e_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// checked is what one run of `ringfence check` says.
type checked struct {
	exit   int
	Checks []struct {
		Check  string `json:"check"`
		Status string `json:"status"`
		Code   string `json:"code"`
		Cause  string `json:"cause"`
	} `json:"checks"`
}

func check(ctx context.Context, t testing.TB, args ...string) checked {
	t.Helper()
	var c checked
	out, err := exec.CommandContext(ctx, binary, append([]string{"check", "-o", "json"}, args...)...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		c.exit = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return c
}

// failures are the codes of the failed checks, sorted, each once.
func (c checked) failures() []string {
	var codes []string
	for _, r := range c.Checks {
		if r.Status == "failed" {
			codes = append(codes, r.Code)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// says reports whether a check with that text stands so.
func (c checked) says(text, status string) bool {
	for _, r := range c.Checks {
		if strings.Contains(r.Check+": "+r.Cause, text) && r.Status == status {
			return true
		}
	}
	return false
}

// TestCheck asks a mesh of separate processes whether it is well: all of it is; then an Envoy refuses its configuration, the
// agent of another dies, and each is told by its code.
func TestCheck(t *testing.T) {
	a := startApart(t)
	args := []string{"--state", a.planeState(), "--tenant", "globex", "--agent", a.status["web"], "--agent", a.status["orders"]}
	fails := func(what string, codes ...string) checked {
		t.Helper()
		var c checked
		eventually(t, 20*time.Second, what, func(ctx context.Context) bool {
			c = check(ctx, t, args...)
			return slices.Equal(c.failures(), codes)
		})
		if c.exit != min(1, len(codes)) {
			t.Errorf("%s: exit code %d", what, c.exit)
		}
		return c
	}
	well := fails("everything is well")
	for _, text := range []string{
		"the control plane's SVID", "roots of globex.demo.test", "SVID of " + globexID("web"), "the agent of " + globexID("orders"),
		"answers as the control plane at " + a.listen["issuer"], "documents of globex", globexID("web") + ": its Envoy holds its secrets",
		"the Envoy of " + globexID("orders") + " (" + realenvoy.Version + ") is new enough", "no sidecar that is connected refuses anything",
	} {
		if !well.says(text, "ok") {
			t.Errorf("%q is not well: %+v", text, well.Checks)
		}
	}
	for _, r := range well.Checks {
		if strings.Contains(r.Check+r.Cause, "acme") || r.Status != "ok" && !strings.Contains(r.Check, "CVE-2026-35189") {
			t.Errorf("%+v", r)
		}
	}
	alone := check(t.Context(), t, "--state", a.planeState(), "--proxy", globexID("web"))
	if alone.exit != 0 || !alone.says("the Envoy of "+globexID("web")+" ("+realenvoy.Version+")", "ok") || alone.says(globexID("orders"), "ok") {
		t.Errorf("by its stream alone: exit code %d, %+v", alone.exit, alone.Checks)
	}

	// Somebody else has the port that orders' sidecar shall move to.
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }() // at the end at the latest
	file := filepath.Join(a.dir, "tenants", "globex", "orders.yaml")
	before := readFile(t, file)
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	write(t, file, strings.Replace(string(before), fmt.Sprintf("127.0.0.1, port: %d", a.ports["20083"]), "127.0.0.1, port: "+port, 1))
	refused := fails("Envoy refuses a listener", "RC1601", "RC1702")
	if !refused.says("Listener inbound/globex/orders", "failed") {
		t.Errorf("%+v", refused.Checks)
	}
	write(t, file, string(before))
	fails("everything is well again")

	a.agents["web"].stop(t, syscall.SIGKILL)
	dead := fails("an agent is dead", "RC1501", "RC1701")
	if !dead.says(globexID("web")+": no agent holds a stream", "failed") || !dead.says(globexID("orders"), "ok") {
		t.Errorf("%+v", dead.Checks)
	}
	a.serve.stop(t, syscall.SIGTERM)
	if c := check(t.Context(), t, args...); c.exit != 3 || !slices.Contains(c.failures(), "RC1001") || !c.says("ready", "ok") {
		t.Errorf("without the control plane: exit code %d, %+v", c.exit, c.Checks)
	}
}

// TestCheckTheDemo: the whole demo mesh is well. An SVID that somebody has kept until it expired is told as such, and gets no
// other answer.
func TestCheckTheDemo(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	m, err := demo.Start(t.Context(), demo.Config{
		Dir: dir, State: shortDir(t), Envoy: realenvoy.Path(t), Issuer: issuer.Options{TTL: 20 * time.Second, ShortLived: true},
		Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	kept := t.TempDir()
	for _, name := range []string{"svid.pem", "key.pem"} {
		write(t, filepath.Join(kept, name), string(readFile(t, filepath.Join(m.StateDir("acme/web"), name))))
	}
	eventually(t, 20*time.Second, "the whole mesh is well", func(ctx context.Context) bool {
		c := check(ctx, t, "--state", m.PlaneDir())
		return c.exit == 0 && c.says("the newest configuration as a whole", "ok") && c.says("documents of globex", "ok") &&
			c.says("sa/billing ("+realenvoy.Version+") is new enough", "ok")
	})
	remote := func(dir string) checked {
		return check(t.Context(), t, "--control-plane", m.XDSAddr(), "--platform-root", m.TrustBundle("platform.demo.test"),
			"--control-plane-id", "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane",
			"--svid", filepath.Join(dir, "svid.pem"), "--key", filepath.Join(dir, "key.pem"))
	}
	if c := remote(m.StateDir("acme/web")); !c.says("spiffe://acme.demo.test/ns/acme/sa/web", "ok") || c.says("sa/orders", "ok") || c.says("globex", "ok") {
		t.Errorf("a sidecar's own health: exit code %d, %+v", c.exit, c.Checks)
	}
	leaf, err := x509.ParseCertificate(pemBlock(t, filepath.Join(kept, "svid.pem")))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the SVID expires", func(context.Context) bool { return time.Now().After(leaf.NotAfter) })
	if c := remote(kept); c.exit != 4 || !slices.Equal(c.failures(), []string{"RC1002", "RC1108"}) {
		t.Errorf("with an expired SVID: exit code %d, %+v", c.exit, c.Checks)
	}
}
