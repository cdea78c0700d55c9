package prove_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/internal/protomutate"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// generation is a compiled model.
type generation struct {
	m      *tenancy.Model
	parts  []xds.Part
	tables []*authz.Table
}

func compile(tb testing.TB, files map[string]string) generation {
	tb.Helper()
	g := generation{m: tenancytest.Model(tb, files)}
	g.parts = xdstest.Parts(tb, g.m)
	for _, id := range g.m.Tenants() {
		t, _ := g.m.Tenant(id)
		table, err := authz.Compile(t)
		if err != nil {
			tb.Fatal(err)
		}
		g.tables = append(g.tables, table)
	}
	return g
}

func TestProveAcceptsWhatIsCompiled(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"test mesh": xdstest.Files(), "example": tenancytest.TwoTenantsFiles(t), "TCP services": tenancytest.TCPFiles(t),
		"without agents": xdstest.DirectFiles(), "one without an agent": oneDirect(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := compile(t, files)
			p, c := prove.Prove(g.m, g.parts, g.tables)
			if c != nil {
				t.Fatal(c)
			}
			if p.IsZero() || p.Method() != "lint" || p.Digest() == [32]byte{} {
				t.Errorf("the proof says nothing: %+v", p)
			}
			if !p.Covers(g.m, g.parts, g.tables) {
				t.Error("the proof does not cover what was proved")
			}
			slices.Reverse(g.parts)
			if !p.Covers(g.m, g.parts, g.tables) {
				t.Error("the order of the parts matters")
			}
		})
	}
}

// A proof that follows another one is worth as much as one from nothing: it covers the new configuration, and a tenant that
// changed is looked at again, whatever else did not.
func TestExtend(t *testing.T) {
	t.Parallel()
	first := compile(t, xdstest.Files())
	second := compile(t, edited("tenants/acme/policy.yaml", "services: [web]", "services: [reports]"))
	p, c := prove.Prove(first.m, first.parts, first.tables)
	if c != nil {
		t.Fatal(c)
	}
	next, c := p.Extend(second.m, second.parts, second.tables)
	if c != nil {
		t.Fatal(c)
	}
	fresh, _ := prove.Prove(second.m, second.parts, second.tables)
	if next.Digest() != fresh.Digest() || !next.Covers(second.m, second.parts, second.tables) {
		t.Error("the next proof covers something else")
	}
	if next.Covers(first.m, first.parts, first.tables) {
		t.Error("the next proof covers what was before")
	}
	for name, bad := range map[string]generation{
		"old model":  {first.m, second.parts, second.tables},
		"old parts":  {second.m, first.parts, second.tables},
		"old tables": {second.m, second.parts, first.tables},
		"no model":   {nil, second.parts, second.tables},
	} {
		if _, c := p.Extend(bad.m, bad.parts, bad.tables); c == nil {
			t.Errorf("%s: proved", name)
		}
	}
}

func edited(file, old, replacement string) map[string]string {
	files := xdstest.Files()
	if !strings.Contains(files[file], old) {
		panic(file + " has no " + old)
	}
	files[file] = strings.Replace(files[file], old, replacement, 1)
	return files
}

