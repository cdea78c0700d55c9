package tenancy_test

import (
	"path"
	"testing"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// FuzzBuild puts a file of any bytes, a tenant's or the platform's, into the example. What a tenant writes is its own
// problem, and never changes what others get.
func FuzzBuild(f *testing.F) {
	files := tenancytest.TwoTenantsFiles(f)
	for name, text := range files {
		f.Add(path.Ext(name) == ".yaml", []byte(text))
	}
	f.Add(true, []byte(service("extra", called("{address: 127.0.0.1, port: 20083}"))+"---\n"+rules("extra", rule)))
	f.Add(false, []byte("kind: Grant\nmetadata: {name: g}\nspec: {tenant: globex, service: billing, to: {methods: [GET], paths: [/**]}, notAfter: 2036-01-01T00:00:00Z}\n"))
	base := tenancytest.Input(f, files)
	first, problems := tenancy.Build(base)
	if len(problems) > 0 {
		f.Fatal(problems)
	}
	globex := tenancytest.Tenant(f, first, "globex").Digest()
	f.Fuzz(func(t *testing.T, tenant bool, data []byte) {
		file := v1alpha1.File{Path: "platform/fuzz.yaml", Data: data}
		if tenant {
			file.Path = "tenants/acme/fuzz.yaml"
		}
		docs, found := v1alpha1.Decode(file)
		in := base
		in.Documents = append(append([]v1alpha1.Document{}, base.Documents...), docs...)
		in.Previous = first
		in.Bundles = tenancytest.Bundles(t, tenancy.TrustDomains(in.Documents)...)
		m, problems := tenancy.Build(in)
		if (m == nil) != (len(problems) > 0) {
			t.Fatalf("a model: %t, problems: %v", m != nil, problems)
		}
		broken := false
		for _, d := range docs {
			broken = broken || len(d.Head().Problems()) > 0
		}
		if broken && m != nil {
			t.Fatalf("a model of broken documents: %v", found)
		}
		if !tenant {
			return
		}
		for _, p := range problems {
			if p.Owner != "acme" {
				t.Fatalf("%s is blamed for acme's document: %s", p.Owner, p)
			}
		}
		if m != nil && tenancytest.Tenant(t, m, "globex").Digest() != globex {
			t.Fatal("acme's document is seen by globex")
		}
	})
}
