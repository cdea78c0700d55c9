package demo

import "net/http"

var (
	clerk   = Token{Issuer: "acme", Roles: []string{"clerk"}}
	manager = Token{Issuer: "acme", Roles: []string{"manager"}}
	globex  = Token{Issuer: "globex", Roles: []string{"clerk"}}
	expired = Token{Issuer: "acme", Roles: []string{"clerk"}, Age: 2 * tokenLife}
)

func allowed() Want { return Want{Status: http.StatusOK, Layer: LayerNone} }

// Matrix is the tour of examples/two-tenants: what each tenant may do, and every way across that is closed.
func Matrix() []Call {
	const get, post = http.MethodGet, http.MethodPost
	ok := allowed()
	authz := func(status int, reason string) Want { return Want{Status: status, Layer: LayerAuthz, Reason: reason} }
	source := Want{Status: http.StatusForbidden, Layer: LayerSource}
	handshake := Want{Layer: LayerTLS}
	forged := http.Header{
		"X-Ringfence-Tenant":          {"globex"},
		"X-Ringfence-Caller":          {"spiffe://globex.demo.test/ns/globex/sa/web"},
		"X-Forwarded-Client-Cert":     {"URI=spiffe://globex.demo.test/ns/globex/sa/web"},
		"X-Envoy-Original-Path":       {"/admin"},
		"X-Envoy-Downstream-Service-": {"globex"},
	}
	return []Call{
		// Within a tenant: what a rule allows, and nothing else.
		{From: "acme/web", To: "orders", Method: get, Path: "/orders/7", Token: clerk, Want: ok},
		{From: "acme/web", To: "orders.acme.mesh", Method: get, Path: "/orders", Token: clerk, Want: ok},
		{From: "acme/web", To: "orders", Method: post, Path: "/orders", Token: manager, Want: ok},
		{From: "acme/web", To: "orders", Method: post, Path: "/orders", Token: clerk, Want: authz(http.StatusForbidden, "no_rule")},
		{From: "acme/web", To: "orders", Method: http.MethodDelete, Path: "/orders/7", Token: manager, Want: authz(http.StatusForbidden, "no_rule")},
		{From: "acme/web", To: "orders", Method: get, Path: "/orders/7", Want: authz(http.StatusUnauthorized, "token_missing")},
		{From: "acme/web", To: "orders", Method: get, Path: "/orders/7", Token: expired, Want: authz(http.StatusUnauthorized, "token_expired")},
		{From: "globex/web", To: "orders", Method: get, Path: "/orders/7", Want: ok},
		{From: "globex/web", To: "orders", Method: get, Path: "/orders/7", Token: globex, Want: ok},
		// The same caller, and a token of another tenant.
		{From: "acme/web", To: "orders", Method: get, Path: "/orders/7", Token: globex, Want: authz(http.StatusForbidden, "issuer_not_allowed")},
		{From: "globex/web", To: "orders", Method: get, Path: "/orders/7", Token: clerk, Want: authz(http.StatusForbidden, "issuer_not_allowed")},
		// The shared service: by Grant only.
		{From: "acme/web", To: "billing", Method: post, Path: "/invoices", Want: ok},
		{From: "acme/orders", To: "billing.platform.mesh", Method: get, Path: "/invoices/12", Want: ok},
		{From: "acme/web", To: "billing", Method: get, Path: "/accounts", Want: authz(http.StatusForbidden, "no_rule")},
		{From: "globex/web", To: "billing", Method: get, Path: "/invoices/12", Want: source},
		// Across tenants: through the own sidecar there is no such host.
		{From: "acme/web", To: "orders.globex.mesh", Method: get, Path: "/orders/7", Token: clerk, Want: source},
		{From: "globex/web", To: "orders.acme.mesh", Method: get, Path: "/orders/7", Want: source},
		// Past the own sidecar, with the genuine SVID, straight to the other's inbound port.
		{From: "acme/web", To: "globex/orders", Raw: &Raw{}, Method: get, Path: "/orders/7", Want: handshake},
		{From: "acme/web", To: "globex/orders", Raw: &Raw{SNI: "acme/web"}, Method: get, Path: "/orders/7", Want: handshake},
		{From: "acme/web", To: "globex/orders", Raw: &Raw{SNI: "globex/web"}, Method: get, Path: "/orders/7", Want: handshake},
		{From: "globex/web", To: "platform/billing", Raw: &Raw{SNI: "acme/web"}, Method: get, Path: "/invoices/12", Want: handshake},
		{From: "acme/web", To: "acme/orders", Raw: &Raw{SNI: "acme/web", Anonymous: true}, Method: get, Path: "/orders/7", Token: clerk, Want: handshake},
		// Within the tenant, with forged headers: they change nothing.
		{From: "acme/web", To: "acme/orders", Raw: &Raw{SNI: "acme/web"}, Method: get, Path: "/orders/7", Token: clerk, Header: forged, Want: ok},
		// A workload of the tenant that no rule names.
		{From: "acme/orders", To: "acme/orders", Raw: &Raw{SNI: "acme/orders"}, Method: get, Path: "/orders/7", Token: clerk, Want: Want{Status: http.StatusForbidden, Layer: LayerRBAC}},
	}
}
