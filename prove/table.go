package prove

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// table checks what the workload's agent would decide by: the rules and Grants of the services that it runs, word for
// word, and the roots and token issuers of those who may call them.
func (w *world) table(t tenancy.Tenant, workload tenancy.Workload, table *authz.Table, snapshot string) error {
	encoded, err := table.For(workload.ID(), snapshot)
	if err != nil {
		return err
	}
	var m agentv1alpha1.Table
	if err := proto.Unmarshal(encoded, &m); err != nil {
		return err
	}
	switch {
	case m.GetWorkload() != workload.ID().String() || m.GetTenant() != t.ID().Name() || m.GetSnapshotVersion() != snapshot:
		return at("workload", "it is of another workload, tenant or snapshot")
	case m.GetPlatformTrustDomain() != w.mapping.Platform().String() || !slices.Equal(rulesOf(&m), w.mapping.Rules()):
		return at("mapping", "it reads SPIFFE IDs otherwise than the mesh")
	}
	tenants := map[identity.TenantID]bool{t.ID(): true}
	var names []string
	tokens := false
	for _, s := range workload.Services() {
		if _, ok := s.Port(); !ok {
			continue
		}
		names = append(names, s.Name())
		tokens = tokens || s.Token() != tenancy.TokenNone
		i := slices.IndexFunc(m.GetServices(), func(e *agentv1alpha1.Service) bool { return e.GetName() == s.Name() })
		if i < 0 {
			return at("services", "%s is missing", s.Name())
		}
		for _, c := range w.callers(t, s) {
			tenants[c.t.ID()] = true
		}
		if err := w.tableService(t, s, m.GetServices()[i]); err != nil {
			return err
		}
	}
	if len(m.GetServices()) != len(names) {
		return at("services", "it has services that the workload does not run")
	}
	return errors.Join(w.tableBundles(&m, tenants), w.tableIssuers(&m, tenants), w.tableRevocations(&m, tenants, tokens))
}

func (w *world) tableService(t tenancy.Tenant, s tenancy.Service, e *agentv1alpha1.Service) error {
	port, _ := s.Port()
	token := map[tenancy.TokenMode]agentv1alpha1.TokenMode{
		tenancy.TokenNone:     agentv1alpha1.TokenMode_TOKEN_MODE_NONE,
		tenancy.TokenOptional: agentv1alpha1.TokenMode_TOKEN_MODE_OPTIONAL,
		tenancy.TokenRequired: agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED,
	}
	mode, known := token[s.Token()]
	switch {
	case e.GetPort() != port.Name || !known || e.GetToken() != mode || e.GetForwardToken() != s.ForwardToken():
		return at("services", "%s: another port, or other demands on tokens", s.Name())
	case e.GetTcpPort() != tcpPort(s, port):
		return at("services", "%s: it is decided as another protocol, or at another port", s.Name())
	case !sameSensitivity(s.Sensitivity(), e.GetSensitivity()):
		return at("services", "%s: other demands on the authentication of users", s.Name())
	case !slices.EqualFunc(s.Routes(), e.GetRoutes(), sameRoute):
		return at("services", "%s: its routes are not as they were written", s.Name())
	case !sameSet(e.GetAccounts(), texts(s.IDs())):
		return at("services", "%s: its accounts are %s", s.Name(), list(e.GetAccounts()))
	}
	rules := t.Rules(s.Name())
	if len(rules) != len(e.GetRules()) {
		return at("services", "%s: %d rules, not %d", s.Name(), len(e.GetRules()), len(rules))
	}
	for i, r := range rules {
		if !sameRule(r, e.GetRules()[i]) {
			return at("services", "%s: rule %s is not as it was written", s.Name(), clip(e.GetRules()[i].GetName()))
		}
	}
	return w.tableGrants(t, s, e.GetGrants())
}

// tcpPort is where the sidecars of a TCP service listen; 0 for every other.
func tcpPort(s tenancy.Service, port tenancy.Port) uint32 {
	if port.Protocol != tenancy.TCP {
		return 0
	}
	return uint32(s.Endpoints()[0].Port())
}

func sameSensitivity(s tenancy.Sensitivity, e *agentv1alpha1.Sensitivity) bool {
	return s.Class == e.GetName() && slices.Equal(s.ACR, e.GetAcr()) && slices.Equal(s.AMR, e.GetAmr()) &&
		int64(s.MaxAuthAge/time.Second) == e.GetMaxAuthAgeSeconds()
}

func sameRoute(r tenancy.Route, e *agentv1alpha1.Route) bool {
	return slices.Equal(r.Methods, e.GetMethods()) && slices.Equal(r.Paths, e.GetPaths()) && r.TokenRequired == e.GetTokenRequired() &&
		sameSensitivity(r.Sensitivity, e.GetSensitivity())
}

func sameRule(r tenancy.Rule, e *agentv1alpha1.Rule) bool {
	return e.GetName() == r.Policy+"/"+r.Name && slices.Equal(e.GetFrom(), texts(r.From)) && slices.Equal(e.GetRoles(), r.Roles) &&
		slices.Equal(e.GetMethods(), r.Methods) && slices.Equal(e.GetPaths(), r.Paths)
}

