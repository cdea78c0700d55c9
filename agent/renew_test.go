package agent_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// shortLived are SVIDs of seconds.
func shortLived() issuer.Options { return issuer.Options{TTL: 6 * time.Second, ShortLived: true} }

func file(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Each renewal gives a later end, a new key, a new secret for Envoy and a new stream. The last of them is there after a
// restart without token and control plane.
func TestAgentRenewsItsSVID(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, shortLived())
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	c.Key = identity.ECDSAP384
	a := start(t, c)
	a.ready()
	for range 2 {
		before, key, secret := a.Status().NotAfter, file(t, dir, "key.pem"), envoysCertificate(a)
		eventually(t, "a later end", func() bool { return a.Status().NotAfter.After(before) })
		if bytes.Equal(file(t, dir, "key.pem"), key) {
			t.Error("the key is the old one")
		}
		eventually(t, "Envoy has the new certificate", func() bool { return envoysCertificate(a) != secret })
		eventually(t, "one stream, with the new SVID", func() bool {
			all := p.server.Status()
			return a.Status().ControlPlane && len(all) == 1 && all[0].Acked == all[0].Target
		})
		a.ready()
	}
	private(t, dir)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	last := a.Status().NotAfter
	if time.Until(last) < time.Second {
		t.Skipf("the machine is too slow: the last SVID ends in %v", time.Until(last))
	}
	a = start(t, p.config(dir, false))
	eventually(t, "it goes on with the last SVID", func() bool { return a.Status().NotAfter.Equal(last) })
	eventually(t, "without a renewal it ends", func() bool { return errors.Is(a.Ready(), agent.ErrExpired) })
}

// envoysCertificate is the serial number of the certificate that Envoy uses.
func envoysCertificate(a *running) string {
	_, rest, _ := strings.Cut(a.ask("certs"), `"serial_number": "`)
	for { // the workload's own is the one that is no root's
		serial, after, ok := strings.Cut(rest, `"`)
		if !ok {
			return ""
		}
		if strings.Contains(after[:min(len(after), 400)], acmeOrders) {
			return serial
		}
		_, rest, _ = strings.Cut(after, `"serial_number": "`)
	}
}

// While the control plane is away the agent asks again, and has its new SVID soon after it came back.
func TestAgentRenewsOnceTheControlPlaneIsBack(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, issuer.Options{TTL: 12 * time.Second, ShortLived: true})
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	p.stop()
	first := a.Status().NotAfter
	eventually(t, "more than half of its life is over", func() bool { return time.Until(first) < 5*time.Second })
	if !a.Status().NotAfter.Equal(first) {
		t.Fatal("renewed by nobody")
	}
	p.restart()
	eventually(t, "renewed", func() bool { return a.Status().NotAfter.After(first) })
	a.ready()
}

