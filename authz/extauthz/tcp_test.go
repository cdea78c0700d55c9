package extauthz_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/ringfence-mesh/ringfence/internal/testca"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	acmeDB      = "spiffe://acme.demo.test/ns/acme/sa/db"
	acmeReports = "spiffe://acme.demo.test/ns/acme/sa/reports"
	globexTool  = "spiffe://globex.demo.test/ns/globex/sa/tool"
	ledger      = "spiffe://platform.demo.test/ns/platform/sa/ledger"

	// ordersTCP is a TCP service of the account that runs acme's HTTP service.
	ordersTCP = `kind: Service
metadata: {name: orders-db}
spec:
  namespace: acme
  serviceAccounts: [orders]
  ports: [{name: http, port: 5432, protocol: TCP, appPort: 20431}]
  endpoints: [{address: 127.0.0.1, port: 20430}]
---
kind: AccessPolicy
metadata: {name: orders-db}
spec: {service: orders-db, rules: [{name: web-connects, from: {services: [web]}}]}
`
)

// newTCPMesh is newMesh with the TCP services of tenancytest.
func newTCPMesh(t testing.TB) *mesh {
	t.Helper()
	m := newMesh(t)
	for name, text := range tenancytest.TCPFiles(t) {
		if _, there := m.files[name]; !there {
			m.files[name] = text
		}
	}
	return m
}

// connection is the check of a TCP connection, as Envoy's network filter makes it at a sidecar that shows itself as to and
// listens at port.
func connection(svid *testca.SVID, principal, to string, port uint32) *authv3.CheckRequest {
	source := &authv3.AttributeContext_Peer{Principal: principal}
	if svid != nil {
		source.Certificate = asEnvoy(svid)
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: source,
		Destination: &authv3.AttributeContext_Peer{
			Principal: to,
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
			}}},
		},
	}}
}

