package extauthz_test

import (
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// param is an auth-param of RFC 9110 with a quoted-string, as RFC 6750 narrows it: no escapes.
var param = regexp.MustCompile(`^([a-z_]+)="([\x20\x21\x23-\x5b\x5d-\x7e]+)"(?:, |$)`)

// challenge reads a WWW-Authenticate header of one Bearer challenge.
func challenge(t testing.TB, header string) map[string]string {
	t.Helper()
	rest, ok := strings.CutPrefix(header, "Bearer ")
	params := map[string]string{}
	for ok && rest != "" {
		m := param.FindStringSubmatch(rest)
		if m == nil || params[m[1]] != "" || strings.HasSuffix(header, ", ") {
			t.Fatalf("not a challenge from %q on: %s", rest, header)
		}
		params[m[1]], rest = m[2], rest[len(m[0]):]
	}
	if len(params) == 0 {
		t.Fatalf("not a challenge: %s", header)
	}
	return params
}

// sensitive lets a service of the mesh name a class with these demands.
func (m *mesh) sensitive(file, token, demands string) {
	m.t.Helper()
	m.files["mesh.yaml"] += "\n  sensitivity: {secret: {token: required" + demands + "}}\n"
	m.edit(file, token, "sensitivity: secret")
}

func TestStepUpChallenge(t *testing.T) {
	t.Parallel()
	const now = "now" // stands for the second of the call
	for name, tc := range map[string]struct {
		demands string
		weak    map[string]any
		strong  map[string]any
		want    map[string]string
	}{
		"acr": {
			", acr: [phr, \"urn:mace:incommon:iap:silver\"]",
			map[string]any{"acr": "pwd"},
			map[string]any{"acr": "urn:mace:incommon:iap:silver"},
			map[string]string{"acr_values": "phr urn:mace:incommon:iap:silver"},
		},
		"acr with every character": {
			", acr: [\"!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"]", nil,
			map[string]any{"acr": "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"},
			map[string]string{"acr_values": "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"},
		},
		"age": {", maxAuthAge: 5m", nil, map[string]any{"auth_time": now}, map[string]string{"max_age": "300"}},
		"amr": {
			", amr: [hwk, pwd]",
			map[string]any{"amr": []string{"pwd"}},
			map[string]any{"amr": []string{"pwd", "hwk", "mfa"}},
			map[string]string{"error_description": "The user must authenticate again by all of: hwk pwd"},
		},
		"all": {
			", acr: [mfa], amr: [hwk], maxAuthAge: 1s",
			map[string]any{"acr": "mfa", "amr": []string{"hwk"}},
			map[string]any{"acr": "mfa", "amr": []string{"hwk"}, "auth_time": now},
			map[string]string{"acr_values": "mfa", "max_age": "1", "error_description": "The user must authenticate again by all of: hwk"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			m.sensitive("tenants/acme/orders.yaml", "token: required", tc.demands)
			p := start(t, m, acmeOrders, m.agents(acmeOrders))
			ask := func(claims map[string]any) *authv3.CheckResponse {
				all := map[string]any{"roles": []string{"clerk"}}
				maps.Copy(all, claims)
				if all["auth_time"] == now {
					all["auth_time"] = m.now.Unix()
				}
				token := m.tokenWith(acmeIDP, "acme", m.now.Add(5*time.Minute), all)
				return p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+token))
			}
			resp := ask(tc.weak)
			denied := resp.GetDeniedResponse()
			h := headers(denied.GetHeaders())
			if reason(resp) != "step_up_required" || resp.GetStatus().GetCode() != int32(codes.Unauthenticated) ||
				denied.GetStatus().GetCode() != 401 || denied.GetBody() != unauthorised || len(h) != 3 || h["content-type"] != "application/problem+json" {
				t.Errorf("%v", resp)
			}
			want := map[string]string{
				"realm": "ringfence", "error": "insufficient_user_authentication", "error_description": "The user must authenticate again",
			}
			maps.Copy(want, tc.want)
			if diff := cmp.Diff(want, challenge(t, h["www-authenticate"])); diff != "" {
				t.Error(diff)
			}
			if entry := p.entries.last(t); entry.Reason.String() != "step_up_required" || entry.ID != h["x-ringfence-decision"] {
				t.Errorf("recorded %+v", entry)
			}
			if resp := ask(tc.strong); resp.GetOkResponse() == nil {
				t.Errorf("stepped up: %s", reason(resp))
			}
		})
	}
}

