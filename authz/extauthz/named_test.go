package extauthz_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

const (
	gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"
	askers  = `  askers:
    - {name: whole, socket: /run/whole.sock, services: [acme/orders, globex/orders, platform/billing]}
    - {name: istio, spiffeIDs: ["` + gateway + `"], identityFrom: principal, services: [acme/orders]}
    - {name: many, socket: /run/many.sock, identityFrom: principal, services: [acme/orders, globex/orders, platform/billing]}
    - {name: edge, socket: /run/edge.sock, identityFrom: token, services: [acme/orders, globex/orders]}
    - {name: proxy, socket: /run/proxy.sock, identityFrom: xfcc, services: [acme/orders, globex/orders, platform/billing]}
`
)

// namedTables are the whole Tables of every tenant, as the control plane keeps them.
type namedTables map[string]*authz.Table

func (n namedTables) TableFor(k tenancy.AskerKey, tenant string) *authz.Table {
	var found *authz.Table
	for name, t := range n {
		_, ok := t.Asker(k)
		switch {
		case !ok:
		case name == tenant:
			return t
		case tenant == "" && found != nil:
			return nil
		case tenant == "":
			found = t
		}
	}
	return found
}

func (n namedTables) Names(k tenancy.AskerKey) bool {
	for _, t := range n {
		if _, ok := t.Asker(k); ok {
			return true
		}
	}
	return false
}

// withAskers is the mesh with the askers above, and its Tables.
func withAskers(t testing.TB) (*mesh, namedTables) {
	t.Helper()
	m := newMesh(t)
	m.files["mesh.yaml"] = strings.TrimRight(m.files["mesh.yaml"], "\n") + "\n" + askers
	all := namedTables{}
	for _, name := range []string{"acme", "globex", "platform"} {
		all[name] = m.whole(name)
	}
	return m, all
}

// startNamed is a decision point that an asker of that socket, or with that identity, asks.
func startNamed(t testing.TB, m *mesh, all namedTables, by string) *point {
	t.Helper()
	p := &point{tables: &tables{}, entries: &entries{}, registry: prometheus.NewRegistry(), clock: newClock(m.now)}
	key := tenancy.KeyOfSocket(by)
	if id, err := identity.ParseSPIFFEID(by); err == nil {
		key = tenancy.KeyOfID(id)
	}
	p.serve(t, extauthz.New(p.tables, extauthz.FixedKey(key), p.entries, metrics(t, p.registry), p.clock.Now, extauthz.WithNamed(all), extauthz.StripToken()))
	return p
}

// asPrincipal is the call as an Envoy asks about it that does not send certificates, asXFCC as one that sends the header.
func asPrincipal(req *authv3.CheckRequest) *authv3.CheckRequest {
	req.GetAttributes().GetSource().Certificate = ""
	return req
}

func asXFCC(req *authv3.CheckRequest) *authv3.CheckRequest {
	a := req.GetAttributes()
	if p := a.GetSource().GetPrincipal(); p != "" {
		addHeader(req, "x-forwarded-client-cert", `Hash=`+strings.Repeat("0", 64)+`;Subject="CN=x";URI=`+p)
	}
	a.Source = &authv3.AttributeContext_Peer{}
	return req
}

