package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// Bundles gives the trust bundles of these trust domains. What it has it gives also beside an error: a tenant whose bundle
// is missing is then a problem of its own.
type Bundles func(domains ...identity.TrustDomain) (identity.Bundles, error)

// KeySets are the published keys of token issuers.
type KeySets interface {
	// Follow says by the issuer's name where each key set is that is wanted from now on, and that no other is.
	Follow(uris map[string]string)
	// KeySet is what is known of the set at that URI; false where nothing is. It must not block.
	KeySet(uri string) (identity.KeySet, bool)
	// Changed holds a notice whenever KeySet may say something new.
	Changed() <-chan struct{}
}

// build is a mesh that was compiled and not proved yet.
type build struct {
	model   *tenancy.Model
	bundles identity.Bundles
	tenants map[identity.TenantID]*compiled
	// compiledNow is how many tenants were not taken from the build before.
	compiledNow int
}

// parts and tables are in the order of the model's tenants.
func (b build) parts() []xds.Part {
	var parts []xds.Part
	for _, id := range b.model.Tenants() {
		parts = append(parts, b.tenants[id].part)
	}
	return parts
}

func (b build) tables() []*authz.Table {
	var tables []*authz.Table
	for _, id := range b.model.Tenants() {
		tables = append(tables, b.tenants[id].table)
	}
	return tables
}

// builder makes a mesh out of documents.
type builder struct {
	bundles Bundles
	life    time.Duration // of connections between sidecars
	keySets KeySets       // may be nil
	now     time.Time
	// revocations are those of operators.
	revocations []*v1alpha1.Revocation
	// before says who held an address first, keeps roots, and saves compiling again. Zero: there is nothing before.
	before build
	// trouble is what the bundles' maker said last; it explains problems and is none of any owner's.
	trouble error
}

// make builds and compiles a selection. Problems and a build exclude each other.
func (b *builder) make(s selection) (build, []v1alpha1.Problem) {
	in := b.input(s)
	model, problems := tenancy.Build(in)
	if len(problems) > 0 || model == nil {
		return build{}, problems
	}
	return b.compile(model, in.Bundles)
}

func (b *builder) input(s selection) tenancy.Input {
	docs, files := s.input()
	in := tenancy.Input{
		Documents: docs, Files: files, KeySets: b.published(docs), ConnectionLife: b.life, Revocations: b.revocations, Now: b.now,
	}
	domains := tenancy.TrustDomains(docs)
	in.Bundles, b.trouble = b.bundles(domains...)
	if b.before.model != nil {
		in.Previous = b.before.model
		in.Bundles = b.keep(in.Bundles, domains)
	}
	return in
}

// published are the key sets of these documents, as far as they are known.
func (b *builder) published(docs []v1alpha1.Document) map[string]identity.KeySet {
	if b.keySets == nil {
		return nil
	}
	sets := map[string]identity.KeySet{}
	for _, uri := range tenancy.KeySetURIs(docs) {
		if set, ok := b.keySets.KeySet(uri); ok {
			sets[uri] = set
		}
	}
	return sets
}

// keep adds the roots that the build before had and that cannot be had now: a root that cannot be read for a while
// must not cut off a tenant that runs.
func (b *builder) keep(now identity.Bundles, domains []identity.TrustDomain) identity.Bundles {
	all := now.All()
	for _, td := range domains {
		if _, has := now.Get(td); has {
			continue
		}
		if old, had := b.before.bundles.Get(td); had {
			all = append(all, old)
		}
	}
	kept, err := identity.NewBundles(all...)
	if err != nil {
		return now // each trust domain stands once in it, so this cannot be
	}
	return kept
}

// compile does the work of the tenants whose digest is not the one before.
func (b *builder) compile(m *tenancy.Model, bundles identity.Bundles) (build, []v1alpha1.Problem) {
	made := build{model: m, bundles: bundles, tenants: map[identity.TenantID]*compiled{}}
	var problems []v1alpha1.Problem
	for _, id := range m.Tenants() {
		t, ok := m.Tenant(id)
		if !ok {
			continue
		}
		if old, ok := b.before.tenants[id]; ok && old.digest == t.Digest() {
			made.tenants[id] = old
			continue
		}
		c, err := compileTenant(t)
		if err != nil {
			problems = append(problems, uncompiled(id, err))
			continue
		}
		c.state = 1
		if old, ok := b.before.tenants[id]; ok {
			c.state = old.state + 1
		}
		made.tenants[id] = c
		made.compiledNow++
	}
	return made, problems
}