// Who has not passed the guard learns nothing of a class, whatever its token: every such refusal is the one refusal, as it
// is where there is no class. Who has passed it hears the same on every path.
func TestStepUpTellsNothing(t *testing.T) {
	t.Parallel()
	plain, classed := newMesh(t), newMesh(t)
	plain.edit("platform/billing.yaml", "token: optional", "token: required")
	classed.sensitive("platform/billing.yaml", "token: optional", ", acr: [mfa]")
	answers := func(m *mesh) []*authv3.DeniedHttpResponse {
		p := start(t, m, platformBill, m.agents(platformBill))
		acme, globex := m.acme.SVID(acmeWeb), m.globex.SVID(globexWeb)
		end := m.now.Add(5 * time.Minute)
		tokens := []string{
			m.token(acmeIDP, "acme", end), m.tokenWith(acmeIDP, "acme", end, map[string]any{"acr": "mfa"}),
			m.token(globexIDP, "globex", end), m.tokenWith(globexIDP, "globex", end, map[string]any{"acr": "mfa"}), "x",
		}
		var all []*authv3.DeniedHttpResponse
		ask := func(svid *testca.SVID, principal, service, path string, authorization ...string) {
			denied := proto.CloneOf(p.check(t, call(svid, principal, service, "GET", path, authorization...)).GetDeniedResponse())
			for _, h := range denied.GetHeaders() {
				if h.GetHeader().GetKey() == "x-ringfence-decision" {
					h.Header.Value = ""
				}
			}
			all = append(all, denied)
		}
		for _, path := range []string{"/invoices/1", "/nothing"} {
			for _, token := range tokens {
				ask(globex, globexWeb, "platform/billing", path, "Bearer "+token) // no Grant
				ask(nil, "", "platform/billing", path, "Bearer "+token)           // nobody
				ask(acme, acmeWeb, "acme/orders", path, "Bearer "+token)          // not the asker's service
			}
			ask(globex, globexWeb, "platform/billing", path)
			ask(acme, acmeWeb, "platform/billing", path, "Bearer "+tokens[2]) // another tenant's token
			ask(acme, acmeWeb, "platform/billing", path, "Bearer "+tokens[3])
		}
		return all
	}
	without, with := answers(plain), answers(classed)
	for i := range with {
		if diff := cmp.Diff(without[0], with[i], protocmp.Transform()); diff != "" || with[i].GetStatus().GetCode() != 403 {
			t.Errorf("answer %d differs with a class: %s", i, diff)
		}
		if diff := cmp.Diff(without[0], without[i], protocmp.Transform()); diff != "" {
			t.Errorf("answer %d differs without a class: %s", i, diff)
		}
	}
}

// While a change is on its way both Tables must be met, and the challenge is that of the one that is not.
func TestStepUpOfTheNextTable(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	current := m.agents(acmeOrders)
	m.sensitive("tenants/acme/orders.yaml", "token: required", ", acr: [mfa]")
	next := m.agents(acmeOrders)
	p := start(t, m, acmeOrders, current)
	p.tables.next[acmeOrders] = next
	req := call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk())
	resp := p.check(t, req)
	if got := challenge(t, headers(resp.GetDeniedResponse().GetHeaders())["www-authenticate"])["acr_values"]; got != "mfa" {
		t.Errorf("%s: acr_values %q", reason(resp), got)
	}
}
