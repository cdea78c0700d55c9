package tenancy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	later  = `reason: lost, notAfter: "2036-01-01T00:00:00Z"`
	webID  = "spiffe://acme.demo.test/ns/acme/sa/web"
	gWebID = "spiffe://globex.demo.test/ns/globex/sa/web"
)

func revocation(name, spec string) string {
	return fmt.Sprintf("---\nkind: Revocation\nmetadata: {name: %s}\nspec: {%s, %s}\n", name, spec, later)
}

func TestRevocations(t *testing.T) {
	t.Parallel()
	m := tenancytest.Model(t, edits{
		"tenants/acme/revoked.yaml": revocation("own", "workload: \""+webID+"\"") + revocation("mine", "token: {subject: bob}"),
		"platform/revoked.yaml": revocation("serial", "certificate: {trustDomain: acme.demo.test, serial: \"00:1F:3a\"}") +
			revocation("one", "tenant: globex, token: {jti: t-1, issuer: \"https://idp\"}") +
			revocation("all", "token: {session: s-1}") + revocation("far", "workload: \""+gWebID+"\""),
	}.apply(t))
	w, err := m.Mapping().Parse(webID)
	if err != nil {
		t.Fatal(err)
	}
	far, err := m.Mapping().Parse(gWebID)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)
	all := tenancy.Revocation{Name: "platform/all", Session: "s-1", Reason: "lost", NotAfter: until}
	acme := []tenancy.Revocation{
		{Name: "acme/mine", Subject: "bob", Reason: "lost", NotAfter: until},
		{Name: "acme/own", Workload: w, Reason: "lost", NotAfter: until},
		all,
		{Name: "platform/serial", Serial: "1f3a", Reason: "lost", NotAfter: until},
	}
	compare := func(what string, want, got []tenancy.Revocation) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(tenancy.Revocation{}, "Pos"), cmp.Comparer(sameWorkload)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	compare("acme", acme, tenancytest.Tenant(t, m, "acme").Revocations())
	compare("globex", []tenancy.Revocation{
		all,
		{Name: "platform/far", Workload: far, Reason: "lost", NotAfter: until},
		{Name: "platform/one", JTI: "t-1", Issuer: "https://idp", Reason: "lost", NotAfter: until},
	}, tenancytest.Tenant(t, m, "globex").Revocations())
	compare("platform", []tenancy.Revocation{all}, tenancytest.Tenant(t, m, "platform").Revocations())
	callers := tenancytest.Tenant(t, m, "platform").Callers("billing")
	compare("acme at billing", acme, callers[1].Revocations())
	compare("the platform at billing", nil, callers[0].Revocations())
	if pos := tenancytest.Tenant(t, m, "acme").Revocations()[1].Pos; pos != "tenants/acme/revoked.yaml:2:1" {
		t.Errorf("it stands at %s", pos)
	}
	// The own callers of a tenant, and the zero values.
	if len(tenancytest.Tenant(t, m, "acme").Callers("orders")[0].Revocations())+len(tenancy.Caller{}.Revocations())+len(tenancy.Tenant{}.Revocations()) > 0 {
		t.Error("revocations of nobody")
	}
}

func sameWorkload(x, y identity.WorkloadID) bool { return x.String() == y.String() }

// A revocation of one tenant's identities is nobody else's business.
func TestRevocationIsNoOthersBusiness(t *testing.T) {
	t.Parallel()
	before := tenancytest.TwoTenants(t)
	for file, spec := range map[string]string{ //nolint:gosec // no credentials
		"tenants/acme/revoked.yaml": "token: {subject: bob}",
		"platform/revoked.yaml":     "workload: \"" + webID + "\"",
		"platform/token.yaml":       "tenant: acme, token: {subject: bob}",
	} {
		after := tenancytest.Model(t, edits{file: revocation("x", spec)}.apply(t))
		for _, name := range []string{"acme", "globex", "platform"} {
			same := tenancytest.Tenant(t, before, name).Digest() == tenancytest.Tenant(t, after, name).Digest()
			if same != (name == "globex") {
				t.Errorf("%s: %s is the same: %t", file, name, same)
			}
		}
	}
}

