package tenancy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func kinds() []tenancy.Kind {
	return []tenancy.Kind{
		tenancy.KindInbound, tenancy.KindOutbound, tenancy.KindCallers, tenancy.KindRoutes,
		tenancy.KindService, tenancy.KindImport, tenancy.KindApp,
	}
}

func TestResourceNames(t *testing.T) {
	t.Parallel()
	acme := tenancytest.Tenant(t, tenancytest.TwoTenants(t), "acme")
	cases := []struct {
		kind  tenancy.Kind
		parts []string
		want  string
	}{
		{tenancy.KindInbound, []string{"orders"}, "inbound/acme/orders"},
		{tenancy.KindCallers, []string{"orders", "globex"}, "callers/acme/orders/globex"},
		{tenancy.KindImport, []string{"billing"}, "import/acme/billing"},
		{tenancy.KindImport, nil, ""},
		{tenancy.KindInbound, []string{"orders", "acme"}, ""},
		{tenancy.KindCallers, []string{"orders"}, ""},
		{tenancy.KindInbound, []string{"a/b"}, ""},
		{tenancy.KindInbound, []string{""}, ""},
		{tenancy.KindInbound, []string{"Orders"}, ""},
		{"", nil, ""},
		{"cluster", []string{"orders"}, ""},
		{"inbound/acme", []string{"orders"}, ""},
	}
	for _, c := range cases {
		got := acme.ResourceName(c.kind, c.parts...)
		if got != c.want {
			t.Errorf("%s %v: got %q, want %q", c.kind, c.parts, got, c.want)
		}
		kind, tenant, parts, err := tenancy.ParseResourceName(got)
		switch {
		case (err == nil) != (c.want != ""):
			t.Errorf("%q: %v", got, err)
		case err == nil && (kind != c.kind || tenant != "acme" || cmp.Diff(c.parts, parts) != ""):
			t.Errorf("%q is parsed as %s %s %v", got, kind, tenant, parts)
		}
	}
}

func FuzzResourceName(f *testing.F) {
	acme := tenancytest.Tenant(f, tenancytest.TwoTenants(f), "acme")
	for _, s := range []string{
		"", "/", "inbound/acme/orders", "callers/acme/orders/globex", "inbound/acme/orders/x", "inbound/acme", "inbound//orders",
		"inbound/acme/", "/acme/orders", "INBOUND/acme/orders", "inbound/acme/or%2fders", "inbound/acme/orders\x00", "import/platform/billing", "app/acme/-a",
	} {
		f.Add(s, "orders", "globex", uint8(2))
	}
	f.Fuzz(func(t *testing.T, s, a, b string, k uint8) {
		kind, tenant, parts, err := tenancy.ParseResourceName(s)
		if err == nil {
			if joined := string(kind) + "/" + tenant + "/" + strings.Join(parts, "/"); joined != s {
				t.Fatalf("%q is parsed as %q", s, joined)
			}
			if again := acme.ResourceName(kind, parts...); tenant == "acme" && again != s {
				t.Fatalf("%q is parsed, but made as %q", s, again)
			}
		} else if kind != "" || tenant != "" || parts != nil {
			t.Fatalf("%q is refused, and still gives %q %q %q", s, kind, tenant, parts)
		}
		given := [][]string{{a}, {a, b}}[int(k)%2]
		of := kinds()[int(k)%len(kinds())]
		name := acme.ResourceName(of, given...)
		if name == "" {
			return
		}
		back, owner, got, err := tenancy.ParseResourceName(name)
		if err != nil || back != of || owner != "acme" || cmp.Diff(given, got) != "" {
			t.Fatalf("%s %q is made as %q and parsed as %s %s %q: %v", of, given, name, back, owner, got, err)
		}
	})
}

func TestSNILabels(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	seen := map[string]string{}
	for _, owner := range m.Tenants() {
		tenant, _ := m.Tenant(owner)
		for _, s := range tenant.Services() {
			for _, caller := range m.Tenants() {
				label := s.SNI(caller)
				who := owner.Name() + "/" + s.Name() + " from " + caller.Name()
				host, ok := strings.CutSuffix(label, ".mesh.internal")
				if !ok || len(host) != 32 || strings.Trim(host, "0123456789abcdef") != "" {
					t.Errorf("%s: %q", who, label)
				}
				if other, dup := seen[label]; dup {
					t.Errorf("%s and %s have the label %s", who, other, label)
				}
				seen[label] = who
				if s.SNI(caller) != label || s.SNI(identity.TenantID{}) != "" {
					t.Errorf("%s: the label changes, or nobody has one", who)
				}
			}
		}
	}
	// Whatever stands in running sidecars keeps its chain only as long as the label stays.
	orders, _ := tenancytest.Tenant(t, m, "acme").Service("orders")
	if got := orders.SNI(orders.Owner()); got != "f31e35761bac0d75e7e0be6ad954a040.mesh.internal" {
		t.Errorf("the label of acme/orders for acme changed to %s", got)
	}
}

func TestCheckPath(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"/", "/a", "/a/", "/*", "/**", "/a/*", "/a/*/b", "/a/**", "/a-b_c.d~e!f$g&h'i(j)k+l,m=n:o@p", "/...", "/.a", "/a..b", "/" + strings.Repeat("a", 1023)} {
		if err := tenancy.CheckPath(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{
		"", "a", "*", "//", "/a//b", "//a", "/.", "/..", "/a/./b", "/a/..", "/a%2fb", "/%", "/a?b", "/a#b", "/a;b", "/..;/a", `/a\b`, "/a b",
		"/**/a", "/***", "/a*", "/*a", "/{a}", "/é", "/a\x00", "/a\n", "/a|b", "/a\"b", "/a<b", "/a^b", "/a`b", "/[a]", "/" + strings.Repeat("a", 1024),
	} {
		if err := tenancy.CheckPath(p); err == nil {
			t.Errorf("%q is accepted", p)
		}
	}
}
