package authz

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// maxTable is the largest encoded Table that is read.
const maxTable = 16 << 20

// For encodes what the agent of one workload of the tenant needs: the services that the workload runs, and of bundles,
// token issuers and revocations those that these services need. snapshotVersion is the version of the xDS snapshot that goes with it. Same
// input, same bytes.
func (t *Table) For(w identity.WorkloadID, snapshotVersion string) ([]byte, error) {
	if !w.Tenant().Same(t.tenant) {
		return nil, fmt.Errorf("%s is no workload of %s", w, t.tenant)
	}
	m := &agentv1alpha1.Table{
		Workload: w.String(), SnapshotVersion: snapshotVersion, Tenant: t.message.GetTenant(),
		PlatformTrustDomain: t.message.GetPlatformTrustDomain(), Mapping: t.message.GetMapping(),
	}
	domains, tenants, tokens := map[string]bool{t.tenant.TrustDomain().String(): true}, map[string]bool{t.tenant.Name(): true}, false
	for _, s := range t.message.GetServices() {
		ref, _ := t.Service(t.tenant.Name(), s.GetName())
		if !ref.RunBy(w) {
			continue
		}
		m.Services = append(m.Services, s)
		tokens = tokens || ref.ReadsToken()
		for caller := range ref.s.grants {
			domains[caller.TrustDomain().String()], tenants[caller.Name()] = true, true
		}
	}
	for _, b := range t.message.GetBundles() {
		if domains[b.GetTrustDomain()] {
			m.Bundles = append(m.Bundles, b)
		}
	}
	for _, i := range t.message.GetIssuers() {
		if i = narrow(i, tenants); tokens && len(i.GetTenants()) > 0 {
			m.Issuers = append(m.Issuers, i)
		}
	}
	for _, r := range t.message.GetRevocations() {
		if tenants[r.GetTenant()] && (tokens || !ofToken(r)) {
			m.Revocations = append(m.Revocations, r)
		}
	}
	return marshal(m)
}

// narrow is the issuer with those of its tenants that are in the set.
func narrow(i *agentv1alpha1.TokenIssuer, tenants map[string]bool) *agentv1alpha1.TokenIssuer {
	return &agentv1alpha1.TokenIssuer{
		Name: i.GetName(), Issuer: i.GetIssuer(), Audiences: i.GetAudiences(),
		TenantClaim: i.GetTenantClaim(), RolesClaim: i.GetRolesClaim(),
		MaxLifetimeSeconds: i.GetMaxLifetimeSeconds(), Jwks: i.GetJwks(), Format: i.GetFormat(),
		Tenants: slices.DeleteFunc(slices.Clone(i.GetTenants()), func(name string) bool { return !tenants[name] }),
	}
}

// DecodeTable reads what For has written, and believes none of it: unknown fields, names outside their grammar, another
// tenant's workload in a rule, a Grant that is not the platform's to give and a service that the workload does not run are
// errors.
func DecodeTable(data []byte) (*Table, error) {
	if len(data) > maxTable {
		return nil, fmt.Errorf("table: more than %d bytes", maxTable)
	}
	m := &agentv1alpha1.Table{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	switch {
	case !known(m.ProtoReflect()):
		return nil, errors.New("table: it holds fields that this version does not know")
	case m.GetWorkload() == "" || !printable(m.GetSnapshotVersion()):
		return nil, errors.New("table: it names no workload or no snapshot")
	}
	t, err := finish(m)
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	return t, nil
}

func marshal(m *agentv1alpha1.Table) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// known reports whether the message and all below it hold nothing but known fields: a rule that an older agent does not
// understand must stop it, not be dropped.
func known(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return false
	}
	ok := true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case !f.IsList():
			ok = known(v.Message())
		default:
			for i := range v.List().Len() {
				ok = ok && known(v.List().Get(i).Message())
			}
		}
		return ok
	})
	return ok
}
