package controlplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// renew asks for the next SVID with that certificate, at that listener.
func (p plane) renew(addr string, cert *tls.Certificate, id string) (tls.Certificate, error) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		p.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	answer, err := agentv1alpha1.NewRenewalClient(p.connect(addr, cert)).Renew(within(p.t), &agentv1alpha1.RenewRequest{Csr: csr})
	return tls.Certificate{Certificate: answer.GetChain(), PrivateKey: key}, err
}

func (p plane) connect(addr string, cert *tls.Certificate) *grpc.ClientConn {
	p.t.Helper()
	c := p.trust()
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	return p.dial(addr, c)
}

// A certificate whose serial number is revoked is not traded for a new one: not on a new connection, and not on one that was
// open before.
func TestARevokedCertificateIsNotRenewed(t *testing.T) {
	t.Parallel()
	p := start(t, controlplane.Config{}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	own, other, xds := p.joined(globexOrders), p.joined(acmeOrders), p.XDSAddr().String()
	open := agentv1alpha1.NewRenewalClient(p.connect(xds, &own))
	if _, err := open.Renew(within(t), &agentv1alpha1.RenewRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("an empty request: %v", err)
	}
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	document := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec:\n"+
		"  certificate: {trustDomain: globex.demo.test, serial: \"%x\"}\n  reason: stolen\n  notAfter: \"2100-01-01T00:00:00Z\"\n", leaf.SerialNumber)
	if err := os.WriteFile(filepath.Join(p.config, "tenants/globex/stolen.yaml"), []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitGeneration(within(t), func(g *pipeline.Generation) bool { return g.Number() >= 2 }); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Renew(within(t), &agentv1alpha1.RenewRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("on an open connection: %v", err)
	}
	if _, err := p.renew(xds, &own, globexOrders); status.Code(err) != codes.Unavailable {
		t.Errorf("on a new connection: %v", err)
	}
	if _, err := p.renew(xds, &other, acmeOrders); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
}

// An SVID is renewed over mutual TLS with it, and with nothing else: not without a certificate, not at the listener for those
// who join, not for another name, and not with what a stolen root has signed.
func TestRenewalNeedsTheSVIDItself(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	p := start(t, controlplane.Config{State: state}, example(t))
	if _, err := p.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
	own, xds := p.joined(globexOrders), p.XDSAddr().String()
	next, err := p.renew(xds, &own, globexOrders)
	if err != nil {
		t.Fatal(err)
	}
	if table := <-follow(t, p.stream(next)); table == nil {
		t.Error("the renewed SVID opens no stream")
	}
	minted := p.mint(state, own)
	for name, c := range map[string]struct {
		addr string
		cert *tls.Certificate
		id   string
		want codes.Code
	}{
		"without a certificate":     {xds, nil, globexOrders, codes.Unavailable},
		"where others join":         {p.IssuerAddr().String(), &own, globexOrders, codes.Unimplemented},
		"for another tenant's name": {xds, &own, acmeOrders, codes.PermissionDenied},
		"with a stolen root":        {xds, &minted, globexOrders, codes.PermissionDenied},
	} {
		if _, err := p.renew(c.addr, c.cert, c.id); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// mint makes a certificate like that one with globex's root, as whoever has taken over the control plane's disk can.
func (p plane) mint(state string, like tls.Certificate) tls.Certificate {
	p.t.Helper()
	read := func(pattern string) []byte {
		found, err := filepath.Glob(filepath.Join(state, pattern))
		if err != nil || len(found) != 1 {
			p.t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			p.t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return block.Bytes
	}
	root, err := x509.ParseCertificate(read("trust/globex.demo.test.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	rootKey, err := x509.ParsePKCS8PrivateKey(read("ca/globex.demo.test/key-*.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(like.Certificate[0])
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	leaf.SerialNumber, leaf.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
