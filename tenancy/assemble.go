package tenancy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// assemble makes the Model of drafts that have no problems.
func (b *builder) assemble() *Model {
	m := &Model{
		mapping: b.mapping, tenants: map[identity.TenantID]*tenant{}, claims: b.claims,
		operators: map[identity.WorkloadID][]identity.TenantID{},
	}
	life := b.connectionLife()
	for _, owner := range keys(b.draft) {
		d := b.draft[owner]
		t := &tenant{
			id: d.id, mapping: b.mapping, bundle: d.bundle, rules: d.rules, issuers: d.issuers,
			callers: map[string][]Caller{}, life: life, rootLife: d.rootLife, revocations: d.revocations,
		}
		for _, name := range keys(d.services) {
			s := &d.services[name].service
			s.servers, s.epoch = meet(s.ids, d.revocations, d.bundle)
			if s.stream == 0 {
				s.stream = life
			}
			t.services = append(t.services, Service{s: s})
		}
		t.workloads = workloads(t.services)
		slices.SortFunc(t.issuers, func(x, y identity.TokenIssuer) int { return compareText(x.Config().Name, y.Config().Name) })
		slices.SortStableFunc(t.revocations, func(x, y Revocation) int { return compareText(x.Name, y.Name) })
		m.tenants[d.id] = t
		m.ids = append(m.ids, d.id)
	}
	slices.SortFunc(m.ids, compareTenants)
	platform := m.tenants[b.draft[v1alpha1.PlatformOwner].id]
	for _, t := range m.tenants {
		admitOwn(t)
	}
	for _, id := range m.ids {
		if t := m.tenants[id]; t != platform {
			share(platform, t, b.draft[id.Name()].grants)
		}
	}
	m.askers = b.shareAskers(m)
	for id, watched := range b.operators {
		for _, d := range watched {
			m.operators[id] = append(m.operators[id], d.id)
		}
	}
	m.warnings = v1alpha1.SortProblems(b.warnings)
	for _, t := range m.tenants {
		t.digest = digest(t)
	}
	return m
}

func (b *builder) connectionLife() time.Duration {
	if life := b.in.ConnectionLife; 0 < life && life < MaxConnectionLife {
		return life
	}
	return MaxConnectionLife
}

func workloads(services []Service) []Workload {
	byID := map[identity.WorkloadID][]Service{}
	for _, s := range services {
		for _, id := range s.s.ids {
			byID[id] = append(byID[id], s)
		}
	}
	list := make([]Workload, 0, len(byID))
	for id, of := range byID {
		list = append(list, Workload{id: id, services: of})
	}
	slices.SortFunc(list, func(x, y Workload) int { return compareIDs(x.id, y.id) })
	return list
}

// admitOwn makes the tenant the first caller of each of its services that are called.
func admitOwn(t *tenant) {
	for _, s := range t.services {
		if _, called := s.Port(); !called {
			continue
		}
		var ids []identity.WorkloadID
		for _, r := range t.rules[s.Name()] {
			ids = append(ids, r.From...)
		}
		t.callers[s.Name()] = []Caller{{c: &caller{
			id: t.id, ids: sortIDs(ids), bundle: t.bundle, sni: s.SNI(t.id), issuers: t.issuers, epoch: epoch(t.revocations, t.bundle),
		}}}
	}
}

// share makes the tenant a caller of the shared services that it has grants for, and these services imports of the tenant.
// It is the only place where something of one tenant becomes reachable from another's handle.
func share(platform, t *tenant, grants map[string][]Grant) {
	if t.bundle.IsZero() {
		return // nobody of that tenant could be believed
	}
	var ids []identity.WorkloadID
	for _, w := range t.workloads {
		ids = append(ids, w.id)
	}
	for _, s := range platform.services {
		granted := grants[s.Name()]
		if len(granted) == 0 {
			continue
		}
		slices.SortFunc(granted, func(x, y Grant) int { return cmp.Compare(x.Name, y.Name) })
		platform.callers[s.Name()] = append(platform.callers[s.Name()], Caller{c: &caller{
			id: t.id, ids: sortIDs(ids), bundle: t.bundle, sni: s.SNI(t.id), grants: granted, issuers: t.issuers,
			revocations: t.revocations, epoch: epoch(t.revocations, t.bundle),
		}})
		t.imports = append(t.imports, Import{i: &imported{
			name: s.Name(), ids: s.s.ids, endpoints: s.s.endpoints, protocol: s.s.port.Protocol,
			bundle: platform.bundle, sni: s.SNI(t.id), servers: s.s.servers, epoch: s.s.epoch,
		}})
	}
}
