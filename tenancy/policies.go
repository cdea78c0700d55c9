package tenancy

import (
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// readPolicies drafts the rules of every owner's services.
func (b *builder) readPolicies() {
	for _, doc := range ofKind[*v1alpha1.AccessPolicy](b, "") {
		if broken(doc) {
			continue
		}
		owner := doc.Head().Owner()
		d := b.draft[owner]
		s := b.ownService(d, owner, doc.Spec.Service, "a policy")
		if s != nil && !s.broken && s.port.Number == 0 {
			b.reportAt(doc.Spec.Service.Pos, v1alpha1.CodeNoPorts, "",
				"service %s has no ports, so nobody calls it", v1alpha1.Quote(doc.Spec.Service.Value))
		}
		names := make([]v1alpha1.String, len(doc.Spec.Rules))
		for i, r := range doc.Spec.Rules {
			names[i] = r.Name
			b.name(r.Name, "the name of a rule")
			if d.ruled > maxRuleBytes {
				continue // reported
			}
			rule := Rule{Name: r.Name.Value, Policy: doc.Metadata.Name.Value, Pos: r.Pos.String()}
			rule.From = b.from(d, owner, r.From)
			rule.Askers = b.ruleAskers(s, owner, r.From.Askers)
			rule.Roles = b.roles(s, r.From.Roles)
			rule.Methods, rule.Paths = b.to(s, r.Pos, r.To)
			if d.ruled += rule.bytes(); d.ruled > maxRuleBytes {
				b.reportAt(r.Pos, v1alpha1.CodeTooMuch, "", "with this rule the rules and their callers are more than %d MiB", maxRuleBytes>>20)
				continue
			}
			d.rules[doc.Spec.Service.Value] = append(d.rules[doc.Spec.Service.Value], rule)
		}
		b.unique(names, "rule")
	}
}

// bytes is about what the rule comes to in a table.
func (r Rule) bytes() int {
	n := len(r.Name) + len(r.Policy) + len(r.Pos)
	for _, id := range r.From {
		n += len(id.String())
	}
	for _, texts := range [][]string{r.Askers, r.Roles, r.Methods, r.Paths} {
		for _, t := range texts {
			n += len(t)
		}
	}
	return n
}

// from are the workloads that a rule names: those of the services, or all of the owner's where the rule names nobody.
func (b *builder) from(d *draft, owner string, from v1alpha1.From) []identity.WorkloadID {
	b.unique(from.Services, "service")
	var ids []identity.WorkloadID
	if len(from.Services) == 0 && len(from.Askers) == 0 {
		for _, s := range d.services {
			ids = append(ids, s.ids...)
		}
		return sortIDs(ids)
	}
	for _, name := range from.Services {
		if s := b.ownService(d, owner, name, "a rule"); s != nil {
			ids = append(ids, s.ids...)
		}
	}
	return sortIDs(ids)
}

// ruleAskers are the askers that a rule names. A tenant learns of no asker but those of its own service, and a name that is
// none of them is a warning, because the Mesh is not the tenant's.
func (b *builder) ruleAskers(s *draftService, owner string, names []v1alpha1.String) []string {
	b.unique(names, "asker")
	if len(names) == 0 || s == nil || s.broken {
		return values(names)
	}
	switch {
	case s.token != TokenNone:
	case s.port.Protocol == TCP:
		b.reportAt(names[0].Pos, v1alpha1.CodeNotOfTCP, "remove askers", "service %s speaks TCP: a connection carries no token, and an asker's callers have nothing else", v1alpha1.Quote(s.name))
	default:
		b.reportAt(names[0].Pos, v1alpha1.CodeRolesWithoutToken, "set token: optional or required on the Service",
			"service %s reads no tokens, and an asker's callers have nothing else", v1alpha1.Quote(s.name))
	}
	var known []string
	for _, a := range b.askers {
		if a.from == FromToken && slices.Contains(a.services[owner], s.name) {
			known = append(known, a.name)
		}
	}
	for _, n := range names {
		if b.name(n, "an asker") && !slices.Contains(known, n.Value) {
			b.warnAt(n.Pos, v1alpha1.CodeIdleRule, v1alpha1.Suggest(n.Value, known),
				"no asker %s with identityFrom: token may ask about service %s", v1alpha1.Quote(n.Value), v1alpha1.Quote(s.name))
		}
	}
	return values(names)
}

func (b *builder) roles(s *draftService, roles []v1alpha1.String) []string {
	b.unique(roles, "role")
	for _, r := range roles {
		b.name(r, "a role")
	}
	switch {
	case len(roles) == 0 || s == nil || s.broken || s.token != TokenNone:
	case s.port.Protocol == TCP:
		b.reportAt(roles[0].Pos, v1alpha1.CodeNotOfTCP, "remove roles", "service %s speaks TCP: a connection carries no token, so it has no role", v1alpha1.Quote(s.name))
	default:
		b.reportAt(roles[0].Pos, v1alpha1.CodeRolesWithoutToken, "set token: optional or required on the Service",
			"service %s reads no tokens, so no call has a role", v1alpha1.Quote(s.name))
	}
	return values(roles)
}

// ownService finds a service of the owner by the name that a document of the owner uses. What is not the owner's gets the
// same answer whether it exists or not, so that nobody learns of others by naming them.
func (b *builder) ownService(d *draft, owner string, name v1alpha1.String, who string) *draftService {
	if s, ok := d.services[name.Value]; ok {
		return s
	}
	tenant, service, qualified := strings.Cut(name.Value, "/")
	switch {
	case qualified && tenant == owner:
		b.reportAt(name.Pos, v1alpha1.CodeBadName, v1alpha1.Suggest(service, keys(d.services)), "%s names services of its own owner, without a tenant before them", who)
	case qualified && tenant == v1alpha1.PlatformOwner && who == "a rule":
		b.reportAt(name.Pos, v1alpha1.CodeNotYet, "", "calls from a shared service into a tenant are not built yet")
	case qualified:
		b.reportAt(name.Pos, v1alpha1.CodeNotYours, "", "%s can only name services of its own owner, not %s", who, v1alpha1.Quote(name.Value))
	case !identity.ValidName(name.Value):
		b.name(name, "a service")
	default:
		b.reportAt(name.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name.Value, keys(d.services)),
			"there is no service %s", v1alpha1.Quote(name.Value))
	}
	return nil
}