// A part or a Table that was compiled from other documents than the Model's is refused, whatever the difference is.
func TestProveRefusesWhatIsOfAnotherModel(t *testing.T) {
	t.Parallel()
	good := compile(t, xdstest.Files())
	proof, c := prove.Prove(good.m, good.parts, good.tables)
	if c != nil {
		t.Fatal(c)
	}
	const services, policy = "tenants/acme/services.yaml", "tenants/acme/policy.yaml"
	const shared, grants = "platform/shared.yaml", "platform/grants.yaml"
	const giving = "{name: acme-ledger}\nspec: {tenant: "
	tests := map[string]struct {
		files         map[string]string
		parts, tables bool // which of the two differ
	}{
		"another endpoint":         {edited(services, "10.1.0.7", "10.1.0.17"), true, false},
		"another account":          {edited(services, "serviceAccounts: [batch, night, orders]", "serviceAccounts: [batch, web]"), true, true},
		"another outbound port":    {edited(services, "outbound: {port: 20182}", "outbound: {port: 20199}"), true, false},
		"another application port": {edited(services, "appPort: 20281", "appPort: 20299"), true, false},
		"another protocol":         {edited(services, "protocol: GRPC", "protocol: HTTP"), true, false},
		"another caller":           {edited(policy, "services: [web]", "services: [reports]"), true, true},
		"another path":             {edited(policy, "/orders/*", "/orders/**"), false, true},
		"another method":           {edited(policy, "[GET]", "[PUT]"), false, true},
		"a token is demanded":      {edited(shared, "token: optional", "token: required"), false, true},
		"the token is passed on":   {edited(shared, "token: optional", "token: optional\n  forwardToken: true"), true, true},
		"a Grant for another":      {edited(grants, giving+"acme", giving+"globex"), true, true},
		"a Grant is wider":         {edited(grants, "methods: [GET], paths: [/invoices]", "methods: [GET], paths: [/**]"), false, true},
		"a Grant is longer":        {edited(grants, "2036", "2037"), false, true},
		"another TCP caller":       {edited(policy, "services: [web]}}]", "services: [orders]}}]"), true, true},
		"no TCP caller":            {edited(policy, "service: db, rules", "service: mail, rules"), true, true},
		"the other speaks first":   {edited(services, "speaksFirst: server", "speaksFirst: client"), true, false},
		"TCP instead of HTTP":      {edited(services, "protocol: HTTP, appPort: 20287", "protocol: TCP, appPort: 20287"), true, true},
		"another TCP port":         {edited(services, "{address: 127.0.0.1, port: 20091}", "{address: 127.0.0.1, port: 20098}"), true, true},
		"another loopback port":    {edited(services, "{port: 20191, service: db}", "{port: 20198, service: db}"), true, false},
		"another TCP destination":  {edited(services, "{port: 20191, service: db}", "{port: 20191, service: mail}"), true, false},
		"no TCP Grant":             {edited(grants, "spec: {tenant: acme, service: store", "spec: {tenant: globex, service: store"), true, true},
		"no agent":                 {oneDirect(), true, false},
		"one more service":         {withService(), true, true},
		"another mapping": {
			edited("mesh.yaml", "}]", "}, {trustDomain: old.test, path: \"/{tenant}/{namespace}/{serviceAccount}\"}]"), false, true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := compile(t, tt.files)
			if proof.Covers(other.m, good.parts, good.tables) {
				t.Error("the proof covers another model")
			}
			_, c := prove.Prove(good.m, other.parts, good.tables)
			if refused := c != nil; refused != tt.parts {
				t.Errorf("parts refused: %v, want %v (%v)", refused, tt.parts, c)
			}
			if c != nil && (c.Tenant.IsZero() || c.Text == "" || c.Error() == "") {
				t.Errorf("the counterexample says nothing: %+v", c)
			}
			if _, c := prove.Prove(good.m, good.parts, other.tables); (c != nil) != tt.tables {
				t.Errorf("tables refused: %v, want %v (%v)", c != nil, tt.tables, c)
			}
			if tt.parts && proof.Covers(good.m, other.parts, good.tables) || tt.tables && proof.Covers(good.m, good.parts, other.tables) {
				t.Error("the proof covers it all the same")
			}
		})
	}
}

// oneDirect is the test mesh where one of acme's workloads has no agent.
func oneDirect() map[string]string {
	const web, tool = "serviceAccounts: [web], ", "serviceAccounts: [web]\n"
	files := edited("tenants/acme/services.yaml", web, web+"proxy: Direct, ")
	files["tenants/acme/services.yaml"] = strings.Replace(files["tenants/acme/services.yaml"], tool, tool+"  proxy: Direct\n", 1)
	return files
}

func withService() map[string]string {
	files := xdstest.Files()
	files["tenants/acme/more.yaml"] = `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: more}
spec:
  namespace: acme
  serviceAccounts: [web]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20299}]
  endpoints: [{address: 127.0.0.1, port: 20099}]
`
	return files
}

