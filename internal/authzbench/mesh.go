package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

const (
	services  = 20 // of a tenant
	callers   = 5  // of a service
	withToken = 10 // services from this one on demand a token
)

// mesh is many tenants that are alike, with throw-away keys: one for all roots, one for all workloads and one for all
// tokens, because how they differ costs nothing that is measured.
type mesh struct {
	now             time.Time
	root, leaf, idp *ecdsa.PrivateKey
	jwks            []byte
	tenants         []*tenant
	serial          int64
}

type tenant struct {
	name  string
	ca    *x509.Certificate
	table []byte // an encoded Table of all of the tenant's services
	// certificates of two of its callers, as Envoy writes them: the first calls services without, the second with tokens
	plain, tokens string
}

func newMesh(n int) (*mesh, error) {
	m := &mesh{now: time.Now()}
	for _, k := range []**ecdsa.PrivateKey{&m.root, &m.leaf, &m.idp} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		*k = key
	}
	var err error
	if m.jwks, err = json.Marshal(jose.JSONWebKeySet{
		Keys: []jose.JSONWebKey{{Key: m.idp.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}},
	}); err != nil {
		return nil, err
	}
	for i := range n {
		t, err := m.tenant(fmt.Sprintf("t%05d", i), i < few)
		if err != nil {
			return nil, err
		}
		m.tenants = append(m.tenants, t)
	}
	return m, nil
}

func domain(tenant string) string { return tenant + ".bench.test" }

func id(tenant, account string) string {
	return "spiffe://" + domain(tenant) + "/ns/" + tenant + "/sa/" + account
}

func caller(n int) string { return fmt.Sprintf("c%d", n%services) }

// Who calls: the last of the first services' callers in turn.
const (
	plainCaller = 7
	tokenCaller = 14
)

func (m *mesh) tenant(name string, tokens bool) (*tenant, error) {
	t := &tenant{name: name}
	var err error
	if t.ca, err = m.certificate(domain(name), nil, ""); err != nil {
		return nil, err
	}
	if t.plain, err = m.certText(t.ca, id(name, caller(plainCaller))); err != nil {
		return nil, err
	}
	if tokens {
		if t.tokens, err = m.certText(t.ca, id(name, caller(tokenCaller))); err != nil {
			return nil, err
		}
	}
	table := &agentv1alpha1.Table{
		Workload: id(name, "proxy"), SnapshotVersion: "v1", Tenant: name, PlatformTrustDomain: "platform.bench.test",
		Mapping: []*agentv1alpha1.MappingRule{{TrustDomain: "{tenant}.bench.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}},
		Bundles: []*agentv1alpha1.Bundle{{TrustDomain: domain(name), Roots: [][]byte{t.ca.Raw}}},
		Issuers: []*agentv1alpha1.TokenIssuer{{
			Name: "idp", Issuer: issuer(name), Audiences: []string{"api"}, Tenants: []string{name},
			TenantClaim: "tenant", RolesClaim: "roles", MaxLifetimeSeconds: 3600, Jwks: m.jwks,
		}},
	}
	for s := range services {
		service := &agentv1alpha1.Service{
			Name: fmt.Sprintf("s%d", s), Port: "http", Accounts: []string{id(name, "proxy")},
			Token: agentv1alpha1.TokenMode_TOKEN_MODE_NONE,
			Rules: []*agentv1alpha1.Rule{{
				Name: "policy/read", Position: "f:1:1", Methods: []string{"GET"}, Paths: []string{"/items/*", "/items/*/lines/**"},
			}},
		}
		if s >= withToken {
			service.Token, service.Rules[0].Roles = agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED, []string{"reader"}
		}
		for c := range callers {
			service.Rules[0].From = append(service.Rules[0].From, id(name, caller(s+c)))
		}
		table.Services = append(table.Services, service)
	}
	t.table, err = proto.MarshalOptions{Deterministic: true}.Marshal(table)
	return t, err
}

// certificate makes a root of the trust domain, or a leaf of the root with that ID.
func (m *mesh) certificate(domain string, root *x509.Certificate, uri string) (*x509.Certificate, error) {
	m.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial), BasicConstraintsValid: true,
		NotBefore: m.now.Add(-time.Hour), NotAfter: m.now.Add(24 * time.Hour),
	}
	key, parent := m.root, template
	if root == nil {
		template.Subject = pkix.Name{CommonName: domain}
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		template.PermittedDNSDomainsCritical, template.PermittedURIDomains = true, []string{domain}
	} else {
		u, err := url.Parse(uri)
		if err != nil {
			return nil, err
		}
		key, parent = m.leaf, root
		template.URIs, template.KeyUsage = []*url.URL{u}, x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), m.root)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certText is a new leaf as Envoy writes it: PEM, URL-encoded.
func (m *mesh) certText(root *x509.Certificate, uri string) (string, error) {
	c, err := m.certificate("", root, uri)
	if err != nil {
		return "", err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(text), nil
}

func issuer(tenant string) string { return "https://idp.example.com/" + tenant }

// token is a token of 0.7 KB; no two numbers give the same.
func (m *mesh) token(tenant string, number int, expires time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: m.idp}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		return "", err
	}
	const padding = 230
	payload, err := json.Marshal(map[string]any{
		"iss": issuer(tenant), "aud": "api", "sub": "alice", "tenant": tenant, "roles": []string{"reader"},
		"iat": expires.Add(-30 * time.Minute).Unix(), "exp": expires.Unix(),
		"jti": fmt.Sprint(number), "scope": strings.Repeat("x", padding),
	})
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// der is a certificate of certText in DER.
func der(text string) ([]byte, error) {
	decoded, err := url.PathUnescape(text)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(decoded))
	if block == nil {
		return nil, errors.New("no certificate")
	}
	return block.Bytes, nil
}