func addHeader(req *authv3.CheckRequest, name, value string) {
	h := req.GetAttributes().GetRequest().GetHttp().GetHeaderMap()
	h.Headers = append(h.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
}

// Of a tenant with two services an asker gets answers about the one that its entry names.
func TestNamedAskerAsksAboutItsServicesOnly(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.files["tenants/acme/more.yaml"] = strings.NewReplacer("name: orders}", "name: more}", "[orders]", "[more]", "8080", "8081", "20281", "20391", "20181", "20392", "20081", "20393").Replace(strings.Split(m.files["tenants/acme/orders.yaml"], "---")[0])
	m.files["mesh.yaml"] = strings.TrimRight(m.files["mesh.yaml"], "\n") + "\n" + askers
	all := namedTables{"acme": m.whole("acme"), "globex": m.whole("globex"), "platform": m.whole("platform")}
	p := startNamed(t, m, all, gateway)
	for service, want := range map[string]string{"acme/orders": "allowed", "acme/more": "unknown_destination", "acme/none": "unknown_destination"} {
		resp := p.check(t, asPrincipal(call(m.acme.SVID(acmeWeb), acmeWeb, service, "GET", "/orders", "Bearer "+m.clerk())))
		if reason(resp) != want {
			t.Errorf("%s: %s, want %s", service, reason(resp), want)
		}
	}
}

// One table of cases: whoever asks, a sidecar or a named asker of any kind, the decision about the same caller,
// destination and token is the same.
func TestAskersDecideAlike(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	web, clerk := m.acme.SVID(acmeWeb), "Bearer "+m.clerk()
	manager := "Bearer " + m.token(acmeIDP, "acme", m.now.Add(time.Minute), "manager")
	sidecars := map[string]*point{}
	for service, id := range map[string]string{"acme/orders": acmeOrders, "globex/orders": globexOrders, "platform/billing": platformBill} {
		sidecars[service] = start(t, m, id, m.agents(id))
	}
	named := map[string]*point{}
	for _, socket := range []string{"whole", "many", "proxy"} {
		named[socket] = startNamed(t, m, all, "/run/"+socket+".sock")
	}
	for _, tc := range []struct {
		name                  string
		svid                  *testca.SVID
		caller                string
		service, method, path string
		token, reason         string
	}{
		{"a clerk reads", web, acmeWeb, "acme/orders", "GET", "/orders/7", clerk, "allowed"},
		{"a manager orders", web, acmeWeb, "acme/orders", "POST", "/orders", manager, "allowed"},
		{"a clerk may not order", web, acmeWeb, "acme/orders", "POST", "/orders", clerk, "no_rule"},
		{"no token", web, acmeWeb, "acme/orders", "GET", "/orders/7", "", "token_missing"},
		{"an expired token", web, acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer " + m.token(acmeIDP, "acme", m.now.Add(-time.Hour), "clerk"), "token_expired"},
		{"a token of another tenant", web, acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer " + m.token(globexIDP, "globex", m.now.Add(time.Minute), "clerk"), "issuer_not_allowed"},
		{"no token at all", web, acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer x", "token_invalid"},
		{"a caller of no rule", m.acme.SVID(acmeOrders), acmeOrders, "acme/orders", "GET", "/orders/7", clerk, "no_rule"},
		{"another tenant", m.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders/7", clerk, "cross_tenant"},
		{"within another tenant", m.globex.SVID(globexWeb), globexWeb, "globex/orders", "GET", "/orders/7", "", "allowed"},
		{"from acme into globex", web, acmeWeb, "globex/orders", "GET", "/orders/7", "", "cross_tenant"},
		{"a shared service with a Grant", web, acmeWeb, "platform/billing", "POST", "/invoices", clerk, "allowed"},
		{"a shared service without one", m.globex.SVID(globexWeb), globexWeb, "platform/billing", "POST", "/invoices", "", "grant_missing"},
		{"nobody", nil, "", "acme/orders", "GET", "/orders/7", clerk, "unknown_caller"},
		{"an ID of no tenant", testca.Unconstrained(t, "x").SVID(gateway), gateway, "acme/orders", "GET", "/orders/7", clerk, "unknown_caller"},
		{"an empty path", web, acmeWeb, "acme/orders", "GET", "", clerk, "no_rule"},
		{"CONNECT", web, acmeWeb, "acme/orders", "CONNECT", "", clerk, "no_rule"},
	} {
		req := func() *authv3.CheckRequest {
			var authorization []string
			if tc.token != "" {
				authorization = append(authorization, tc.token)
			}
			return call(tc.svid, tc.caller, tc.service, tc.method, tc.path, authorization...)
		}
		for who, got := range map[string]string{
			"the sidecar":                reason(sidecars[tc.service].check(t, req())),
			"an asker with certificates": reason(named["whole"].check(t, req())),
			"an asker with principals":   reason(named["many"].check(t, asPrincipal(req()))),
			"an asker with XFCC":         reason(named["proxy"].check(t, asXFCC(req()))),
		} {
			if got != tc.reason {
				t.Errorf("%s: %s gets %s, want %s", tc.name, who, got, tc.reason)
			}
		}
	}
	e := named["many"].entries.last(t)
	if e.Named != "many" || !e.Asker.IsZero() {
		t.Errorf("who asked is recorded as %q, %q", e.Asker, e.Named)
	}
}

// An ingress asks about calls that nothing but a token names: neither a certificate nor a header counts, and the application
// is told of the token's tenant and subject, and of no workload.
func TestIngressDecidesByTokenAlone(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	m.files["tenants/acme/orders.yaml"] += "    - name: clerks-by-the-edge\n      from: {askers: [edge], roles: [clerk]}\n      to: {methods: [GET], paths: [\"/orders/*\"]}\n"
	all["acme"] = m.whole("acme")
	p := startNamed(t, m, all, "/run/edge.sock")
	web, globex := m.acme.SVID(acmeWeb), m.globex.SVID(globexWeb)
	minute := m.now.Add(time.Minute)
	clerk, challenge := "Bearer "+m.clerk(), `Bearer realm="ringfence"`
	for _, tc := range []struct {
		name          string
		svid          *testca.SVID
		principal     string
		service       string
		method, path  string
		authorization []string
		reason        string
	}{
		{"a clerk reads", nil, "", "acme/orders", "GET", "/orders/7", []string{clerk}, "allowed"},
		{"another tenant's certificate counts for nothing", globex, globexWeb, "acme/orders", "GET", "/orders/7", []string{clerk}, "allowed"},
		{"a certificate is no token", web, acmeWeb, "acme/orders", "GET", "/orders/7", nil, "token_missing"},
		{"and gives the rules of its workload to nobody", web, acmeWeb, "acme/orders", "GET", "/orders", []string{clerk}, "no_rule"},
		{"no token", nil, "", "acme/orders", "GET", "/orders/7", nil, "token_missing"},
		{"another scheme", nil, "", "acme/orders", "GET", "/orders/7", []string{"Basic YTpi"}, "token_missing"},
		{"two tokens", nil, "", "acme/orders", "GET", "/orders/7", []string{clerk, clerk}, "token_invalid"},
		{"an expired token", nil, "", "acme/orders", "GET", "/orders/7", []string{"Bearer " + m.token(acmeIDP, "acme", m.now.Add(-time.Hour), "clerk")}, "token_expired"},
		{"another role", nil, "", "acme/orders", "GET", "/orders/7", []string{"Bearer " + m.token(acmeIDP, "acme", minute, "cook")}, "no_rule"},
		{"a token of globex", nil, "", "acme/orders", "GET", "/orders/7", []string{"Bearer " + m.token(globexIDP, "globex", minute, "clerk")}, "issuer_not_allowed"},
		{"globex asserted by acme", nil, "", "acme/orders", "GET", "/orders/7", []string{"Bearer " + m.token(acmeIDP, "globex", minute, "clerk")}, "issuer_not_allowed"},
		{"acme's token at globex", nil, "", "globex/orders", "GET", "/orders/7", []string{clerk}, "issuer_not_allowed"},
		{"globex has no rule for the edge", nil, "", "globex/orders", "GET", "/orders/7", []string{"Bearer " + m.token(globexIDP, "globex", minute)}, "no_rule"},
		{"without a token, where workloads need none", nil, "", "globex/orders", "GET", "/orders/7", nil, "token_missing"},
		{"a shared service", nil, "", "platform/billing", "POST", "/invoices", []string{clerk}, "unknown_destination"},
	} {
		resp := p.check(t, call(tc.svid, tc.principal, tc.service, tc.method, tc.path, tc.authorization...))
		if got := reason(resp); got != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.reason)
		}
		e := p.entries.last(t)
		if tc.reason == "no_rule" && e.Tenant.IsZero() || !e.Caller.IsZero() || e.Named != "edge" && tc.service != "platform/billing" {
			t.Errorf("%s: recorded as %+v", tc.name, e)
		}
		set := map[string]string{}
		for _, h := range append(resp.GetOkResponse().GetHeaders(), resp.GetDeniedResponse().GetHeaders()...) {
			set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		switch {
		case tc.reason == "allowed":
			if set["x-ringfence-tenant"] != "acme" || set["x-ringfence-subject"] == "" || !slices.Contains(resp.GetOkResponse().GetHeadersToRemove(), "x-ringfence-caller") {
				t.Errorf("%s: the application is told %v", tc.name, resp)
			}
		case tc.reason == "token_missing" && set["www-authenticate"] != challenge:
			t.Errorf("%s: %v", tc.name, resp)
		}
	}
}

// What an asker may not ask about, or may not say, is refused; all refusals look alike to the caller.
func TestNamedAskersAreHeldToTheirEntries(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	web, clerk := m.acme.SVID(acmeWeb), "Bearer "+m.clerk()
	istio, many, whole, proxy := startNamed(t, m, all, gateway), startNamed(t, m, all, "/run/many.sock"),
		startNamed(t, m, all, "/run/whole.sock"), startNamed(t, m, all, "/run/proxy.sock")
	sidecar := start(t, m, acmeOrders, m.agents(acmeOrders))
	orders := func(change func(*authv3.AttributeContext)) *authv3.CheckRequest {
		req := asPrincipal(call(web, acmeWeb, "acme/orders", "GET", "/orders/7", clerk))
		change(req.GetAttributes())
		return req
	}
	context := func(service, port string) func(*authv3.AttributeContext) {
		return func(a *authv3.AttributeContext) {
			a.ContextExtensions = map[string]string{"service": service, "port": port}
		}
	}
	none := func(a *authv3.AttributeContext) { a.ContextExtensions = nil }
	shows := func(principal string) func(*authv3.AttributeContext) {
		return func(a *authv3.AttributeContext) { a.Destination.Principal = principal }
	}
	calls := func(principal string) func(*authv3.AttributeContext) {
		return func(a *authv3.AttributeContext) { a.Source.Principal = principal }
	}
	xfcc := func(values ...string) func(*authv3.AttributeContext) {
		return func(a *authv3.AttributeContext) {
			a.Source = &authv3.AttributeContext_Peer{}
			for _, v := range values {
				h := a.GetRequest().GetHttp().GetHeaderMap()
				h.Headers = append(h.Headers, &corev3.HeaderValue{Key: "X-Forwarded-Client-Cert", RawValue: []byte(v)})
			}
		}
	}
	const uri = "URI=" + acmeWeb
	for _, tc := range []struct {
		name   string
		asker  *point
		change func(*authv3.AttributeContext)
		reason string
	}{
		{"its service", istio, func(*authv3.AttributeContext) {}, "allowed"},
		{"without a context: its only service", istio, none, "allowed"},
		{"without a context: one of three", many, none, "unknown_destination"},
		{"half a context: service", istio, context("acme/orders", ""), "unknown_destination"},
		{"half a context: port", istio, context("", "http"), "unknown_destination"},
		{"another port", istio, context("acme/orders", "admin"), "unknown_destination"},
		{"another tenant's service", istio, context("globex/orders", "http"), "unknown_destination"},
		{"a shared service", istio, context("platform/billing", "http"), "unknown_destination"},
		{"the platform's name alone", istio, context("platform", "http"), "unknown_destination"},
		{"a tenant that is not there", istio, context("evil/orders", "http"), "unknown_destination"},
		{"a service that is not there", istio, context("acme/nothing", "http"), "unknown_destination"},
		{"a service with a path", istio, context("acme/orders/../x", "http"), "unknown_destination"},
		{"behind its own certificate", istio, shows(gateway), "allowed"},
		{"in the service's sidecar", istio, shows(acmeOrders), "allowed"},
		{"behind a public certificate", istio, shows("shop.example.com"), "allowed"},
		{"behind another service's certificate", istio, shows(globexOrders), "unknown_destination"},
		{"behind another account of the tenant", istio, shows(acmeWeb), "unknown_destination"},
		{"a socket's Envoy behind another account of the tenant", many, shows(acmeWeb), "unknown_destination"},
		{"a socket's Envoy behind a gateway's certificate", many, shows(gateway), "allowed"},

		{"principal is a DNS name", istio, calls("web.acme.demo.test"), "invalid_identity"},
		{"principal is a subject", istio, calls("CN=web,O=acme"), "invalid_identity"},
		{"principal in capitals", istio, calls(strings.ToUpper(acmeWeb)), "invalid_identity"},
		{"principal with a fragment", istio, calls(acmeWeb + "#"), "invalid_identity"},
		{"principal without its scheme", istio, calls(strings.TrimPrefix(acmeWeb, "spiffe://")), "invalid_identity"},
		{"two principals", istio, calls(acmeWeb + "," + acmeWeb), "invalid_identity"},
		{"principal of another tenant", istio, calls(globexWeb), "cross_tenant"},
		{"no principal", istio, calls(""), "unknown_caller"},

		{"XFCC", proxy, xfcc(uri), "allowed"},
		{"XFCC and another's principal, which counts for nothing", proxy, func(a *authv3.AttributeContext) { xfcc(uri)(a); a.Source.Principal = globexWeb }, "allowed"},
		{"XFCC on two lines", proxy, xfcc(uri, uri), "invalid_identity"},
		{"XFCC of two elements", proxy, xfcc("URI=" + globexWeb + "," + uri), "invalid_identity"},
		{"XFCC with two URIs", proxy, xfcc(uri + ";" + uri), "invalid_identity"},
		{"XFCC with a DNS name", proxy, xfcc("DNS=web.acme.demo.test"), "invalid_identity"},
		{"XFCC empty", proxy, xfcc(""), "invalid_identity"},
		{"no XFCC, but a principal", proxy, func(*authv3.AttributeContext) {}, "unknown_caller"},

		{"XFCC from an asker by principal", istio, func(a *authv3.AttributeContext) { xfcc(uri)(a) }, "unknown_caller"},
		{"XFCC from an asker by certificate", whole, func(a *authv3.AttributeContext) { xfcc(uri)(a) }, "unknown_caller"},
		{"XFCC from a sidecar", sidecar, func(a *authv3.AttributeContext) { xfcc(uri)(a) }, "unknown_caller"},
		{"principal from an asker by certificate", whole, func(*authv3.AttributeContext) {}, "unknown_caller"},
		{"principal from a sidecar", sidecar, func(*authv3.AttributeContext) {}, "unknown_caller"},
		{"no attributes", istio, func(a *authv3.AttributeContext) {
			a.Source, a.Request.Http = nil, &authv3.AttributeContext_HttpRequest{}
		}, "unknown_caller"},
	} {
		resp := tc.asker.check(t, orders(tc.change))
		if got := reason(resp); got != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.reason)
		}
		if tc.reason != "allowed" && resp.GetDeniedResponse().GetBody() != forbidden {
			t.Errorf("%s: %v", tc.name, resp)
		}
	}
	if resp := istio.check(t, &authv3.CheckRequest{}); resp.GetStatus().GetCode() != int32(codes.PermissionDenied) || resp.GetHttpResponse() != nil {
		t.Errorf("nothing at all: %v", resp)
	}
	for _, by := range []string{"/run/other.sock", "spiffe://cluster.local/ns/istio-system/sa/other", "spiffe://cluster.local/ns/istio-system/sa/gateway2"} {
		if _, err := startNamed(t, m, all, by).client.Check(t.Context(), orders(none)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s is answered: %v", by, err)
		}
	}
	// No agent's Table knows an asker.
	key := tenancy.KeyOfSocket("/run/many.sock")
	if _, ok := m.agents(acmeOrders).Asker(key); ok {
		t.Error("an agent answers askers")
	}
	if _, ok := m.whole("acme").Asker(key); !ok {
		t.Error("the tenant's whole Table does not")
	}
}

// Requests out of all proportion are refused, by an answer or by gRPC, and the next call is answered.
func TestNamedAskerSendsRubbish(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	p := startNamed(t, m, all, "/run/proxy.sock")
	good := func() *authv3.CheckRequest {
		return asXFCC(call(nil, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk()))
	}
	for name, change := range map[string]func(*authv3.CheckRequest){
		"more than 1 MB":     func(r *authv3.CheckRequest) { addHeader(r, "x-big", strings.Repeat("a", 1<<20)) },
		"nearly 1 MB":        func(r *authv3.CheckRequest) { addHeader(r, "authorization", strings.Repeat("a", 1<<20-8<<10)) },
		"10,000 headers":     func(r *authv3.CheckRequest) { repeat(r, 10_000, "authorization", "Bearer x") },
		"XFCC of 100 KB":     func(r *authv3.CheckRequest) { addHeader(r, "x-forwarded-client-cert", strings.Repeat("a", 100_000)) },
		"invalid UTF-8":      func(r *authv3.CheckRequest) { addHeader(r, "x-forwarded-client-cert", "URI=\xff\xfe") },
		"invalid UTF-8 path": func(r *authv3.CheckRequest) { r.Attributes.Request.Http.Path = "/orders/" + url.PathEscape("\xff") },
	} {
		req := good()
		change(req)
		resp, err := p.client.Check(t.Context(), req)
		if err == nil && resp.GetDeniedResponse() == nil {
			t.Errorf("%s: allowed", name)
		}
		if got := reason(p.check(t, good())); got != "allowed" {
			t.Errorf("after %s: %s", name, got)
		}
	}
}

// raw sends bytes that no CheckRequest would be written as.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("no bytes")
	}
	return b, nil
}

