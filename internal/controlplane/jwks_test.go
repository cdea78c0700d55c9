package controlplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
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
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity/jwks"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

// idp is an identity provider on loopback, with its keys and what it signs.
type idp struct {
	key    *ecdsa.PrivateKey
	kid    string
	server *httptest.Server
	down   atomic.Bool
	jwks   atomic.Pointer[[]byte]
	hits   atomic.Int64
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{key: key}
	p.rotate(t, "k1")
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.down.Load() || r.URL.Path != "/jwks" {
			<-r.Context().Done() // the other issuer's server hangs for ever
			return
		}
		p.hits.Add(1)
		_, _ = w.Write(*p.jwks.Load())
	}))
	t.Cleanup(func() { p.server.CloseClientConnections(); p.server.Close() })
	return p
}

// rotate publishes the key under another name, as if it were another one.
func (p *idp) rotate(t *testing.T, kid string) {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: kid, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.kid = kid
	p.jwks.Store(&text)
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
	return controlplane.Config{State: state, JWKS: jwks.Config{
		Roots: roots, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Refresh: time.Hour, Pause: 10 * time.Millisecond,
	}}
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

// TestAWordOfAnUnknownKeyFetchesItsSet: an agent says that a key is unknown, and the set is fetched, long before its time.
// Another tenant's word is not heard.
func TestAWordOfAnUnknownKeyFetchesItsSet(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	cp := start(t, p.config(""), example(t))
	published(t, cp)
	cp.edit("platform/token-issuers.yaml", "{file: acme-jwks.json}", "{uri: \""+p.server.URL+"/jwks\"}")
	claims := map[string]any{"iss": "https://idp.acme.example.com", "sub": "alice", "tenant": "acme"}
	cert, foreign := cp.joined(acmeOrders), cp.joined(globexOrders)
	tables := follow(t, cp.stream(cert))
	verifies(t, tables, p.sign(t, claims))
	p.rotate(t, "k2")
	before := p.hits.Load()
	say := func(cert tls.Certificate, issuer string) {
		c := cp.trust()
		c.Certificates = []tls.Certificate{cert}
		_, err := agentv1alpha1.NewKeysClient(cp.dial(cp.XDSAddr().String(), c)).Unknown(within(t), &agentv1alpha1.UnknownKeyRequest{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
	}
	say(foreign, "acme-idp")
	say(cert, "globex-idp")
	say(cert, "nobody")
	say(cert, "")
	time.Sleep(100 * time.Millisecond) // ten times the pause between fetches
	if n := p.hits.Load(); n != before {
		t.Errorf("%d fetches without reason", n-before)
	}
	say(cert, "acme-idp")
	verifies(t, tables, p.sign(t, claims))
}

// TestWordsOfUnknownKeysAreLimited: who repeats itself without end is refused before it is proved once more, and the others
// are not.
func TestWordsOfUnknownKeysAreLimited(t *testing.T) {
	t.Parallel()
	begun, later := time.Now(), atomic.Int64{}
	clock := func() time.Time { return begun.Add(time.Duration(later.Load())) }
	core, lines := observer.New(zap.InfoLevel)
	cp := start(t, controlplane.Config{Clock: clock, Log: zap.New(core)}, example(t))
	published(t, cp)
	keys := func(cert tls.Certificate) agentv1alpha1.KeysClient {
		c := cp.trust()
		c.Certificates = []tls.Certificate{cert}
		return agentv1alpha1.NewKeysClient(cp.dial(cp.XDSAddr().String(), c))
	}
	say := func(c agentv1alpha1.KeysClient) codes.Code {
		_, err := c.Unknown(within(t), &agentv1alpha1.UnknownKeyRequest{Issuer: "acme-idp"})
		return status.Code(err)
	}
	many, few := keys(cp.joined(acmeOrders)), keys(cp.joined(globexOrders))
	said := 0
	for ; said < 1000 && say(many) == codes.OK; said++ {
	}
	if code := say(many); said < 64 || said >= 1000 || code != codes.ResourceExhausted {
		t.Errorf("after %d words: %s", said, code)
	}
	if code := say(few); code != codes.OK {
		t.Errorf("another is refused: %s", code)
	}
	later.Store(int64(365 * 24 * time.Hour)) // its SVID has expired, its connection is still there
	refused := 0
	for ; refused < 1000 && say(many) == codes.Unauthenticated; refused++ {
	}
	if n := lines.FilterMessage("word of an unknown key refused").Len(); refused >= 1000 || n != refused || n == 0 {
		t.Errorf("%d refusals wrote %d lines", refused, n)
	}
}
