//go:build spire

package e2e_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/realspire"
)

const (
	acmeDomain = "acme.demo.test"
	// spireLife is how long SPIRE's SVIDs live; it renews them at half of that.
	spireLife = 40 * time.Second
)

// spired is a mesh in which acme has its own SPIRE, and globex and the platform are the issuer's.
type spired struct {
	*demo.Mesh

	t     *testing.T
	spire *realspire.Server
	trust string
}

// startSpired lets all agents ask SPIRE as one user. So SPIRE gives each of them the SVIDs of all workloads of acme, and each takes
// its own.
func startSpired(t *testing.T) *spired {
	t.Helper()
	m := &spired{t: t, spire: realspire.Start(t, acmeDomain, spireLife), trust: t.TempDir()}
	socket := "unix://" + m.spire.Agent()
	apis := map[string]string{}
	for _, id := range []string{acmeWeb, acmeOrders} {
		m.spire.Entry(id, os.Getuid())
		apis[id] = socket
	}
	m.export()
	eventually(t, time.Minute, "SPIRE gives both SVIDs", func(ctx context.Context) bool {
		client, err := workloadapi.New(ctx, workloadapi.WithAddr(socket))
		if err != nil {
			return false
		}
		defer client.Close() //nolint:errcheck // one question
		svids, err := client.FetchX509SVIDs(ctx)
		return err == nil && len(svids) == len(apis)
	})
	dir := t.TempDir()
	if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	var err error
	m.Mesh, err = demo.Start(t.Context(), demo.Config{
		Dir: dir, State: shortDir(t), Envoy: realenvoy.Path(t), TrustBundles: m.trust, WorkloadAPI: apis,
		Issuer: issuer.Options{TTL: spireLife / 2, ShortLived: true}, // connections live for a quarter of it
		Log:    zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// export brings SPIRE's trust bundle to the control plane.
func (m *spired) export() {
	m.t.Helper()
	write(m.t, filepath.Join(m.trust, acmeDomain+".pem"), string(m.spire.Bundle()))
}

func (m *spired) svid(name string) *x509.Certificate {
	m.t.Helper()
	leaf, err := x509.ParseCertificate(pemBlock(m.t, filepath.Join(m.StateDir(name), "svid.pem")))
	if err != nil {
		m.t.Fatal(err)
	}
	return leaf
}

// renewed waits until both workloads of acme have had that many further SVIDs.
func (m *spired) renewed(times int) {
	m.t.Helper()
	seen := map[string]map[string]bool{"acme/web": {}, "acme/orders": {}}
	eventually(m.t, time.Duration(times+1)*2*spireLife, "SPIRE renews", func(context.Context) bool {
		all := true
		for name, serials := range seen {
			serials[m.svid(name).SerialNumber.String()] = true
			all = all && len(serials) > times
		}
		return all
	})
}

// roots are those that SPIRE publishes now.
func (m *spired) roots() identity.Bundle {
	m.t.Helper()
	b, err := identity.ParseBundlePEM(identity.MustTrustDomain(acmeDomain), m.spire.Bundle())
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// TestSPIREBesideTheIssuer: acme's workloads get their SVIDs from a real SPIRE, globex's and the shared service's from the issuer.
// Calls pass as in any mesh, no tenant reaches the other past either guard, and not one call fails while SPIRE renews SVIDs, replaces
// its root, dies and comes back, or stays away until the SVIDs end. Then every call of acme's is refused, and globex goes on.
func TestSPIREBesideTheIssuer(t *testing.T) {
	m := startSpired(t)
	within := []demo.Call{
		{From: "acme/web", To: "orders", Method: http.MethodPost, Path: "/orders", Token: manager},
		{From: "acme/orders", To: "billing", Method: http.MethodGet, Path: "/invoices/7"},
		{From: "globex/web", To: "orders", Method: http.MethodGet, Path: "/orders/7"},
	}
	for _, c := range within {
		if r := do(t, m.Mesh, c); !r.As(allowed) {
			t.Errorf("%s to %s: %d by %s (%s, %v)", c.From, c.To, r.Status, r.Layer, r.Reason, r.Err)
		}
	}
	if _, err := os.Stat(filepath.Join(m.PlaneDir(), "ca", acmeDomain)); err == nil {
		t.Error("the issuer made a root for acme")
	}
	svid, err := workloadapi.FetchX509SVID(t.Context(), workloadapi.WithAddr("unix://"+filepath.Join(m.StateDir("acme/web"), "workload.sock")))
	if err != nil || svid.ID.String() != acmeWeb || !bytes.Equal(svid.Certificates[0].AuthorityKeyId, m.svid("acme/web").AuthorityKeyId) {
		t.Errorf("the application's SVID: %v, %v", svid, err)
	}
	t.Run("guards", func(t *testing.T) {
		eachGuardAlone(t, m.Mesh, "globex/web", "acme/orders", "acme/web")
		eachGuardAlone(t, m.Mesh, "acme/web", "globex/orders", "globex/web")
	})
	if t.Failed() {
		return
	}

	load := startLoad(t, m.Mesh)
	ends := func(what string) {
		t.Helper()
		calls, failures := load.stop()
		t.Logf("%s: %d calls, %d failed", what, calls, len(failures))
		for _, f := range failures[:min(len(failures), 10)] {
			t.Error(f)
		}
		if calls < 500 {
			t.Errorf("%s: only %d calls", what, calls)
		}
	}
	m.renewed(2)
	ends("two renewals")

	load = startLoad(t, m.Mesh)
	old := m.roots()
	authority := m.spire.PrepareRoot()
	m.export()
	both := m.roots()
	if len(both.DER()) != len(old.DER())+1 {
		t.Fatalf("SPIRE publishes %d roots after %d", len(both.DER()), len(old.DER()))
	}
	eventually(t, time.Minute, "all trust the new root", func(ctx context.Context) bool {
		for _, name := range []string{"acme/web", "acme/orders"} {
			pinned, err := identity.ParseBundlePEM(both.TrustDomain(), readFile(t, filepath.Join(m.StateDir(name), "bundle.pem")))
			if err != nil || len(pinned.DER()) != len(both.DER()) {
				return false
			}
		}
		return m.Settled(ctx) == nil
	})
	m.spire.ActivateRoot(authority)
	eventually(t, 2*spireLife, "SVIDs of the new root", func(context.Context) bool {
		for _, name := range []string{"acme/web", "acme/orders"} {
			leaf, of := m.svid(name), 0
			for _, der := range both.DER() {
				root, err := x509.ParseCertificate(der)
				if err == nil && !bytes.Contains(bytes.Join(old.DER(), nil), der) && leaf.CheckSignatureFrom(root) == nil {
					of++
				}
			}
			if of != 1 {
				return false
			}
		}
		return true
	})
	ends("a new root")

	load = startLoad(t, m.Mesh)
	m.renewed(1)
	m.spire.StopAgent()
	select {
	case <-time.After(spireLife / 8): // it stays away for a while
	case <-m.Broken():
		t.Fatal(m.Cause())
	}
	m.spire.StartAgent()
	m.renewed(1)
	ends("SPIRE's agent killed and restarted")

	load = startLoad(t, m.Mesh)
	m.renewed(1)
	m.spire.StopAgent()
	first, last := m.svid("acme/web").NotAfter, m.svid("acme/orders").NotAfter
	if last.Before(first) {
		first, last = last, first
	}
	const margin = 2 * time.Second
	select {
	case <-time.After(time.Until(first) - margin):
	case <-m.Broken():
		t.Fatal(m.Cause())
	}
	ends("SPIRE's agent away until the SVIDs end")
	select {
	case <-time.After(time.Until(last) + margin):
	case <-m.Broken():
		t.Fatal(m.Cause())
	}
	for _, c := range within {
		if r := do(t, m.Mesh, c); r.As(allowed) == (c.From != "globex/web") {
			t.Errorf("after the end of acme's SVIDs, %s to %s: %d by %s (%s, %v)", c.From, c.To, r.Status, r.Layer, r.Reason, r.Err)
		}
	}
	m.spire.StartAgent()
	eventually(t, time.Minute, "acme is back once SPIRE is", func(ctx context.Context) bool {
		one, errOne := m.Do(ctx, within[0])
		two, errTwo := m.Do(ctx, within[1])
		return errOne == nil && errTwo == nil && one.As(allowed) && two.As(allowed)
	})
}
