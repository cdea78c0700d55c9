package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ControlPlaneNamespace is the namespace of the platform that Ringfence's own processes run in. No document may name it.
const ControlPlaneNamespace = "ringfence-system"

const controlPlaneAccount = "control-plane"

const (
	varTenant    = "{tenant}"
	varNamespace = "{namespace}"
	varAccount   = "{serviceAccount}"
)

// platformPath is how the platform's own identities are written, whatever the rules say of tenants.
var platformPath = []string{"ns", varNamespace, "sa", varAccount}

// MappingRule says how a SPIFFE ID names a tenant. In TrustDomain one label may be "{tenant}"; in Path whole segments may
// be "{tenant}", "{namespace}" and "{serviceAccount}". Exactly one of the two holds {tenant}.
type MappingRule struct{ TrustDomain, Path string }

// Mapping reads a SPIFFE ID as a workload of a tenant, by the Mesh's rules. It is immutable; the zero value maps nothing.
type Mapping struct{ m *mapping }

type mapping struct {
	platform TrustDomain
	source   []MappingRule
	rules    []rule
}

type rule struct {
	domain []string // labels, one of them possibly {tenant}
	path   []string // segments
}

// NewMapping compiles the rules. platform is the trust domain of the platform's own identities, which are always
// /ns/{namespace}/sa/{serviceAccount} and which no rule can name otherwise.
func NewMapping(platform TrustDomain, rules []MappingRule) (Mapping, error) {
	if platform.IsZero() {
		return Mapping{}, fmt.Errorf("%w: the mesh names no platform trust domain", ErrInvalidID)
	}
	if len(rules) == 0 {
		return Mapping{}, errors.New("no rule says how a SPIFFE ID names a tenant")
	}
	m := &mapping{platform: platform, source: slices.Clone(rules)}
	for i, r := range rules {
		compiled, err := compileRule(r)
		if err != nil {
			return Mapping{}, fmt.Errorf("rule %d: %w", i+1, err)
		}
		m.rules = append(m.rules, compiled)
	}
	return Mapping{m: m}, nil
}

func compileRule(r MappingRule) (rule, error) {
	c := rule{domain: strings.Split(r.TrustDomain, ".")}
	seen := map[string]int{}
	for _, label := range c.domain {
		switch {
		case label == varTenant:
			seen[label]++
		case !ValidName(label):
			return rule{}, fmt.Errorf("trustDomain %q: each label is a name or %s", clip(r.TrustDomain), varTenant)
		}
	}
	path, ok := strings.CutPrefix(r.Path, "/")
	if !ok {
		return rule{}, fmt.Errorf("path %q does not start with a slash", clip(r.Path))
	}
	c.path = strings.Split(path, "/")
	for _, segment := range c.path {
		switch {
		case segment == varTenant, segment == varNamespace, segment == varAccount:
			seen[segment]++
		case !validSegment(segment):
			return rule{}, fmt.Errorf("path %q: each segment is plain text or one of %s, %s, %s", clip(r.Path), varTenant, varNamespace, varAccount)
		}
	}
	switch {
	case seen[varTenant] != 1:
		return rule{}, fmt.Errorf("%s must stand once in trustDomain or path", varTenant)
	case seen[varAccount] != 1:
		return rule{}, fmt.Errorf("%s must stand once in the path", varAccount)
	case seen[varNamespace] > 1:
		return rule{}, fmt.Errorf("%s may stand only once in the path", varNamespace)
	}
	return c, nil
}

// IsZero reports whether the mapping maps nothing.
func (m Mapping) IsZero() bool { return m.m == nil }

// Platform is the trust domain of the platform's own identities.
func (m Mapping) Platform() TrustDomain {
	if m.m == nil {
		return TrustDomain{}
	}
	return m.m.platform
}

// Rules are the rules as they were given, in order.
func (m Mapping) Rules() []MappingRule {
	if m.m == nil {
		return nil
	}
	return slices.Clone(m.m.source)
}