// tableGrants compares the Grants with those that the owner of the shared service has for each caller, and each caller with
// those who have the service granted.
func (w *world) tableGrants(t tenancy.Tenant, s tenancy.Service, got []*agentv1alpha1.Grant) error {
	want := map[string]tenancy.Grant{} // by tenant and name
	for _, c := range t.Callers(s.Name()) {
		for _, g := range c.Grants() {
			want[c.Tenant().Name()+"/"+g.Name] = g
		}
	}
	callers := w.callers(t, s)
	for _, e := range got {
		g, ok := want[e.GetTenant()+"/"+e.GetName()]
		if !ok {
			return at("services", "%s: nobody gave Grant %s to %s", s.Name(), clip(e.GetName()), clip(e.GetTenant()))
		}
		delete(want, e.GetTenant()+"/"+e.GetName())
		i := slices.IndexFunc(callers, func(c caller) bool { return c.t.ID().Name() == e.GetTenant() })
		switch {
		case i < 1:
			return at("services", "%s: %s does not have the service", s.Name(), clip(e.GetTenant()))
		case !sameSet(e.GetFrom(), callers[i].ids):
			return at("services", "%s: Grant %s is for %s", s.Name(), e.GetName(), list(e.GetFrom()))
		case !slices.Equal(e.GetMethods(), g.Methods) || !slices.Equal(e.GetPaths(), g.Paths) || e.GetNotAfter() != g.NotAfter.Unix():
			return at("services", "%s: Grant %s is not as it was written", s.Name(), e.GetName())
		}
	}
	for missing := range want {
		return at("services", "%s: Grant %s is missing", s.Name(), missing)
	}
	return nil
}

// tableBundles: the roots of the tenant and of those who may call, and no other's.
func (w *world) tableBundles(m *agentv1alpha1.Table, tenants map[identity.TenantID]bool) error {
	allowed := map[string]identity.Bundle{}
	for id := range tenants {
		allowed[id.TrustDomain().String()] = w.bundles[id.TrustDomain()]
	}
	for _, e := range m.GetBundles() {
		want, ok := allowed[e.GetTrustDomain()]
		if !ok {
			return at("bundles", "the roots of %s have no business here", clip(e.GetTrustDomain()))
		}
		b, err := identity.NewBundle(want.TrustDomain(), e.GetRoots()...)
		if err != nil {
			return fmt.Errorf("bundles: %w", err)
		}
		if b.Digest() != want.Digest() {
			return at("bundles", "not the roots of %s", want.TrustDomain())
		}
		delete(allowed, e.GetTrustDomain())
	}
	for missing := range allowed {
		return at("bundles", "the roots of %s are missing", missing)
	}
	return nil
}

// tableIssuers: an issuer asserts a caller's tenant only if that tenant's own handle says that it may.
func (w *world) tableIssuers(m *agentv1alpha1.Table, tenants map[identity.TenantID]bool) error {
	for _, e := range m.GetIssuers() {
		for _, tenant := range e.GetTenants() {
			ok := false
			for id := range tenants {
				if id.Name() != tenant {
					continue
				}
				ok = slices.ContainsFunc(w.tenants[id].Issuers(), func(i identity.TokenIssuer) bool { return sameIssuer(i.Config(), e) })
			}
			if !ok {
				return at("issuers", "%s may not assert %s, or not so", clip(e.GetName()), clip(tenant))
			}
		}
	}
	return nil
}

func sameIssuer(c identity.TokenIssuerConfig, e *agentv1alpha1.TokenIssuer) bool {
	format := map[identity.TokenFormat]agentv1alpha1.TokenFormat{
		identity.FormatJWT:  agentv1alpha1.TokenFormat_TOKEN_FORMAT_JWT,
		identity.FormatSVID: agentv1alpha1.TokenFormat_TOKEN_FORMAT_SVID,
	}
	want, known := format[c.Format]
	return known && want == e.GetFormat() &&
		c.Name == e.GetName() && c.Issuer == e.GetIssuer() && slices.Equal(c.Audiences, e.GetAudiences()) &&
		c.TenantClaim == e.GetTenantClaim() && c.RolesClaim == e.GetRolesClaim() &&
		int64(c.MaxLifetime/time.Second) == e.GetMaxLifetimeSeconds() && bytes.Equal(c.JWKS, e.GetJwks())
}

// tableRevocations: every revocation of every tenant that may call, word for word, and no other. Those of tokens are there
// only where a service reads tokens.
func (w *world) tableRevocations(m *agentv1alpha1.Table, tenants map[identity.TenantID]bool, tokens bool) error {
	type revocation struct {
		name, tenant, workload, serial, issuer, jti, subject, session string
		until                                                         int64
	}
	want := map[revocation]int{}
	for id := range tenants {
		for _, r := range w.tenants[id].Revocations() {
			if tokens || !r.Workload.IsZero() || r.Serial != "" {
				want[revocation{
					r.Name, id.Name(), r.Workload.String(), r.Serial, r.Issuer, r.JTI, r.Subject, r.Session, r.NotAfter.Unix(),
				}]++
			}
		}
	}
	for _, e := range m.GetRevocations() {
		k := revocation{
			e.GetName(), e.GetTenant(), e.GetWorkload(), e.GetSerial(), e.GetIssuer(), e.GetJti(),
			e.GetSubject(), e.GetSession(), e.GetNotAfter(),
		}
		if want[k] == 0 {
			return at("revocations", "nobody wrote revocation %s as it is here", clip(e.GetName()))
		}
		if want[k]--; want[k] == 0 {
			delete(want, k)
		}
	}
	for missing := range want {
		return at("revocations", "revocation %s is missing", missing.name)
	}
	return nil
}
