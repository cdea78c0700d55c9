package tenancy_test

import (
	"fmt"
	"maps"
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

// A caller meets those accounts of a service that no revocation of their ID holds for; a shared one's too, in each tenant that
// has a Grant and in no other.
func TestServers(t *testing.T) {
	t.Parallel()
	const batchID, billingID = "spiffe://acme.demo.test/ns/acme/sa/batch", "spiffe://platform.demo.test/ns/platform/sa/billing"
	two := edits{orders + ": serviceAccounts: [orders]": "serviceAccounts: [orders, batch]"}
	build := func(more edits, now time.Time) *tenancy.Model {
		all := edits{}
		maps.Copy(all, two)
		maps.Copy(all, more)
		in := tenancytest.Input(t, all.apply(t))
		in.Now = now
		m, problems := tenancy.Build(in)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return m
	}
	until := time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)
	before := build(nil, time.Time{})
	ordersOf := func(m *tenancy.Model) tenancy.Service {
		s, ok := tenancytest.Tenant(t, m, "acme").Service("orders")
		if !ok {
			t.Fatal("no service")
		}
		return s
	}
	if s := ordersOf(before); len(s.Servers()) != 2 || s.Epoch() != "" || !before.NextEnd().IsZero() || tenancytest.Tenant(t, before, "acme").Epoch() != "" {
		t.Errorf("nothing is revoked: %v %q", s.Servers(), s.Epoch())
	}
	revoked := edits{"tenants/acme/revoked.yaml": revocation("batch", "workload: \""+batchID+"\"") +
		revocation("serial", "certificate: {trustDomain: acme.demo.test, serial: \"1\"}")}
	for name, c := range map[string]struct {
		now     time.Time
		servers int
		next    time.Time
	}{
		"no clock": {time.Time{}, 1, until}, "it holds": {until.Add(-time.Second), 1, until}, "it is over": {until, 2, time.Time{}},
	} {
		m := build(revoked, c.now)
		s := ordersOf(m)
		if len(s.Servers()) != c.servers || len(s.IDs()) != 2 || s.Epoch() == "" || !m.NextEnd().Equal(c.next) {
			t.Errorf("%s: %v of %v, epoch %q, next end %v", name, s.Servers(), s.IDs(), s.Epoch(), m.NextEnd())
		}
		if s.Epoch() != ordersOf(build(revoked, time.Time{})).Epoch() || tenancytest.Tenant(t, m, "acme").Epoch() == "" {
			t.Errorf("%s: the epoch depends on the time", name)
		}
	}
	// A caller that nobody calls is no destination.
	if e := tenancytest.Tenant(t, build(edits{"tenants/acme/revoked.yaml": revocation("web", "workload: \""+webID+"\"")}, time.Time{}), "acme").Epoch(); e != "" {
		t.Errorf("the epoch of a mere caller is %q", e)
	}
	m := build(edits{"platform/revoked.yaml": revocation("billing", "workload: \""+billingID+"\"")}, time.Time{})
	imports := tenancytest.Tenant(t, m, "acme").Imports()
	if len(imports[0].Servers()) != 0 || len(imports[0].IDs()) != 1 || imports[0].Epoch() == "" || tenancytest.Tenant(t, m, "acme").Epoch() == "" {
		t.Errorf("the shared service: %v, epoch %q", imports[0].Servers(), imports[0].Epoch())
	}
	if tenancytest.Tenant(t, m, "globex").Digest() != tenancytest.Tenant(t, before, "globex").Digest() {
		t.Error("it concerns a tenant without a Grant")
	}
}

// How long a stream may go on: a quarter of an SVID's life and at most 5 minutes, or what the Service asks for.
func TestMaxStreamDuration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, written string
		life          time.Duration
		want          time.Duration
		problem       bool
		warning       bool
	}{
		"nothing":                   {orders, "", 0, 5 * time.Minute, false, false},
		"nothing, short SVIDs":      {orders, "", time.Second, time.Second, false, false},
		"shorter":                   {orders, "1s", 0, time.Second, false, false},
		"the same":                  {orders, "5m", 0, 5 * time.Minute, false, false},
		"longer":                    {orders, "6h", 0, 6 * time.Hour, false, true},
		"longer than an SVID lives": {orders, "2m", time.Minute, 2 * time.Minute, false, true},
		"the longest":               {orders, "12h", 0, 12 * time.Hour, false, true},
		"too long":                  {orders, "12h0m1s", 0, 0, true, false},
		"too short":                 {orders, "0s", 0, 0, true, false},
		"parts of a second":         {orders, "1500ms", 0, 0, true, false},
		"below nothing":             {orders, "-1s", 0, 0, true, false},
		"a mere caller":             {web, "1h", 0, 0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := edits{}
			if c.written != "" {
				e[c.file+": namespace: acme"] = "namespace: acme\n  maxStreamDuration: " + c.written
			}
			in := tenancytest.Input(t, e.apply(t))
			in.ConnectionLife = c.life
			m, problems := tenancy.Build(in)
			if c.problem {
				if len(problems) != 1 || problems[0].Code != v1alpha1.CodeStreams {
					t.Errorf("problems: %v", problems)
				}
				return
			}
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			s, _ := tenancytest.Tenant(t, m, "acme").Service("orders")
			if s.MaxStreamDuration() != c.want {
				t.Errorf("%v, want %v", s.MaxStreamDuration(), c.want)
			}
			warned := slices.ContainsFunc(m.Warnings(), func(p v1alpha1.Problem) bool { return p.Code == v1alpha1.CodeLongStreams })
			if warned != c.warning {
				t.Errorf("warnings: %v", m.Warnings())
			}
		})
	}
	files := tenancytest.TCPFiles(t)
	files["tenants/acme/tcp.yaml"] = strings.Replace(files["tenants/acme/tcp.yaml"], "namespace: acme", "namespace: acme\n  maxStreamDuration: 1h", 1)
	if _, problems := tenancy.Build(tenancytest.Input(t, files)); len(problems) != 1 || problems[0].Code != v1alpha1.CodeStreams {
		t.Errorf("of TCP: %v", problems)
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
			own, _ := tenancytest.Tenant(t, m, tenant).Service(service)
			all["to "+tenant] = own.Epoch()
		}
		return all
	}
	seen := map[string]bool{}
	for n, m := range []*tenancy.Model{model(), model([32]byte{1}), model([32]byte{1}, [32]byte{2})} {
		got := epochs(m)
		for name, epoch := range got {
			if acme := strings.HasSuffix(name, "from acme") || name == "to acme"; !acme && epoch != "" || acme && (epoch == "") != (n == 0) {
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