// uncompiled is the problem of an owner whose documents were accepted and cannot be compiled. That is a fault of Ringfence;
// it costs that owner the change, and nobody else.
func uncompiled(id identity.TenantID, err error) v1alpha1.Problem {
	file := "platform"
	if !id.IsPlatform() {
		file = "tenants/" + id.Name()
	}
	return v1alpha1.Problem{
		Code: v1alpha1.CodeInternal, Owner: id.Name(), File: file,
		Text: fmt.Sprintf("cannot be compiled: %v", err),
		Hint: "this is a fault of Ringfence, please report it with the documents",
	}
}

// settled is the newest that can be built.
type settled struct {
	build build
	used  selection
	// problems are what keeps owners from their newest documents.
	problems []v1alpha1.Problem
	// stale are the owners that stay on their last accepted documents, dropped those of whom nothing counts.
	stale, dropped []string
}

// settle finds the newest documents that can be built: each owner's newest, or else its last accepted, or else, for a
// tenant, none. It is false where nothing can be built, because the platform has no documents that can.
//
// The platform never loses its documents to a tenant's: what does not fit together is told as the tenant's problem, and
// the tenant steps back.
func (b *builder) settle(newest, accepted selection) (settled, bool) {
	d := descent{newest: newest, accepted: accepted, used: maps.Clone(newest), level: map[string]level{}}
	var refused []v1alpha1.Problem
	for owner, o := range newest {
		if len(o.problems) > 0 {
			refused = append(refused, o.problems...)
			d.lower(owner)
		}
	}
	for {
		var (
			made     build
			problems []v1alpha1.Problem
			progress bool
		)
		if d.used[v1alpha1.PlatformOwner] != nil {
			made, problems = b.make(d.used)
			if len(problems) == 0 {
				return d.result(made, b.explain(newest, refused)), true
			}
		}
		for _, p := range problems {
			if d.level[p.Owner] == onNewest {
				refused = append(refused, p)
			}
		}
		for _, owner := range ownersOf(problems) {
			progress = d.lower(owner) || progress
		}
		if !progress {
			return d.result(build{}, b.explain(newest, refused)), false
		}
	}
}

// level is which of an owner's documents count.
type level int

const (
	onNewest level = iota
	onAccepted
	onNothing
)

// descent lets owners step back from documents that cannot be built.
type descent struct {
	newest, accepted, used selection
	level                  map[string]level
}

// lower takes an owner one step down, and is false where there is none. An owner whose files are gone from the source
// has removed them: a problem that somebody else's documents make for it does not bring them back.
func (d *descent) lower(owner string) bool {
	if d.level[owner] == onNewest {
		d.level[owner] = onAccepted
		if old := d.accepted[owner]; old != nil && d.newest[owner] != nil {
			d.used[owner] = old
			return true
		}
	}
	d.level[owner] = onNothing
	_, had := d.used[owner]
	delete(d.used, owner)
	return had
}

func (d *descent) result(made build, problems []v1alpha1.Problem) settled {
	r := settled{build: made, used: d.used, problems: problems}
	for _, owner := range slices.Sorted(maps.Keys(d.level)) {
		switch d.level[owner] {
		case onAccepted:
			r.stale = append(r.stale, owner)
		case onNothing:
			r.dropped = append(r.dropped, owner)
		case onNewest:
		}
	}
	return r
}

// explain completes the problems of owners who are kept from their newest documents: what an unreadable file hid from
// the building of the rest is asked for once more, with everything there is.
func (b *builder) explain(newest selection, refused []v1alpha1.Problem) []v1alpha1.Problem {
	if len(refused) == 0 {
		return nil
	}
	blamed := ownersOf(refused)
	_, all := tenancy.Build(b.input(newest))
	for _, p := range all {
		if slices.Contains(blamed, p.Owner) {
			refused = append(refused, p)
		}
	}
	return v1alpha1.SortProblems(refused)
}

func ownersOf(problems []v1alpha1.Problem) []string {
	set := map[string]bool{}
	for _, p := range problems {
		set[p.Owner] = true
	}
	return slices.Sorted(maps.Keys(set))
}