func TestRevocationProblems(t *testing.T) {
	t.Parallel()
	const own, platform = "tenants/acme/revoked.yaml", "platform/revoked.yaml"
	for name, c := range map[string]struct {
		file, spec, code, says string
	}{
		"nothing":                      {own, "tenant: acme", "RF2060", "tenant says"},
		"nothing at all":               {own, "", "RF2060", "about one thing, not 0"},
		"two things":                   {own, "workload: \"" + webID + "\", token: {jti: a}", "RF2060", "about one thing, not 2"},
		"two claims":                   {own, "token: {jti: a, subject: b}", "RF2060", "one claim of tokens, not 2"},
		"no claim":                     {own, "token: {issuer: \"https://i\"}", "RF2060", "one claim of tokens, not 0"},
		"a claim with a space":         {own, "token: {jti: \"a b\"}", "RF2060", "visible ASCII"},
		"an empty claim":               {own, "token: {jti: \"\"}", "RF2060", "visible ASCII"},
		"a long claim":                 {own, "token: {subject: " + strings.Repeat("a", 256) + "}", "RF2060", "visible ASCII"},
		"no workload":                  {own, "workload: web", "RF2060", "no workload of this mesh"},
		"another tenant's workload":    {own, "workload: \"" + gWebID + "\"", "RF2005", "its own owner"},
		"nobody's workload":            {own, "workload: \"spiffe://x.demo.test/ns/a/sa/b\"", "RF2005", "its own owner"},
		"another tenant's certificate": {own, "certificate: {trustDomain: globex.demo.test, serial: \"1\"}", "RF2005", "its own owner"},
		"nobody's certificate":         {own, "certificate: {trustDomain: x.demo.test, serial: \"1\"}", "RF2005", "its own owner"},
		"another tenant's tokens":      {own, "tenant: globex, token: {jti: a}", "RF2060", "tenant says"},
		"no serial":                    {own, "certificate: {trustDomain: acme.demo.test, serial: \"0g\"}", "RF2060", "in hex"},
		"serial zero":                  {own, "certificate: {trustDomain: acme.demo.test, serial: \"00\"}", "RF2060", "in hex"},
		"a long serial":                {own, "certificate: {trustDomain: acme.demo.test, serial: \"" + strings.Repeat("1", 41) + "\"}", "RF2060", "in hex"},
		"a workload of no tenant":      {platform, "workload: \"spiffe://x.demo.test/ns/a/sa/b\"", "RF2007", "no tenant"},
		"a certificate of no tenant":   {platform, "certificate: {trustDomain: x.demo.test, serial: \"1\"}", "RF2007", "no tenant"},
		"tokens of no tenant":          {platform, "tenant: x, token: {jti: a}", "RF2007", "no tenant"},
		"tenant of a workload":         {platform, "tenant: acme, workload: \"" + webID + "\"", "RF2060", "tenant says"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(revocation("x", c.spec), "{, ", "{", 1)
			m, problems := tenancy.Build(input(t, edits{c.file: text}.apply(t)))
			if m != nil || len(problems) == 0 {
				t.Fatal("it is accepted")
			}
			if i := slices.IndexFunc(problems, func(p v1alpha1.Problem) bool { return strings.Contains(p.Text, c.says) }); i < 0 || string(problems[i].Code) != c.code {
				t.Errorf("%v", problems)
			}
		})
	}
	long := strings.Replace(revocation("x", "token: {jti: a}"), "lost", strings.Repeat("x", 201), 1)
	if _, problems := tenancy.Build(input(t, edits{own: long}.apply(t))); len(problems) != 1 || problems[0].Code != v1alpha1.CodeRevocation {
		t.Errorf("a long reason: %v", problems)
	}
	var many strings.Builder
	for i := range 1001 {
		many.WriteString(revocation(fmt.Sprintf("r%d", i), "token: {jti: a}"))
	}
	if _, problems := tenancy.Build(input(t, edits{own: many.String()}.apply(t))); len(problems) != 1 || problems[0].Code != v1alpha1.CodeTooMuch {
		t.Errorf("too many: %v", problems)
	}
}

