package authz_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// The small mesh of these tests: acme and globex, each its own trust domain, and the platform's billing, which is granted
// to acme.
const (
	acmeWeb      = "spiffe://acme.demo.test/ns/acme/sa/web"
	acmeBatch    = "spiffe://acme.demo.test/ns/acme/sa/batch"
	acmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	globexWeb    = "spiffe://globex.demo.test/ns/globex/sa/web"
	platformOps  = "spiffe://platform.demo.test/ns/platform/sa/ops"
	platformBill = "spiffe://platform.demo.test/ns/platform/sa/billing"
)

type (
	tableMsg   = agentv1alpha1.Table
	serviceMsg = agentv1alpha1.Service
	ruleMsg    = agentv1alpha1.Rule
	grantMsg   = agentv1alpha1.Grant
	tokenMode  = agentv1alpha1.TokenMode

	revocationMsg = agentv1alpha1.Revocation
	classMsg      = agentv1alpha1.Sensitivity
	routeMsg      = agentv1alpha1.Route
)

const (
	tokenNone     = agentv1alpha1.TokenMode_TOKEN_MODE_NONE
	tokenOptional = agentv1alpha1.TokenMode_TOKEN_MODE_OPTIONAL
	tokenRequired = agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED
)

// world holds the keys of everybody in a test.
type world struct {
	now                    time.Time
	acme, globex, platform *testca.CA
	idp                    *ecdsa.PrivateKey
	jwks                   []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		now:      time.Now(),
		acme:     testca.Constrained(t, "acme.demo.test"),
		globex:   testca.Constrained(t, "globex.demo.test"),
		platform: testca.Constrained(t, "platform.demo.test"), idp: key, jwks: jwks,
	}
}

// base is a Table of the tenant with its own bundle and no service; the platform's also trusts acme and globex.
func (w *world) base(tenant, workload string) *tableMsg {
	ca := map[string]*testca.CA{"acme": w.acme, "globex": w.globex, "platform": w.platform}[tenant]
	m := &tableMsg{
		Workload: workload, SnapshotVersion: "v1", Tenant: tenant, PlatformTrustDomain: "platform.demo.test",
		Mapping: []*agentv1alpha1.MappingRule{{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}},
		Bundles: []*agentv1alpha1.Bundle{{TrustDomain: tenant + ".demo.test", Roots: [][]byte{ca.Cert.Raw}}},
	}
	return m
}

func (w *world) issuer(name, iss string, tenants ...string) *agentv1alpha1.TokenIssuer {
	return &agentv1alpha1.TokenIssuer{
		Name: name, Issuer: iss, Audiences: []string{"api"}, Tenants: tenants, TenantClaim: "tenant", RolesClaim: "roles",
		MaxLifetimeSeconds: 900, Jwks: w.jwks,
	}
}

// orders is acme's Table of one service.
func (w *world) orders(mode agentv1alpha1.TokenMode, rules ...*ruleMsg) *tableMsg {
	m := w.base("acme", acmeOrders)
	m.Issuers = append(m.Issuers, w.issuer("acme-idp", "https://idp.acme.example.com", "acme"))
	m.Services = []*serviceMsg{{Name: "orders", Port: "http", Token: mode, Accounts: []string{acmeOrders}, Rules: rules}}
	return m
}

// db is acme's Table of one TCP service, at port 9000, with rules for web.
func (w *world) db(rules ...string) *tableMsg {
	m := w.base("acme", acmeOrders)
	s := &serviceMsg{Name: "db", Port: "sql", TcpPort: 9000, Accounts: []string{acmeOrders}}
	for _, name := range rules {
		s.Rules = append(s.Rules, &ruleMsg{Name: "db/" + name, From: []string{acmeWeb}})
	}
	m.Services = []*serviceMsg{s}
	return m
}

// billing is the platform's Table of one shared service.
func (w *world) billing(mode agentv1alpha1.TokenMode, rules []*ruleMsg, grants ...*grantMsg) *tableMsg {
	m := w.base("platform", platformBill)
	m.Services = []*serviceMsg{{Name: "billing", Port: "http", Token: mode, Accounts: []string{platformBill}, Rules: rules, Grants: grants}}
	m.Bundles = append(m.Bundles, &agentv1alpha1.Bundle{TrustDomain: "acme.demo.test", Roots: [][]byte{w.acme.Cert.Raw}})
	for _, g := range grants {
		if g.GetTenant() == "globex" {
			m.Bundles = append(m.Bundles, &agentv1alpha1.Bundle{TrustDomain: "globex.demo.test", Roots: [][]byte{w.globex.Cert.Raw}})
			m.Issuers = append(m.Issuers, w.issuer("globex-idp", "https://idp.globex.example.com", "globex"))
			break
		}
	}
	for _, g := range grants {
		if g.GetTenant() == "acme" {
			m.Issuers = append(m.Issuers, w.issuer("acme-idp", "https://idp.acme.example.com", "acme"))
			break
		}
	}
	return m
}

func encode(t testing.TB, m *tableMsg) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(t testing.TB, m *tableMsg) *authz.Table {
	t.Helper()
	table, err := authz.DecodeTable(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// token is a signed token of the issuer, with changes to a good one.
func (w *world) token(t testing.TB, iss, tenant string, expires time.Time, roles ...string) string {
	t.Helper()
	return w.tokenWith(t, iss, tenant, expires, map[string]any{"roles": roles})
}

// tokenWith is a token with further claims.
func (w *world) tokenWith(t testing.TB, iss, tenant string, expires time.Time, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: w.idp}, (&jose.SignerOptions{}).WithHeader("kid", "k1").WithType("JWT"),
	)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{
		"iss": iss, "aud": "api", "sub": "alice", "tenant": tenant,
		"iat": expires.Add(-10 * time.Minute).Unix(), "exp": expires.Unix(),
	}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
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

func (w *world) acmeToken(t testing.TB, roles ...string) string {
	t.Helper()
	return w.token(t, "https://idp.acme.example.com", "acme", w.now.Add(5*time.Minute), roles...)
}

func service(t testing.TB, table *authz.Table, owner, name string) authz.ServiceRef {
	t.Helper()
	s, ok := table.Service(owner, name)
	if !ok {
		t.Fatalf("no service %s/%s", owner, name)
	}
	return s
}
