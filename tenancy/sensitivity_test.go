package tenancy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestSensitivity(t *testing.T) {
	t.Parallel()
	build := func(e edits) *tenancy.Model { return tenancytest.Model(t, e.apply(t)) }
	of := func(m *tenancy.Model) tenancy.Service {
		s, _ := tenancytest.Tenant(t, m, "acme").Service("orders")
		return s
	}
	m := build(edits{mesh + platformDomain: sensitive, orders + ": token: required": "sensitivity: secret"})
	want := tenancy.Sensitivity{Class: "secret", ACR: []string{"mfa", "1"}, AMR: []string{"hwk"}, MaxAuthAge: 5 * time.Minute}
	s := of(m)
	if diff := cmp.Diff(want, s.Sensitivity()); diff != "" || s.Token() != tenancy.TokenRequired || !s.Sensitivity().Demands() {
		t.Errorf("token %s, %s", s.Token(), diff)
	}
	s.Sensitivity().ACR[0], s.Sensitivity().AMR[0] = "x", "x"
	if diff := cmp.Diff(want, s.Sensitivity()); diff != "" {
		t.Error("the demands can be changed from outside")
	}
	if s := of(build(edits{mesh + platformDomain: sensitive, orders + ": token: required": "token: required\n  sensitivity: known"})); s.Token() != tenancy.TokenRequired ||
		s.Sensitivity().Class != "known" || s.Sensitivity().Demands() {
		t.Errorf("token %s, %v", s.Token(), s.Sensitivity())
	}
	if s := of(tenancytest.TwoTenants(t)); s.Sensitivity().Class != "" || s.Sensitivity().Demands() {
		t.Errorf("a service of no class: %v", s.Sensitivity())
	}

	// A class changes the tenants that use it, and no other.
	changed := build(edits{mesh + platformDomain: strings.Replace(sensitive, "5m", "6m", 1), orders + ": token: required": "sensitivity: secret"})
	for _, name := range []string{"acme", "globex", "platform"} {
		same := tenancytest.Tenant(t, m, name).Digest() == tenancytest.Tenant(t, changed, name).Digest()
		if same != (name != "acme") {
			t.Errorf("%s is the same: %t", name, same)
		}
	}
}

func TestSensitivityCheck(t *testing.T) {
	t.Parallel()
	if err := (tenancy.Sensitivity{ACR: []string{"urn:mace:incommon:iap:silver", "!#[]~"}, MaxAuthAge: 720 * time.Hour}).Check(); err != nil {
		t.Error(err)
	}
	for c := range 256 {
		text := "a" + string([]byte{byte(c)})
		ok := c == '!' || (c >= '#' && c <= '[') || (c >= ']' && c <= '~') // NQCHAR of RFC 6750, appendix A
		for _, s := range []tenancy.Sensitivity{{ACR: []string{text}}, {AMR: []string{"x", text}}} {
			if (s.Check() == nil) != ok {
				t.Errorf("%q: %v", text, s.Check())
			}
		}
	}
	for _, s := range []tenancy.Sensitivity{
		{ACR: []string{""}},
		{ACR: []string{strings.Repeat("a", 129)}},
		{AMR: []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}},
		{MaxAuthAge: -time.Second},
		{MaxAuthAge: time.Second + 1},
		{MaxAuthAge: 720*time.Hour + time.Second},
	} {
		if s.Check() == nil {
			t.Errorf("accepted: %v", s)
		}
	}
}
