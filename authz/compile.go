package authz

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Compile makes the Table of all of the tenant's services that can be called. It goes through the encoded form, so that
// what an agent decodes and what is decided here are made by the same code.
func Compile(t tenancy.Tenant) (*Table, error) {
	if t.ID().IsZero() {
		return nil, errors.New("no tenant")
	}
	e := encoder{
		message: &agentv1alpha1.Table{Tenant: t.ID().Name(), PlatformTrustDomain: t.Mapping().Platform().String()},
		issuers: map[string]*agentv1alpha1.TokenIssuer{},
		domains: map[identity.TrustDomain]bool{},
		revoked: map[identity.TenantID]bool{},
	}
	for _, r := range t.Mapping().Rules() {
		e.message.Mapping = append(e.message.Mapping, &agentv1alpha1.MappingRule{TrustDomain: r.TrustDomain, Path: r.Path})
	}
	if err := e.trust(t.Bundle(), t.Issuers()); err != nil {
		return nil, fmt.Errorf("%s: %w", t.ID(), err)
	}
	e.revoke(t.ID(), t.Revocations())
	for _, s := range t.Services() {
		if port, called := s.Port(); called {
			if err := e.service(t, s, port.Name); err != nil {
				return nil, fmt.Errorf("%s/%s: %w", t.ID(), s.Name(), err)
			}
		}
	}
	table, err := finish(e.message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.ID(), err)
	}
	if err := table.addAskers(t); err != nil {
		return nil, fmt.Errorf("%s: %w", t.ID(), err)
	}
	return table, nil
}

type encoder struct {
	message *agentv1alpha1.Table
	issuers map[string]*agentv1alpha1.TokenIssuer
	domains map[identity.TrustDomain]bool
	revoked map[identity.TenantID]bool // whose revocations are there
}

func (e *encoder) service(t tenancy.Tenant, s tenancy.Service, port string) error {
	m := &agentv1alpha1.Service{
		Name: s.Name(), Port: port, ForwardToken: s.ForwardToken(), Accounts: texts(s.IDs()),
		Sensitivity: encodeSensitivity(s.Sensitivity()), Routes: encodeRoutes(s.Routes()),
	}
	if p, _ := s.Port(); p.Protocol == tenancy.TCP {
		m.TcpPort = uint32(s.Endpoints()[0].Port()) // of which there is one: several endpoints have one port
	}
	switch s.Token() {
	case tenancy.TokenNone:
		m.Token = agentv1alpha1.TokenMode_TOKEN_MODE_NONE
	case tenancy.TokenOptional:
		m.Token = agentv1alpha1.TokenMode_TOKEN_MODE_OPTIONAL
	case tenancy.TokenRequired:
		m.Token = agentv1alpha1.TokenMode_TOKEN_MODE_REQUIRED
	default:
		return errors.New("unknown token mode")
	}
	for _, r := range t.Rules(s.Name()) {
		m.Rules = append(m.Rules, &agentv1alpha1.Rule{
			Name: r.Policy + "/" + r.Name, Position: r.Pos, From: texts(r.From), Roles: r.Roles, Methods: r.Methods, Paths: r.Paths,
		})
	}
	for _, c := range t.Callers(s.Name()) {
		if err := e.trust(c.Bundle(), c.Issuers()); err != nil {
			return err
		}
		e.revoke(c.Tenant(), c.Revocations())
		for _, g := range c.Grants() {
			m.Grants = append(m.Grants, &agentv1alpha1.Grant{
				Name: g.Name, Tenant: c.Tenant().Name(), From: texts(c.IDs()),
				Methods: g.Methods, Paths: g.Paths, NotAfter: g.NotAfter.Unix(),
			})
		}
	}
	e.message.Services = append(e.message.Services, m)
	return nil
}

// revoke adds a tenant's revocations, once for all services.
func (e *encoder) revoke(of identity.TenantID, list []tenancy.Revocation) {
	if e.revoked[of] {
		return
	}
	e.revoked[of] = true
	for _, r := range list {
		e.message.Revocations = append(e.message.Revocations, encodeRevocation(of, r))
	}
}

// trust adds what proves a caller and its tokens. An issuer that speaks for several callers stands once, so that a token
// is verified once.
func (e *encoder) trust(b identity.Bundle, issuers []identity.TokenIssuer) error {
	if !e.domains[b.TrustDomain()] && !b.IsZero() {
		e.domains[b.TrustDomain()] = true
		e.message.Bundles = append(e.message.Bundles, &agentv1alpha1.Bundle{TrustDomain: b.TrustDomain().String(), Roots: b.DER()})
	}
	for _, i := range issuers {
		c := i.Config()
		m, seen := e.issuers[c.Name]
		if !seen {
			m = &agentv1alpha1.TokenIssuer{
				Name: c.Name, Issuer: c.Issuer, Audiences: c.Audiences, TenantClaim: c.TenantClaim, RolesClaim: c.RolesClaim,
				MaxLifetimeSeconds: int64(c.MaxLifetime / time.Second), Jwks: c.JWKS, Format: formats[c.Format],
			}
			e.issuers[c.Name] = m
			e.message.Issuers = append(e.message.Issuers, m)
		}
		if m.GetIssuer() != c.Issuer || !bytes.Equal(m.GetJwks(), c.JWKS) {
			return fmt.Errorf("two token issuers are called %q", c.Name)
		}
		for _, tenant := range c.Tenants {
			if !slices.Contains(m.GetTenants(), tenant.Name()) {
				m.Tenants = append(m.GetTenants(), tenant.Name())
			}
		}
	}
	return nil
}

var formats = map[identity.TokenFormat]agentv1alpha1.TokenFormat{
	identity.FormatJWT:  agentv1alpha1.TokenFormat_TOKEN_FORMAT_JWT,
	identity.FormatSVID: agentv1alpha1.TokenFormat_TOKEN_FORMAT_SVID,
}

func texts(ids []identity.WorkloadID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
