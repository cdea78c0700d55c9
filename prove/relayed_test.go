package prove_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// sidecar is what one workload's agent receives, and what it knows for itself.
type sidecar struct {
	w         identity.WorkloadID
	mapping   identity.Mapping
	resources []xds.Resource // with the Table
}

func sidecars(tb testing.TB) map[string]sidecar {
	tb.Helper()
	g := compile(tb, xdstest.Files())
	out := map[string]sidecar{}
	for i, p := range g.parts {
		for _, w := range p.Workloads() {
			s, _ := p.Snapshot(w)
			table, err := g.tables[i].For(w, s.Version())
			if err != nil {
				tb.Fatal(err)
			}
			rs := append(slices.Clone(s.All()), xds.NewResource(xds.TableType, w.String(), table))
			out[w.String()] = sidecar{w: w, mapping: g.m.Mapping(), resources: rs}
		}
	}
	return out
}

// find is a resource of a type by its name.
func (s sidecar) find(tb testing.TB, typeURL, name string) xds.Resource {
	tb.Helper()
	i := slices.IndexFunc(s.resources, func(r xds.Resource) bool { return r.TypeURL() == typeURL && r.Name() == name })
	if i < 0 {
		tb.Fatalf("%s has no %s", s.w, name)
	}
	return s.resources[i]
}

func (s sidecar) relayed(r xds.Resource) error {
	return prove.Relayed(s.w, s.mapping, identity.Bundles{}, r)
}

func TestRelayedAcceptsWhatIsCompiled(t *testing.T) {
	t.Parallel()
	all := sidecars(t)
	if len(all) != 11 {
		t.Errorf("%d workloads, want 11", len(all))
	}
	for _, s := range all {
		domains := []identity.TrustDomain{s.mapping.Platform()}
		if !s.w.Tenant().IsPlatform() {
			domains = append(domains, s.w.Tenant().TrustDomain())
		}
		for _, pinned := range []identity.Bundles{{}, tenancytest.Bundles(t, domains...)} {
			for _, r := range s.resources {
				if err := prove.Relayed(s.w, s.mapping, pinned, r); err != nil {
					t.Errorf("for %s: %v", s.w, err)
				}
			}
		}
	}
}

// Nothing that another workload of another tenant gets is relayed, under its own name.
func TestRelayedRefusesOtherTenantsResources(t *testing.T) {
	t.Parallel()
	all := sidecars(t)
	for _, s := range all {
		for _, other := range all {
			if other.w.Tenant().Same(s.w.Tenant()) {
				continue
			}
			for _, r := range other.resources {
				mine := !strings.HasPrefix(r.Name(), "callers/") && (r.Name() == s.mapping.Platform().ID() || r.Name() == s.w.Tenant().TrustDomain().ID() || s.w.Tenant().IsPlatform())
				if err := s.relayed(r); (err == nil) != (mine && r.TypeURL() == xds.SecretType) {
					t.Errorf("%s of %s, sent to %s: %v", r.Name(), other.w, s.w, err)
				}
			}
		}
	}
}

// opaque are the texts that name somebody but decide nothing.
var opaque = regexp.MustCompile(`^virtual_hosts\[\d+\]\.name$|position$`)

// A tenant's own resources, in which one text speaks of another tenant, are not relayed, whichever text it is.
func TestRelayedRefusesEveryForeignText(t *testing.T) {
	t.Parallel()
	all := sidecars(t)
	for _, s := range []sidecar{all[xdstest.AcmeOrders], all[xdstest.AcmeWeb], all[xdstest.AcmeBatch], all[xdstest.AcmeDB]} {
		tried := 0
		for _, r := range s.resources {
			m := message(t, r)
			texts(m.ProtoReflect(), "", func(path, text string, set func(string)) {
				for _, from := range []string{"acme", "platform"} {
					if !strings.Contains(text, from) || opaque.MatchString(path) {
						continue
					}
					set(strings.ReplaceAll(text, from, "globex"))
					tried++
					if err := s.relayed(xds.NewResource(r.TypeURL(), r.Name(), marshal(t, m))); err == nil {
						t.Errorf("%s to %s: %s may be %s", r.Name(), s.w, path, strings.ReplaceAll(text, from, "globex"))
					}
					set(text)
				}
			})
		}
		if tried < 20 {
			t.Errorf("only %d texts tried for %s", tried, s.w)
		}
	}
}

