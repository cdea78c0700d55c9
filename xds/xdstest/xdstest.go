// Package xdstest is a mesh with one of everything that the compiler can meet, for tests of the compiler and of what checks
// its work.
package xdstest

import (
	"maps"
	"regexp"
	"testing"

	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Files are the documents of the mesh by path; the map is the caller's. Two tenants with services of the same names, two
// shared services: billing granted to both, ledger (gRPC) to acme. acme has a service of its own called ledger, a gRPC
// service with three accounts, and one with endpoints at two addresses.
//
// Of TCP services acme has db, where the client speaks first and web may connect, and mail, where the server does and
// nobody may, both run by one account; globex has db; the platform's store is granted to acme.
//
// Revoked are acme's web, one of the three accounts of its ledger, and the only ones of its db and mail and of the platform's
// store. So chains bear epochs, and some destinations are pinned to fewer accounts, or to nobody.
func Files() map[string]string { return maps.Clone(files) }

// DirectFiles are the documents of the same mesh, in which no sidecar has an agent.
func DirectFiles() map[string]string {
	direct := Files()
	for path, text := range direct {
		text = accountsLine.ReplaceAllString(text, "$0\n  proxy: Direct")
		direct[path] = accountsFlow.ReplaceAllString(text, "$0 proxy: Direct,")
	}
	return direct
}

var (
	accountsLine = regexp.MustCompile(`(?m)^  serviceAccounts: .*$`)
	accountsFlow = regexp.MustCompile(`serviceAccounts: \[[^\]]*\],`)
)

// Model is the mesh.
func Model(tb testing.TB) *tenancy.Model {
	tb.Helper()
	return tenancytest.Model(tb, Files())
}

// Parts compiles every tenant of a model.
func Parts(tb testing.TB, m *tenancy.Model) []xds.Part {
	tb.Helper()
	var parts []xds.Part
	for _, id := range m.Tenants() {
		t, ok := m.Tenant(id)
		if !ok {
			tb.Fatalf("tenant %s has no handle", id)
		}
		p, err := xds.Compile(t)
		if err != nil {
			tb.Fatal(err)
		}
		parts = append(parts, p)
	}
	return parts
}

// Find is the snapshot of a workload by its SPIFFE ID.
func Find(tb testing.TB, parts []xds.Part, workload string) xds.Snapshot {
	tb.Helper()
	for _, p := range parts {
		for _, w := range p.Workloads() {
			if s, ok := p.Snapshot(w); ok && w.String() == workload {
				return s
			}
		}
	}
	tb.Fatalf("nobody is %s", workload)
	return xds.Snapshot{}
}

// SPIFFE IDs of the mesh.
const (
	AcmeWeb      = "spiffe://acme.demo.test/ns/acme/sa/web"
	AcmeOrders   = "spiffe://acme.demo.test/ns/acme/sa/orders"
	AcmeBatch    = "spiffe://acme.demo.test/ns/acme/sa/batch"
	GlobexWeb    = "spiffe://globex.demo.test/ns/globex/sa/web"
	GlobexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
	Billing      = "spiffe://platform.demo.test/ns/platform/sa/billing"
	Ledger       = "spiffe://platform.demo.test/ns/platform/sa/ledger"
	AcmeDB       = "spiffe://acme.demo.test/ns/acme/sa/db"
	GlobexDB     = "spiffe://globex.demo.test/ns/globex/sa/db"
	Store        = "spiffe://platform.demo.test/ns/platform/sa/store"
)

var files = map[string]string{
	"tenants/acme/revoked.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Revocation
metadata: {name: web}
spec: {workload: "spiffe://acme.demo.test/ns/acme/sa/web", reason: lost, notAfter: "2026-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Revocation
metadata: {name: night}
spec: {workload: "spiffe://acme.demo.test/ns/acme/sa/night", reason: lost, notAfter: "2036-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Revocation
metadata: {name: db}
spec: {workload: "spiffe://acme.demo.test/ns/acme/sa/db", reason: lost, notAfter: "2036-01-01T00:00:00Z"}
`,
	"platform/revoked.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Revocation
metadata: {name: store}
spec: {workload: "spiffe://platform.demo.test/ns/platform/sa/store", reason: lost, notAfter: "2036-01-01T00:00:00Z"}
`,
	"mesh.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Mesh
metadata: {name: demo}
spec:
  identities: [{trustDomain: "{tenant}.demo.test", path: "/ns/{namespace}/sa/{serviceAccount}"}]
  platformTrustDomain: platform.demo.test
  sensitivity: {secret: {token: required, acr: [phr, mfa], amr: [hwk], maxAuthAge: 5m}}
`,
	"platform/tenants.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {namespaces: [acme]}
---
apiVersion: ringfence.dev/v1alpha1
kind: Tenant
metadata: {name: globex}
spec: {namespaces: [globex]}
`,
	"platform/shared.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: billing}
spec:
  namespace: platform
  serviceAccounts: [billing]
  token: optional
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20280}]
  endpoints: [{address: 127.0.0.1, port: 20080}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: ledger}
spec:
  namespace: platform
  serviceAccounts: [ledger]
  token: required
  sensitivity: secret
  routes: [{methods: [POST], paths: ["/a/**"], sensitivity: secret}]
  forwardToken: true
  ports: [{name: grpc, port: 9090, protocol: GRPC, appPort: 20285}]
  endpoints: [{address: 127.0.0.1, port: 20085}]
  outbound: {port: 20185, tcp: [{port: 20189, service: store}]}
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: store}
spec:
  namespace: platform
  serviceAccounts: [store]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20288}]
  endpoints: [{address: 127.0.0.1, port: 20088}]
