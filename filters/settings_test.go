package filters_test

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
)

// The settings that are judged before a resource is decoded have a test of their own.
var undecoded = []string{"scope", "type", "size", "bytes", "resource_name"}

// Each setting, broken in each of these ways, is a finding of that setting; and no setting is without such a test.
func TestLintEnforcesEverySetting(t *testing.T) {
	t.Parallel()
	all := samples(t)
	tests := broken()
	for _, setting := range filters.Settings() {
		if setting.Text == "" {
			t.Errorf("setting %s does not say what it demands", setting.ID)
		}
		if len(tests[setting.ID]) == 0 && !slices.Contains(undecoded, setting.ID) {
			t.Errorf("no test breaks setting %s", setting.ID)
		}
	}
	for id, edits := range tests {
		if !slices.ContainsFunc(filters.Settings(), func(s filters.Setting) bool { return s.ID == id }) {
			t.Errorf("there is no setting %s", id)
		}
		for name, e := range edits {
			t.Run(id+"/"+name, func(t *testing.T) {
				t.Parallel()
				s, ok := all[e.sample]
				if !ok {
					t.Fatalf("the test mesh has no %s", e.sample)
				}
				m := s.decode(t)
				before := proto.Clone(m)
				e.apply(m)
				if proto.Equal(m, before) {
					t.Fatal("the edit changed nothing")
				}
				findings := s.lint(t, m)
				if !slices.ContainsFunc(findings, func(f filters.Finding) bool { return f.Setting == id }) {
					t.Errorf("not noticed as %s; findings: %v", id, findings)
				}
			})
		}
	}
}

func TestLintOfTheWhole(t *testing.T) {
	t.Parallel()
	all := samples(t)
	orders := all["Cluster acme service/acme/orders"]
	globex := all["Cluster globex service/globex/orders"]
	listener := all["Listener acme outbound/acme/web"].TypeURL()
	secret := all["Secret acme spiffe://acme.demo.test"].TypeURL()
	svid := &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_ValidationContext{}}
	svidBytes, err := proto.Marshal(svid)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := proto.Marshal(&clusterv3.Cluster{Name: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		setting, typeURL, name string
		value                  []byte
		scope                  filters.Scope
	}{
		"nobody's":              {"scope", orders.TypeURL(), orders.Name(), orders.Value(), filters.Scope{}},
		"another type":          {"type", "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "x", nil, orders.scope},
		"table":                 {"type", "type.googleapis.com/ringfence.agent.v1alpha1.Table", "x", nil, orders.scope},
		"too large":             {"size", orders.TypeURL(), orders.Name(), make([]byte, 5<<20), orders.scope},
		"no message":            {"bytes", orders.TypeURL(), orders.Name(), []byte{0xff, 0xff}, orders.scope},
		"delivered otherwise":   {"inner_name", orders.TypeURL(), "service/acme/ledger", orders.Value(), orders.scope},
		"another tenant's":      {"resource_name", globex.TypeURL(), globex.Name(), globex.Value(), orders.scope},
		"no name of the mesh":   {"resource_name", orders.TypeURL(), "orders", odd, orders.scope},
		"the SVID's secret":     {"resource_name", secret, "default", svidBytes, orders.scope},
		"cluster as a listener": {"unknown_field", listener, orders.Name(), orders.Value(), orders.scope},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			findings := filters.Lint(tt.typeURL, tt.name, tt.value, tt.scope)
			if !slices.ContainsFunc(findings, func(f filters.Finding) bool { return f.Setting == tt.setting }) {
				t.Errorf("no finding of %s: %v", tt.setting, findings)
			}
		})
	}
}

// The linter takes any bytes of any type.
func FuzzLint(f *testing.F) {
	var types []string
	for _, s := range samples(f) {
		if !slices.Contains(types, s.TypeURL()) {
			types = append(types, s.TypeURL())
		}
	}
	slices.Sort(types)
	for _, s := range samples(f) {
		f.Add(slices.Index(types, s.TypeURL()), s.Name(), s.Value())
	}
	f.Add(-1, "", []byte{})
	acme, err := identity.ParseTenantID("acme", identity.MustTrustDomain("acme.demo.test"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, typ int, name string, value []byte) {
		typeURL := "type.googleapis.com/x"
		if typ >= 0 {
			typeURL = types[typ%len(types)]
		}
		for _, finding := range filters.Lint(typeURL, name, value, filters.Scope{Tenant: acme}) {
			if finding.Setting == "" || finding.Text == "" {
				t.Errorf("a finding says nothing: %+v", finding)
			}
		}
	})
}
