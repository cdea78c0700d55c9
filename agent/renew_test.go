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
		return len(all) == 1 && all[0].Acked == all[0].Target && strings.Contains(string(file(t, dir, "state")), string(bundle.PEM()))
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
