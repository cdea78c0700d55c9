package prove

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// ErrRefused says that an agent must not relay a resource to its Envoy, nor decide by it.
var ErrRefused = errors.New("refused")

// Relayed judges one resource that an agent received, before anything uses it. The agent has no Model; what it knows for
// itself is its own workload, the mapping of the mesh, and roots that it got another way than over this stream (pinned:
// its own trust domain's at enrolment, the platform's at its start; none is allowed).
//
// The resource must pass the linter, and everything in it must be the workload's own tenant's: callers, destinations,
// roots, names. Of the platform, an ordinary tenant may call shared services; only the platform's own workloads may have
// callers of other tenants. So a hostile control plane can cut a sidecar off, but cannot make it trust another tenant's
// identities or call another tenant's services. Addresses are not judged: TLS is pinned to the identities.
//
// It takes any resource: Envoy's five types and the workload's Table. The error wraps ErrRefused.
func Relayed(w identity.WorkloadID, mapping identity.Mapping, pinned identity.Bundles, r xds.Resource) error {
	if w.IsZero() || mapping.IsZero() {
		return fmt.Errorf("%w: nobody to relay to", ErrRefused)
	}
	v := relay{w: w, own: w.Tenant(), mapping: mapping, pinned: pinned}
	if err := v.resource(r); err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrRefused, clip(r.TypeURL()), clip(r.Name()), err)
	}
	return nil
}

type relay struct {
	w       identity.WorkloadID
	own     identity.TenantID
	mapping identity.Mapping
	pinned  identity.Bundles
}

var errForeign = errors.New("of another tenant")

func (v relay) resource(r xds.Resource) error {
	if r.TypeURL() == xds.TableType {
		return v.table(r)
	}
	if findings := filters.Lint(r.TypeURL(), r.Name(), r.Value(), filters.Scope{Tenant: v.own}); len(findings) > 0 {
		return fmt.Errorf("%s [%s] (%d findings)", findings[0].Text, findings[0].Setting, len(findings))
	}
	return v.owned(r)
}

// owned refuses what is another tenant's. The linter has judged the shape; what it should have found must be refused here, too.
func (v relay) owned(r xds.Resource) error {
	switch r.TypeURL() {
	case xds.ListenerType:
		return v.listener(r)
	case xds.RouteType:
		return v.routes(r)
	case xds.ClusterType:
		return v.cluster(r)
	case xds.SecretType:
		return v.secret(r)
	default:
		// Endpoints: their cluster is linted to be the tenant's own, and pinned to identities.
		return nil
	}
}

// caller is the tenant of that name, if it may call services of this workload's tenant at all.
func (v relay) caller(name string) (identity.TenantID, error) {
	id, err := v.mapping.TenantID(name)
	if err != nil {
		return identity.TenantID{}, fmt.Errorf("caller %q: %w", clip(name), err)
	}
	if !id.Same(v.own) && !v.own.IsPlatform() {
		return identity.TenantID{}, fmt.Errorf("caller %s: %w", id, errForeign)
	}
	return id, nil
}

func (v relay) listener(r xds.Resource) error {
	f, err := readListener(r)
	if err != nil {
		return err
	}
	if kind, _, _ := nameOf(r.Name()); kind == tenancy.KindOutbound || kind == tenancy.KindTCP {
		return nil // linted: on loopback, with routes of this tenant, or to a cluster of its own; clusters are judged by themselves
	}
	for _, c := range f.chains {
		_, _, name := nameOf(c.routes)
		caller, err := v.caller(name)
		if err != nil {
			return err
		}
		if c.tcp.cluster != "" {
			continue // linted: verified by the secret of its own name, which is judged by the same name
		}
		if c.bundle != caller.TrustDomain().ID() {
			return fmt.Errorf("chain for %s trusts %q: %w", caller, clip(c.bundle), errForeign)
		}
	}
	return nil
}

func (v relay) routes(r xds.Resource) error {
	kind, _, name := nameOf(r.Name())
	if kind == tenancy.KindRoutes {
		return v.hosts(r)
	}
	caller, err := v.caller(name)
	if err != nil {
		return err
	}
	f, err := readCallers(r)
	if err != nil {
		return err
	}
	return v.all(f.principals, caller)
}

// all refuses an identity that is not the tenant's.
func (v relay) all(ids []string, of identity.TenantID) error {
	for _, id := range ids {
		w, err := v.mapping.Parse(id)
		if err != nil {
			return err
		}
		if !w.Tenant().Same(of) {
			return fmt.Errorf("%s is not of %s: %w", w, of, errForeign)
		}
	}
	return nil
}

// allOrNobody is all for a list that names nobody in place of none.
func (v relay) allOrNobody(ids []string, of identity.TenantID) error {
	if slices.Equal(ids, []string{nobody}) {
		return nil
	}
	return v.all(ids, of)
}

// hosts refuses names that are not those of the service behind them: the outbound proxy is for the mesh alone.
func (v relay) hosts(r xds.Resource) error {
	hosts, err := readHosts(r)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.cluster == "" {
			continue
		}
		kind, service, _ := nameOf(h.cluster)
		owner, err := v.destination(kind)
		if err != nil {
			return err
		}
		for _, host := range h.hosts {
			if !hostOf(host, service, owner.Name()) {
				return fmt.Errorf("host %q is no name of %s/%s", clip(host), owner, service)
			}
		}
	}
	return nil
}