func (raw) Unmarshal([]byte, any) error { return nil }

func (raw) Name() string { return "proto" }

// Bytes that are no CheckRequest are refused by gRPC, and harm nobody.
func TestNamedAskerSendsNoRequest(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	p := startNamed(t, m, all, "/run/many.sock")
	good := asPrincipal(call(nil, acmeWeb, "acme/orders", "GET", "/orders/spoilt", "Bearer "+m.clerk()))
	data, err := proto.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string][]byte{
		"invalid UTF-8 in the path":      []byte(strings.ReplaceAll(string(data), "spoilt", "sp\xffilt")),
		"invalid UTF-8 in the principal": []byte(strings.ReplaceAll(string(data), "sa/web", "sa/w\xffb")),
		"half a request":                 data[:len(data)/2],
		"no protobuf":                    []byte("\x0a\xff\xff\xff\xff\x0f"),
	} {
		err := p.conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, bytes, nil, grpc.ForceCodec(raw{}))
		if err == nil {
			t.Errorf("%s: answered", name)
		}
		if got := reason(p.check(t, good)); got != "allowed" {
			t.Errorf("after %s: %s", name, got)
		}
	}
}

func repeat(r *authv3.CheckRequest, n int, name, value string) {
	for range n {
		addHeader(r, name, value)
	}
}

