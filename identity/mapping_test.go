package identity_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

var (
	perTenant  = identity.MappingRule{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}
	pathMapped = identity.MappingRule{TrustDomain: "cluster.local", Path: "/tenant/{tenant}/ns/{namespace}/sa/{serviceAccount}"}
	consulLike = identity.MappingRule{TrustDomain: "dc.consul", Path: "/ap/{tenant}/svc/{serviceAccount}"}
)

func mapping(t testing.TB, rules ...identity.MappingRule) identity.Mapping {
	t.Helper()
	m, err := identity.NewMapping(identity.MustTrustDomain("platform.demo.test"), rules)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMappingParse(t *testing.T) {
	t.Parallel()
	m := mapping(t, perTenant, pathMapped, consulLike)
	tests := []struct {
		name, uri                  string
		tenant, namespace, account string
		err                        error
	}{
		{name: "own trust domain", uri: "spiffe://acme.demo.test/ns/acme/sa/web", tenant: "acme", namespace: "acme", account: "web"},
		{name: "path-mapped", uri: "spiffe://cluster.local/tenant/acme/ns/n/sa/web", tenant: "acme", namespace: "n", account: "web"},
		{name: "no namespace", uri: "spiffe://dc.consul/ap/acme/svc/web", tenant: "acme", account: "web"},
		{name: "platform", uri: "spiffe://platform.demo.test/ns/platform/sa/billing", tenant: "platform", namespace: "platform", account: "billing"},

		{name: "platform's name in another trust domain", uri: "spiffe://cluster.local/tenant/platform/ns/n/sa/web", err: identity.ErrUnmapped},
		{name: "platform with another path", uri: "spiffe://platform.demo.test/x/platform/sa/billing", err: identity.ErrUnmapped},
		{name: "trust domain below the tenant's", uri: "spiffe://x.acme.demo.test/ns/acme/sa/web", err: identity.ErrUnmapped},
		{name: "unknown trust domain", uri: "spiffe://acme.other.test/ns/acme/sa/web", err: identity.ErrUnmapped},
		{name: "path too long", uri: "spiffe://acme.demo.test/ns/acme/sa/web/x", err: identity.ErrUnmapped},
		{name: "path too short", uri: "spiffe://acme.demo.test/ns/acme/sa", err: identity.ErrUnmapped},
		{name: "literal differs", uri: "spiffe://acme.demo.test/NS/acme/sa/web", err: identity.ErrUnmapped},
		{name: "account outside the grammar", uri: "spiffe://acme.demo.test/ns/acme/sa/Web", err: identity.ErrUnmapped},
		{name: "tenant in upper case", uri: "spiffe://cluster.local/tenant/Acme/ns/n/sa/web", err: identity.ErrUnmapped},

		{name: "empty", uri: "", err: identity.ErrInvalidID},
		{name: "scheme alone", uri: "spiffe://", err: identity.ErrInvalidID},
		{name: "trust domain alone", uri: "spiffe://acme.demo.test", err: identity.ErrInvalidID},
		{name: "root path", uri: "spiffe://acme.demo.test/", err: identity.ErrInvalidID},
		{name: "trailing slash", uri: "spiffe://acme.demo.test/ns/acme/sa/web/", err: identity.ErrInvalidID},
		{name: "upper-case scheme", uri: "SPIFFE://acme.demo.test/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "other scheme", uri: "https://acme.demo.test/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "empty fragment", uri: "spiffe://acme.demo.test/ns/acme/sa/web#", err: identity.ErrInvalidID},
		{name: "fragment", uri: "spiffe://acme.demo.test/ns/acme/sa/web#x", err: identity.ErrInvalidID},
		{name: "query", uri: "spiffe://acme.demo.test/ns/acme/sa/web?x", err: identity.ErrInvalidID},
		{name: "user", uri: "spiffe://u@acme.demo.test/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "port", uri: "spiffe://acme.demo.test:80/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "percent", uri: "spiffe://acme.demo.test/ns/acme/sa/w%65b", err: identity.ErrInvalidID},
		{name: "two slashes", uri: "spiffe://acme.demo.test//ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "dot segment", uri: "spiffe://acme.demo.test/ns/../sa/web", err: identity.ErrInvalidID},
		{name: "one dot", uri: "spiffe://acme.demo.test/ns/./sa/web", err: identity.ErrInvalidID},
		{name: "trailing dot in the trust domain", uri: "spiffe://acme.demo.test./ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "upper-case trust domain", uri: "spiffe://ACME.demo.test/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "NUL", uri: "spiffe://acme.demo.test/ns/acme/sa/web\x00", err: identity.ErrInvalidID},
		{name: "NUL inside", uri: "spiffe://acme.demo.test\x00.globex.demo.test/ns/acme/sa/web", err: identity.ErrInvalidID},
		{name: "newline", uri: "spiffe://acme.demo.test/ns/acme/sa/web\n", err: identity.ErrInvalidID},
		{name: "not ASCII", uri: "spiffe://acme.demo.test/ns/acme/sa/wéb", err: identity.ErrInvalidID},
		{name: "comma", uri: "spiffe://acme.demo.test/ns/acme/sa/web,x", err: identity.ErrInvalidID},
		{name: "too long", uri: "spiffe://acme.demo.test/ns/acme/sa/" + strings.Repeat("a", 2048), err: identity.ErrInvalidID},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, err := m.Parse(tt.uri)
			if tt.err != nil {
				if !errors.Is(err, tt.err) || !w.IsZero() || w.Same(w) {
					t.Fatalf("Parse(%q) = %v, %v; want %v", tt.uri, w, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if w.Tenant().Name() != tt.tenant || w.Namespace() != tt.namespace || w.ServiceAccount() != tt.account || w.String() != tt.uri {
				t.Errorf("Parse(%q) = %+v", tt.uri, w)
			}
			if !w.Same(w) || w.Tenant().IsPlatform() != (tt.tenant == "platform") {
				t.Errorf("%+v", w)
			}
		})
	}
}

func TestMappingIDIsTheInverseOfParse(t *testing.T) {
	t.Parallel()
	for _, m := range []identity.Mapping{mapping(t, perTenant), mapping(t, pathMapped), mapping(t, pathMapped, perTenant)} {
		for _, tenant := range []string{"acme", "globex", "platform"} {
			id, err := m.TenantID(tenant)
			if err != nil {
				t.Fatal(err)
			}
			w, err := m.ID(id, "ns", "web")
			if err != nil {
				t.Fatal(err)
			}
			again, err := m.Parse(w.String())
			if err != nil || !again.Same(w) || !again.Tenant().Same(id) {
				t.Errorf("%s: %v, %v", w, again, err)
			}
		}
	}
}

func TestMappingIDRefuses(t *testing.T) {
	t.Parallel()
	m := mapping(t, perTenant)
	acme, err := m.TenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ namespace, account string }{{"", "web"}, {"acme", ""}, {"acme", "a/b"}, {"..", "web"}, {"acme", "WEB"}, {"acme", "web#"}} {
		if w, err := m.ID(acme, tt.namespace, tt.account); err == nil {
			t.Errorf("ID(%q, %q) = %v", tt.namespace, tt.account, w)
		}
	}
	// Two rules that read one text in two ways: the first rule that matches is not the one that wrote it.
	shadowed := mapping(t, identity.MappingRule{TrustDomain: "a.test", Path: "/{tenant}/{serviceAccount}"},
		identity.MappingRule{TrustDomain: "b.test", Path: "/{tenant}/{serviceAccount}"})
	foreign, err := mapping(t, identity.MappingRule{TrustDomain: "c.test", Path: "/{tenant}/{serviceAccount}"}).TenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	if w, err := shadowed.ID(foreign, "", "web"); !errors.Is(err, identity.ErrUnmapped) {
		t.Errorf("an ID of a trust domain without rule: %v, %v", w, err)
	}
	if _, err := m.TenantID("Acme"); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("TenantID: %v", err)
	}
	if _, err := mapping(t, identity.MappingRule{TrustDomain: "platform.demo.test", Path: "/{tenant}/{serviceAccount}"}).TenantID("acme"); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("a tenant in the platform's trust domain: %v", err)
	}
}

// What a rule wrote and another one reads as somebody else is nobody's ID: not another tenant's, nor a colleague's.
func TestMappingIDIsNeverSomebodyElse(t *testing.T) {
	t.Parallel()
	first := identity.MappingRule{TrustDomain: "{tenant}.a.test", Path: "/ns/{namespace}/sa/{serviceAccount}"}
	short := identity.MappingRule{TrustDomain: "{tenant}.a.test", Path: "/sa/{serviceAccount}"}
	for name, tt := range map[string]struct {
		first, second      identity.MappingRule
		of                 string // an ID of the tenant by the second rule
		namespace, account string
	}{
		"another tenant": {first, identity.MappingRule{TrustDomain: "b.test", Path: "/ns/{tenant}/sa/{serviceAccount}"}, "spiffe://b.test/ns/acme/sa/web", "globex", "web"},
		"another tenant, without namespaces": {
			identity.MappingRule{TrustDomain: "{tenant}.a.test", Path: "/globex/{serviceAccount}"},
			identity.MappingRule{TrustDomain: "b.test", Path: "/{tenant}/{serviceAccount}"},
			"spiffe://b.test/acme/web", "", "web",
		},
		"another namespace": {first, identity.MappingRule{TrustDomain: "{tenant}.b.test", Path: "/ns/prod/sa/{serviceAccount}"}, "spiffe://acme.b.test/ns/prod/sa/web", "prod", "web"},
		"another account":   {short, identity.MappingRule{TrustDomain: "{tenant}.b.test", Path: "/{serviceAccount}/web"}, "spiffe://acme.b.test/sa/web", "", "web"},
	} {
		m := mapping(t, tt.first, tt.second)
		w, err := m.Parse(tt.of)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.ID(w.Tenant(), tt.namespace, tt.account); !errors.Is(err, identity.ErrUnmapped) || !got.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	m := mapping(t, perTenant)
	acme, err := m.TenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ID(acme, "..", "web"); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("what is no ID at all: %v", err)
	}
}

func TestMappingWithoutNamespaceForgetsIt(t *testing.T) {
	t.Parallel()
	m := mapping(t, consulLike)
	acme, err := m.TenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	w, err := m.ID(acme, "anything", "web")
	if err != nil || w.String() != "spiffe://dc.consul/ap/acme/svc/web" || w.Namespace() != "" {
		t.Errorf("%v, %v", w, err)
	}
}

func TestControlPlaneID(t *testing.T) {
	t.Parallel()
	w, err := mapping(t, perTenant).ControlPlaneID()
	if err != nil || w.String() != "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane" || !w.Tenant().IsPlatform() {
		t.Errorf("%v, %v", w, err)
	}
}

func TestNewMappingRefuses(t *testing.T) {
	t.Parallel()
	platform := identity.MustTrustDomain("platform.demo.test")
	bad := []identity.MappingRule{
		{TrustDomain: "demo.test", Path: "/ns/{namespace}/sa/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/t/{tenant}/sa/{serviceAccount}"},
		{TrustDomain: "{tenant}.{tenant}.test", Path: "/sa/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/ns/{namespace}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/{serviceAccount}/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/{namespace}/{namespace}/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "ns/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/ns//{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: "/ns/{other}/{serviceAccount}"},
		{TrustDomain: "{tenant}.demo.test", Path: ""},
		{TrustDomain: "x{tenant}.demo.test", Path: "/{serviceAccount}"},
		{TrustDomain: "{namespace}.{tenant}.test", Path: "/{serviceAccount}"},
		{TrustDomain: "", Path: "/{tenant}/{serviceAccount}"},
	}
	for _, r := range bad {
		if m, err := identity.NewMapping(platform, []identity.MappingRule{r}); err == nil || !m.IsZero() {
			t.Errorf("%+v was accepted", r)
		}
	}
	if _, err := identity.NewMapping(platform, []identity.MappingRule{perTenant, bad[0]}); err == nil || !strings.HasPrefix(err.Error(), "rule 2: ") {
		t.Errorf("which rule is bad: %v", err)
	}
	if _, err := identity.NewMapping(platform, nil); err == nil {
		t.Error("a mapping without rules")
	}
	if _, err := identity.NewMapping(identity.TrustDomain{}, []identity.MappingRule{perTenant}); err == nil {
		t.Error("a mapping without platform")
	}
}

func TestZeroMappingMapsNothing(t *testing.T) {
	t.Parallel()
	var m identity.Mapping
	if _, err := m.Parse("spiffe://acme.demo.test/ns/acme/sa/web"); !errors.Is(err, identity.ErrUnmapped) {
		t.Error(err)
	}
	if _, err := m.TenantID("acme"); !errors.Is(err, identity.ErrUnmapped) {
		t.Error(err)
	}
	if _, err := m.ID(identity.TenantID{}, "a", "b"); !errors.Is(err, identity.ErrUnmapped) {
		t.Error(err)
	}
	if _, err := m.ControlPlaneID(); !errors.Is(err, identity.ErrUnmapped) {
		t.Error(err)
	}
	if !m.IsZero() || m.Rules() != nil || !m.Platform().IsZero() {
		t.Error("the zero mapping is not empty")
	}
}

func TestMappingRulesAreACopy(t *testing.T) {
	t.Parallel()
	m := mapping(t, perTenant)
	m.Rules()[0] = pathMapped
	if !slices.Equal(m.Rules(), []identity.MappingRule{perTenant}) || m.Platform().String() != "platform.demo.test" || m.IsZero() {
		t.Error("the mapping was changed from outside")
	}
}

// FuzzSPIFFEID: whatever the bytes, a parsed ID is the input byte for byte, of a valid tenant, and renders back to itself.
func FuzzSPIFFEID(f *testing.F) {
	for _, seed := range []string{
		"spiffe://acme.demo.test/ns/acme/sa/web", "spiffe://platform.demo.test/ns/platform/sa/billing",
		"spiffe://cluster.local/tenant/acme/ns/n/sa/web", "SPIFFE://acme.demo.test/ns/acme/sa/web",
		"spiffe://acme.demo.test/ns/acme/sa/web#", "spiffe://acme.demo.test/ns/acme/sa/web\x00", "spiffe://acme.demo.test./ns/a/sa/b",
		"spiffe://acme.demo.test/ns/%61/sa/b", "spiffe:///ns/a/sa/b", "spiffe://é/ns/a/sa/b",
	} {
		f.Add(seed)
	}
	m := mapping(f, perTenant, pathMapped)
	f.Fuzz(func(t *testing.T, uri string) {
		w, err := m.Parse(uri)
		if err != nil {
			if !w.IsZero() {
				t.Fatalf("an identity beside an error: %+v", w)
			}
			return
		}
		if w.String() != uri || !identity.ValidName(w.Tenant().Name()) || !identity.ValidName(w.ServiceAccount()) {
			t.Fatalf("Parse(%q) = %+v", uri, w)
		}
		if w.Tenant().IsPlatform() != (w.Tenant().TrustDomain() == m.Platform()) {
			t.Fatalf("%q: platform %v", uri, w.Tenant().IsPlatform())
		}
		first := w.Tenant().IsPlatform() || strings.HasSuffix(w.Tenant().TrustDomain().String(), ".demo.test")
		if again, err := m.ID(w.Tenant(), w.Namespace(), w.ServiceAccount()); first && (err != nil || !again.Same(w)) {
			t.Fatalf("%q: %v, %v", uri, again, err)
		}
	})
}
