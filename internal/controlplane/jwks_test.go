package controlplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

// idp is an identity provider on loopback, with its keys and what it signs.
type idp struct {
	key    *ecdsa.PrivateKey
	kid    string
	server *httptest.Server
	down   atomic.Bool
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{key: key, kid: "k1"}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: p.kid, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.down.Load() || r.URL.Path != "/jwks" {
			<-r.Context().Done() // the other issuer's server hangs for ever
			return
		}
		_, _ = w.Write(jwks)
	}))
	t.Cleanup(func() { p.server.CloseClientConnections(); p.server.Close() })
	return p
}

func (p *idp) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.key}, (&jose.SignerOptions{}).WithHeader("kid", p.kid))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	claims["iat"], claims["exp"], claims["aud"] = now.Unix(), now.Add(time.Minute).Unix(), "orders-api"
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (p *idp) config(state string) controlplane.Config {
	roots := x509.NewCertPool()
	roots.AddCert(p.server.Certificate())
	return controlplane.Config{State: state, JWKSRoots: roots, JWKSAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

// published waits for the first generation.
func published(t *testing.T, cp plane) {
	t.Helper()
	if _, err := cp.WaitGeneration(within(t), nil); err != nil {
		t.Fatal(err)
	}
}

// verifies waits for a table that believes the token.
func verifies(t *testing.T, tables <-chan *authz.Table, token string) {
	t.Helper()
	deadline := within(t)
	for {
		select {
		case table, ok := <-tables:
			if !ok {
				t.Fatal("the stream has ended")
			}
			if !table.Token(token, time.Now()).Claims().IsZero() {
				return
			}
		case <-deadline.Done():
			t.Fatal("no table believes the token")
		}
	}
}

// TestPublishedKeysReachAgents: the keys that an issuer publishes reach the agents, also of a process that starts while
// the issuer is away, and an issuer that hangs keeps neither the other's keys nor the publication back.
func TestPublishedKeysReachAgents(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	config, state := example(t), filepath.Join(t.TempDir(), "state")
	cp := start(t, p.config(state), config)
	published(t, cp)
	cp.edit("platform/token-issuers.yaml", "{file: acme-jwks.json}", "{uri: \""+p.server.URL+"/jwks\"}")
	cp.edit("platform/token-issuers.yaml", "{file: globex-jwks.json}", "{uri: \""+p.server.URL+"/hangs\"}")
	token := p.sign(t, map[string]any{"iss": "https://idp.acme.example.com", "sub": "alice", "tenant": "acme"})
	cert := cp.joined(acmeOrders)
	verifies(t, follow(t, cp.stream(cert)), token)
	if err := cp.stop(); err != nil {
		t.Fatal(err)
	}
	p.down.Store(true)
	cp = start(t, p.config(state), config)
	published(t, cp)
	verifies(t, follow(t, cp.stream(cert)), token)
}

// TestKeysOfAWorkloadsTrustDomain: JWT-SVIDs verify by the keys of a SPIFFE bundle, and name workloads of that tenant only.
func TestKeysOfAWorkloadsTrustDomain(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := json.Marshal(map[string]any{
		"spiffe_sequence": 7, "spiffe_refresh_hint": 300,
		"keys": []any{jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "jwt-svid"}, jose.JSONWebKey{Key: key.Public(), Use: "x509-svid"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bundle) }))
	t.Cleanup(server.Close)
	p := &idp{key: key, kid: "k1", server: server}
	cp := start(t, p.config(""), example(t))
	published(t, cp)
	cp.edit("platform/token-issuers.yaml", "  issuer: https://idp.acme.example.com", "  format: jwt-svid")
	cp.edit("platform/token-issuers.yaml", "{file: acme-jwks.json}", "{uri: \""+server.URL+"\"}")
	cp.edit("platform/token-issuers.yaml", "  claims: {tenant: tenant, roles: roles}\n", "")
	tables := follow(t, cp.stream(cp.joined(acmeOrders)))
	verifies(t, tables, p.sign(t, map[string]any{"sub": "spiffe://acme.demo.test/ns/acme/sa/web"}))
}