// A crash while a renewed SVID replaces the old one leaves files that do not fit together, and the third that decides.
func TestARenewalThatWasInterruptedIsFinished(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, issuer.Options{TTL: 20 * time.Second, ShortLived: true})
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	first, oldKey, oldSVID := a.Status().NotAfter, file(t, dir, "key.pem"), file(t, dir, "svid.pem")
	eventually(t, "renewed", func() bool { return a.Status().NotAfter.After(first) })
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	second, newKey, newSVID := a.Status().NotAfter, file(t, dir, "key.pem"), file(t, dir, "svid.pem")
	next := append(bytes.Clone(newKey), newSVID...)
	for name, files := range map[string][3][]byte{
		"before the first file":            {oldKey, oldSVID, next},
		"between them":                     {newKey, oldSVID, next},
		"after both":                       {newKey, newSVID, next},
		"half of the third, nothing moved": {newKey, newSVID, next[:len(next)/2]},
	} {
		for n, file := range []string{"key.pem", "svid.pem", "next.pem"} {
			if err := os.WriteFile(filepath.Join(dir, file), files[n], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a := start(t, p.config(dir, false))
		eventually(t, name+": the new SVID", func() bool { return a.Status().NotAfter.Equal(second) })
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(file(t, dir, "key.pem"), newKey) || !bytes.Equal(file(t, dir, "svid.pem"), newSVID) {
			t.Errorf("%s: the files are not the new ones", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "next.pem")); err == nil && bytes.Equal(files[2], next) {
			t.Errorf("%s: the third file stays", name)
		}
	}
}

// While a root is rotated the agent trusts the new one because the old one vouches for it, and goes on with an SVID of the new
// one. Roots that nobody vouches for it takes neither with its configuration nor with a renewal.
func TestAgentFollowsItsTenantsRoots(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, issuer.Options{TTL: 8 * time.Second, ShortLived: true})
	stranger, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	acme := identity.MustTrustDomain("acme.demo.test")
	strange, err := stranger.Bundles(time.Now(), acme)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := strange.Get(acme)
	more := foreign.DER()
	p.moreRoots.Store(&more)

	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	first, one := a.Status().NotAfter, file(t, dir, "bundle.pem")
	eventually(t, "renewals with a stranger's root", func() bool { return p.refused.Load() > 1 })
	if now := file(t, dir, "bundle.pem"); !a.Status().NotAfter.Equal(first) || !bytes.Equal(now, one) {
		t.Fatal("a root that nobody vouches for was taken")
	}
	p.moreRoots.Store(nil)

	at, err := p.issuer.Rotate(acme, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.publish()
	both, err := p.issuer.Bundles(time.Now(), acme)
	if err != nil {
		t.Fatal(err)
	}
	bundle, _ := both.Get(acme)
	eventually(t, "Envoy has both roots", func() bool {
		all := p.server.Status()
		return len(all) == 1 && all[0].Acked == all[0].Target && bytes.Contains(file(t, dir, "state"), bundle.PEM())
	})
	if _, err := p.issuer.Advance(at, time.Now()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an SVID of the new root", func() bool {
		leaf, err := x509.ParseCertificate(decoded(t, file(t, dir, "svid.pem")))
		root, rootErr := x509.ParseCertificate(bundle.DER()[1])
		return err == nil && rootErr == nil && leaf.CheckSignatureFrom(root) == nil
	})
	if now := file(t, dir, "bundle.pem"); !bytes.Equal(now, bundle.PEM()) {
		t.Error("the agent has not kept the roots that it trusts now")
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	a = start(t, p.config(dir, false)) // from the disk, with what it had
	a.ready()
}

func decoded(t *testing.T, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func TestAgentTakesNoKeyThatEnvoyCannotUse(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	c := p.config(filepath.Join(realenvoy.Dir(t), "a"), false)
	c.Key = identity.Ed25519
	if _, err := agent.New(c); !errors.Is(err, identity.ErrKeyKind) {
		t.Errorf("got %v, want ErrKeyKind", err)
	}
}

// While nothing can be written the agent goes on with what it has in memory, configuration and renewed SVID, and says so; no file
// is left that is older than that and might allow more. When there is room again it is kept.
func TestADiskThatIsFull(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, issuer.Options{TTL: 30 * time.Second, ShortLived: true})
	dir := filepath.Join(realenvoy.Dir(t), "a")
	core, logs := observer.New(zap.InfoLevel)
	c := p.config(dir, true)
	c.Log = zap.New(core)
	a := start(t, c)
	a.ready()
	blocked := []string{"state.new", "next.pem.new"}
	for _, name := range blocked { // what is no file cannot be written, not even by root
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	said := func(text string) func() bool {
		return func() bool { return logs.FilterMessageSnippet(text).Len() > 0 }
	}
	before := a.Status()
	p.files["tenants/acme/orders.yaml"] = strings.Replace(p.files["tenants/acme/orders.yaml"], "services: [web]", "services: [web, orders]", 1)
	p.publish()
	eventually(t, "the change is in force", func() bool { return a.Status().Snapshot != before.Snapshot && a.Ready() == nil })
	eventually(t, "it is said", said("cannot keep the configuration on disk"))
	if _, err := os.Stat(filepath.Join(dir, "state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an older configuration lies there: %v", err)
	}
	old := file(t, dir, "svid.pem")
	eventually(t, "renewed", func() bool { return a.Status().NotAfter.After(before.NotAfter) })
	eventually(t, "it is said", said("cannot keep the renewed SVID on disk"))
	if !bytes.Equal(file(t, dir, "svid.pem"), old) {
		t.Error("it was written")
	}
	a.ready()
	for _, name := range blocked {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the configuration is kept", said("the configuration is kept on disk again"))
	eventually(t, "the SVID is kept", said("the renewed SVID is kept on disk"))
	now := a.Status()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	a = start(t, p.config(dir, false))
	a.ready()
	if s := a.Status(); s.NotAfter.Before(now.NotAfter) || s.Snapshot != now.Snapshot {
		t.Errorf("after a restart: %+v, before: %+v", s, now)
	}
}

// An agent that cannot keep what it joined with says so and ends; started again with the same token it goes on.
func TestAJoinThatCannotBeKeptIsRepeated(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	blocked := filepath.Join(dir, "svid.pem.new")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := agent.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "svid.pem.new") {
		t.Fatalf("got %v", err)
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	start(t, c).ready()
	other := p.config(filepath.Join(realenvoy.Dir(t), "b"), false)
	other.JoinToken = c.JoinToken
	if err := agent.Run(t.Context(), other); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the token with another key: %v", err)
	}
}

// A key that is damaged before the agent has joined is set aside, and a new one is made.
func TestADamagedKeyIsSetAside(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "key.pem"), []byte("-----BEGIN"), 0o600)); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.ErrorLevel)
	c.Log = zap.New(core)
	start(t, c).ready()
	aside, err := filepath.Glob(filepath.Join(dir, "key.pem.corrupt-*"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("%v, %v", aside, err)
	}
	if all := logs.FilterMessageSnippet("the key on disk cannot be used").All(); len(all) != 1 || all[0].ContextMap()["aside"] != aside[0] {
		t.Errorf("the log does not name %s: %v", aside[0], logs.All())
	}
}