`,
	"platform/grants.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: acme-billing}
spec: {tenant: acme, service: billing, to: {methods: [GET, POST], paths: [/invoices, "/invoices/*"]}, notAfter: "2036-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: globex-billing}
spec: {tenant: globex, service: billing, to: {methods: [GET], paths: [/invoices]}, notAfter: "2036-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: acme-ledger}
spec: {tenant: acme, service: ledger, to: {methods: [POST], paths: ["/**"]}, notAfter: "2036-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: acme-store}
spec: {tenant: acme, service: store, notAfter: "2036-01-01T00:00:00Z"}
`,
	"tenants/acme/services.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: orders}
spec:
  namespace: acme
  serviceAccounts: [orders]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20281}]
  endpoints: [{address: 127.0.0.1, port: 20081}]
  outbound: {port: 20181}
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: web}
spec: {namespace: acme, serviceAccounts: [web], outbound: {port: 20182}}
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: ledger}
spec:
  namespace: acme
  serviceAccounts: [batch, night, orders]
  ports: [{name: grpc, port: 9090, protocol: GRPC, appPort: 20286}]
  endpoints: [{address: 10.1.0.7, port: 20086}, {address: 10.1.0.8, port: 20086}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: reports}
spec:
  namespace: acme
  serviceAccounts: [batch]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20287}]
  endpoints: [{address: 10.1.0.9, port: 20087}, {address: "2001:db8::9", port: 20087}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: db}
spec:
  namespace: acme
  serviceAccounts: [db]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20391}]
  endpoints: [{address: 127.0.0.1, port: 20091}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: mail}
spec:
  namespace: acme
  serviceAccounts: [db]
  ports: [{name: smtp, port: 25, protocol: TCP, speaksFirst: server, appPort: 20392}]
  endpoints: [{address: 127.0.0.1, port: 20092}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: tool}
spec:
  namespace: acme
  serviceAccounts: [web]
  outbound: {tcp: [{port: 20191, service: db}, {port: 20192, service: platform/store}]}
`,
	"tenants/acme/policy.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  service: orders
  rules:
    - name: web-reads
      from: {services: [web]}
      to: {methods: [GET], paths: [/orders, "/orders/*"]}
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: ledger}
spec:
  service: ledger
  rules:
    - name: all
      from: {}
      to: {methods: [POST], paths: ["/**"]}
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: db}
spec: {service: db, rules: [{name: web-connects, from: {services: [web]}}]}
`,
	"tenants/globex/services.yaml": `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: orders}
spec:
  namespace: globex
  serviceAccounts: [orders]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20283}]
  endpoints: [{address: 127.0.0.1, port: 20083}]
  outbound: {port: 20183}
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: web}
spec: {namespace: globex, serviceAccounts: [web], outbound: {port: 20184, tcp: [{port: 20194, service: db}]}}
---
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: db}
spec:
  namespace: globex
  serviceAccounts: [db]
  ports: [{name: sql, port: 5432, protocol: TCP, appPort: 20393}]
  endpoints: [{address: 127.0.0.1, port: 20093}]
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  service: orders
  rules:
    - name: web-reads
      from: {services: [web]}
      to: {methods: [GET], paths: [/orders, "/orders/**"]}
`,
}
