// Package tenancytest makes models for tests of other packages out of documents that stand in the test.
package tenancytest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"math/big"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Model decodes and builds a configuration directory that is given as file contents by path: *.yaml are documents,
// everything else are files that they may name. The test fails where there is a problem.
func Model(tb testing.TB, files map[string]string) *tenancy.Model {
	tb.Helper()
	m, problems := tenancy.Build(Input(tb, files))
	for _, p := range problems {
		tb.Errorf("problem:\n%s", p.Render())
	}
	if m == nil {
		tb.Fatal("there is no model")
	}
	return m
}

// Input decodes a configuration directory and adds the roots that it needs. The test fails where a file has a problem.
func Input(tb testing.TB, files map[string]string) tenancy.Input {
	tb.Helper()
	in := tenancy.Input{Files: map[string][]byte{}}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if path.Ext(name) != ".yaml" {
			in.Files[name] = []byte(files[name])
			continue
		}
		docs, problems := v1alpha1.Decode(v1alpha1.File{Path: name, Data: []byte(files[name])})
		for _, p := range problems {
			tb.Errorf("problem:\n%s", p.Render())
		}
		in.Documents = append(in.Documents, docs...)
	}
	if tb.Failed() {
		tb.FailNow()
	}
	in.Bundles = Bundles(tb, tenancy.TrustDomains(in.Documents)...)
	return in
}

// TwoTenantsFiles are the files of examples/two-tenants by path, for tests that change some of them.
func TwoTenantsFiles(tb testing.TB) map[string]string {
	tb.Helper()
	files := map[string]string{}
	err := fs.WalkDir(examples.TwoTenants(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(examples.TwoTenants(), name)
		files[name] = string(data)
		return err
	})
	if err != nil {
		tb.Fatalf("cannot read the example: %v", err)
	}
	return files
}

// TCPFiles are TwoTenantsFiles with TCP services: each tenant has db, where the client speaks first, and mail, where the
// server does, both run by one account; acme's reports may connect to its db, orders to its mail; the platform's ledger is
// granted to acme. The sidecars of reports and of globex/tool lead to whatever they can.
func TCPFiles(tb testing.TB) map[string]string {
	tb.Helper()
	files := TwoTenantsFiles(tb)
	files["platform/ledger.yaml"] = ledger
	files["tenants/acme/tcp.yaml"] = acmeTCP
	files["tenants/globex/tcp.yaml"] = globexTCP
	return files
}

const (
	ledger = `kind: Service
metadata: {name: ledger}
spec:
  namespace: platform
  serviceAccounts: [ledger]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20401}]
  endpoints: [{address: 127.0.0.1, port: 20402}]
---
kind: Grant
metadata: {name: acme-ledger}
spec: {tenant: acme, service: ledger, notAfter: "2100-01-01T00:00:00Z"}
`
	acmeTCP = `kind: Service
metadata: {name: db}
spec:
  namespace: acme
  serviceAccounts: [db]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20411}]
  endpoints: [{address: 127.0.0.1, port: 20412}]
---
kind: Service
metadata: {name: mail}
spec:
  namespace: acme
  serviceAccounts: [db]
  ports: [{name: smtp, port: 25, protocol: TCP, speaksFirst: server, appPort: 20413}]
  endpoints: [{address: 127.0.0.1, port: 20414}]
---
kind: Service
metadata: {name: reports}
spec:
  namespace: acme
  serviceAccounts: [reports]
  outbound:
    port: 20415
    tcp:
      - {port: 20416, service: db}
      - {port: 20417, service: mail}
      - {port: 20418, service: platform/ledger}
---
kind: AccessPolicy
metadata: {name: db}
spec:
  service: db
  rules:
    - {name: reports-connects, from: {services: [reports]}}
---
kind: AccessPolicy
metadata: {name: mail}
spec:
  service: mail
  rules:
    - {name: orders-connects, from: {services: [orders]}}
`
	globexTCP = `kind: Service
metadata: {name: db}
spec:
  namespace: globex
  serviceAccounts: [db]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20421}]
  endpoints: [{address: 127.0.0.1, port: 20422}]
---
kind: Service
metadata: {name: mail}
spec:
  namespace: globex
  serviceAccounts: [db]
  ports: [{name: smtp, port: 25, protocol: TCP, speaksFirst: server, appPort: 20423}]
  endpoints: [{address: 127.0.0.1, port: 20424}]
---
kind: Service
metadata: {name: tool}
spec:
  namespace: globex
  serviceAccounts: [tool]
  outbound: {tcp: [{port: 20426, service: db}, {port: 20428, service: platform/ledger}]}
---
kind: AccessPolicy
metadata: {name: db}
spec: {service: db, rules: [{name: everybody, from: {}}]}
`
)

// TwoTenants is the model of examples/two-tenants.
func TwoTenants(tb testing.TB) *tenancy.Model {
	tb.Helper()
	return Model(tb, TwoTenantsFiles(tb))
}

// Tenant is the handle on the tenant of that name.
func Tenant(tb testing.TB, m *tenancy.Model, name string) tenancy.Tenant {
	tb.Helper()
	for _, id := range m.Tenants() {
		if id.Name() == name {
			t, _ := m.Tenant(id)
			return t
		}
	}
	tb.Fatalf("the model has no tenant %q", name)
	return tenancy.Tenant{}
}

// Bundles are throw-away roots, one for each trust domain and always the same for the same name, so that two models can
// be compared. Their keys follow from the name: they prove nothing and are for tests alone.
func Bundles(tb testing.TB, domains ...identity.TrustDomain) identity.Bundles {
	tb.Helper()
	var all []identity.Bundle
	for _, td := range domains {
		b, err := identity.NewBundle(td, root(tb, td))
		if err != nil {
			tb.Fatalf("cannot make a bundle: %v", err)
		}
		all = append(all, b)
	}
	bundles, err := identity.NewBundles(all...)
	if err != nil {
		tb.Fatalf("cannot put bundles together: %v", err)
	}
	return bundles
}

func root(tb testing.TB, td identity.TrustDomain) []byte {
	tb.Helper()
	seed := sha256.Sum256([]byte(td.String()))
	key := ed25519.NewKeyFromSeed(seed[:])
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: strings.ToUpper(td.String())},
		NotBefore: start, NotAfter: start.AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true, PermittedURIDomains: []string{td.String()},
		URIs: []*url.URL{{Scheme: "spiffe", Host: td.String()}},
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		tb.Fatalf("cannot make a root: %v", err)
	}
	return der
}
