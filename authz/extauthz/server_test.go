package extauthz_test

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func TestCheckAllowed(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	resp := p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders/7?x=1", "Bearer "+m.clerk()))
	if resp.GetStatus().GetCode() != int32(codes.OK) || resp.GetDeniedResponse() != nil {
		t.Fatalf("refused: %s", reason(resp))
	}
	ok := resp.GetOkResponse()
	want := map[string]string{"x-ringfence-tenant": "acme", "x-ringfence-caller": acmeWeb, "x-ringfence-subject": "alice"}
	if diff := cmp.Diff(want, headers(ok.GetHeaders())); diff != "" {
		t.Error(diff)
	}
	for _, h := range ok.GetHeaders() {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s is appended to what the client sent", h.GetHeader().GetKey())
		}
	}
	if len(ok.GetHeadersToRemove()) != 0 || len(ok.GetResponseHeadersToAdd()) != 0 || len(ok.GetQueryParametersToSet()) != 0 {
		t.Errorf("%v", ok)
	}
	meta := resp.GetDynamicMetadata().AsMap()
	e := p.entries.last(t)
	if meta["decision"] != e.ID || meta["reason"] != "allowed" || meta["rule"] != "orders/web-reads" ||
		meta["tenant"] != "acme" || meta["generation"] != e.Generation || len(e.Generation) != 12 {
		t.Errorf("%v beside %+v", meta, e)
	}
	if !e.Allowed || e.Service != "acme/orders" || e.Asker.String() != acmeOrders || e.Caller.String() != acmeWeb ||
		!e.Time.Equal(m.now) || e.Reason != authz.Allowed {
		t.Errorf("%+v", e)
	}
}

// A call without a token, at a service that needs none: the subject that a client made up is removed.
func TestCheckRemovesWhatItDoesNotSet(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, globexOrders, m.agents(globexOrders))
	ok := p.check(t, call(m.globex.SVID(globexWeb), globexWeb, "globex/orders", "GET", "/orders/7")).GetOkResponse()
	if diff := cmp.Diff([]string{"x-ringfence-subject"}, ok.GetHeadersToRemove()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(
		map[string]string{"x-ringfence-tenant": "globex", "x-ringfence-caller": globexWeb}, headers(ok.GetHeaders()),
	); diff != "" {
		t.Error(diff)
	}
}

func TestCheckStripsTokens(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	bearer := "Bearer " + m.clerk()
	for _, tc := range []struct {
		name, asker, service, path, authorization string
		forward                                   bool
		options                                   []extauthz.Option
		want                                      []string
	}{
		{"shared service", platformBill, "platform/billing", "/invoices", bearer, false, []extauthz.Option{extauthz.StripToken()}, []string{"authorization"}},
		{"shared service of an Envoy that does it", platformBill, "platform/billing", "/invoices", bearer, false, nil, nil},
		{"another scheme", platformBill, "platform/billing", "/invoices", "Basic eA==", false, []extauthz.Option{extauthz.StripToken()}, []string{"x-ringfence-subject"}},
		{"within the tenant", acmeOrders, "acme/orders", "/orders", bearer, false, []extauthz.Option{extauthz.StripToken()}, nil},
		{"forwardToken", platformBill, "platform/billing", "/invoices", bearer, true, []extauthz.Option{extauthz.StripToken()}, nil},
	} {
		if tc.forward {
			m.edit("platform/billing.yaml", "token: optional", "token: optional\n  forwardToken: true")
		}
		p := start(t, m, tc.asker, m.agents(tc.asker), tc.options...)
		resp := p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, tc.service, "GET", tc.path, tc.authorization))
		if resp.GetOkResponse() == nil {
			t.Errorf("%s: %s", tc.name, reason(resp))
		}
		if diff := cmp.Diff(tc.want, resp.GetOkResponse().GetHeadersToRemove()); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

const (
	forbidden    = `{"type":"about:blank","title":"request refused","status":403}`
	unauthorised = `{"type":"about:blank","title":"request refused","status":401}`
	unavailable  = `{"type":"about:blank","title":"request refused","status":503}`
)