// readGrants drafts what tenants may ask of shared services.
func (b *builder) readGrants() {
	platform := b.draft[v1alpha1.PlatformOwner]
	for _, doc := range ofKind[*v1alpha1.Grant](b, v1alpha1.PlatformOwner) {
		if broken(doc) {
			continue
		}
		s := b.ownService(platform, v1alpha1.PlatformOwner, doc.Spec.Service, "a grant")
		if s != nil && !s.broken && s.port.Number == 0 {
			b.reportAt(doc.Spec.Service.Pos, v1alpha1.CodeNoPorts, "",
				"service %s has no ports, so nobody calls it", v1alpha1.Quote(doc.Spec.Service.Value))
		}
		grant := Grant{Name: doc.Metadata.Name.Value, NotAfter: doc.Spec.NotAfter.Value}
		grant.Methods, grant.Paths = b.to(s, doc.Spec.Pos, doc.Spec.To)
		if t := b.tenant(doc.Spec.Tenant); t != nil {
			t.grants[doc.Spec.Service.Value] = append(t.grants[doc.Spec.Service.Value], grant)
		}
	}
}

// tenant finds the draft of a tenant that a document of the platform names.
func (b *builder) tenant(name v1alpha1.String) *draft {
	if name.Value == identity.PlatformName {
		b.reportAt(name.Pos, v1alpha1.CodeReservedName, "", "%s is no tenant", identity.PlatformName)
		return nil
	}
	d, ok := b.draft[name.Value]
	if !ok {
		known := make([]string, 0, len(b.draft))
		for _, n := range keys(b.draft) {
			if n != identity.PlatformName {
				known = append(known, n)
			}
		}
		b.reportAt(name.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name.Value, known),
			"there is no tenant %s", v1alpha1.Quote(name.Value))
		return nil
	}
	return d
}
