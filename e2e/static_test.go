package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/goccy/go-yaml"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// TestEnvoyStatic loads examples/envoy-static as it stands there, ports and paths apart, beside `ringfence authz`, and calls
// it rightly and wrongly.
func TestEnvoyStatic(t *testing.T) {
	s := startStatic(t)
	now := time.Now()
	token := func(roles ...string) string { return s.sign(t, "https://idp.acme.example.com", "acme", now, roles...) }
	cert := func(v *testca.SVID) *tls.Certificate { c := v.TLS(); return &c }
	web := cert(s.acme.SVID(acmeWeb))
	tests := []struct {
		name   string
		cert   *tls.Certificate
		method string
		path   string
		token  string
		want   int // 0: refused by TLS
		reason bool
	}{
		{"a clerk reads", web, "GET", "/orders/7", token("clerk"), 200, false},
		{"a manager orders", web, "POST", "/orders", token("manager"), 200, false},
		{"a clerk may not order", web, "POST", "/orders", token("clerk"), 403, true},
		{"no rule", web, "DELETE", "/orders/7", token("manager"), 403, true},
		{"no token", web, "GET", "/orders/7", "", 401, true},
		{"an expired token", web, "GET", "/orders/7", s.sign(t, "https://idp.acme.example.com", "acme", now.Add(-time.Hour), "clerk"), 401, true},
		{"a token that speaks of another tenant", web, "GET", "/orders/7", s.sign(t, "https://idp.acme.example.com", "globex", now, "clerk"), 403, true},
		{"a token of an unknown issuer", web, "GET", "/orders/7", s.sign(t, "https://idp.evil.example.com", "acme", now, "clerk"), 403, true},
		{"a token that is none", web, "GET", "/orders/7", "not.a.token", 401, true},
		{"a path that could be read in two ways", web, "GET", "/orders/%2e%2e%2fadmin", token("clerk"), 400, false},
		{"a caller that RBAC does not name", cert(s.acme.SVID(acmeOrders)), "GET", "/orders/7", token("clerk"), 403, false},
		{"two URI SANs", cert(s.acme.SVID("", testca.RawURIs(acmeWeb, acmeOrders))), "GET", "/orders/7", token("clerk"), 403, true},
		{"another tenant's web", cert(s.globex.SVID(globexWeb)), "GET", "/orders/7", token("clerk"), 0, false},
		{"no certificate", nil, "GET", "/orders/7", token("clerk"), 0, false},
		{"expired", cert(s.acme.SVID(acmeWeb, testca.ValidFor(-2*time.Hour, -time.Hour))), "GET", "/orders/7", token("clerk"), 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := s.hits.Load()
			status, decision := s.call(t, tt.cert, tt.method, tt.path, tt.token)
			if status != tt.want || (decision != "") != tt.reason {
				t.Errorf("got %d, decision %q; want %d, decision %v", status, decision, tt.want, tt.reason)
			}
			if reached := s.hits.Load() - before; (reached > 0) != (tt.want == 200) {
				t.Errorf("the application was reached %d times", reached)
			}
		})
	}
	t.Run("the SVID is renewed", func(t *testing.T) {
		renewed := s.acme.SVID(acmeOrders)
		write(t, filepath.Join(s.certs, "key.pem"), string(renewed.KeyPEM())) // as the agent does: the key first
		write(t, filepath.Join(s.certs, "svid.pem"), string(renewed.CertPEM()))
		eventually(t, 10*time.Second, "Envoy shows the new one", func(ctx context.Context) bool {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*web}}}
			conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
			if err != nil {
				return false
			}
			defer conn.Close() //nolint:errcheck // only looked at
			return bytes.Equal(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw, renewed.TLS().Certificate[0])
		})
	})
	t.Run("the decision point is gone", func(t *testing.T) {
		s.authz.stop(t, os.Interrupt)
		before := s.hits.Load()
		if status, _ := s.call(t, web, "GET", "/orders/7", token("clerk")); status != 503 {
			t.Errorf("got %d, want 503", status)
		}
		if s.hits.Load() != before {
			t.Error("the application was reached")
		}
	})
}