func TestCheckRefused(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	web := m.acme.SVID(acmeWeb)
	clerk := "Bearer " + m.clerk()
	change := func(req *authv3.CheckRequest, f func(*authv3.AttributeContext)) *authv3.CheckRequest {
		f(req.GetAttributes())
		return req
	}
	good := func() *authv3.CheckRequest {
		return call(web, acmeWeb, "acme/orders", "GET", "/orders", clerk)
	}
	http := func(a *authv3.AttributeContext) *authv3.AttributeContext_HttpRequest { return a.GetRequest().GetHttp() }
	tests := []struct {
		name   string
		req    *authv3.CheckRequest
		reason string
	}{
		{"no certificate", call(nil, acmeWeb, "acme/orders", "GET", "/orders", clerk), "unknown_caller"},
		{"no certificate, forged XFCC", change(call(nil, "", "acme/orders", "GET", "/orders", clerk), func(a *authv3.AttributeContext) {
			http(a).HeaderMap.Headers = append(
				http(a).HeaderMap.Headers, &corev3.HeaderValue{Key: "x-forwarded-client-cert", Value: "URI=" + acmeWeb},
			)
		}), "unknown_caller"},
		{"no principal", call(web, "", "acme/orders", "GET", "/orders", clerk), "invalid_identity"},
		{"another principal", call(web, acmeOrders, "acme/orders", "GET", "/orders", clerk), "invalid_identity"},
		{"principal in upper case", call(web, strings.ToUpper(acmeWeb), "acme/orders", "GET", "/orders", clerk), "invalid_identity"},
		{"certificate no PEM", change(good(), func(a *authv3.AttributeContext) { a.Source.Certificate = "x" }), "invalid_identity"},
		{"certificate with a bad escape", change(good(), func(a *authv3.AttributeContext) { a.Source.Certificate += "%0" }), "invalid_identity"},
		{"certificate with text in front", change(good(), func(a *authv3.AttributeContext) { a.Source.Certificate = "x%0A" + a.GetSource().GetCertificate() }), "invalid_identity"},
		{"certificate too long", change(good(), func(a *authv3.AttributeContext) { a.Source.Certificate = strings.Repeat("a", 40<<10) }), "invalid_identity"},
		{"two certificates", change(good(), func(a *authv3.AttributeContext) { a.Source.Certificate += asEnvoy(web) }), "invalid_identity"},
		{
			"two URI SANs",
			call(m.acme.SVID("", testca.RawURIs(acmeWeb, acmeOrders)), acmeWeb, "acme/orders", "GET", "/orders", clerk),
			"invalid_identity",
		},
		{
			"upper-case scheme",
			call(m.acme.SVID("", testca.RawURIs("SPIFFE"+acmeWeb[6:])), acmeWeb, "acme/orders", "GET", "/orders", clerk),
			"invalid_identity",
		},
		{
			"empty fragment",
			call(m.acme.SVID("", testca.RawURIs(acmeWeb+"#")), acmeWeb, "acme/orders", "GET", "/orders", clerk),
			"invalid_identity",
		},
		{
			"NUL in the SAN",
			call(m.acme.SVID("", testca.RawURIs(acmeWeb+"\x00")), acmeWeb, "acme/orders", "GET", "/orders", clerk),
			"invalid_identity",
		},
		{
			"unmapped",
			call(m.acme.SVID("spiffe://acme.demo.test/x"), "spiffe://acme.demo.test/x", "acme/orders", "GET", "/orders", clerk),
			"unknown_caller",
		},
		{"expired", call(m.acme.SVID(acmeWeb, testca.ValidFor(-2*time.Hour, -time.Hour)), acmeWeb, "acme/orders", "GET", "/orders", clerk), "expired_identity"},
		{"another root", call(m.globex.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", clerk), "invalid_identity"},
		{"another tenant", call(m.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders", clerk), "cross_tenant"},
		{"no service", change(good(), func(a *authv3.AttributeContext) { a.ContextExtensions = nil }), "unknown_destination"},
		{"another tenant's service", call(web, acmeWeb, "globex/orders", "GET", "/orders", clerk), "unknown_destination"},
		{"a service that the asker does not run", call(web, acmeWeb, "acme/web", "GET", "/orders", clerk), "unknown_destination"},
		{"another port", change(good(), func(a *authv3.AttributeContext) { a.ContextExtensions["port"] = "admin" }), "unknown_destination"},
		{"service without tenant", call(web, acmeWeb, "orders", "GET", "/orders", clerk), "unknown_destination"},
		{"another destination principal", change(good(), func(a *authv3.AttributeContext) { a.Destination.Principal = acmeWeb }), "unknown_destination"},
		{"no token", call(web, acmeWeb, "acme/orders", "GET", "/orders"), "token_missing"},
		{"another scheme", call(web, acmeWeb, "acme/orders", "GET", "/orders", "Basic eA=="), "token_missing"},
		{"no token, but where one is read", call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer"), "token_invalid"},
		{"not a token", call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer x"), "token_invalid"},
		{"the header twice", call(web, acmeWeb, "acme/orders", "GET", "/orders", clerk, clerk), "token_invalid"},
		{"the header twice, one empty", call(web, acmeWeb, "acme/orders", "GET", "/orders", clerk, ""), "token_invalid"},
		{"two tokens in one", call(web, acmeWeb, "acme/orders", "GET", "/orders", clerk+", "+clerk), "token_invalid"},
		{"token expired", call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.token(acmeIDP, "acme", m.now)), "token_expired"},
		{
			"another tenant's issuer",
			call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.token(globexIDP, "globex", m.now.Add(time.Minute))),
			"issuer_not_allowed",
		},
		{
			"another tenant's token",
			call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.token(acmeIDP, "globex", m.now.Add(time.Minute))),
			"issuer_not_allowed",
		},
		{"no rule", call(web, acmeWeb, "acme/orders", "DELETE", "/orders", clerk), "no_rule"},
		{"CONNECT without a path", call(web, acmeWeb, "acme/orders", "CONNECT", "", clerk), "no_rule"},
	}
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	hexID := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := map[string]bool{}
	for _, tc := range tests {
		resp := p.check(t, tc.req)
		denied := resp.GetDeniedResponse()
		if denied == nil || resp.GetStatus().GetCode() == 0 || reason(resp) != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, reason(resp), tc.reason)
			continue
		}
		h := headers(denied.GetHeaders())
		id := h["x-ringfence-decision"]
		if !hexID.MatchString(id) || seen[id] || p.entries.last(t).ID != id || resp.GetDynamicMetadata().AsMap()["decision"] != id {
			t.Errorf("%s: decision %q", tc.name, id)
		}
		seen[id] = true
		delete(h, "x-ringfence-decision")
		code, grpcCode, body, want := 403, codes.PermissionDenied, forbidden, map[string]string{"content-type": "application/problem+json"}
		switch tc.reason {
		case "token_missing":
			code, grpcCode, body, want["www-authenticate"] = 401, codes.Unauthenticated, unauthorised, `Bearer realm="ringfence"`
		case "token_invalid", "token_expired":
			code, grpcCode, body, want["www-authenticate"] = 401, codes.Unauthenticated, unauthorised, `Bearer realm="ringfence", error="invalid_token"`
		}
		if int(denied.GetStatus().GetCode()) != code || resp.GetStatus().GetCode() != int32(grpcCode) ||
			denied.GetBody() != body || !json.Valid([]byte(body)) {
			t.Errorf("%s: %v", tc.name, resp)
		}
		if diff := cmp.Diff(want, h); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
	if resp := p.check(
		t, change(good(), func(a *authv3.AttributeContext) { a.Destination.Principal = acmeOrders }),
	); resp.GetOkResponse() == nil {
		t.Errorf("the one that all others were made from: %s", reason(resp))
	}
}

// Envoys without encode_raw_headers send one map, with the lines of one name joined by commas.
func TestCheckReadsMergedHeaders(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	for _, tc := range []struct{ value, reason string }{
		{"Bearer " + m.clerk(), "allowed"},
		{"bearer  " + m.clerk(), "allowed"},
		{"Basic eA==", "token_missing"},
		{"Basic eA==,Bearer " + m.clerk(), "token_invalid"},
		{"Bearer " + m.clerk() + ",Bearer " + m.clerk(), "token_invalid"},
	} {
		req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders")
		http := req.GetAttributes().GetRequest().GetHttp()
		http.HeaderMap, http.Headers = nil, map[string]string{"authorization": tc.value}
		if got := reason(p.check(t, req)); got != tc.reason {
			t.Errorf("%.12s…: %s, want %s", tc.value, got, tc.reason)
		}
	}
	both := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	both.GetAttributes().GetRequest().GetHttp().Headers = map[string]string{"Authorization": "Bearer " + m.clerk()}
	if got := reason(p.check(t, both)); got != "token_invalid" {
		t.Errorf("in both forms: %s", got)
	}
}

func TestCheckSharedService(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, platformBill, m.agents(platformBill))
	acme, globex := m.acme.SVID(acmeWeb), m.globex.SVID(globexWeb)
	for _, tc := range []struct {
		name   string
		req    *authv3.CheckRequest
		reason string
		tenant any
	}{
		{"granted", call(acme, acmeWeb, "platform/billing", "POST", "/invoices"), "allowed", "acme"},
		{"granted, with its token", call(acme, acmeWeb, "platform/billing", "POST", "/invoices", "Bearer "+m.clerk()), "allowed", "acme"},
		{"beyond the Grant", call(acme, acmeWeb, "platform/billing", "DELETE", "/invoices"), "no_rule", "acme"},
		{
			"with another tenant's token",
			call(acme, acmeWeb, "platform/billing", "POST", "/invoices", "Bearer "+m.token(globexIDP, "globex", m.now.Add(time.Minute))),
			"issuer_not_allowed", "acme",
		},
		{"not granted", call(globex, globexWeb, "platform/billing", "POST", "/invoices"), "grant_missing", nil},
		{
			"minted by a granted tenant's root",
			call(m.acme.SVID(globexWeb), globexWeb, "platform/billing", "POST", "/invoices"), "grant_missing", nil,
		},
	} {
		resp := p.check(t, tc.req)
		if got := resp.GetDynamicMetadata().AsMap(); got["reason"] != tc.reason || got["tenant"] != tc.tenant {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	p.clock.set(time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC))
	old := m.acme.SVID(acmeWeb, testca.ValidFor(-time.Minute, 20*365*24*time.Hour))
	if got := reason(p.check(t, call(old, acmeWeb, "platform/billing", "POST", "/invoices"))); got == "allowed" {
		t.Error("a Grant outlives its time")
	}
}

// While a change is on its way, the stricter of two Tables decides.
func TestCheckCurrentAndNext(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	wide := m.agents(acmeOrders)
	m.edit("tenants/acme/orders.yaml", "[GET]", "[PUT]")
	narrow := m.agents(acmeOrders)
	p := start(t, m, acmeOrders, wide)
	get := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	for _, tc := range []struct {
		name          string
		current, next *authz.Table
		reason        string
	}{
		{"current alone allows", wide, nil, "allowed"},
		{"both allow", wide, wide, "allowed"},
		{"next refuses", wide, narrow, "no_rule"},
		{"current refuses", narrow, wide, "no_rule"},
		{"both refuse", narrow, narrow, "no_rule"},
		{"no current", nil, wide, "not_ready"},
		{"another tenant's next", wide, m.agents(globexOrders), "not_ready"},
		{"another workload's current", m.agents(acmeWeb), nil, "not_ready"},
		{"a whole tenant's", m.whole("acme"), nil, "no_rule"},
	} {
		p.tables.mu.Lock()
		p.tables.current[acmeOrders], p.tables.next[acmeOrders] = tc.current, tc.next
		p.tables.mu.Unlock()
		resp := p.check(t, get)
		if reason(resp) != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, reason(resp), tc.reason)
		}
		if tc.reason == "not_ready" {
			if d := resp.GetDeniedResponse(); d.GetStatus().GetCode() != 503 || d.GetBody() != unavailable ||
				resp.GetStatus().GetCode() != int32(codes.Unavailable) {
				t.Errorf("%s: %v", tc.name, resp)
			}
		}
	}
}

