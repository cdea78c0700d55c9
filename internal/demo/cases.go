package demo

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// calls are those of the tour: the matrix of the example where the configuration has its workloads, and otherwise the
// policy tests of the configuration, as far as they can be sent. left is how many cannot.
func (m *Mesh) calls(ctx context.Context) (calls []Call, left int, err error) {
	if m.hasMatrix() {
		return Matrix(), 0, nil
	}
	files, _, _, err := m.source.Load(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		if !v1alpha1.IsTest(f.Path) || !isYAML(f) {
			continue
		}
		docs, _ := v1alpha1.Decode(f)
		for _, d := range docs {
			test, ok := d.(*v1alpha1.AccessTest)
			if !ok || len(test.Problems()) > 0 {
				continue // "ringfence validate" says why
			}
			for _, tc := range test.Spec.Cases {
				if c, ok := m.sendable(test, tc); ok {
					calls = append(calls, c)
				} else {
					left++
				}
			}
		}
	}
	return calls, left, nil
}

// hasMatrix reports whether every workload is there that the matrix speaks of.
func (m *Mesh) hasMatrix() bool {
	for _, c := range Matrix() {
		if _, err := m.Outbound(c.From); err != nil {
			return false
		}
		if c.Raw == nil {
			continue
		}
		if _, err := m.Inbound(c.To); err != nil {
			return false
		}
	}
	return true
}

// sendable is the call of a case through its caller's own sidecar. There is none for a caller that does not run, at
// another time, or with a token that no issuer here would sign.
func (m *Mesh) sendable(test *v1alpha1.AccessTest, tc v1alpha1.TestCase) (Call, bool) {
	from, ok := m.sender(tc.From.Value)
	tenant, service, named := strings.Cut(tc.To.Value, "/")
	token, signed := m.token(test, tc.Token)
	if !ok || !named || !signed || tc.Todo.Value || tc.At.IsSet() || test.Spec.At.IsSet() {
		return Call{}, false
	}
	c := Call{
		From: from, To: service + "." + tenant + ".mesh", Method: tc.Request.Method.Value, Path: tc.Request.Path.Value, Token: token,
		Want: Want{Refused: true, Reason: tc.Expect.Deny.Value},
	}
	if tc.Expect.Allow {
		c.Want = allowed()
	}
	return c, true
}

// sender is a service of that SPIFFE ID whose application can call, as "tenant/service".
func (m *Mesh) sender(uri string) (string, bool) {
	id, ok := m.plane.Generation().Workload(uri)
	if !ok {
		return "", false
	}
	w, _, ok := m.model().Workload(id)
	if !ok {
		return "", false
	}
	services := w.Services()
	i := slices.IndexFunc(services, func(s tenancy.Service) bool {
		_, calls := s.Outbound()
		return calls
	})
	if i < 0 {
		return "", false
	}
	return id.Tenant().Name() + "/" + services[i].Name(), true
}

// token is what an identity provider here can sign of the claims: its own iss, a tenant, and roles.
func (m *Mesh) token(test *v1alpha1.AccessTest, ref v1alpha1.TestTokenRef) (Token, bool) {
	if !ref.IsSet() {
		return Token{}, true
	}
	claims := maps.Clone(ref.Claims.Values)
	for _, t := range test.Spec.Tokens {
		if ref.Name.IsSet() && t.Name.Value == ref.Name.Value {
			claims = maps.Clone(t.Claims.Values)
		}
	}
	iss, _ := claims["iss"].(string)
	tenant, _ := claims["tenant"].(string)
	t := Token{Tenant: tenant, Issuer: m.source.tenantOf(iss)}
	roles, _ := claims["roles"].([]any)
	for _, r := range roles {
		role, ok := r.(string)
		if !ok {
			return Token{}, false
		}
		t.Roles = append(t.Roles, role)
	}
	for _, known := range []string{"iss", "tenant", "roles"} {
		delete(claims, known)
	}
	return t, len(claims) == 0 && t.Tenant != "" && t.Issuer != ""
}

// tenantOf is a tenant that the issuer may speak of; "" for one that is not played here.
func (i idPs) tenantOf(iss string) string {
	for _, tenant := range slices.Sorted(maps.Keys(i.byTenant)) {
		if i.byTenant[tenant].issuer == iss {
			return tenant
		}
	}
	return ""
}