type static struct {
	acme, globex *testca.CA
	key          *ecdsa.PrivateKey
	port         int
	certs        string // directory
	hits         atomic.Int64
	authz        *process
	header       [2]string // added to each call, if it has a name
}

func startStatic(t *testing.T) *static {
	t.Helper()
	s := &static{acme: testca.Constrained(t, "acme.demo.test"), globex: testca.Constrained(t, "globex.demo.test"), port: freePort(t)}
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { s.hits.Add(1) }))
	t.Cleanup(app.Close)

	work := shortDir(t)
	config, trust, certs := filepath.Join(work, "config"), filepath.Join(work, "trust"), filepath.Join(work, "certs")
	if err := os.CopyFS(config, examples.TwoTenants()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{trust, certs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.key = issue(t, filepath.Join(config, "platform/acme-jwks.json"))
	for td, ca := range map[string]*testca.CA{
		"acme.demo.test": s.acme, "globex.demo.test": s.globex, "platform.demo.test": testca.Constrained(t, "platform.demo.test"),
	} {
		write(t, filepath.Join(trust, td+".pem"), string(ca.Bundle(td).PEM()))
	}
	svid := s.acme.SVID(acmeOrders)
	write(t, filepath.Join(certs, "svid.pem"), string(svid.CertPEM()))
	write(t, filepath.Join(certs, "key.pem"), string(svid.KeyPEM()))
	write(t, filepath.Join(certs, "bundle.pem"), string(s.acme.Bundle("acme.demo.test").PEM()))

	http := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s.authz = startProcess(t, nil, "authz", "--config", config, "--trust", trust, "--listen", "unix:"+filepath.Join(work, "authz.sock"),
		"--asker", acmeOrders, "--http-listen", http)
	eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, http) })

	secrets := strings.NewReplacer("certs/", certs+"/", "path: ./certs", "path: "+certs).Replace(string(readFile(t, "../examples/envoy-static/sds.yaml")))
	write(t, filepath.Join(work, "sds.yaml"), secrets)
	s.certs = certs
	text := strings.NewReplacer(
		"certs/", certs+"/", "path: ./sds.yaml", "path: "+filepath.Join(work, "sds.yaml"), "path: authz.sock", "path: "+filepath.Join(work, "authz.sock"), "path: admin.sock", "path: "+filepath.Join(work, "admin.sock"),
		"port_value: 20081", fmt.Sprintf("port_value: %d", s.port),
		"port_value: 20281", fmt.Sprintf("port_value: %d", app.Listener.Addr().(*net.TCPAddr).Port),
	).Replace(string(readFile(t, "../examples/envoy-static/envoy.yaml")))
	bootstrap, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	realenvoy.Start(t, bootstrap)
	return s
}

// sign makes a token that lives for five minutes from then.
func (s *static) sign(t *testing.T, issuer, tenant string, issued time.Time, roles ...string) string {
	t.Helper()
	return sign(t, s.key, issuer, tenant, issued, roles...)
}

func sign(t testing.TB, key *ecdsa.PrivateKey, issuer, tenant string, issued time.Time, roles ...string) string {
	t.Helper()
	return signFor(t, key, "orders-api", issuer, tenant, issued, roles...)
}

func signFor(t testing.TB, key *ecdsa.PrivateKey, audience, issuer, tenant string, issued time.Time, roles ...string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "test"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: issuer, Subject: "somebody", Audience: jwt.Audience{audience},
		IssuedAt: jwt.NewNumericDate(issued), Expiry: jwt.NewNumericDate(issued.Add(5 * time.Minute)),
	}).Claims(map[string]any{"tenant": tenant, "roles": roles}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// call gives the status, 0 where TLS refused, and the decision's id.
func (s *static) call(t *testing.T, cert *tls.Certificate, method, path, token string) (int, string) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("https://127.0.0.1:%d%s", s.port, path), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("authorization", "Bearer "+token)
	}
	if s.header[0] != "" {
		request.Header.Set(s.header[0], s.header[1])
	}
	response, err := client.Do(request)
	if err != nil {
		var network *net.OpError
		if errors.As(err, &network) && network.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("not refused by TLS: %v", err)
		}
		return 0, ""
	}
	defer response.Body.Close() //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header.Get("x-ringfence-decision")
}
