package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// TestRotationUnderLoad replaces acme's root under a constant load of calls in acme, from acme to a shared service and in globex:
// first it is taken back in the middle, when SVIDs of the new root are in use, then it goes through. No call fails, globex's
// sidecars get nothing, and in the end a certificate that was made with the old root's stolen key is worth nothing.
func TestRotationUnderLoad(t *testing.T) {
	const life, least = 16 * time.Second, 5000
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	m, err := demo.Start(t.Context(), demo.Config{
		Dir: dir, State: shortDir(t), Envoy: realenvoy.Path(t), Issuer: issuer.Options{TTL: life, ShortLived: true},
		Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	stolen := mintedByRoot(t, m, "acme.demo.test", "acme/web")
	thief := demo.Call{
		From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web", Certificate: stolen}, Method: http.MethodPost, Path: "/orders", Token: manager,
	}
	if r := do(t, m, thief); !r.As(allowed) {
		t.Fatalf("with the stolen key, before the rotation: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
	globex := globexState(t, m)

	load := startRotationLoad(t, m)
	if r := rotateKeys(t, m, "--yes"); r.SigningRoot != 1 {
		t.Errorf("begun: %+v", r)
	}
	before := serialOf(t, m, "acme/orders")
	eventually(t, 2*life, "SVIDs of the new root are in use", func(context.Context) bool {
		r := rotateKeys(t, m, "--status")
		return r.Step == "signing" && r.SigningRoot == 2 && serialOf(t, m, "acme/orders") != before
	})
	if r := rotateKeys(t, m, "--rollback"); r.Step != "signing" || !r.Rollback || r.SigningRoot != 1 || r.TrustedRoot != 2 {
		t.Errorf("rolled back: %+v", r)
	}
	eventually(t, 3*life, "the rotation is taken back", func(context.Context) bool {
		r := rotateKeys(t, m, "--status")
		return r.Step == "none" && r.SigningRoot == 1
	})
	load.ended(t, "with a rollback in the middle", least)

	load = startRotationLoad(t, m)
	rotateKeys(t, m, "--yes")
	took := eventually(t, 4*life, "the rotation goes through", func(context.Context) bool {
		r := rotateKeys(t, m, "--status")
		return r.Step == "none" && r.SigningRoot == 3
	})
	load.ended(t, "during a rotation", least)
	t.Logf("the rotation took %v with SVIDs of %v", took, life)

	if now := globexState(t, m); now != globex {
		t.Errorf("globex's sidecars were sent something:\n%s\nbefore:\n%s", now, globex)
	}
	if r := do(t, m, thief); r.Layer != demo.LayerTLS {
		t.Errorf("with the stolen key of the withdrawn root: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
	thief.Raw = &demo.Raw{SNI: "acme/web"}
	if r := do(t, m, thief); !r.As(allowed) {
		t.Errorf("with the present SVID: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
}

// keyRotation is what the command says.
type keyRotation struct {
	Step        string
	Rollback    bool
	SigningRoot int
	TrustedRoot int
	Waiting     []struct{ Workload, Why string }
}

// rotateKeys runs the command for acme.
func rotateKeys(t testing.TB, m *demo.Mesh, flag string) keyRotation {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "tenant", "rotate-keys", "acme", flag, "--state", m.PlaneDir(), "-o", "json").Output()
	if err != nil {
		t.Fatalf("rotate-keys acme %s: %v", flag, err)
	}
	var r keyRotation
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// globexState is what globex's sidecars have and had: their targets, how often their configuration changed, and since when what
// their agents keep on the disk is there.
func globexState(t testing.TB, m *demo.Mesh) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "proxy", "list", "--tenant", "globex", "--state", m.PlaneDir(), "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Proxies []struct {
			Workload, Target, Acknowledged string
			Generation                     int
		}
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list.Proxies) == 0 {
		t.Fatalf("%s: %v", out, err)
	}
	var state strings.Builder
	e := json.NewEncoder(&state)
	if err := e.Encode(list); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"globex/web", "globex/orders"} {
		info, err := os.Stat(filepath.Join(m.StateDir(name), "state"))
		if err != nil {
			t.Fatal(err)
		}
		state.WriteString(name + " " + info.ModTime().String() + "\n")
	}
	return state.String()
}

// startRotationLoad is the load of renewals, and calls within acme, which bear tokens.
func startRotationLoad(t testing.TB, m *demo.Mesh) *load {
	t.Helper()
	l := startLoad(t, m)
	proxy, err := m.Outbound("acme/web")
	if err != nil {
		t.Fatal(err)
	}
	for _, anew := range []bool{false, true} {
		through := http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.String()})
		client := &http.Client{
			Transport: withToken{m: m, next: &http.Transport{Proxy: through, DisableKeepAlives: anew}}, Timeout: 5 * time.Second,
		}
		l.start(client, "http://orders/orders/7")
	}
	return l
}

// withToken gives each call a token of its own.
type withToken struct {
	m    *demo.Mesh
	next *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := w.m.Mint(manager)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return w.next.RoundTrip(r)
}

// ended stops the load once there were that many calls, of which none may have failed.
func (l *load) ended(t testing.TB, when string, least int64) {
	t.Helper()
	eventually(t, 2*time.Minute, "enough calls", func(context.Context) bool { return l.calls.Load() >= least })
	calls, failures := l.stop()
	t.Logf("%s: %d calls, %d failed", when, calls, len(failures))
	for _, f := range failures {
		t.Error(f)
	}
}

// mintedByRoot is a certificate for an hour in a workload's name, made with the key of its root, as whoever has read the control
// plane's disk can.
func mintedByRoot(t testing.TB, m *demo.Mesh, domain, name string) *tls.Certificate {
	t.Helper()
	keys, err := filepath.Glob(filepath.Join(m.PlaneDir(), "ca", domain, "key-*.pem"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	rootKey, err := x509.ParsePKCS8PrivateKey(pemBlock(t, keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(pemBlock(t, m.TrustBundle(domain)))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pemBlock(t, filepath.Join(m.StateDir(name), "svid.pem")))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf.SerialNumber, leaf.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
