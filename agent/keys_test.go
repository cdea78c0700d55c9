package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// TestUnknownKeysAreToldToTheControlPlane: a token that names a key which its issuer does not have is refused, and the
// control plane hears of it.
func TestUnknownKeysAreToldToTheControlPlane(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	c := p.config(dir, true)
	reasons := make(recorder, 10_000)
	c.Recorder = reasons
	start(t, c).ready()
	const web = "spiffe://acme.demo.test/ns/acme/sa/web"
	b64 := base64.RawURLEncoding.EncodeToString
	token := b64([]byte(`{"alg":"ES256","kid":"made-since"}`)) + "." + b64([]byte(`{"iss":"https://idp.acme.example.com"}`)) + "." + b64(make([]byte, 64))
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "envoy.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // one call
	if _, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:            &authv3.AttributeContext_Peer{Principal: web, Certificate: url.PathEscape(string(p.certificate(web)))},
		ContextExtensions: map[string]string{"service": "acme/orders", "port": "http"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/orders",
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer " + token)}}},
		}},
	}}); err != nil {
		t.Fatal(err)
	}
	if got := <-reasons; got != authz.TokenInvalid {
		t.Errorf("the token: %s", got)
	}
	select {
	case got := <-p.unknown:
		if got != acmeOrders+" acme-idp" {
			t.Errorf("the control plane hears %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the control plane hears nothing")
	}
}

// certificate is one of that workload's, from the plane's issuer, in PEM.
func (p *plane) certificate(uri string) []byte {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	name, err := url.Parse(uri)
	if err != nil {
		p.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	id, ok := p.Workload(uri)
	if !ok {
		p.t.Fatalf("no workload %s", uri)
	}
	token, _, err := p.issuer.CreateToken(id, time.Hour, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	svid, err := p.issuer.Issue(csr, token, func(string) (identity.WorkloadID, bool) { return id, true }, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: svid.Chain[0]})
}