// What operators revoke counts beside the documents; what does not fit the mesh is no problem of the documents.
func TestOperatorsRevocations(t *testing.T) {
	t.Parallel()
	docs, problems := v1alpha1.Decode(v1alpha1.File{Path: "platform/x.yaml", Data: []byte(
		revocation("a", "workload: \""+webID+"\"") + revocation("b", "tenant: gone, token: {jti: a}") + revocation("c", "token: {jti: a}"),
	)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	in := input(t, tenancytest.TwoTenantsFiles(t))
	for _, d := range docs {
		one, _ := d.(*v1alpha1.Revocation)
		in.Revocations = append(in.Revocations, one)
	}
	m, problems := tenancy.Build(in)
	if m == nil {
		t.Fatal(problems)
	}
	for tenant, want := range map[string][]string{"acme": {"revoke/a", "revoke/c"}, "globex": {"revoke/c"}, "platform": {"revoke/c"}} {
		var names []string
		for _, r := range tenancytest.Tenant(t, m, tenant).Revocations() {
			names = append(names, r.Name)
			if r.Pos != "" {
				t.Errorf("%s has the position %s", r.Name, r.Pos)
			}
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s: %s", tenant, diff)
		}
	}
	for i, want := range []bool{true, false, true} {
		if ok := len(m.CheckRevocation(in.Revocations[i])) == 0; ok != want || m.Revokes(in.Revocations[i], "acme") != want {
			t.Errorf("%d fits: %t", i, ok)
		}
	}
	if m.Revokes(in.Revocations[0], "globex") || !m.Revokes(in.Revocations[2], "globex") {
		t.Error("whom it is about is wrong")
	}
}

// Roots that were withdrawn change the epoch of whoever they proved, wherever those may call, and of nobody else; and the digest of
// a tenant that nobody calls.
func TestWithdrawnRootsChangeTheEpoch(t *testing.T) {
	t.Parallel()
	model := func(gone ...[32]byte) *tenancy.Model {
		in := tenancytest.Input(t, tenancytest.TwoTenantsFiles(t))
		var all []identity.Bundle
		for _, b := range in.Bundles.All() {
			if b.TrustDomain().String() == "acme.demo.test" {
				var err error
				if b, err = b.Without(gone...); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, b)
		}
		var err error
		if in.Bundles, err = identity.NewBundles(all...); err != nil {
			t.Fatal(err)
		}
		m, problems := tenancy.Build(in)
		if m == nil {
			t.Fatal(problems)
		}
		return m
	}
	epochs := func(m *tenancy.Model) map[string]string {
		all := map[string]string{}
		for tenant, service := range map[string]string{"acme": "orders", "globex": "orders", "platform": "billing"} {
			for _, c := range tenancytest.Tenant(t, m, tenant).Callers(service) {
				all[tenant+" from "+c.Tenant().Name()] = c.Epoch()
			}
		}
		return all
	}
	seen := map[string]bool{}
	for n, m := range []*tenancy.Model{model(), model([32]byte{1}), model([32]byte{1}, [32]byte{2})} {
		got := epochs(m)
		for name, epoch := range got {
			if acme := strings.HasSuffix(name, "from acme"); !acme && epoch != "" || acme && (epoch == "") != (n == 0) {
				t.Errorf("%d: %s has the epoch %q", n, name, epoch)
			}
		}
		if got["acme from acme"] != got["platform from acme"] || seen[got["acme from acme"]] {
			t.Errorf("%d: %v", n, got)
		}
		seen[got["acme from acme"]] = true
		if same := tenancytest.Tenant(t, m, "acme").Digest() == tenancytest.Tenant(t, model(), "acme").Digest(); same != (n == 0) {
			t.Errorf("%d: the digest is the same: %t", n, same)
		}
		if tenancytest.Tenant(t, m, "globex").Digest() != tenancytest.Tenant(t, model(), "globex").Digest() {
			t.Errorf("%d: it is globex's business", n)
		}
	}
}
