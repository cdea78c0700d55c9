package authz_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// shared are a platform's services: archive is granted to globex and reads no token, vault to acme, and runs beside
// billing, which comes from the example and is granted to acme, too.
const shared = `
kind: Service
metadata: {name: archive}
spec:
  namespace: platform
  serviceAccounts: [archive]
  token: none
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20380}]
  endpoints: [{address: 127.0.0.1, port: 20381}]
---
kind: Service
metadata: {name: vault}
spec:
  namespace: platform
  serviceAccounts: [billing]
  token: none
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20382}]
  endpoints: [{address: 127.0.0.1, port: 20383}]
---
kind: Grant
metadata: {name: globex-archive}
spec: {tenant: globex, service: archive, to: {methods: [GET], paths: [/x]}, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Grant
metadata: {name: acme-vault}
spec: {tenant: acme, service: vault, to: {methods: [GET], paths: [/x]}, notAfter: "2036-01-01T00:00:00Z"}
---
kind: TokenIssuer
metadata: {name: both-idp}
spec:
  issuer: https://idp.example.com
  jwks: {file: acme-jwks.json}
  audiences: [orders-api]
  tenants: [globex, acme]
  claims: {tenant: tenant}
  maxLifetime: 15m
---
kind: Revocation
metadata: {name: of-acme}
spec: {workload: spiffe://acme.demo.test/ns/acme/sa/web, reason: r, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: of-globex}
spec: {workload: spiffe://globex.demo.test/ns/globex/sa/web, reason: r, notAfter: "2036-01-01T00:00:00Z"}
`

const ofTenants = `
kind: Revocation
metadata: {name: token}
spec: {token: {subject: alice}, reason: r, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: certificate}
spec: {certificate: {trustDomain: TENANT.demo.test, serial: "1f"}, reason: r, notAfter: "2036-01-01T00:00:00Z"}
`

func versioned(documents string) string {
	return "apiVersion: ringfence.dev/v1alpha1" + strings.ReplaceAll(documents, "---\n", "---\napiVersion: ringfence.dev/v1alpha1\n")
}

// sharedMesh is the example with what is above.
func sharedMesh(t *testing.T) *tenancy.Model {
	t.Helper()
	files := tenancytest.TwoTenantsFiles(t)
	files["platform/shared.yaml"] = versioned(shared)
	for _, tenant := range []string{"acme", "globex"} {
		files["tenants/"+tenant+"/revoked.yaml"] = versioned(strings.ReplaceAll(ofTenants, "TENANT", tenant))
	}
	return tenancytest.Model(t, files)
}

// Each workload's Table is of the services that it runs, and has of the bundles, token issuers and revocations those that
// they need and no others.
func TestForHasWhatItsServicesNeed(t *testing.T) {
	t.Parallel()
	m := sharedMesh(t)
	type content struct{ services, domains, issuers, revocations []string }
	for id, want := range map[string]content{
		"spiffe://platform.demo.test/ns/platform/sa/billing": {
			[]string{"billing", "vault"},
			[]string{"acme.demo.test", "platform.demo.test"},
			[]string{"acme-idp acme", "both-idp acme"},
			[]string{"acme/certificate acme", "acme/token acme", "platform/of-acme acme"},
		},
		"spiffe://platform.demo.test/ns/platform/sa/archive": {
			[]string{"archive"},
			[]string{"globex.demo.test", "platform.demo.test"},
			nil,
			[]string{"globex/certificate globex", "platform/of-globex globex"},
		},
		"spiffe://acme.demo.test/ns/acme/sa/orders": {
			[]string{"orders"},
			[]string{"acme.demo.test"},
			[]string{"acme-idp acme", "both-idp acme"},
			[]string{"acme/certificate acme", "acme/token acme", "platform/of-acme acme"},
		},
		"spiffe://acme.demo.test/ns/acme/sa/web": {
			nil,
			[]string{"acme.demo.test"},
			nil,
			[]string{"acme/certificate acme", "platform/of-acme acme"},
		},
	} {
		w := workload(t, m, id)
		table := forWorkload(t, compile(t, m, w.Tenant().Name()), w)
		var got content
		for _, s := range table.GetServices() {
			got.services = append(got.services, s.GetName())
		}
		for _, b := range table.GetBundles() {
			got.domains = append(got.domains, b.GetTrustDomain())
		}
		for _, i := range table.GetIssuers() {
			got.issuers = append(got.issuers, i.GetName()+" "+strings.Join(i.GetTenants(), "+"))
		}
		for _, r := range table.GetRevocations() {
			got.revocations = append(got.revocations, r.GetName()+" "+r.GetTenant())
		}
		for name, lists := range map[string][2][]string{
			"services": {got.services, want.services}, "bundles": {got.domains, want.domains},
			"token issuers": {got.issuers, want.issuers}, "revocations": {got.revocations, want.revocations},
		} {
			slices.Sort(lists[0])
			if !slices.Equal(lists[0], lists[1]) {
				t.Errorf("%s: %s %q, want %q", id, name, lists[0], lists[1])
			}
		}
	}
	if _, err := compile(t, m, "acme").For(workload(t, m, "spiffe://globex.demo.test/ns/globex/sa/web"), "v1"); err == nil {
		t.Error("another tenant's workload gets a Table")
	}
	if _, err := authz.Compile(tenancy.Tenant{}); err == nil || !strings.Contains(err.Error(), "no tenant") {
		t.Errorf("a Table of nobody: %v", err)
	}
}
