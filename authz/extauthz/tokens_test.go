package extauthz_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// TestTokenModes: "none" reads and touches nothing, "optional" takes what is not there and verifies what is, "required"
// takes nothing else. Schemes other than Bearer are not tokens.
func TestTokenModes(t *testing.T) {
	t.Parallel()
	type reasons struct{ none, optional, required string }
	absent := reasons{"allowed", "allowed", "token_missing"}
	invalid := reasons{"allowed", "token_invalid", "token_invalid"}
	for _, mode := range []string{"none", "optional", "required"} {
		m := newMesh(t)
		m.edit("tenants/acme/orders.yaml", "token: required", "token: "+mode)
		m.edit("tenants/acme/orders.yaml", ", roles: [clerk, manager]", "")
		m.edit("tenants/acme/orders.yaml", ", roles: [manager]", "")
		p := start(t, m, acmeOrders, m.agents(acmeOrders))
		good := m.clerk()
		for _, tc := range []struct {
			name          string
			authorization []string
			want          reasons
		}{
			{"none", nil, absent},
			{"good", []string{"Bearer " + good}, reasons{"allowed", "allowed", "allowed"}},
			{"Basic", []string{"Basic dTpw"}, absent},
			{"a session of the application", []string{"Session 7"}, absent},
			{"DPoP", []string{"DPoP " + good}, absent},
			{"a scheme that begins alike", []string{"Bearers " + good}, absent},
			{"empty", []string{""}, absent},

			{"no token", []string{"Bearer"}, invalid},
			{"blank", []string{"Bearer  "}, invalid},
			{"not a token", []string{"Bearer x"}, invalid},
			{"twice", []string{"Bearer " + good, "Bearer " + good}, invalid},
			{"twice, one of them empty", []string{"", "Bearer " + good}, invalid},
			{"another scheme beside it", []string{"Basic dTpw", "Bearer " + good}, invalid},
			{"two in one", []string{"Bearer " + good + ", Bearer " + good}, invalid},
			{"parameters behind it", []string{"Bearer " + good + " x=y"}, invalid},
			{"a NUL behind it", []string{"Bearer " + good + "\x00"}, invalid},
			{"not ASCII", []string{"Bearer " + good + "\xe9"}, invalid},
			{"tab", []string{"Bearer\t" + good}, invalid},
			{"quoted", []string{`Bearer "` + good + `"`}, invalid},
			{"too long", []string{"Bearer " + strings.Repeat("a", 9<<10)}, invalid},
			{"expired", []string{"Bearer " + m.token(acmeIDP, "acme", m.now)}, reasons{"allowed", "token_expired", "token_expired"}},
			{
				"of another tenant's issuer",
				[]string{"Bearer " + m.token(globexIDP, "globex", m.now.Add(time.Minute))},
				reasons{"allowed", "issuer_not_allowed", "issuer_not_allowed"},
			},
		} {
			resp := p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", tc.authorization...))
			want := map[string]string{"none": tc.want.none, "optional": tc.want.optional, "required": tc.want.required}[mode]
			if got := reason(resp); got != want {
				t.Errorf("token: %s, %s: %s, want %s", mode, tc.name, got, want)
			}
			if mode == "none" {
				// Nothing of it is read, so nothing of it is said.
				want := map[string]string{"x-ringfence-tenant": "acme", "x-ringfence-caller": acmeWeb}
				if diff := cmp.Diff(want, headers(resp.GetOkResponse().GetHeaders())); diff != "" {
					t.Errorf("token: none, %s: %s", tc.name, diff)
				}
				if diff := cmp.Diff([]string{"x-ringfence-subject"}, resp.GetOkResponse().GetHeadersToRemove()); diff != "" {
					t.Errorf("token: none, %s: %s", tc.name, diff)
				}
			}
		}
	}
}

// TestATokenInAnotherPlaceIsNone: only the Authorization header is read.
func TestATokenInAnotherPlaceIsNone(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders?access_token="+m.clerk())
	h := req.GetAttributes().GetRequest().GetHttp()
	for _, name := range []string{"proxy-authorization", "x-authorization", "x-forwarded-authorization", "cookie", "sec-websocket-protocol", "authorization2"} {
		h.HeaderMap.Headers = append(h.GetHeaderMap().GetHeaders(), &corev3.HeaderValue{Key: name, RawValue: []byte("Bearer " + m.clerk())})
	}
	if got := reason(p.check(t, req)); got != "token_missing" {
		t.Errorf("%s", got)
	}
}

// TestUnknownKeysAreTold: of a token whose issuer does not have the key, and of no other.
func TestUnknownKeysAreTold(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	var (
		mu   sync.Mutex
		told []string
	)
	tell := func(issuer string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, issuer)
	}
	p := start(t, m, acmeOrders, m.agents(acmeOrders), extauthz.WithUnknownKeys(tell))
	for _, token := range []string{m.clerk(), "x", m.token(acmeIDP, "acme", m.now), m.token(globexIDP, "globex", m.now.Add(time.Minute))} {
		p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+token))
	}
	if mu.Lock(); len(told) > 0 {
		t.Errorf("told of %v", told)
	}
	mu.Unlock()
	m.kid = "k2"
	if got := reason(p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk()))); got != "token_invalid" {
		t.Error(got)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{"acme-idp"}, told); diff != "" {
		t.Error(diff)
	}
}
