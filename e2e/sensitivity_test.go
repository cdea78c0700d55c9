package e2e_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

// classes are added to the example's Mesh; orders is made restricted, vault is a restricted gRPC service, and staff has one
// restricted route.
const (
	classes = `platformTrustDomain: platform.demo.test
  sensitivity:
    internal: {}
    restricted: {token: required, acr: [phr, mfa], maxAuthAge: 5m}
`
	staff = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: staff}
spec:
  namespace: acme
  serviceAccounts: [staff]
  sensitivity: internal
  routes: [{methods: [GET], paths: ["/people/*/salary"], sensitivity: restricted}]
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20290}]
  endpoints: [{address: 127.0.0.1, port: 20090}]
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: staff}
spec:
  service: staff
  rules: [{name: web, from: {services: [web]}, to: {methods: [GET, PUT], paths: [/people/**]}}]
`
	vault = `apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: vault}
spec:
  namespace: acme
  serviceAccounts: [vault]
  sensitivity: restricted
  ports: [{name: grpc, port: 9090, protocol: GRPC, appPort: 20289}]
  endpoints: [{address: 127.0.0.1, port: 20089}]
---
apiVersion: ringfence.dev/v1alpha1
kind: AccessPolicy
metadata: {name: vault}
spec:
  service: vault
  rules: [{name: web, from: {services: [web]}, to: {methods: [POST], paths: [/grpc.health.v1.Health/Check]}}]
`
)

func startSensitiveMesh(t testing.TB) *demo.Mesh {
	t.Helper()
	return startMesh(t, func(dir string) {
		editFile(t, filepath.Join(dir, "mesh.yaml"), "platformTrustDomain: platform.demo.test", classes)
		editFile(t, filepath.Join(dir, "tenants/acme/orders.yaml"), "token: required", "sensitivity: restricted")
		editFile(t, filepath.Join(dir, "platform/billing.yaml"), "token: optional", "sensitivity: restricted")
		write(t, filepath.Join(dir, "tenants/acme/vault.yaml"), vault)
		write(t, filepath.Join(dir, "tenants/acme/staff.yaml"), staff)
	})
}

// stepped is a clerk's token of a user who authenticated that long ago.
func stepped(acr string, ago time.Duration) demo.Token {
	claims := map[string]any{"auth_time": time.Now().Add(-ago).Unix()}
	if acr != "" {
		claims["acr"] = acr
	}
	return demo.Token{Issuer: "acme", Roles: []string{"clerk"}, Claims: claims}
}

const stepUpHeader = `Bearer realm="ringfence", error="insufficient_user_authentication", ` +
	`error_description="The user must authenticate again", acr_values="phr mfa", max_age="300"`

// TestStepUp asks a restricted service with tokens weak and strong, through both sidecars.
func TestStepUp(t *testing.T) {
	m := startSensitiveMesh(t)
	stepUp := demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "step_up_required"}
	refused := func(reason string) demo.Want { return demo.Want{Status: 403, Layer: demo.LayerAuthz, Reason: reason} }
	orders := demo.Call{From: "acme/web", To: "orders", Method: http.MethodGet, Path: "/orders/7"}
	salary := demo.Call{From: "acme/web", To: "staff", Method: http.MethodGet, Path: "/people/7/salary"}
	billing := demo.Call{From: "acme/web", To: "billing", Method: http.MethodGet, Path: "/invoices/7"}
	path := func(c demo.Call, p string) demo.Call { c.Path = p; return c }
	globexToken := demo.Token{Issuer: "globex", Claims: map[string]any{"acr": "mfa", "auth_time": time.Now().Unix()}}
	foreign := demo.Call{From: "globex/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodGet, Path: "/orders/7"}
	bodies := map[string]bool{}
	for _, tt := range []struct {
		name  string
		call  demo.Call
		token demo.Token
		want  demo.Want
	}{
		{"weak", orders, stepped("pwd", 0), stepUp},
		{"weak, where no rule allows it", path(orders, "/admin"), stepped("pwd", 0), stepUp},
		{"no acr", orders, stepped("", 0), stepUp},
		{"neither", orders, demo.Token{Issuer: "acme", Roles: []string{"clerk"}}, stepUp},
		{"authenticated too long ago", orders, stepped("mfa", 6*time.Minute), stepUp},
		{"stepped up", orders, stepped("mfa", time.Minute), allowed},
		{"the other class", orders, stepped("phr", 0), allowed},
		{"stepped up, where no rule allows it", path(orders, "/admin"), stepped("mfa", 0), refused("no_rule")},
		{"no token", orders, demo.Token{}, demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "token_missing"}},
		{"another tenant's strong token", orders, globexToken, refused("issuer_not_allowed")},
		{"a shared service, weak", billing, stepped("pwd", 0), stepUp},
		{"a shared service, stepped up", billing, stepped("mfa", 0), allowed},
		{"a shared service, another tenant's strong token", billing, globexToken, refused("issuer_not_allowed")},
		{"a route, no token", salary, demo.Token{}, demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "token_missing"}},
		{"a route, weak", salary, stepped("pwd", 0), stepUp},
		{"a route, stepped up", salary, stepped("mfa", 0), allowed},
		{"a route, with a query", path(salary, "/people/7/salary?year=2026"), stepped("pwd", 0), stepUp},
		{"a route, with an escape that nobody needs", path(salary, "/people/7/s%61lary"), stepped("pwd", 0), stepUp},
		{"a route, through a dot segment", path(salary, "/people/x/../7/salary"), stepped("pwd", 0), stepUp},
		{"beside the route", path(salary, "/people/7"), demo.Token{}, allowed},
		{"beside the route, another tenant's token", path(salary, "/people/7"), globexToken, refused("issuer_not_allowed")},
		{"another tenant", foreign, globexToken, demo.Want{Layer: demo.LayerTLS}},
	} {
		tt.call.Token = tt.token
		before := hits(m).total
		r := do(t, m, tt.call)
		if !r.As(tt.want) || (hits(m).total > before) != (tt.want == allowed) {
			t.Errorf("%s: %d by %s (%s), want %v", tt.name, r.Status, r.Layer, r.Reason, tt.want)
		}
		switch tt.want.Status {
		case 401:
			if got := r.Header.Get("www-authenticate"); (got == stepUpHeader) != (tt.want == stepUp) {
				t.Errorf("%s: %s", tt.name, got)
			}
			if string(r.Body) != `{"type":"about:blank","title":"request refused","status":401}` || r.Header.Get("content-type") != "application/problem+json" {
				t.Errorf("%s: %s", tt.name, r.Body)
			}
		case 403:
			bodies[string(r.Body)+r.Header.Get("www-authenticate")] = true
		}
	}
	if len(bodies) != 1 {
		t.Errorf("%d different refusals: %v", len(bodies), bodies)
	}
}

// TestStepUpOfGRPC is a gRPC client on the real path: Envoy turns the refusal into trailers, and the challenge is among them.
func TestStepUpOfGRPC(t *testing.T) {
	m := startSensitiveMesh(t)
	outbound, err := m.Outbound("acme/web")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+outbound.String(), grpc.WithAuthority("vault"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	call := func(token demo.Token) (*healthv1.HealthCheckResponse, metadata.MD, *status.Status) {
		text, err := m.Mint(token)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+text), 10*time.Second)
		defer cancel()
		var header, trailer metadata.MD
		resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		return resp, metadata.Join(header, trailer), status.Convert(err)
	}
	before := m.Apps()["acme/vault"].Hits()
	_, md, s := call(stepped("pwd", 0))
	if s.Code() != codes.Unauthenticated || !strings.Contains(s.Message(), `"status":401`) || strings.Join(md.Get("www-authenticate"), "|") != stepUpHeader {
		t.Errorf("%s %q, %v", s.Code(), s.Message(), md)
	}
	if id := md.Get("x-ringfence-decision"); len(id) != 1 || len(id[0]) != 32 {
		t.Errorf("decision %q", id)
	}
	if hits := m.Apps()["acme/vault"].Hits(); hits != before {
		t.Error("a refused call reached the application")
	}
	resp, md, s := call(stepped("mfa", 0))
	if s.Code() != codes.OK || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING || len(md.Get("www-authenticate")) > 0 {
		t.Errorf("stepped up: %s %q, %v", s.Code(), s.Message(), md)
	}
	_, md, s = call(demo.Token{Issuer: "globex", Claims: map[string]any{"acr": "mfa"}})
	if s.Code() != codes.PermissionDenied || len(md.Get("www-authenticate")) > 0 {
		t.Errorf("another tenant's token: %s, %v", s.Code(), md)
	}
}

// TestClassChangesOnOpenConnections: what the Mesh demands of a class holds for the next call on a connection that stays
// open, and so does what it no longer demands.
func TestClassChangesOnOpenConnections(t *testing.T) {
	m := startSensitiveMesh(t)
	edit(t, m, "mesh.yaml", ", acr: [phr, mfa], maxAuthAge: 5m", "")
	call := demo.Call{From: "acme/web", To: "acme/orders", Raw: &demo.Raw{SNI: "acme/web"}, Method: http.MethodGet, Path: "/orders/7", Token: stepped("pwd", time.Minute)}
	session := open(t, m, call)
	expectWithin(t, session, call, allowed)
	stepUp := demo.Want{Status: 401, Layer: demo.LayerAuthz, Reason: "step_up_required"}
	var most []string // the longest list of the longest values
	for i := range 8 {
		most = append(most, strings.Repeat(strconv.Itoa(i), 127)+"x")
	}
	for i, demand := range []string{", acr: [mfa]", ", maxAuthAge: 30s", ", amr: [hwk]", ", acr: [" + strings.Join(most, ", ") + "]"} {
		edit(t, m, "mesh.yaml", "{token: required}", "{token: required"+demand+"}")
		expectWithin(t, session, call, stepUp)
		r := doOn(t, session, call)
		want := []string{`acr_values="mfa"`, `max_age="30"`, `error_description="The user must authenticate again by all of: hwk"`, `acr_values="` + strings.Join(most, " ") + `"`}
		for j, part := range want {
			if got := r.Header.Get("www-authenticate"); strings.Contains(got, part) != (i == j) {
				t.Errorf("%s: %s", demand, got)
			}
		}
		edit(t, m, "mesh.yaml", demand, "")
		expectWithin(t, session, call, allowed)
	}
}