// Parse reads the raw bytes of a URI SAN. The first rule that matches says the tenant; where none matches the error is
// ErrUnmapped, where the bytes are no SPIFFE ID of the accepted form it is ErrInvalidID.
func (m Mapping) Parse(uri string) (WorkloadID, error) {
	td, segments, err := splitID(uri)
	if err != nil {
		return WorkloadID{}, err
	}
	if m.m == nil {
		return WorkloadID{}, ErrUnmapped
	}
	vars, ok := m.m.match(td, segments)
	if !ok || (vars.tenant == PlatformName) != (td == m.m.platform) {
		return WorkloadID{}, fmt.Errorf("%w: %s", ErrUnmapped, clip(uri))
	}
	t := TenantID{name: vars.tenant, td: td, platform: td == m.m.platform}
	return WorkloadID{tenant: t, namespace: vars.namespace, account: vars.account, uri: uri}, nil
}

func (m *mapping) match(td TrustDomain, segments []string) (bindings, bool) {
	if td == m.platform {
		b := bindings{tenant: PlatformName}
		return b, b.match(platformPath, segments)
	}
	labels := strings.Split(td.name, ".")
	for _, r := range m.rules {
		var b bindings
		if b.match(r.domain, labels) && b.match(r.path, segments) {
			return b, true
		}
	}
	return bindings{}, false
}

// bindings are the values that a rule's variables took.
type bindings struct{ tenant, namespace, account string }

func (b *bindings) match(pattern, parts []string) bool {
	if len(pattern) != len(parts) {
		return false
	}
	for i, p := range pattern {
		var slot *string
		switch p {
		case varTenant:
			slot = &b.tenant
		case varNamespace:
			slot = &b.namespace
		case varAccount:
			slot = &b.account
		default:
			if p != parts[i] {
				return false
			}
			continue
		}
		if !ValidName(parts[i]) {
			return false
		}
		*slot = parts[i]
	}
	return true
}

func (b *bindings) render(pattern []string, sep string) string {
	parts := make([]string, len(pattern))
	for i, p := range pattern {
		switch p {
		case varTenant:
			parts[i] = b.tenant
		case varNamespace:
			parts[i] = b.namespace
		case varAccount:
			parts[i] = b.account
		default:
			parts[i] = p
		}
	}
	return strings.Join(parts, sep)
}

// TenantID is the tenant of that name, in the trust domain that the first rule gives it; "platform" is the reserved owner.
func (m Mapping) TenantID(name string) (TenantID, error) {
	if m.m == nil {
		return TenantID{}, ErrUnmapped
	}
	if name == PlatformName {
		return PlatformID(m.m.platform)
	}
	b := bindings{tenant: name}
	td, err := ParseTrustDomain(b.render(m.m.rules[0].domain, "."))
	if err != nil {
		return TenantID{}, err
	}
	if td == m.m.platform {
		return TenantID{}, fmt.Errorf("%w: tenant %q would live in the platform's trust domain", ErrInvalidID, clip(name))
	}
	return ParseTenantID(name, td)
}

// ID is the workload of that tenant, namespace and account, by the first rule. It fails where Parse would read the same
// text otherwise, so ID and Parse never disagree.
func (m Mapping) ID(t TenantID, namespace, account string) (WorkloadID, error) {
	if m.m == nil {
		return WorkloadID{}, ErrUnmapped
	}
	b := bindings{tenant: t.name, namespace: namespace, account: account}
	path := platformPath
	if !t.platform {
		path = m.m.rules[0].path
	}
	w, err := m.Parse(scheme + t.td.name + "/" + b.render(path, "/"))
	if err != nil {
		return WorkloadID{}, err
	}
	sameNamespace := w.namespace == namespace || !slices.Contains(path, varNamespace)
	if !w.tenant.Same(t) || !sameNamespace || w.account != account {
		return WorkloadID{}, fmt.Errorf("%w: the rules of the mesh read %s as another workload", ErrUnmapped, w.uri)
	}
	return w, nil
}

// ControlPlaneID is the identity of the control plane: the platform's, in the reserved namespace.
func (m Mapping) ControlPlaneID() (WorkloadID, error) {
	t, err := m.TenantID(PlatformName)
	if err != nil {
		return WorkloadID{}, err
	}
	return m.ID(t, ControlPlaneNamespace, controlPlaneAccount)
}
