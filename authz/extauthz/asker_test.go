package extauthz_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// The central decision point: proxies ask over TCP with mutual TLS, each about its own services only.
func TestAskersOverTLS(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	model := m.model()
	bundles, err := identity.NewBundles(
		m.acme.Bundle("acme.demo.test"), m.globex.Bundle("globex.demo.test"), m.platform.Bundle("platform.demo.test"),
	)
	if err != nil {
		t.Fatal(err)
	}
	verifier := identity.NewVerifier(model.Mapping(), bundles)
	acme, globex := m.whole("acme"), m.whole("globex")
	point := &tables{current: map[string]*authz.Table{acmeOrders: acme, acmeWeb: acme, globexOrders: globex}}
	clock := newClock(m.now)
	server := extauthz.New(
		point, extauthz.FromTLS(func() (identity.Verifier, string) { return verifier, "1" }, clock.Now), &entries{},
		metrics(t, prometheus.NewRegistry()), clock.Now,
	)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(extauthz.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{m.platform.SVID(platformBill).TLS()},
		ClientAuth:   tls.RequestClientCert, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	})))...)
	extauthz.Register(g, server)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	// ask is one check on a connection of that client.
	ask := func(svid *testca.SVID, req *authv3.CheckRequest) (string, error) {
		t.Helper()
		config := &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		}
		if svid != nil {
			config.Certificates = []tls.Certificate{svid.TLS()}
		}
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var resp *authv3.CheckResponse
		for range 2 { // the second time from memory
			if resp, err = authv3.NewAuthorizationClient(conn).Check(ctx, req); err != nil {
				return "", err
			}
		}
		return reason(resp), nil
	}
	orders := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	for _, tc := range []struct {
		name   string
		asker  *testca.SVID
		reason string
		code   codes.Code
	}{
		{"who runs the service", m.acme.SVID(acmeOrders), "allowed", codes.OK},
		{"another workload of the tenant", m.acme.SVID(acmeWeb), "unknown_destination", codes.OK},
		{"another tenant's", m.globex.SVID(globexOrders), "cross_tenant", codes.OK},
		{"a tenant without a Table", m.platform.SVID(platformBill), "not_ready", codes.OK},
		{"no certificate", nil, "", codes.PermissionDenied},
		{"signed by another tenant", m.globex.SVID(acmeOrders), "", codes.PermissionDenied},
		{"expired", m.acme.SVID(acmeOrders, testca.ValidFor(-2*time.Hour, -time.Hour)), "", codes.PermissionDenied},
		{"two URI SANs", m.acme.SVID("", testca.RawURIs(acmeOrders, acmeWeb)), "", codes.PermissionDenied},
	} {
		got, err := ask(tc.asker, orders)
		if got != tc.reason || status.Code(err) != tc.code {
			t.Errorf("%s: %s, %v", tc.name, got, err)
		}
	}
}

// tlsPeer is a call on a connection whose other end has shown these certificates.
func tlsPeer(t *testing.T, chain ...*x509.Certificate) context.Context {
	t.Helper()
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: chain}}})
}

// An asker that the Mesh names is believed by its certificate only: of a root that is trusted for its trust domain, valid
// now, and by no other name.
func TestNamedFromTLS(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	const gateway, other = "spiffe://acme.demo.test/gateway", "spiffe://acme.demo.test/other"
	id, err := identity.ParseSPIFFEID(gateway)
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := identity.NewBundles(m.acme.Bundle("acme.demo.test"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, clock := identity.NewVerifier(identity.Mapping{}, bundles), newClock(m.now)
	named := tenancy.KeyOfID(id)
	asker := extauthz.NamedFromTLS(
		func() (identity.Verifier, string) { return verifier, "1" }, func(k tenancy.AskerKey) bool { return k == named }, clock.Now,
	)
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		ok    bool
	}{
		"the gateway":                {[]*x509.Certificate{m.acme.SVID(gateway).Cert}, true},
		"another root":               {[]*x509.Certificate{m.globex.SVID(gateway).Cert}, false},
		"expired":                    {[]*x509.Certificate{m.acme.SVID(gateway, testca.ValidFor(-2*time.Hour, -time.Hour)).Cert}, false},
		"another name":               {[]*x509.Certificate{m.acme.SVID(other).Cert}, false},
		"two names":                  {[]*x509.Certificate{m.acme.SVID("", testca.RawURIs(gateway, other)).Cert}, false},
		"no SPIFFE ID":               {[]*x509.Certificate{m.acme.SVID("", testca.RawURIs("https://acme.demo.test")).Cert}, false},
		"no certificate":             {nil, false},
		"the gateway's second in it": {[]*x509.Certificate{m.acme.SVID(other).Cert, m.acme.SVID(gateway).Cert}, false},
	} {
		for range 2 { // the second time from memory
			who, err := asker.Asker(tlsPeer(t, tt.chain...))
			if (err == nil) != tt.ok || tt.ok && who != extauthz.Named(named) || !tt.ok && !who.IsZero() {
				t.Errorf("%s: %v, %v", name, who, err)
			}
		}
	}
}

func TestFirst(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	web := m.id(acmeWeb)
	key := tenancy.KeyOfSocket("/edge")
	unknown := extauthz.FromTLS(func() (identity.Verifier, string) { return identity.Verifier{}, "" }, time.Now)
	nobody := extauthz.Fixed(identity.WorkloadID{})
	for name, tt := range map[string]struct {
		askers []extauthz.Asker
		want   extauthz.Asking
		err    bool
	}{
		"the first":           {[]extauthz.Asker{extauthz.Fixed(web), extauthz.FixedKey(key)}, extauthz.Own(web), false},
		"the second":          {[]extauthz.Asker{unknown, extauthz.FixedKey(key)}, extauthz.Named(key), false},
		"nobody, then one":    {[]extauthz.Asker{nobody, extauthz.Fixed(web)}, extauthz.Own(web), false},
		"none that is known":  {[]extauthz.Asker{unknown, unknown}, extauthz.Asking{}, true},
		"an error and nobody": {[]extauthz.Asker{unknown, nobody}, extauthz.Asking{}, true},
		"one that fails":      {[]extauthz.Asker{&told{web, errors.New("not now")}}, extauthz.Asking{}, true},
		"none at all":         {nil, extauthz.Asking{}, false},
	} {
		got, err := extauthz.First(tt.askers...).Asker(t.Context())
		if got != tt.want || (err != nil) != tt.err {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestFromTLSForgets(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	bundles, err := identity.NewBundles(m.acme.Bundle("acme.demo.test"))
	if err != nil {
		t.Fatal(err)
	}
	mapping, version := m.model().Mapping(), "1"
	verifier, clock := identity.NewVerifier(mapping, bundles), newClock(m.now)
	asker := extauthz.FromTLS(func() (identity.Verifier, string) { return verifier, version }, clock.Now)
	svid := m.acme.SVID(acmeOrders)
	ctx := tlsPeer(t, svid.Cert)
	if w, err := asker.Asker(ctx); err != nil || w != extauthz.Own(m.id(acmeOrders)) {
		t.Fatalf("%v, %v", w, err)
	}
	verifier, version = identity.Verifier{}, "2"
	if _, err := asker.Asker(ctx); err == nil {
		t.Error("an asker outlives the roots that proved it")
	}
	version = "1"
	clock.set(svid.Cert.NotAfter.Add(time.Second))
	if _, err := asker.Asker(ctx); err == nil {
		t.Error("an asker outlives its certificate")
	}
	if _, err := asker.Asker(t.Context()); err == nil || errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("no connection: %v", err)
	}
}