// texts calls visit for every text of a message and of what is packed in it; set changes the text.
func texts(m protoreflect.Message, path string, visit func(path, text string, set func(string))) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			return
		}
		texts(inner.ProtoReflect(), path, func(p, text string, set func(string)) {
			visit(p, text, func(s string) {
				set(s)
				if err := packed.MarshalFrom(inner); err != nil {
					panic(err)
				}
			})
		})
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := strings.TrimPrefix(path+"."+string(f.Name()), ".")
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				at := fmt.Sprintf("%s[%q]", at, k.String())
				if f.MapValue().Message() != nil {
					texts(e.Message(), at, visit)
				} else if f.MapValue().Kind() == protoreflect.StringKind {
					visit(at, e.String(), func(s string) { v.Map().Set(k, protoreflect.ValueOfString(s)) })
				}
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				at := fmt.Sprintf("%s[%d]", at, i)
				if f.Message() != nil {
					texts(v.List().Get(i).Message(), at, visit)
				} else if f.Kind() == protoreflect.StringKind {
					visit(at, v.List().Get(i).String(), func(s string) { v.List().Set(i, protoreflect.ValueOfString(s)) })
				}
			}
		case f.Message() != nil:
			texts(v.Message(), at, visit)
		case f.Kind() == protoreflect.StringKind:
			visit(at, v.String(), func(s string) { m.Set(f, protoreflect.ValueOfString(s)) })
		}
		return true
	})
}

func TestRelayedRefusesOtherRoots(t *testing.T) {
	t.Parallel()
	const acme, globex, platform = "acme.demo.test", "globex.demo.test", "platform.demo.test"
	all := sidecars(t)
	acmeCA, globexCA, freeCA := testca.Constrained(t, acme), testca.Constrained(t, globex), testca.Unconstrained(t, "anybody")
	pin := tenancytest.Bundles(t, identity.MustTrustDomain(acme), identity.MustTrustDomain(platform))
	secret := func(name string, cas ...*testca.CA) xds.Resource {
		var roots []byte
		for _, ca := range cas {
			roots = append(roots, ca.Bundle(globex).PEM()...)
		}
		return xds.NewResource(xds.SecretType, name, marshal(t, bundleSecret(name, roots)))
	}
	tests := map[string]struct {
		to      string
		pinned  identity.Bundles
		secret  xds.Resource
		relayed bool
	}{
		"own root":                      {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+acme, acmeCA), true},
		"unconstrained root":            {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+acme, freeCA), true},
		"another root than the pinned":  {xdstest.AcmeOrders, pin, secret("spiffe://"+acme, acmeCA), false},
		"another tenant's root":         {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+acme, globexCA), false},
		"both":                          {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+acme, acmeCA, globexCA), false},
		"a tenant's as the platform's":  {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+platform, globexCA), false},
		"another trust domain":          {xdstest.AcmeOrders, identity.Bundles{}, secret("spiffe://"+globex, globexCA), false},
		"a caller's, at the platform":   {xdstest.Billing, identity.Bundles{}, secret("spiffe://"+globex, globexCA), true},
		"another's as a caller's":       {xdstest.Billing, identity.Bundles{}, secret("spiffe://"+globex, acmeCA), false},
		"another's at the platform too": {xdstest.Billing, identity.Bundles{}, secret("spiffe://"+platform, acmeCA), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := all[tt.to]
			err := prove.Relayed(s.w, s.mapping, tt.pinned, tt.secret)
			if (err == nil) != tt.relayed || err != nil && !errors.Is(err, prove.ErrRefused) {
				t.Errorf("relayed: %v, want %v", err, tt.relayed)
			}
		})
	}
}