// A connection is decided by the caller's certificate and by where Envoy took it, and by nothing else.
func TestCheckConnection(t *testing.T) {
	t.Parallel()
	m := newTCPMesh(t)
	m.files["tenants/acme/more.yaml"] = ordersTCP
	reports, web := m.acme.SVID(acmeReports), m.acme.SVID(acmeWeb)
	good := func(change func(*authv3.AttributeContext)) *authv3.CheckRequest {
		req := connection(reports, acmeReports, acmeDB, 20412)
		change(req.GetAttributes())
		return req
	}
	at := func(a *authv3.AttributeContext) *corev3.SocketAddress {
		return a.GetDestination().GetAddress().GetSocketAddress()
	}
	db, shared, orders := start(t, m, acmeDB, m.agents(acmeDB)), start(t, m, ledger, m.agents(ledger)), start(t, m, acmeOrders, m.agents(acmeOrders))
	asHTTP := call(web, acmeWeb, "acme/orders-db", "GET", "/orders", "Bearer "+m.clerk())
	empty := call(web, acmeWeb, "acme/orders-db", "", "")
	withRequest := connection(web, acmeWeb, acmeOrders, 20430)
	withRequest.Attributes.Request = &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{}}
	for _, tc := range []struct {
		name    string
		asker   *point
		req     *authv3.CheckRequest
		reason  string
		service string // as it is recorded
	}{
		{"its caller", db, good(func(*authv3.AttributeContext) {}), "allowed", "acme/db"},
		{"at another address", db, good(func(a *authv3.AttributeContext) { at(a).Address = "10.0.0.1" }), "allowed", "acme/db"},
		{"a label that the client chose", db, good(func(a *authv3.AttributeContext) { a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: "evil"} }), "allowed", "acme/db"},
		{"a caller that no rule names", db, connection(web, acmeWeb, acmeDB, 20412), "no_rule", "acme/db"},
		{"the account's other service", db, connection(reports, acmeReports, acmeDB, 20414), "no_rule", "acme/mail"},
		{"another tenant", db, connection(m.globex.SVID(globexTool), globexTool, acmeDB, 20412), "cross_tenant", "acme/db"},
		{"another tenant's root", db, connection(m.globex.SVID(acmeReports), acmeReports, acmeDB, 20412), "invalid_identity", "acme/db"},
		{"no certificate", db, connection(nil, acmeReports, acmeDB, 20412), "unknown_caller", "acme/db"},
		{"another principal", db, connection(reports, acmeWeb, acmeDB, 20412), "invalid_identity", "acme/db"},
		{"no principal", db, connection(reports, "", acmeDB, 20412), "invalid_identity", "acme/db"},
		{"two URI SANs", db, connection(m.acme.SVID("", testca.RawURIs(acmeReports, acmeWeb)), acmeReports, acmeDB, 20412), "invalid_identity", "acme/db"},

		{"another port", db, connection(reports, acmeReports, acmeDB, 5432), "unknown_destination", ""},
		{"the application's port", db, connection(reports, acmeReports, acmeDB, 20411), "unknown_destination", ""},
		{"another tenant's port", db, connection(reports, acmeReports, acmeDB, 20422), "unknown_destination", ""},
		{"port 0", db, connection(reports, acmeReports, acmeDB, 0), "unknown_destination", ""},
		{"a port that wraps around", db, connection(reports, acmeReports, acmeDB, 1<<16+20412), "unknown_destination", ""},
		{"a named port", db, good(func(a *authv3.AttributeContext) {
			at(a).PortSpecifier = &corev3.SocketAddress_NamedPort{NamedPort: "sql"}
		}), "unknown_destination", ""},
		{"UDP", db, good(func(a *authv3.AttributeContext) { at(a).Protocol = corev3.SocketAddress_UDP }), "unknown_destination", ""},
		{"a Unix socket", db, good(func(a *authv3.AttributeContext) {
			a.Destination.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/db"}}}
		}), "unknown_destination", ""},
		{"no address", db, good(func(a *authv3.AttributeContext) { a.Destination.Address = nil }), "unknown_destination", ""},
		{"no destination", db, good(func(a *authv3.AttributeContext) { a.Destination = nil }), "unknown_destination", ""},
		{"a proxy that shows nobody", db, connection(reports, acmeReports, "", 20412), "unknown_destination", ""},
		{"a proxy that shows another account", db, connection(reports, acmeReports, acmeOrders, 20412), "unknown_destination", ""},
		{"a context", db, good(func(a *authv3.AttributeContext) {
			a.ContextExtensions = map[string]string{"service": "acme/db", "port": "sql"}
		}), "unknown_destination", ""},
		{"nothing at all", db, &authv3.CheckRequest{}, "unknown_caller", ""},

		{"a request to a TCP service, by its name", orders, asHTTP, "unknown_destination", ""},
		{"a request without method and path", orders, empty, "unknown_destination", ""},
		{"a request at a TCP service's port", orders, withRequest, "unknown_destination", ""},
		{"a connection to an HTTP service", orders, connection(web, acmeWeb, acmeOrders, 20081), "unknown_destination", ""},
		{"a connection beside an HTTP service", orders, connection(web, acmeWeb, acmeOrders, 20430), "allowed", "acme/orders-db"},

		{"a Grant", shared, connection(web, acmeWeb, ledger, 20402), "allowed", "platform/ledger"},
		{"no Grant", shared, connection(m.globex.SVID(globexTool), globexTool, ledger, 20402), "grant_missing", "platform/ledger"},
	} {
		resp := tc.asker.check(t, tc.req)
		if got := reason(resp); got != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.reason)
		}
		entry := tc.asker.entries.last(t)
		if entry.Service != tc.service || entry.Allowed != (tc.reason == "allowed") || entry.ID != resp.GetDynamicMetadata().AsMap()["decision"] {
			t.Errorf("%s: %+v", tc.name, entry)
		}
		if tc.req.GetAttributes().GetRequest() != nil {
			continue
		}
		code := codes.PermissionDenied
		if tc.reason == "allowed" {
			code = codes.OK
		}
		if resp.GetHttpResponse() != nil || resp.GetStatus().GetCode() != int32(code) || resp.GetStatus().GetMessage() != "" {
			t.Errorf("%s: %v", tc.name, resp)
		}
	}
	down := start(t, m, acmeDB, nil)
	if resp := down.check(t, good(func(*authv3.AttributeContext) {})); resp.GetStatus().GetCode() != int32(codes.Unavailable) || resp.GetHttpResponse() != nil {
		t.Errorf("without rules: %v", resp)
	}
}