func TestProveDemandsOneOfEach(t *testing.T) {
	t.Parallel()
	g := compile(t, xdstest.Files())
	solo := xdstest.Files()
	for _, f := range []string{"tenants/globex/services.yaml"} {
		delete(solo, f)
	}
	solo["platform/tenants.yaml"] = strings.Split(solo["platform/tenants.yaml"], "---")[0]
	solo["platform/grants.yaml"] = strings.ReplaceAll(solo["platform/grants.yaml"], "tenant: globex", "tenant: acme")
	s := compile(t, solo)
	for name, tt := range map[string]generation{
		"no model":       {nil, g.parts, g.tables},
		"no parts":       {g.m, nil, g.tables},
		"no tables":      {g.m, g.parts, nil},
		"a part twice":   {g.m, append(slices.Clone(g.parts), g.parts[0]), g.tables},
		"a part missing": {g.m, g.parts[1:], g.tables},
		"a nil table":    {g.m, g.parts, append(slices.Clone(g.tables), nil)},
		"a stranger":     {s.m, g.parts, g.tables},
		"a zero part":    {g.m, append(slices.Clone(g.parts), xds.Part{}), g.tables},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := prove.Prove(tt.m, tt.parts, tt.tables)
			if c == nil || !p.IsZero() || p.Covers(tt.m, tt.parts, tt.tables) {
				t.Errorf("proved")
			}
		})
	}
}

// free are the changes of which the Model says nothing and which the linter holds within bounds.
var free = []*regexp.Regexp{
	regexp.MustCompile(`(value|seconds|nanos|max_denied_response_body_bytes) more$`),
	regexp.MustCompile(`\.(seconds|nanos) add$`),
	regexp.MustCompile(`max_retries\.value clear$`),
	regexp.MustCompile(`^virtual_hosts\[\d+\]\.name (more|other)$`),
}

// Every small change of every resource of every workload is refused by the linter or by the comparison with the Model.
func TestProveNoticesEveryChange(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{"with agents": xdstest.Files(), "without agents": xdstest.DirectFiles()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			noticesEveryChange(t, tenancytest.Model(t, files))
		})
	}
}

func noticesEveryChange(t *testing.T, m *tenancy.Model) {
	t.Helper()
	checker, err := prove.NewChecker(m)
	if err != nil {
		t.Fatal(err)
	}
	used := make([]bool, len(free))
	seen := map[string]bool{}
	for _, p := range xdstest.Parts(t, m) {
		for _, w := range p.Workloads() {
			s, _ := p.Snapshot(w)
			if c := checker.Snapshot(s); c != nil {
				t.Fatal(c)
			}
			for i, r := range s.All() {
				if seen[r.TypeURL()+r.Name()] {
					continue
				}
				seen[r.TypeURL()+r.Name()] = true
				msg := message(t, r)
				protomutate.Each(msg, func(c protomutate.Change) {
					rs := slices.Clone(s.All())
					rs[i] = xds.NewResource(r.TypeURL(), r.Name(), marshal(t, msg))
					changed, err := xds.NewSnapshot(w, rs...)
					if err != nil {
						t.Fatal(err)
					}
					if checker.Snapshot(changed) != nil {
						return
					}
					j := slices.IndexFunc(free, func(f *regexp.Regexp) bool { return f.MatchString(c.String()) })
					if j < 0 {
						t.Errorf("%s %s: not noticed: %s", r.TypeURL(), r.Name(), c)
						return
					}
					used[j] = true
				})
			}
		}
	}
	for i, f := range free {
		if !used[i] {
			t.Errorf("%s is free for nothing", f)
		}
	}
}

// What is right at a sidecar without an agent is wrong at one with an agent, and at another one without, though it was accepted
// before.
func TestProvePartsSidecars(t *testing.T) {
	t.Parallel()
	const cluster = "service/acme/orders"
	of := func(files map[string]string, workload string) (xds.Snapshot, int) {
		s := xdstest.Find(t, xdstest.Parts(t, tenancytest.Model(t, files)), workload)
		return s, slices.IndexFunc(s.All(), func(r xds.Resource) bool { return r.TypeURL() == xds.ClusterType && r.Name() == cluster })
	}
	for name, tt := range map[string]struct {
		files    map[string]string
		from, to string
	}{
		"to one with an agent":          {oneDirect(), xdstest.AcmeWeb, xdstest.AcmeOrders},
		"from one with an agent":        {oneDirect(), xdstest.AcmeOrders, xdstest.AcmeWeb},
		"to another one without":        {xdstest.DirectFiles(), xdstest.AcmeWeb, xdstest.AcmeOrders},
		"from another one without, too": {xdstest.DirectFiles(), xdstest.AcmeOrders, xdstest.AcmeWeb},
	} {
		checker, err := prove.NewChecker(tenancytest.Model(t, tt.files))
		if err != nil {
			t.Fatal(err)
		}
		from, i := of(tt.files, tt.from)
		to, j := of(tt.files, tt.to)
		for _, s := range []xds.Snapshot{from, to} {
			if c := checker.Snapshot(s); c != nil {
				t.Fatal(c)
			}
		}
		mixed := slices.Clone(to.All())
		mixed[j] = from.All()[i]
		s, err := xds.NewSnapshot(to.Workload(), mixed...)
		if err != nil {
			t.Fatal(err)
		}
		if c := checker.Snapshot(s); c == nil || c.Resource != cluster {
			t.Errorf("%s: %v", name, c)
		}
	}
}