// A pinned root's successor is relayed, beside it and alone, as it is while a root is rotated; a root that was withdrawn is not.
func TestRelayedFollowsTheRoots(t *testing.T) {
	t.Parallel()
	const acme = "spiffe://acme.demo.test"
	td, now := identity.MustTrustDomain("acme.demo.test"), time.Now()
	i, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bundles := func() (identity.Bundles, identity.Bundle) {
		all, err := i.Bundles(now, td)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := all.Get(td)
		return all, b
	}
	first, one := bundles()
	at, err := i.Rotate(td, now)
	if err != nil {
		t.Fatal(err)
	}
	_, both := bundles()
	for range 2 {
		if at, err = i.Advance(at, now); err != nil {
			t.Fatal(err)
		}
	}
	last, two := bundles()
	s := sidecars(t)[xdstest.AcmeOrders]
	for name, tt := range map[string]struct {
		pinned  identity.Bundles
		sent    identity.Bundle
		relayed bool
	}{
		"both":                   {first, both, true},
		"the new alone":          {first, two, true},
		"the withdrawn":          {last, one, false},
		"the withdrawn, with it": {last, both, false},
	} {
		err := prove.Relayed(s.w, s.mapping, tt.pinned, xds.NewResource(xds.SecretType, acme, marshal(t, bundleSecret(acme, tt.sent.PEM()))))
		if (err == nil) != tt.relayed {
			t.Errorf("%s: %v, want %v", name, err, tt.relayed)
		}
	}
}

// What verifies the callers of a TCP service is relayed only with the roots and identities of the tenant whose chain it is
// for, and never without a list: an empty one would let in everybody whom the roots vouch for.
func TestRelayedCallersOfTCP(t *testing.T) {
	t.Parallel()
	const acme, globex, platform = "acme.demo.test", "globex.demo.test", "platform.demo.test"
	all := sidecars(t)
	acmeCA, globexCA := testca.Constrained(t, acme), testca.Constrained(t, globex)
	pin := tenancytest.Bundles(t, identity.MustTrustDomain(acme), identity.MustTrustDomain(platform))
	for name, tt := range map[string]struct {
		to      string
		pinned  identity.Bundles
		name    string
		root    *testca.CA
		callers []string
		relayed bool
	}{
		"own":                            {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{xdstest.AcmeWeb, xdstest.AcmeOrders}, true},
		"nobody":                         {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{"ringfence:nobody"}, true},
		"no list":                        {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, nil, false},
		"nobody and somebody":            {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{"ringfence:nobody", xdstest.AcmeWeb}, false},
		"somebody of another tenant":     {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{xdstest.AcmeWeb, xdstest.GlobexWeb}, false},
		"somebody of the platform":       {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{xdstest.Billing}, false},
		"somebody that is not mapped":    {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", acmeCA, []string{"spiffe://acme.demo.test/x"}, false},
		"another root than the pinned":   {xdstest.AcmeDB, pin, "callers/acme/db/acme", acmeCA, []string{xdstest.AcmeWeb}, false},
		"another tenant's root":          {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/acme", globexCA, []string{xdstest.AcmeWeb}, false},
		"another tenant as a caller":     {xdstest.AcmeDB, identity.Bundles{}, "callers/acme/db/globex", globexCA, []string{xdstest.GlobexWeb}, false},
		"another tenant's service":       {xdstest.AcmeDB, identity.Bundles{}, "callers/globex/db/globex", globexCA, []string{xdstest.GlobexWeb}, false},
		"a bundle's name with callers":   {xdstest.AcmeDB, identity.Bundles{}, "spiffe://" + acme, acmeCA, []string{xdstest.AcmeWeb}, false},
		"a granted tenant":               {xdstest.Store, identity.Bundles{}, "callers/platform/store/globex", globexCA, []string{xdstest.GlobexWeb}, true},
		"a granted tenant, by another's": {xdstest.Store, identity.Bundles{}, "callers/platform/store/globex", acmeCA, []string{xdstest.GlobexWeb}, false},
		"a granted tenant, and somebody": {xdstest.Store, identity.Bundles{}, "callers/platform/store/globex", globexCA, []string{xdstest.GlobexWeb, xdstest.AcmeWeb}, false},
		"a caller that is no tenant":     {xdstest.Store, identity.Bundles{}, "callers/platform/store/ringfence-system", globexCA, []string{xdstest.GlobexWeb}, false},
	} {
		secret := bundleSecret(tt.name, tt.root.Bundle(globex).PEM())
		for _, id := range tt.callers {
			secret.GetValidationContext().MatchTypedSubjectAltNames = append(secret.GetValidationContext().GetMatchTypedSubjectAltNames(), &tlsv3.SubjectAltNameMatcher{
				SanType: tlsv3.SubjectAltNameMatcher_URI,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
			})
		}
		s := all[tt.to]
		err := prove.Relayed(s.w, s.mapping, tt.pinned, xds.NewResource(xds.SecretType, tt.name, marshal(t, secret)))
		if (err == nil) != tt.relayed || err != nil && !errors.Is(err, prove.ErrRefused) {
			t.Errorf("%s: relayed: %v, want %v", name, err, tt.relayed)
		}
	}
}

func bundleSecret(name string, roots []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: roots}},
	}}}
}

