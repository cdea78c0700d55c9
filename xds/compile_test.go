package xds_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// edited is the test mesh with one text replaced.
func edited(tb testing.TB, file, old, replacement string) map[string]string {
	tb.Helper()
	files := xdstest.Files()
	if !strings.Contains(files[file], old) {
		tb.Fatalf("%s has no %q", file, old)
	}
	files[file] = strings.Replace(files[file], old, replacement, 1)
	return files
}

// contents are all resources of a mesh by workload, type and name.
func contents(parts []xds.Part) map[string]string {
	out := map[string]string{}
	for _, p := range parts {
		for _, w := range p.Workloads() {
			s, _ := p.Snapshot(w)
			for _, r := range s.All() {
				typ := r.TypeURL()[strings.LastIndex(r.TypeURL(), ".")+1:]
				out[w.String()+" "+typ+" "+r.Name()] = string(r.Value())
			}
		}
	}
	return out
}

// changed are the keys whose contents differ.
func changed(a, b map[string]string) []string {
	var keys []string
	for k := range maps.All(a) {
		if v, ok := b[k]; !ok || v != a[k] {
			keys = append(keys, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func compiled(tb testing.TB, files map[string]string) []xds.Part {
	tb.Helper()
	return xdstest.Parts(tb, tenancytest.Model(tb, files))
}

func TestWhoGetsWhat(t *testing.T) {
	t.Parallel()
	parts := compiled(t, xdstest.Files())
	tests := map[string][]string{
		xdstest.Billing: { // called by both tenants, calls nobody
			"Cluster app/platform/billing", "Listener inbound/platform/billing",
			"RouteConfiguration callers/platform/billing/acme", "RouteConfiguration callers/platform/billing/globex", "RouteConfiguration callers/platform/billing/platform",
			"Secret spiffe://acme.demo.test", "Secret spiffe://globex.demo.test", "Secret spiffe://platform.demo.test",
		},
		xdstest.GlobexWeb: { // called by nobody
			"Cluster import/globex/billing", "Cluster service/globex/db", "Cluster service/globex/orders",
			"ClusterLoadAssignment import/globex/billing", "ClusterLoadAssignment service/globex/db", "ClusterLoadAssignment service/globex/orders",
			"Listener outbound/globex/web", "Listener tcp/globex/web/globex/db", "RouteConfiguration routes/globex/web",
			"Secret spiffe://globex.demo.test", "Secret spiffe://platform.demo.test",
		},
		xdstest.AcmeDB: { // two TCP services, no calls; nobody may connect to one of them, and both have a list of callers
			"Cluster app/acme/db", "Cluster app/acme/mail", "Listener inbound/acme/db", "Listener inbound/acme/mail",
			"Secret callers/acme/db/acme", "Secret callers/acme/mail/acme",
		},
		xdstest.GlobexDB: {"Cluster app/globex/db", "Listener inbound/globex/db", "Secret callers/globex/db/globex"},
		xdstest.AcmeBatch: { // two services, no calls
			"Cluster app/acme/ledger", "Cluster app/acme/reports", "Listener inbound/acme/ledger", "Listener inbound/acme/reports",
			"RouteConfiguration callers/acme/ledger/acme", "RouteConfiguration callers/acme/reports/acme", "Secret spiffe://acme.demo.test",
		},
	}
	for workload, want := range tests {
		var got []string
		for key := range contents(parts) {
			if rest, ok := strings.CutPrefix(key, workload+" "); ok {
				got = append(got, rest)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", workload, diff)
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	t.Parallel()
	first, second := compiled(t, xdstest.Files()), compiled(t, xdstest.Files())
	if diff := changed(contents(first), contents(second)); len(diff) > 0 {
		t.Errorf("differ: %q", diff)
	}
	for i := range first {
		if first[i].Digest() != second[i].Digest() {
			t.Errorf("the digests of %s differ", first[i].Tenant())
		}
	}
	if first[0].Digest() == first[1].Digest() {
		t.Error("two tenants have one digest")
	}
}

// What a change of one document changes: routes only where rules change, so that no connection is drained.
func TestChangeTouchesOnly(t *testing.T) {
	t.Parallel()
	const services, policy = "tenants/acme/services.yaml", "tenants/acme/policy.yaml"
	const shared, grants = "platform/shared.yaml", "platform/grants.yaml"
	tests := map[string]struct {
		files map[string]string
		want  []string
	}{
		"a path of a rule":    {edited(t, policy, "/orders/*", "/orders/**"), nil},
		"a method of a Grant": {edited(t, grants, "[GET, POST]", "[GET]"), nil},
		"the end of a Grant":  {edited(t, grants, "2036", "2037"), nil},
		"a second Grant":      {edited(t, grants, "---\n", "---\napiVersion: ringfence.dev/v1alpha1\nkind: Grant\nmetadata: {name: more}\nspec: {tenant: acme, service: billing, to: {methods: [PUT], paths: [/x]}, notAfter: \"2036-01-01T00:00:00Z\"}\n---\n"), nil},
		"a token is demanded": {edited(t, shared, "token: optional", "token: required"), nil},
		"a caller":            {edited(t, policy, "services: [web]", "services: [web, reports]"), []string{xdstest.AcmeOrders + " RouteConfiguration callers/acme/orders/acme"}},
		"no caller at all":    {edited(t, policy, "service: orders\n", "service: reports\n"), []string{xdstest.AcmeBatch + " RouteConfiguration callers/acme/reports/acme", xdstest.AcmeOrders + " RouteConfiguration callers/acme/orders/acme"}},
		"the token is passed on": {edited(t, shared, "token: optional", "token: optional\n  forwardToken: true"), []string{
			xdstest.Billing + " RouteConfiguration callers/platform/billing/acme", xdstest.Billing + " RouteConfiguration callers/platform/billing/globex", xdstest.Billing + " RouteConfiguration callers/platform/billing/platform",
		}},
		"an endpoint": {edited(t, services, "10.1.0.8", "10.1.0.18"), []string{
			xdstest.AcmeOrders + " ClusterLoadAssignment service/acme/ledger", xdstest.AcmeWeb + " ClusterLoadAssignment service/acme/ledger",
		}},
		"a TCP caller":           {edited(t, policy, "services: [web]}}]", "services: [web, orders]}}]"), []string{xdstest.AcmeDB + " Secret callers/acme/db/acme"}},
		"no TCP caller":          {edited(t, policy, "service: db, rules", "service: mail, rules"), []string{xdstest.AcmeDB + " Secret callers/acme/db/acme", xdstest.AcmeDB + " Secret callers/acme/mail/acme"}},
		"the end of a TCP Grant": {edited(t, grants, `service: store, notAfter: "2036`, `service: store, notAfter: "2037`), nil},
		"an application's port":  {edited(t, services, "appPort: 20281", "appPort: 20291"), []string{xdstest.AcmeOrders + " Cluster app/acme/orders"}},
	}
	before := contents(compiled(t, xdstest.Files()))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, changed(before, contents(compiled(t, tt.files)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func chains(tb testing.TB, s xds.Snapshot, listener string) map[string][]byte {
	tb.Helper()
	out := map[string][]byte{}
	for _, r := range s.Resources(xds.ListenerType) {
		if r.Name() != listener {
			continue
		}
		var l listenerv3.Listener
		if err := proto.Unmarshal(r.Value(), &l); err != nil {
			tb.Fatal(err)
		}
		for _, c := range l.GetFilterChains() {
			value, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
			if err != nil {
				tb.Fatal(err)
			}
			out[c.GetName()] = value
		}
	}
	return out
}

// The first Grant of a tenant adds one chain to the shared service and leaves those of the others as they are.
func TestFirstGrantAddsOneChain(t *testing.T) {
	t.Parallel()
	files := xdstest.Files()
	docs := strings.Split(files["platform/grants.yaml"], "---")
	files["platform/grants.yaml"] = docs[0] + "---" + docs[2]
	before := chains(t, xdstest.Find(t, compiled(t, files), xdstest.Billing), "inbound/platform/billing")
	after := chains(t, xdstest.Find(t, compiled(t, xdstest.Files()), xdstest.Billing), "inbound/platform/billing")
	if len(before) != 2 || len(after) != 3 || after["callers/platform/billing/globex"] == nil {
		t.Fatalf("%d chains became %d: %q", len(before), len(after), slices.Sorted(maps.Keys(after)))
	}
	for name, c := range before {
		if !bytes.Equal(c, after[name]) {
			t.Errorf("chain %s changed", name)
		}
	}
}

// Endpoints get a new version with their cluster: Envoy warms a changed cluster until they come again, and does not ask.
func TestEndpointsFollowTheirCluster(t *testing.T) {
	t.Parallel()
	version := func(files map[string]string) (cluster, endpoints string) {
		s := xdstest.Find(t, compiled(t, files), xdstest.AcmeWeb)
		for _, r := range s.All() {
			switch {
			case r.Name() != "service/acme/ledger":
			case r.TypeURL() == xds.ClusterType:
				cluster = r.Version()
			case r.TypeURL() == xds.EndpointType:
				endpoints = r.Version()
			}
		}
		return cluster, endpoints
	}
	c1, e1 := version(xdstest.Files())
	c2, e2 := version(edited(t, "tenants/acme/services.yaml", "serviceAccounts: [batch, night, orders]", "serviceAccounts: [batch]"))
	if c1 == "" || c1 == c2 || e1 == e2 {
		t.Errorf("cluster %s became %s, endpoints %s became %s", c1, c2, e1, e2)
	}
	c3, e3 := version(edited(t, "tenants/acme/services.yaml", "10.1.0.8", "10.1.0.18"))
	if c1 != c3 || e1 == e3 {
		t.Errorf("cluster %s became %s, endpoints %s became %s", c1, c3, e1, e3)
	}
}

// An own service keeps its short name; the shared one is still there under its full name.
func TestShortNamesAreTheTenantsOwn(t *testing.T) {
	t.Parallel()
	s := xdstest.Find(t, compiled(t, xdstest.Files()), xdstest.AcmeWeb)
	got := map[string]string{}
	for _, r := range s.Resources(xds.RouteType) {
		var m routev3.RouteConfiguration
		if err := proto.Unmarshal(r.Value(), &m); err != nil {
			t.Fatal(err)
		}
		for _, h := range m.GetVirtualHosts() {
			for _, d := range h.GetDomains() {
				got[d] = h.GetRoutes()[0].GetRoute().GetCluster()
			}
		}
	}
	want := map[string]string{
		"orders": "service/acme/orders", "orders.acme.mesh": "service/acme/orders",
		"reports": "service/acme/reports", "reports.acme.mesh": "service/acme/reports",
		"ledger": "service/acme/ledger", "ledger.acme.mesh": "service/acme/ledger", "ledger.platform.mesh": "import/acme/ledger",
		"billing": "import/acme/billing", "billing.platform.mesh": "import/acme/billing", "*": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListenAddress(t *testing.T) {
	t.Parallel()
	parts := compiled(t, xdstest.Files())
	for listener, want := range map[string]string{
		"inbound/acme/orders":  `address:"127.0.0.1" port_value:20081`,
		"inbound/acme/ledger":  `address:"0.0.0.0" port_value:20086`,
		"inbound/acme/reports": `address:"::" port_value:20087 ipv4_compat:true`,
		"outbound/acme/web":    `address:"127.0.0.1" port_value:20182`,
	} {
		for key, value := range contents(parts) {
			if !strings.HasSuffix(key, "Listener "+listener) {
				continue
			}
			var l listenerv3.Listener
			if err := proto.Unmarshal([]byte(value), &l); err != nil {
				t.Fatal(err)
			}
			if got := strings.ReplaceAll(l.GetAddress().GetSocketAddress().String(), "  ", " "); got != want {
				t.Errorf("%s listens at %s, want %s", listener, got, want)
			}
		}
	}
}

func TestEachTenantHasItsOwnPool(t *testing.T) {
	t.Parallel()
	owners := map[string]string{}
	for key, value := range contents(compiled(t, xdstest.Files())) {
		workload, rest, _ := strings.Cut(key, " ")
		if !strings.HasPrefix(rest, "Cluster ") {
			continue
		}
		var c clusterv3.Cluster
		if err := proto.Unmarshal([]byte(value), &c); err != nil {
			t.Fatal(err)
		}
		_, tenant, _, err := tenancy.ParseResourceName(c.GetName())
		if err != nil {
			t.Fatal(err)
		}
		if domain := strings.Split(workload, "/")[2]; domain != tenant+".demo.test" {
			t.Errorf("%s gets cluster %s", workload, c.GetName())
		}
		owners[c.GetName()] = tenant
	}
	if len(owners) < 10 {
		t.Errorf("only clusters %v", owners)
	}
}

func TestZeroValues(t *testing.T) {
	t.Parallel()
	if _, err := xds.Compile(tenancy.Tenant{}); err == nil {
		t.Error("nobody's configuration compiles")
	}
	var p xds.Part
	if _, ok := p.Snapshot(identity.WorkloadID{}); ok || !p.IsZero() || len(p.Workloads()) > 0 {
		t.Error("the zero Part has a snapshot")
	}
	good := compiled(t, xdstest.Files())[0]
	if _, ok := good.Snapshot(identity.WorkloadID{}); ok {
		t.Error("nobody has a snapshot")
	}
	w := good.Workloads()[0]
	s, _ := good.Snapshot(w)
	if _, err := xds.NewSnapshot(w, s.All()[0], s.All()[0]); err == nil {
		t.Error("a resource twice")
	}
	if _, err := xds.NewSnapshot(w, xds.Resource{}); err == nil {
		t.Error("an empty resource")
	}
	if _, err := xds.NewSnapshot(identity.WorkloadID{}); err == nil {
		t.Error("nobody's snapshot")
	}
}