// A snapshot that lacks a resource, or has one more, is refused.
func TestProveDemandsExactlyTheResources(t *testing.T) {
	t.Parallel()
	m := xdstest.Model(t)
	parts := xdstest.Parts(t, m)
	checker, err := prove.NewChecker(m)
	if err != nil {
		t.Fatal(err)
	}
	s := xdstest.Find(t, parts, xdstest.AcmeOrders)
	for i, r := range s.All() {
		less, err := xds.NewSnapshot(s.Workload(), slices.Delete(slices.Clone(s.All()), i, i+1)...)
		if err != nil {
			t.Fatal(err)
		}
		if checker.Snapshot(less) == nil {
			t.Errorf("nobody misses %s %s", r.TypeURL(), r.Name())
		}
	}
	for _, other := range []string{xdstest.AcmeBatch, xdstest.AcmeWeb, xdstest.AcmeDB, xdstest.GlobexOrders, xdstest.Billing, xdstest.Store} {
		for _, r := range xdstest.Find(t, parts, other).All() {
			if slices.ContainsFunc(s.All(), func(o xds.Resource) bool { return o.TypeURL() == r.TypeURL() && o.Name() == r.Name() }) {
				continue
			}
			more, err := xds.NewSnapshot(s.Workload(), append(slices.Clone(s.All()), r)...)
			if err != nil {
				t.Fatal(err)
			}
			c := checker.Snapshot(more)
			if c == nil || c.Resource != r.Name() {
				t.Errorf("%s %s of %s gets in: %v", r.TypeURL(), r.Name(), other, c)
			}
		}
	}
}

// Every small change of every Table is refused when it is read, or by the comparison with the Model.
func TestProveNoticesEveryChangeOfATable(t *testing.T) {
	t.Parallel()
	files := xdstest.Files()
	files["platform/revoked.yaml"] = revoked
	g := compile(t, files)
	for _, table := range g.tables {
		for _, w := range g.m.Tenants() {
			if !w.Same(table.Tenant()) {
				continue
			}
			handle, _ := g.m.Tenant(w)
			for _, workload := range handle.Workloads() {
				encoded, err := table.For(workload.ID(), "v1")
				if err != nil {
					t.Fatal(err)
				}
				var m agentv1alpha1.Table
				if err := proto.Unmarshal(encoded, &m); err != nil {
					t.Fatal(err)
				}
				protomutate.Each(&m, func(c protomutate.Change) {
					changed, err := authz.DecodeTable(marshal(t, &m))
					if err != nil || prove.Table(g.m, changed) != nil {
						return
					}
					if !regexp.MustCompile(`position (clear|more|other)$|^snapshot_version|roots\[\d+\] again`).MatchString(c.String()) {
						t.Errorf("table of %s: not noticed: %s", workload.ID(), c)
					}
				})
			}
		}
	}
}

func message(tb testing.TB, r xds.Resource) proto.Message {
	tb.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(strings.TrimPrefix(r.TypeURL(), "type.googleapis.com/")))
	if err != nil {
		tb.Fatal(err)
	}
	m := typ.New().Interface()
	if err := proto.Unmarshal(r.Value(), m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func marshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

// revoked are revocations of every kind, for everybody.
const revoked = `
kind: Revocation
metadata: {name: workload}
spec: {workload: "spiffe://acme.demo.test/ns/acme/sa/web", reason: lost, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: certificate}
spec: {certificate: {trustDomain: acme.demo.test, serial: "1f"}, reason: lost, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: token}
spec: {token: {jti: a, issuer: "https://idp"}, reason: lost, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: subject}
spec: {tenant: globex, token: {subject: a}, reason: lost, notAfter: "2036-01-01T00:00:00Z"}
---
kind: Revocation
metadata: {name: session}
spec: {token: {session: a}, reason: lost, notAfter: "2036-01-01T00:00:00Z"}
`