func TestRelayedRefusesOtherTables(t *testing.T) {
	t.Parallel()
	const acme, globex = "acme.demo.test", "globex.demo.test"
	all := sidecars(t)
	s := all[xdstest.AcmeOrders]
	own := s.resources[len(s.resources)-1]
	globexRoot := testca.Constrained(t, globex).Cert.Raw
	tests := map[string]func(*agentv1alpha1.Table){
		"another mapping": func(m *agentv1alpha1.Table) {
			more := &agentv1alpha1.MappingRule{TrustDomain: globex, Path: "/ns/{tenant}/sa/{serviceAccount}"}
			m.Mapping = append([]*agentv1alpha1.MappingRule{more}, m.GetMapping()...)
		},
		"another platform": func(m *agentv1alpha1.Table) { m.PlatformTrustDomain = globex },
		"another tenant's roots": func(m *agentv1alpha1.Table) {
			m.Bundles = append(m.GetBundles(), &agentv1alpha1.Bundle{TrustDomain: globex, Roots: [][]byte{globexRoot}})
		},
		"another tenant's root as its own": func(m *agentv1alpha1.Table) {
			m.Bundles[0].Roots = append(m.GetBundles()[0].GetRoots(), globexRoot)
		},
		"another root": func(m *agentv1alpha1.Table) {
			m.Bundles[0].Roots = [][]byte{testca.Constrained(t, acme).Cert.Raw}
		},
		"a caller of another tenant": func(m *agentv1alpha1.Table) {
			m.Services[0].Rules = append(m.Services[0].GetRules(), &agentv1alpha1.Rule{Name: "a/b", From: []string{xdstest.GlobexWeb}, Methods: []string{"GET"}, Paths: []string{"/**"}})
		},
		"a Grant": func(m *agentv1alpha1.Table) {
			m.Services[0].Grants = []*agentv1alpha1.Grant{{Name: "g", Tenant: "globex", From: []string{xdstest.GlobexWeb}, Methods: []string{"GET"}, Paths: []string{"/**"}, NotAfter: 1 << 40}}
		},
		"another mapping that reads the same": func(m *agentv1alpha1.Table) {
			m.Mapping = append(m.GetMapping(), &agentv1alpha1.MappingRule{TrustDomain: "{tenant}.other.test", Path: "/{serviceAccount}"})
		},
		"another workload's": func(m *agentv1alpha1.Table) { m.Workload = xdstest.AcmeBatch },
		"nobody's":           func(m *agentv1alpha1.Table) { m.Workload = "" },
	}
	pinned := tenancytest.Bundles(t, identity.MustTrustDomain(acme))
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var m agentv1alpha1.Table
			if err := proto.Unmarshal(own.Value(), &m); err != nil {
				t.Fatal(err)
			}
			change(&m)
			if err := prove.Relayed(s.w, s.mapping, pinned, xds.NewResource(xds.TableType, own.Name(), marshal(t, &m))); err == nil {
				t.Error("it is accepted")
			}
		})
	}
	if err := s.relayed(xds.NewResource(xds.TableType, "other", own.Value())); err == nil {
		t.Error("a table under another name is accepted")
	}
	colleague := all[xdstest.AcmeBatch]
	if err := s.relayed(xds.NewResource(xds.TableType, own.Name(), colleague.resources[len(colleague.resources)-1].Value())); err == nil {
		t.Error("a colleague's table under the own name is accepted")
	}
}

