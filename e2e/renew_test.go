package e2e_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// TestRenewalsUnderLoad lets SVIDs live for seconds and calls without a pause, over connections that stay open and over new
// ones, through several renewals of everybody: not one call may fail. Meanwhile the first SVID of a workload, which somebody
// has copied together with its key, comes to its end.
func TestRenewalsUnderLoad(t *testing.T) {
	const life, renewals = 16 * time.Second, 4
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
	stolen, err := m.StolenSVID("acme/web")
	if err != nil {
		t.Fatal(err)
	}
	thief := demo.Call{
		From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web", Certificate: stolen}, Method: http.MethodPost, Path: "/orders", Token: manager,
	}
	kept := open(t, m, thief)
	if r := doOn(t, kept, thief); !r.As(allowed) {
		t.Fatalf("with the first SVID, while it holds: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}

	load := startLoad(t, m)
	serials := map[string]map[string]bool{"acme/orders": {}, "globex/web": {}, "globex/orders": {}, "platform/billing": {}}
	eventually(t, 2*renewals*life, "everybody has renewed", func(context.Context) bool {
		all := true
		for name, seen := range serials {
			seen[serialOf(t, m, name)] = true
			all = all && len(seen) > renewals
		}
		return all
	})
	calls, failures := load.stop()
	t.Logf("%d calls during %d renewals of each workload, %d failed", calls, renewals, len(failures))
	for _, f := range failures {
		t.Error(f)
	}
	if calls < 1000 {
		t.Errorf("only %d calls", calls)
	}

	leaf, err := x509.ParseCertificate(stolen.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(leaf.NotAfter); left > 0 {
		t.Fatalf("the first SVID holds for another %v", left)
	}
	if r := doOn(t, kept, thief); !r.As(demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: "expired_identity"}) && r.Layer != demo.LayerTLS {
		t.Errorf("the expired SVID, on a connection from before: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
	if r := do(t, m, thief); r.Layer != demo.LayerTLS {
		t.Errorf("the expired SVID, on a new connection: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
	thief.Raw = &demo.Raw{SNI: "acme/web"}
	if r := do(t, m, thief); !r.As(allowed) {
		t.Errorf("with the present SVID: %d by %s (%s)", r.Status, r.Layer, r.Reason)
	}
}

// serialOf is the serial number of a workload's present SVID.
func serialOf(t testing.TB, m *demo.Mesh, name string) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(pemBlock(t, filepath.Join(m.StateDir(name), "svid.pem")))
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Text(16) // as tools print it
}

// load calls until it is stopped.
type load struct {
	ctx    context.Context //nolint:containedctx // the load's own, until it is stopped
	cancel context.CancelFunc
	wait   sync.WaitGroup
	calls  atomic.Int64

	mu       sync.Mutex
	failures []string
}

func startLoad(t testing.TB, m *demo.Mesh) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{ctx: ctx, cancel: cancel}
	t.Cleanup(func() { l.stop() })
	for _, c := range []struct{ from, target string }{
		{"acme/orders", "http://billing/invoices/7"}, {"globex/web", "http://orders/orders/7"},
	} {
		proxy, err := m.Outbound(c.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, anew := range []bool{false, true} {
			through := http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.String()})
			client := &http.Client{Transport: &http.Transport{Proxy: through, DisableKeepAlives: anew}, Timeout: 5 * time.Second}
			l.start(client, c.target)
		}
	}
	return l
}

// start calls the target with a client, beside what there is already.
func (l *load) start(client *http.Client, target string) {
	l.wait.Go(func() { l.run(l.ctx, client, target) })
}

func (l *load) run(ctx context.Context, client *http.Client, target string) {
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		start := time.Now()
		status, err := get(ctx, client, target)
		if ctx.Err() != nil {
			return
		}
		l.calls.Add(1)
		if err != nil || status != http.StatusOK {
			l.mu.Lock()
			l.failures = append(l.failures, fmt.Sprintf("%s at %s: %d, %v", target, start.Format(time.TimeOnly), status, err))
			l.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond): // a constant load, not all that the machine can
		}
	}
}

func get(ctx context.Context, client *http.Client, target string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// stop ends the load and says how many calls there were, and which failed.
func (l *load) stop() (calls int64, failures []string) {
	l.cancel()
	l.wait.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls.Load(), l.failures
}
