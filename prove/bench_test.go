package prove_test

import (
	"fmt"
	"testing"

	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// large is a mesh of some tenants with ten services each, and one shared service granted to all of them.
func large(tenants int) map[string]string {
	files := map[string]string{"mesh.yaml": xdstest.Files()["mesh.yaml"]}
	declared, grants := "", `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: billing}
spec:
  namespace: platform
  serviceAccounts: [billing]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20280}]
  endpoints: [{address: 10.0.0.1, port: 20080}]
`
	for i := range tenants {
		declared += fmt.Sprintf("---\napiVersion: ringfence.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t%d}\nspec: {namespaces: [t%d]}\n", i, i)
		grants += fmt.Sprintf("---\napiVersion: ringfence.dev/v1alpha1\nkind: Grant\nmetadata: {name: t%d}\nspec: {tenant: t%d, service: billing, to: {methods: [GET], paths: [/**]}, notAfter: \"2040-01-01T00:00:00Z\"}\n", i, i)
		services := ""
		for j := range 10 {
			services += fmt.Sprintf("---\napiVersion: ringfence.dev/v1alpha1\nkind: Service\nmetadata: {name: s%d}\nspec:\n  namespace: t%d\n  serviceAccounts: [s%d]\n  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20281}]\n  endpoints: [{address: 10.%d.%d.1, port: 20081}]\n  outbound: {port: 20181}\n", j, i, j, i+1, j)
		}
		files[fmt.Sprintf("tenants/t%d/services.yaml", i)] = services[4:]
	}
	files["platform/tenants.yaml"], files["platform/billing.yaml"] = declared[4:], grants
	return files
}

func BenchmarkProve(b *testing.B) {
	for _, tenants := range []int{10, 100} {
		b.Run(fmt.Sprintf("%d tenants", tenants), func(b *testing.B) {
			g := compile(b, large(tenants))
			b.ResetTimer()
			for b.Loop() {
				if _, c := prove.Prove(g.m, g.parts, g.tables); c != nil {
					b.Fatal(c)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	m := tenancytest.Model(b, large(100))
	for b.Loop() {
		xdstest.Parts(b, m)
	}
}
