package e2e_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// TestStreamsAndTheSVID: a stream ends before the SVID that it was opened with, and with one that is not renewed at most a
// quarter of an SVID's life after it; the destination sees to it. One to a service that asks for longer streams goes on while its
// caller renews, and a revocation ends it.
func TestStreamsAndTheSVID(t *testing.T) {
	const life = 16 * time.Second
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	editFile(t, dir+"/platform/billing.yaml", "  token: optional\n", "  token: optional\n  maxStreamDuration: 10m\n")
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
	leaf, err := x509.ParseCertificate(stolen.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}

	long := openStream(t, m, demo.Call{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/stream"})
	opened := time.Now()
	first := serialOf(t, m, "acme/orders")
	// Nobody renews the copy. It is used until its end, so the last stream begins just before.
	short := demo.Call{
		From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web", Certificate: stolen}, Method: http.MethodGet, Path: "/orders/stream", Token: manager,
	}
	var (
		last  *stream
		begun time.Time
	)
	for time.Until(leaf.NotAfter) > life/8 {
		begun = time.Now()
		last = openStream(t, m, short)
		eventually(t, life, "the stream ends", func(context.Context) bool { return last.ended.Load() })
		if took := time.Since(begun); took > life/4+3*time.Second {
			t.Errorf("a stream went on for %v", took)
		}
	}
	if last == nil {
		t.Fatal("no stream was opened")
	}
	if over := time.Since(leaf.NotAfter); over > life/4+time.Second {
		t.Errorf("the last stream ended %v after the SVID", over)
	}

	eventually(t, 4*life, "the SVID that the long stream was opened with is over", func(context.Context) bool {
		return time.Since(opened) > life+life/4
	})
	if serialOf(t, m, "acme/orders") == first {
		t.Fatal("the caller did not renew")
	}
	long.goesOn(t)
	t.Logf("the long stream goes on %v after it was opened, with SVIDs of %v", time.Since(opened), life)
	start := time.Now()
	write(t, m.ConfigDir()+"/tenants/acme/revoked.yaml", revocationHead+"workload: spiffe://acme.demo.test/ns/acme/sa/orders\n")
	within(t, endsWithin, start, "the long stream is cut", func(context.Context) bool { return long.ended.Load() })
}