// An asker with 10,000 calls at once is held to its limits, and the others are answered as before.
func TestLimitsLeaveOthersUnharmed(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	p := &point{tables: &tables{}, entries: &entries{}, registry: prometheus.NewRegistry(), clock: newClock(m.now)}
	who := &turns{greedy: tenancy.KeyOfSocket("/run/many.sock"), other: tenancy.KeyOfSocket("/run/whole.sock")}
	p.serve(t, extauthz.New(p.tables, who, p.entries, metrics(t, p.registry), p.clock.Now,
		extauthz.WithNamed(all), extauthz.WithLimits(limit.Limits{Concurrent: 8, PerSecond: 100, Burst: 200})))
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var (
		wg                     sync.WaitGroup
		answered, limited, odd atomic.Int64
	)
	const flood = 10_000
	for range flood {
		wg.Go(func() {
			_, err := p.client.Check(greedy(t.Context()), req)
			switch status.Code(err) {
			case codes.OK:
				answered.Add(1)
			case codes.ResourceExhausted:
				limited.Add(1)
			default:
				odd.Add(1)
			}
		})
	}
	for range 50 {
		if got := reason(p.check(t, req)); got != "allowed" {
			t.Errorf("another asker meanwhile: %s", got)
		}
	}
	wg.Wait()
	if answered.Load() > 200 || answered.Load() == 0 || limited.Load() != flood-answered.Load() || odd.Load() != 0 {
		t.Errorf("%d answered, %d limited, %d otherwise", answered.Load(), limited.Load(), odd.Load())
	}
	if n := counter(t, p.registry, "ringfence_authz_limited_total", nil); n != float64(limited.Load()) {
		t.Errorf("%v are counted", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > before.HeapAlloc+64<<20 {
		t.Errorf("%d MB stay", (after.HeapAlloc-before.HeapAlloc)>>20)
	}
	p.clock.set(m.now.Add(time.Second))
	if _, err := p.client.Check(greedy(t.Context()), req); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

// turns is an Asker that believes a header, for tests with two askers on one connection.
type turns struct{ greedy, other tenancy.AskerKey }

func (w *turns) Asker(ctx context.Context) (extauthz.Asking, error) {
	if isGreedy(ctx) {
		return extauthz.Named(w.greedy), nil
	}
	return extauthz.Named(w.other), nil
}

func TestKeysAreToldApart(t *testing.T) {
	t.Parallel()
	id, err := identity.ParseSPIFFEID(gateway)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[tenancy.AskerKey]bool{}
	for _, k := range []tenancy.AskerKey{{}, tenancy.KeyOfID(id), tenancy.KeyOfSocket(gateway), tenancy.KeyOfSocket("/run/many.sock")} {
		if seen[k] {
			t.Errorf("%v is another one's", k)
		}
		seen[k] = true
	}
	if _, err := identity.ParseSPIFFEID(fmt.Sprintf("%s/", gateway)); err == nil {
		t.Error("a trailing slash is taken")
	}
}

// The bytes of a request are used again for the next one: nothing that outlives the check is a view of them.
func TestNothingKeepsTheRequest(t *testing.T) {
	t.Parallel()
	m, all := withAskers(t)
	web := m.acme.SVID(acmeWeb)
	good := func() *authv3.CheckRequest {
		return call(web, acmeWeb, "acme/orders", "GET", "/orders/7", "Bearer "+m.clerk())
	}
	own := &tables{current: map[string]*authz.Table{acmeOrders: m.agents(acmeOrders)}}
	for name, tc := range map[string]struct {
		asker extauthz.Asker
		req   *authv3.CheckRequest
	}{
		"certificate": {extauthz.Fixed(m.id(acmeOrders)), good()},
		"principal":   {extauthz.FixedKey(tenancy.KeyOfSocket("/run/many.sock")), asPrincipal(good())},
		"xfcc":        {extauthz.FixedKey(tenancy.KeyOfSocket("/run/proxy.sock")), asXFCC(good())},
	} {
		kept, registry := &entries{}, prometheus.NewRegistry()
		server := extauthz.New(own, tc.asker, kept, metrics(t, registry), newClock(m.now).Now, extauthz.WithNamed(all))
		var answers []*authv3.CheckResponse
		for range 3 {
			wire := encode(t, tc.req)
			resp, err := decode(t, server, wire)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, resp)
			copy(wire, strings.Repeat("\xaa", len(wire)))
		}
		for _, resp := range answers {
			if h := headers(resp.GetOkResponse().GetHeaders()); h["x-ringfence-caller"] != acmeWeb || h["x-ringfence-tenant"] != "acme" || h["x-ringfence-subject"] != "alice" {
				t.Errorf("%s: %s, %v", name, reason(resp), h)
			}
		}
		for _, e := range kept.all {
			if e.Caller.String() != acmeWeb || e.Caller.Tenant().Name() != "acme" || e.Caller.ServiceAccount() != "web" || e.Service != "acme/orders" {
				t.Errorf("%s: %+v", name, e)
			}
		}
		if n := counter(t, registry, "ringfence_authz_decisions_total", map[string]string{"tenant": "acme", "service": "orders"}); n != 3 {
			t.Errorf("%s: %v counted", name, n)
		}
	}
}