// The linter is the first to look. What it lets through is refused all the same, where it cannot be read or is not the
// tenant's.
func TestOwnedWithoutTheLinter(t *testing.T) {
	t.Parallel()
	all := sidecars(t)
	orders, db, billing := all[xdstest.AcmeOrders], all[xdstest.AcmeDB], all[xdstest.Billing]
	garbage := []byte{0xff}
	changed := func(r xds.Resource, change func(proto.Message)) xds.Resource {
		m := message(t, r)
		change(m)
		return xds.NewResource(r.TypeURL(), r.Name(), marshal(t, m))
	}
	listener := func(r xds.Resource, change func(*listenerv3.Listener)) xds.Resource {
		return changed(r, func(m proto.Message) { change(m.(*listenerv3.Listener)) })
	}
	routes := func(r xds.Resource, change func(*routev3.RouteConfiguration)) xds.Resource {
		return changed(r, func(m proto.Message) { change(m.(*routev3.RouteConfiguration)) })
	}
	// orders leads elsewhere, and stands behind the host that leads nowhere.
	ordersTo := func(cluster string) xds.Resource {
		return routes(orders.find(t, xds.RouteType, "routes/acme/orders"), func(m *routev3.RouteConfiguration) {
			slices.Reverse(m.GetVirtualHosts())
			for _, h := range m.GetVirtualHosts() {
				if h.GetName() == "service/acme/orders" {
					h.Domains = []string{"orders"}
					h.GetRoutes()[0].GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
				}
			}
		})
	}
	plain := orders.find(t, xds.ClusterType, "app/acme/orders").Value()
	shared := all[xdstest.AcmeWeb].find(t, xds.ClusterType, "import/acme/store").Value()
	for name, tt := range map[string]struct {
		to  sidecar
		r   xds.Resource
		why error // nil: any
	}{
		"a garbled listener":         {orders, xds.NewResource(xds.ListenerType, "inbound/acme/orders", garbage), nil},
		"garbled callers":            {orders, xds.NewResource(xds.RouteType, "callers/acme/orders/acme", garbage), nil},
		"garbled routes":             {orders, xds.NewResource(xds.RouteType, "routes/acme/orders", garbage), nil},
		"a garbled cluster":          {orders, xds.NewResource(xds.ClusterType, "service/acme/web", garbage), nil},
		"a garbled secret":           {orders, xds.NewResource(xds.SecretType, "spiffe://acme.demo.test", garbage), nil},
		"roots that are none":        {orders, xds.NewResource(xds.SecretType, "spiffe://acme.demo.test", nil), nil},
		"callers of nobody":          {billing, xds.NewResource(xds.RouteType, "nonsense", nil), identity.ErrInvalidID},
		"a trust domain of nobody":   {billing, xds.NewResource(xds.SecretType, "spiffe://A", nil), identity.ErrInvalidID},
		"a cluster of no kind":       {orders, xds.NewResource(xds.ClusterType, "routes/acme/orders", plain), nil},
		"an import of no kind":       {orders, xds.NewResource(xds.ClusterType, "routes/acme/orders", shared), nil},
		"an import of the platform":  {billing, xds.NewResource(xds.ClusterType, "import/platform/store", shared), nil},
		"a host of the application":  {orders, ordersTo("app/acme/orders"), nil},
		"a host of another service":  {orders, ordersTo("service/acme/web"), nil},
		"a caller that is nobody's":  {orders, routes(orders.find(t, xds.RouteType, "callers/acme/orders/acme"), addCaller(t, "spiffe://acme.demo.test/x")), identity.ErrUnmapped},
		"a caller of another tenant": {orders, routes(orders.find(t, xds.RouteType, "callers/acme/orders/acme"), addCaller(t, xdstest.GlobexWeb)), nil},
		"a chain of nobody": {billing, listener(billing.find(t, xds.ListenerType, "inbound/platform/billing"), func(m *listenerv3.Listener) {
			m.GetFilterChains()[0].Name = "nonsense"
		}), identity.ErrInvalidID},
		"another tenant's chain behind one of TCP": {db, listener(db.find(t, xds.ListenerType, "inbound/acme/db"), func(m *listenerv3.Listener) {
			m.FilterChains = append(m.GetFilterChains(), &listenerv3.FilterChain{Name: "callers/acme/db/globex"})
		}), nil},
	} {
		if err := prove.Owned(tt.to.w, tt.to.mapping, tt.r); err == nil || tt.why != nil && !errors.Is(err, tt.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// addCaller lets one more identity through the proxy's own guard.
func addCaller(t *testing.T, id string) func(*routev3.RouteConfiguration) {
	t.Helper()
	return func(m *routev3.RouteConfiguration) {
		var guard rbacv3.RBACPerRoute
		if err := m.GetTypedPerFilterConfig()["envoy.filters.http.rbac"].UnmarshalTo(&guard); err != nil {
			t.Fatal(err)
		}
		for _, p := range guard.GetRbac().GetRules().GetPolicies() {
			one := proto.CloneOf(p.GetPrincipals()[0])
			var c mtlsv3.Config
			if err := one.GetCustom().GetTypedConfig().UnmarshalTo(&c); err != nil {
				t.Fatal(err)
			}
			c.GetSanMatcher().Matcher = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}}
			if err := one.GetCustom().GetTypedConfig().MarshalFrom(&c); err != nil {
				t.Fatal(err)
			}
			p.Principals = append(p.GetPrincipals(), one)
		}
		if err := m.GetTypedPerFilterConfig()["envoy.filters.http.rbac"].MarshalFrom(&guard); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRelayedToNobody(t *testing.T) {
	t.Parallel()
	s := sidecars(t)[xdstest.AcmeOrders]
	for name, err := range map[string]error{
		"no workload":                        prove.Relayed(identity.WorkloadID{}, s.mapping, identity.Bundles{}, s.resources[0]),
		"no mapping":                         prove.Relayed(s.w, identity.Mapping{}, identity.Bundles{}, s.resources[0]),
		"no resource":                        s.relayed(xds.Resource{}),
		"own SVID":                           s.relayed(xds.NewResource(xds.SecretType, "default", nil)),
		"no workload, roots of the platform": prove.Relayed(identity.WorkloadID{}, s.mapping, identity.Bundles{}, s.find(t, xds.SecretType, s.mapping.Platform().ID())),
	} {
		if !errors.Is(err, prove.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a control plane wrote stands in an error shortened to 80 bytes.
func TestRelayedShortensHostileText(t *testing.T) {
	t.Parallel()
	s := sidecars(t)[xdstest.AcmeOrders]
	for n, want := range map[int]string{80: strings.Repeat("A", 80) + ":", 81: strings.Repeat("A", 80) + "…:"} {
		if err := s.relayed(xds.NewResource(xds.ClusterType, strings.Repeat("A", n), nil)); !strings.Contains(err.Error(), " "+want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// Whatever arrives, an agent either relays it or refuses it.
func FuzzRelayed(f *testing.F) {
	all := sidecars(f)
	s := all[xdstest.AcmeOrders]
	types := []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.SecretType, xds.TableType}
	for _, r := range append(slices.Clone(s.resources), append(all[xdstest.AcmeDB].resources, all[xdstest.AcmeWeb].resources...)...) {
		f.Add(slices.Index(types, r.TypeURL()), r.Name(), r.Value())
	}
	f.Add(0, "", []byte{})
	f.Fuzz(func(t *testing.T, typ int, name string, value []byte) {
		if typ < 0 {
			typ = 0
		}
		if err := s.relayed(xds.NewResource(types[typ%len(types)], name, value)); err != nil && !errors.Is(err, prove.ErrRefused) {
			t.Errorf("an error that is no refusal: %v", err)
		}
	})
}