// While a change is on its way, a connection must be allowed by both Tables.
func TestCheckConnectionCurrentAndNext(t *testing.T) {
	t.Parallel()
	m := newTCPMesh(t)
	before := m.agents(acmeDB)
	m.edit("tenants/acme/tcp.yaml", "{services: [reports]}", "{services: [web]}")
	after := m.agents(acmeDB)
	p := start(t, m, acmeDB, before)
	p.tables.next[acmeDB] = after
	for id, svid := range map[string]*testca.SVID{acmeReports: m.acme.SVID(acmeReports), acmeWeb: m.acme.SVID(acmeWeb)} {
		if resp := p.check(t, connection(svid, id, acmeDB, 20412)); reason(resp) != "no_rule" || resp.GetStatus().GetCode() == 0 {
			t.Errorf("%s: %v", id, resp)
		}
	}
}

// An asker that the Mesh names cannot say which of its services a connection is for, so it has one; no connection shows a
// header.
func TestNamedAskersOfConnections(t *testing.T) {
	t.Parallel()
	m := newTCPMesh(t)
	m.files["mesh.yaml"] = strings.TrimRight(m.files["mesh.yaml"], "\n") + `
  askers:
    - {name: certificate, socket: /run/certificate.sock, services: [acme/db]}
    - {name: principal, socket: /run/principal.sock, identityFrom: principal, services: [acme/db]}
    - {name: xfcc, socket: /run/xfcc.sock, identityFrom: xfcc, services: [acme/db]}
    - {name: two, socket: /run/two.sock, services: [acme/db, acme/mail]}
    - {name: http, socket: /run/http.sock, services: [acme/orders]}
`
	all := namedTables{}
	for _, name := range []string{"acme", "globex", "platform"} {
		all[name] = m.whole(name)
	}
	reports, web := m.acme.SVID(acmeReports), m.acme.SVID(acmeWeb)
	for _, tc := range []struct {
		name, socket string
		req          *authv3.CheckRequest
		reason       string
	}{
		{"by its certificate, at a port of its own", "certificate", connection(reports, acmeReports, "gateway.example.com", 443), "allowed"},
		{"a caller that no rule names", "certificate", connection(web, acmeWeb, "gateway.example.com", 443), "no_rule"},
		{"a caller that no certificate proves", "certificate", connection(nil, acmeReports, "gateway.example.com", 443), "unknown_caller"},
		{"behind another account", "certificate", connection(reports, acmeReports, acmeOrders, 443), "unknown_destination"},
		{"on its word", "principal", connection(nil, acmeReports, acmeDB, 443), "allowed"},
		{"on its word, of another tenant", "principal", connection(nil, globexTool, acmeDB, 443), "cross_tenant"},
		{"by a header that there cannot be", "xfcc", connection(reports, acmeReports, acmeDB, 443), "unknown_caller"},
		{"one of two", "two", connection(reports, acmeReports, acmeDB, 20412), "unknown_destination"},
		{"an HTTP service", "http", connection(web, acmeWeb, acmeOrders, 20081), "unknown_destination"},
		{"a request to a TCP service", "certificate", call(reports, acmeReports, "acme/db", "GET", "/"), "unknown_destination"},
	} {
		p := startNamed(t, m, all, "/run/"+tc.socket+".sock")
		if got := reason(p.check(t, tc.req)); got != tc.reason {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.reason)
		}
	}
}
