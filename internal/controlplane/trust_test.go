package controlplane_test

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

const acmeDomain = "acme.demo.test"

// held is what a workload's sidecar gets, and whether it is to trust acme.
type held struct {
	target     string
	trustsAcme bool
}

func everybody(t *testing.T, g *pipeline.Generation) map[string]held {
	t.Helper()
	all := map[string]held{}
	for _, id := range g.Model().Tenants() {
		of, _ := g.Model().Tenant(id)
		for _, w := range of.Workloads() {
			snapshot, encoded, ok := g.Snapshot(w.ID())
			var table agentv1alpha1.Table
			if err := proto.Unmarshal(encoded, &table); err != nil || !ok {
				t.Fatalf("%s: %v", w.ID(), err)
			}
			h := held{target: server.TargetID(snapshot.Version(), encoded)}
			for _, b := range table.GetBundles() {
				h.trustsAcme = h.trustsAcme || b.GetTrustDomain() == acmeDomain
			}
			all[w.ID().String()] = h
		}
	}
	return all
}

func acmeRoots(t *testing.T, g *pipeline.Generation) [32]byte {
	t.Helper()
	id, err := g.Mapping().TenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	of, ok := g.Model().Tenant(id)
	if !ok {
		t.Fatal("acme is not served")
	}
	return of.Bundle().Digest()
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestExternalRoots: a tenant whose trust bundle is a file is served by the roots in it and by no others; a change reaches who trusts
// the tenant and nobody else; a file that is broken or gone changes nothing.
func TestExternalRoots(t *testing.T) {
	t.Parallel()
	first, second := testca.Unconstrained(t, "one"), testca.Unconstrained(t, "two")
	trust, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(trust, acmeDomain+".pem")
	put(t, file, first.Bundle(acmeDomain).PEM())
	p := start(t, controlplane.Config{State: state, TrustBundles: trust, Log: zap.NewNop()}, example(t))
	g, err := p.WaitGeneration(within(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if acmeRoots(t, g) != first.Bundle(acmeDomain).Digest() {
		t.Error("acme's roots are not those of the file")
	}
	if _, err := os.Stat(filepath.Join(state, "ca", acmeDomain)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root was made beside: %v", err)
	}
	if _, err := p.CreateToken(acmeOrders); !errors.Is(err, issuer.ErrExternal) {
		t.Errorf("a token for acme: %v", err)
	}
	follow(t, p.stream(first.SVID(acmeOrders).TLS()))
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Errorf("an SVID under the file's root: %v", err)
	}
	report, err := p.health(first.SVID(acmeOrders).TLS()).Report(within(t), &agentv1alpha1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range report.GetBundles() {
		if b.GetExternal() != (b.GetTrustDomain() == acmeDomain) || len(b.GetRoots()) != 1 {
			t.Errorf("%s: external %t, %d roots", b.GetTrustDomain(), b.GetExternal(), len(b.GetRoots()))
		}
	}
	// The root bears no constraint, and vouches for acme alone all the same.
	for _, cert := range []*testca.SVID{first.SVID(globexOrders), second.SVID(acmeOrders)} {
		if _, err := p.health(cert.TLS()).Report(within(t), &agentv1alpha1.HealthRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("a stranger's certificate: %v", err)
		}
	}

	before := everybody(t, g)
	both, err := identity.NewBundle(identity.MustTrustDomain(acmeDomain), first.Cert.Raw, second.Cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	put(t, file, both.PEM())
	g, err = p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return acmeRoots(t, g) == both.Digest() })
	if err != nil {
		t.Fatal(err)
	}
	var reached, left int
	for name, now := range everybody(t, g) {
		switch changed := now.target != before[name].target; {
		case changed != now.trustsAcme:
			t.Errorf("%s: changed %t, trusts acme %t", name, changed, now.trustsAcme)
		case changed:
			reached++
		default:
			left++
		}
	}
	if reached == 0 || left == 0 {
		t.Errorf("%d sidecars changed and %d did not", reached, left)
	}
	follow(t, p.stream(second.SVID(acmeOrders).TLS()))
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Errorf("an SVID under the new root: %v", err)
	}

	for name, spoil := range map[string]func() error{
		"broken": func() error { return os.WriteFile(file, []byte("no certificate"), 0o600) },
		"gone":   func() error { return os.Remove(file) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			e, _ := p.Last()
			return e.Err != nil && strings.Contains(e.Err.Error(), acmeDomain)
		})
		if acmeRoots(t, p.Generation()) != both.Digest() {
			t.Errorf("%s: acme's roots are other ones", name)
		}
		if _, err := p.CreateToken(acmeOrders); !errors.Is(err, issuer.ErrExternal) {
			t.Errorf("%s: a token for acme: %v", name, err)
		}
		put(t, file, both.PEM())
		eventually(t, func() bool { e, _ := p.Last(); return e.Err == nil })
	}
}

// TestExternalRootsMayComeLater: a tenant of the issuer's becomes external by its file, and what the issuer gave ends with that.
func TestExternalRootsMayComeLater(t *testing.T) {
	t.Parallel()
	trust := t.TempDir()
	p := start(t, controlplane.Config{TrustBundles: trust}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	old := p.joined(acmeOrders)
	ca := testca.Constrained(t, acmeDomain)
	put(t, filepath.Join(trust, acmeDomain+".pem"), ca.Bundle(acmeDomain).PEM())
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool {
		return acmeRoots(t, g) == ca.Bundle(acmeDomain).Digest()
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.health(old).Report(within(t), &agentv1alpha1.HealthRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("an SVID of the issuer's: %v", err)
	}
	follow(t, p.stream(ca.SVID(acmeOrders).TLS()))
	if err := p.WaitAcknowledged(within(t), acmeOrders); err != nil {
		t.Error(err)
	}
}

// TestExternalRootsAreNotRotatedHere: whoever asks is told where to go.
func TestExternalRootsAreNotRotatedHere(t *testing.T) {
	t.Parallel()
	trust := t.TempDir()
	put(t, filepath.Join(trust, acmeDomain+".pem"), testca.Unconstrained(t, "acme").Bundle(acmeDomain).PEM())
	r := startRotatingWith(t, controlplane.Config{TrustBundles: trust}, example(t))
	_, begin := r.client.Begin(within(t), acme())
	_, rollback := r.client.Rollback(within(t), acme())
	_, show := r.client.Show(within(t), acme())
	for name, err := range map[string]error{"begin": begin, "roll back": rollback, "show": show} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "where its trust bundle comes from") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestThePlatformsRootsAreNeverExternal: nobody could tell the control plane, and it says so.
func TestThePlatformsRootsAreNeverExternal(t *testing.T) {
	t.Parallel()
	const platform = "platform.demo.test"
	trust := t.TempDir()
	put(t, filepath.Join(trust, platform+".pem"), testca.Unconstrained(t, "platform").Bundle(platform).PEM())
	p := start(t, controlplane.Config{TrustBundles: trust, Log: zap.NewNop()}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + p.HTTPAddr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusOK || !strings.Contains(string(text), platform+".pem") {
		t.Errorf("%d %q %v", resp.StatusCode, text, err)
	}
}

func TestExternalRootsNeedTheirDirectory(t *testing.T) {
	t.Parallel()
	_, err := controlplane.New(t.Context(), controlplane.Config{TrustBundles: filepath.Join(t.TempDir(), "nowhere"), Log: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v", err)
	}
}
