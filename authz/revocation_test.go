package authz_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/authz"
)

const acmeIDP = "https://idp.acme.example.com"

// The serial number of a certificate, a workload, and each claim of a token; for one tenant, until a time.
//
//nolint:paralleltest // allocations are counted
func TestRevoked(t *testing.T) {
	w := newWorld(t)
	until := w.now.Add(time.Minute)
	svid := w.acme.SVID(acmeWeb)
	serial := fmt.Sprintf("%x", svid.Cert.SerialNumber)
	claims := map[string]any{"jti": "t-1", "sid": "s-1", "sub": "alice"}
	for name, tc := range map[string]struct {
		revoked *revocationMsg
		denies  bool
		token   bool
		step    int
		says    string
	}{
		"workload":                       {&revocationMsg{Workload: acmeWeb}, true, false, 0, "the caller is revoked by acme/lost until "},
		"another workload":               {&revocationMsg{Workload: acmeBatch}, false, false, 0, ""},
		"certificate":                    {&revocationMsg{Serial: serial}, true, false, 0, "the caller is revoked"},
		"another certificate":            {&revocationMsg{Serial: "1"}, false, false, 0, ""},
		"token":                          {&revocationMsg{Jti: "t-1"}, true, true, 3, "the token, its subject or its session is revoked by acme/lost"},
		"token of its issuer":            {&revocationMsg{Jti: "t-1", Issuer: acmeIDP}, true, true, 3, "the token"},
		"token of another issuer":        {&revocationMsg{Jti: "t-1", Issuer: "https://other"}, false, false, 0, ""},
		"another token":                  {&revocationMsg{Jti: "s-1"}, false, false, 0, ""},
		"subject":                        {&revocationMsg{Subject: "alice"}, true, true, 3, "the token"},
		"session":                        {&revocationMsg{Session: "s-1", Issuer: acmeIDP}, true, true, 3, "the token"},
		"another session":                {&revocationMsg{Session: "alice"}, false, false, 0, ""},
		"the workload a token speaks of": {&revocationMsg{Workload: acmeOrders}, false, false, 0, ""},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // allocations are counted
			m := w.orders(tokenRequired, &ruleMsg{Name: "p/r", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/**"}})
			tc.revoked.Name, tc.revoked.Tenant, tc.revoked.NotAfter = "acme/lost", "acme", until.Unix()
			m.Revocations = []*revocationMsg{tc.revoked}
			table := decode(t, m)
			in := authz.Input{
				Caller: table.Caller(svid.Cert.Raw, nil, w.now), Token: table.Token(w.tokenWith(t, acmeIDP, "acme", w.now.Add(5*time.Minute), claims), w.now),
				Service: service(t, table, "acme", "orders"), Method: "GET", Path: "/", Now: time.Unix(until.Unix(), 0).Add(-1),
			}
			d := authz.Decide(table, in)
			if d.Allowed() == tc.denies || tc.denies && d.Reason() != authz.Revoked || d.TokenRevoked() != tc.token {
				t.Errorf("%s, of the token: %t", d.Reason(), d.TokenRevoked())
			}
			if step := authz.Explain(table, in).Steps[tc.step]; tc.denies && (step.Outcome != authz.Failed || !strings.Contains(step.Text, tc.says)) {
				t.Errorf("explained: %+v", step)
			}
			if n := testing.AllocsPerRun(10, func() { authz.Decide(table, in) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
			of := in.Token.Claims()
			if got := table.RevokesToken(of, in.Now); got != tc.token {
				t.Errorf("a token that was verified elsewhere is revoked: %v", got)
			}
			in.Now = time.Unix(until.Unix(), 0)
			if (*authz.Table)(nil).RevokesToken(of, in.Now) || table.RevokesToken(of, in.Now) {
				t.Error("revoked by nothing, or after the time")
			}
			if d := authz.Decide(table, in); !d.Allowed() {
				t.Errorf("after its time: %s", d.Reason())
			}
		})
	}
}

// At a shared service each tenant's revocations hold for that tenant's identities alone.
func TestRevokedAtASharedService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.billing(tokenOptional, nil,
		&grantMsg{Name: "a", Tenant: "acme", From: []string{acmeWeb}, Methods: []string{"GET"}, Paths: []string{"/"}, NotAfter: w.now.Unix() + 60},
		&grantMsg{Name: "g", Tenant: "globex", From: []string{globexWeb}, Methods: []string{"GET"}, Paths: []string{"/"}, NotAfter: w.now.Unix() + 60},
	)
	acme, globex := w.acme.SVID(acmeWeb), w.globex.SVID(globexWeb)
	m.Revocations = []*revocationMsg{
		{Name: "revoke/0", Tenant: "acme", Subject: "alice", NotAfter: w.now.Unix() - 120},
		{Name: "revoke/1", Tenant: "acme", Subject: "alice", NotAfter: w.now.Unix() + 60},
		{Name: "revoke/1", Tenant: "acme", Subject: "alice", NotAfter: w.now.Unix() - 60}, // the longest counts
		{Name: "platform/2", Tenant: "globex", Serial: fmt.Sprintf("%x", acme.Cert.SerialNumber), NotAfter: w.now.Unix() + 60},
	}
	table := decode(t, m)
	ask := func(leaf []byte, issuer, tenant string) authz.Reason {
		return authz.Decide(table, authz.Input{
			Caller: table.Caller(leaf, nil, w.now), Token: table.Token(w.token(t, issuer, tenant, w.now.Add(5*time.Minute)), w.now),
			Service: service(t, table, "platform", "billing"), Method: "GET", Path: "/", Now: w.now,
		}).Reason()
	}
	if got := ask(acme.Cert.Raw, acmeIDP, "acme"); got != authz.Revoked {
		t.Errorf("acme: %s", got)
	}
	if got := ask(globex.Cert.Raw, "https://idp.globex.example.com", "globex"); got != authz.Allowed {
		t.Errorf("globex: %s", got)
	}
}

func TestDecodeTableRefusesRevocations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tc := range map[string]struct {
		change func(*revocationMsg)
		text   string
	}{
		"no name":                   {func(m *revocationMsg) { m.Name = "" }, "readable name"},
		"a name with a line break":  {func(m *revocationMsg) { m.Name = "a\nb" }, "readable name"},
		"another tenant's name":     {func(m *revocationMsg) { m.Name = "globex/x" }, "nobody but"},
		"no tenant":                 {func(m *revocationMsg) { m.Tenant = "" }, "revocation"},
		"another tenant":            {func(m *revocationMsg) { m.Name, m.Tenant, m.Workload = "globex/y", "globex", globexWeb }, "does not speak"},
		"another tenant's workload": {func(m *revocationMsg) { m.Workload = globexWeb }, "no workload of acme"},
		"nothing":                   {func(m *revocationMsg) { m.Workload = "" }, "one thing"},
		"two things":                {func(m *revocationMsg) { m.Serial = "1" }, "one thing"},
		"an issuer of a workload":   {func(m *revocationMsg) { m.Issuer = acmeIDP }, "only tokens"},
		"a serial in upper case":    {func(m *revocationMsg) { m.Workload, m.Serial = "", "1F" }, "no serial"},
		"a serial with zeros":       {func(m *revocationMsg) { m.Workload, m.Serial = "", "01" }, "no serial"},
		"a claim with a space":      {func(m *revocationMsg) { m.Workload, m.Jti = "", "a b" }, "no claim"},
		"an issuer with a space":    {func(m *revocationMsg) { m.Workload, m.Jti, m.Issuer = "", "a", "a b" }, "no claim"},
	} {
		m := w.orders(tokenNone)
		m.Revocations = []*revocationMsg{{Name: "acme/y", Tenant: "acme", Workload: acmeWeb, NotAfter: 1}}
		if _, err := authz.DecodeTable(encode(t, m)); err != nil {
			t.Fatal(err)
		}
		tc.change(m.GetRevocations()[0])
		if _, err := authz.DecodeTable(encode(t, m)); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