// What is remembered ends with the certificate, the token and the Table.
func TestCheckForgets(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	svid := m.acme.SVID(acmeWeb, testca.ValidFor(-time.Minute, 20*time.Minute))
	get := call(svid, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	expect := func(when, want string) {
		t.Helper()
		if got := reason(p.check(t, get)); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expect("first", "allowed")
	expect("warm", "allowed")
	p.clock.set(m.now.Add(5 * time.Minute))
	expect("token over", "token_expired")
	p.clock.set(m.now.Add(21 * time.Minute))
	expect("certificate over", "expired_identity")
	p.clock.set(m.now)
	expect("back", "allowed")
	// The same names with another root and another key: nothing of the old Table's proofs counts.
	again := newMesh(t)
	p.tables.mu.Lock()
	p.tables.current[acmeOrders] = again.agents(acmeOrders)
	p.tables.mu.Unlock()
	expect("another root", "invalid_identity")
	get = call(again.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	expect("another key", "token_invalid")
	// A principal that does not fit is refused even where the certificate is remembered.
	get = call(svid, acmeOrders, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	p.tables.mu.Lock()
	p.tables.current[acmeOrders] = m.agents(acmeOrders)
	p.tables.mu.Unlock()
	expect("another principal", "invalid_identity")
}

type broken struct{ tables extauthz.Tables }

func (b broken) Tables(asker identity.WorkloadID) (current, next *authz.Table) {
	if b.tables == nil {
		panic("tables")
	}
	return b.tables.Tables(asker)
}

func (broken) Record(extauthz.Entry) { panic("recorder") }

func (broken) Asker(context.Context) (extauthz.Asking, error) { panic("asker") }

// A mistake in here refuses the call, is counted, and the next call is answered.
func TestCheckSurvivesPanics(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	fine := &tables{current: map[string]*authz.Table{acmeOrders: m.agents(acmeOrders)}}
	good := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	for name, server := range map[string]func(*point, *extauthz.Metrics) *extauthz.Server{
		"tables": func(p *point, x *extauthz.Metrics) *extauthz.Server {
			return extauthz.New(broken{}, extauthz.Fixed(m.id(acmeOrders)), p.entries, x, time.Now)
		},
		"asker": func(p *point, x *extauthz.Metrics) *extauthz.Server {
			return extauthz.New(fine, broken{}, p.entries, x, time.Now)
		},
		"recorder": func(_ *point, x *extauthz.Metrics) *extauthz.Server {
			return extauthz.New(fine, extauthz.Fixed(m.id(acmeOrders)), broken{}, x, time.Now)
		},
	} {
		p := &point{entries: &entries{}, registry: prometheus.NewRegistry()}
		p.serve(t, server(p, metrics(t, p.registry)))
		for range 2 {
			resp := p.check(t, good)
			if resp.GetDeniedResponse().GetStatus().GetCode() != 503 ||
				headers(resp.GetDeniedResponse().GetHeaders())["x-ringfence-decision"] == "" {
				t.Errorf("%s: %v", name, resp)
			}
		}
		if n := counter(t, p.registry, "ringfence_authz_faults_total", nil); n != 2 {
			t.Errorf("%s: %v faults counted", name, n)
		}
		if name != "recorder" {
			if e := p.entries.last(t); e.Allowed || e.Reason != authz.NotReady || !strings.Contains(e.Fault, "extauthz") {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

func TestCheckUnknownAsker(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := &point{entries: &entries{}, registry: prometheus.NewRegistry()}
	p.serve(t, extauthz.New(&tables{}, extauthz.Fixed(identity.WorkloadID{}), p.entries, metrics(t, p.registry), time.Now))
	resp, err := p.client.Check(t.Context(), call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders"))
	if status.Code(err) != codes.PermissionDenied || resp != nil {
		t.Errorf("%v, %v", resp, err)
	}
	if len(p.entries.all) != 0 {
		t.Error("who may not ask is recorded as a decision")
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, nil)
	for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
		resp, err := healthv1.NewHealthClient(p.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, resp, err)
		}
	}
	watch, err := healthv1.NewHealthClient(p.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a stream: %v", err)
	}
	if got := reason(p.check(t, &authv3.CheckRequest{})); got != "not_ready" {
		t.Errorf("without a Table: %s", got)
	}
}

// Two refusals that differ in what exists differ in nothing that the caller gets, but for the decision's id.
func TestRefusalsTellNothing(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	web := m.acme.SVID(acmeWeb)
	var first *authv3.DeniedHttpResponse
	for _, req := range []*authv3.CheckRequest{
		call(web, acmeWeb, "acme/orders", "DELETE", "/orders", "Bearer "+m.clerk()),
		call(web, acmeWeb, "acme/nothing", "GET", "/orders", "Bearer "+m.clerk()),
		call(web, acmeWeb, "globex/orders", "GET", "/orders", "Bearer "+m.clerk()),
		call(m.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders"),
		call(nil, "", "acme/orders", "GET", "/orders"),
		call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.token(globexIDP, "globex", m.now.Add(time.Minute))),
	} {
		denied := proto.CloneOf(p.check(t, req).GetDeniedResponse())
		for _, h := range denied.GetHeaders() {
			if h.GetHeader().GetKey() == "x-ringfence-decision" {
				h.Header.Value = ""
			}
		}
		if first == nil {
			first = denied
		}
		if diff := cmp.Diff(first, denied, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}

// Many calls at once, while the Table changes under them: each is answered by one Table or the other.
func TestCheckConcurrently(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	wide := m.agents(acmeOrders)
	m.edit("tenants/acme/orders.yaml", "[GET]", "[PUT]")
	narrow := m.agents(acmeOrders)
	p := start(t, m, acmeOrders, wide)
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				resp, err := p.client.Check(t.Context(), req)
				if r := reason(resp); err != nil || (r != "allowed" && r != "no_rule") {
					t.Errorf("%s, %v", r, err)
				}
			}
		})
	}
	for n := range 50 {
		p.tables.mu.Lock()
		p.tables.current[acmeOrders] = []*authz.Table{narrow, wide}[n%2]
		p.tables.mu.Unlock()
	}
	wg.Wait()
	if got := counter(t, p.registry, "ringfence_authz_decisions_total", nil); got != 400 {
		t.Errorf("%v decisions counted", got)
	}
}