// destination is the owner of the services that clusters of this kind lead to.
func (v relay) destination(kind tenancy.Kind) (identity.TenantID, error) {
	switch {
	case kind == tenancy.KindService:
		return v.own, nil
	case kind == tenancy.KindImport && !v.own.IsPlatform():
		return v.mapping.TenantID(identity.PlatformName)
	default:
		return identity.TenantID{}, fmt.Errorf("a cluster of kind %q does not belong here", kind)
	}
}

func (v relay) cluster(r xds.Resource) error {
	kind, _, _ := nameOf(r.Name())
	if kind == tenancy.KindApp {
		return nil // linted: on loopback
	}
	owner, err := v.destination(kind)
	if err != nil {
		return err
	}
	f, err := readCluster(r)
	if err != nil {
		return err
	}
	if f.bundle != owner.TrustDomain().ID() {
		return fmt.Errorf("a service of %s is verified by %q: %w", owner, clip(f.bundle), errForeign)
	}
	return v.allOrNobody(f.sans, owner)
}

func (v relay) secret(r xds.Resource) error {
	pem, callers, err := readSecret(r)
	if err != nil {
		return err
	}
	if kind, _, name := nameOf(r.Name()); kind == tenancy.KindCallers {
		return v.callersSecret(name, pem, callers)
	}
	for _, td := range v.domains() {
		if td.ID() == r.Name() {
			return v.roots(td, func() (identity.Bundle, error) { return identity.ParseBundlePEM(td, pem) })
		}
	}
	if !v.own.IsPlatform() {
		return fmt.Errorf("roots: %w", errForeign)
	}
	td, err := identity.ParseTrustDomain(strings.TrimPrefix(r.Name(), "spiffe://"))
	if err != nil {
		return err
	}
	return v.roots(td, func() (identity.Bundle, error) { return identity.ParseBundlePEM(td, pem) })
}

// callersSecret refuses roots and identities that are not the caller's whose chain the secret is for.
func (v relay) callersSecret(name string, pem []byte, ids []string) error {
	caller, err := v.caller(name)
	if err != nil {
		return err
	}
	td := caller.TrustDomain()
	if err := v.roots(td, func() (identity.Bundle, error) { return identity.ParseBundlePEM(td, pem) }); err != nil {
		return err
	}
	return v.allOrNobody(ids, caller)
}

// domains are the trust domains that any workload may have to do with: its own and the platform's.
func (v relay) domains() []identity.TrustDomain {
	return []identity.TrustDomain{v.own.TrustDomain(), v.mapping.Platform()}
}

// roots refuses roots that are neither pinned by the agent nor successors of those, and roots that are made for another trust
// domain.
func (v relay) roots(td identity.TrustDomain, parse func() (identity.Bundle, error)) error {
	b, err := parse()
	if err != nil {
		return err
	}
	if pin, ok := v.pinned.Get(td); ok && !b.Continues(pin) {
		return fmt.Errorf("the roots of %s are not those that this agent knows, nor signed by them as their successors", td)
	}
	return ofDomain(b)
}

// table refuses a Table that is not this workload's, that reads identities otherwise than the agent does, or that trusts
// roots which the workload's callers do not have. That rules, Grants and token issuers name the right tenants only is package
// authz's to say, which reads every Table so.
func (v relay) table(r xds.Resource) error {
	t, err := authz.DecodeTable(r.Value())
	if err != nil {
		return err
	}
	var m agentv1alpha1.Table
	if err := proto.Unmarshal(r.Value(), &m); err != nil {
		return err
	}
	if w, _ := t.Workload(); !w.Same(v.w) || r.Name() != v.w.String() {
		return errors.New("the table is another workload's")
	}
	if m.GetPlatformTrustDomain() != v.mapping.Platform().String() || !slices.Equal(rulesOf(&m), v.mapping.Rules()) {
		return errors.New("the table reads SPIFFE IDs otherwise than this mesh")
	}
	for _, b := range m.GetBundles() {
		td, err := identity.ParseTrustDomain(b.GetTrustDomain())
		if err != nil {
			return err
		}
		if td != v.own.TrustDomain() && !v.own.IsPlatform() {
			return fmt.Errorf("roots of %s: %w", td, errForeign)
		}
		if err := v.roots(td, func() (identity.Bundle, error) { return identity.NewBundle(td, b.GetRoots()...) }); err != nil {
			return err
		}
	}
	return nil
}

func rulesOf(m *agentv1alpha1.Table) []identity.MappingRule {
	rules := make([]identity.MappingRule, 0, len(m.GetMapping()))
	for _, r := range m.GetMapping() {
		rules = append(rules, identity.MappingRule{TrustDomain: r.GetTrustDomain(), Path: r.GetPath()})
	}
	return rules
}

const maxTextBytes = 80

// clip shortens hostile text.
func clip(s string) string {
	if len(s) > maxTextBytes {
		return s[:maxTextBytes] + "…"
	}
	return s
}
