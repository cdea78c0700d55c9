package tenancy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// Build makes the Model, or says everything that keeps it from one: sorted problems, each with the owner whose documents
// must change. There is a Model exactly where there is no problem.
//
// A caller that leaves out or replaces the documents of the owners that have problems, and calls Build again, comes to a
// Model: nobody's problem can be mended only by another tenant.
func Build(in Input) (*Model, []v1alpha1.Problem) {
	b := &builder{in: in, draft: map[string]*draft{}, operators: map[identity.WorkloadID][]*draft{}}
	b.sortDocuments()
	b.readMesh()
	b.readTenants()
	b.warnSharedRoot()
	b.refuseStrangers()
	b.readServices()
	b.requireRoots()
	b.readAskers()
	b.readOperators()
	b.shareLoopback()
	b.partPorts()
	b.claimAddresses()
	b.readIssuers()
	b.readPolicies()
	b.readGrants()
	b.readRevocations()
	b.readDestinations()
	if len(b.problems) > 0 {
		return nil, v1alpha1.SortProblems(b.problems)
	}
	return b.assemble(), nil
}

// TrustDomains are the trust domains that a model of these documents needs roots for: the platform's and every declared
// tenant's, sorted. On documents with problems it says what it can.
func TrustDomains(docs []v1alpha1.Document) []identity.TrustDomain {
	b := &builder{in: Input{Documents: docs}, draft: map[string]*draft{}}
	b.sortDocuments()
	b.readMesh()
	if b.mapping.IsZero() {
		return nil
	}
	domains := map[string]identity.TrustDomain{b.mapping.Platform().String(): b.mapping.Platform()}
	for _, doc := range ofKind[*v1alpha1.Tenant](b, v1alpha1.PlatformOwner) {
		if id, err := b.mapping.TenantID(doc.Metadata.Name.Value); err == nil {
			domains[id.TrustDomain().String()] = id.TrustDomain()
		}
	}
	sorted := make([]identity.TrustDomain, 0, len(domains))
	for _, td := range domains {
		sorted = append(sorted, td)
	}
	slices.SortFunc(sorted, func(a, b identity.TrustDomain) int { return compareText(a.String(), b.String()) })
	return sorted
}

// builder holds what one Build knows so far. Each step reads documents, reports what is wrong with them, and adds what is
// right to the drafts; a step never undoes another's work, so all problems come out in one run.
type builder struct {
	in       Input
	docs     []v1alpha1.Document // by position; whole and of a kind that their owner may write
	problems []v1alpha1.Problem
	mapping  identity.Mapping
	draft    map[string]*draft // by owner
	classes  map[string]class  // nil where the Mesh does not say them
	askers   []draftAsker
	// operators are the tenants that each may look at.
	operators map[identity.WorkloadID][]*draft
	warnings  []v1alpha1.Problem
	claims    map[netip.AddrPort]holder
	rootLife  time.Duration // where a Tenant says nothing
}

// draft is a tenant in the making.
type draft struct {
	id         identity.TenantID // zero where the Mesh does not say it
	doc        *v1alpha1.Tenant  // nil: the platform
	broken     bool              // the document has problems, so nothing follows from what it does not say
	namespaces map[string]bool
	bundle     identity.Bundle
	rootLife   time.Duration
	services   map[string]*draftService
	accounts   int // of all services
	ruled      int // bytes of all rules, with every caller of each
	rules      map[string][]Rule
	issuers    []identity.TokenIssuer
	grants     map[string][]Grant // on shared services, by service
	// revocations of this tenant's identities, whoever wrote them.
	revocations []Revocation
}

// draftService is a service in the making, with its document for positions.
type draftService struct {
	service
	doc    *v1alpha1.Service
	listed []netip.AddrPort // the endpoints in the order of the document
	broken bool             // it has problems, so nothing follows from what it does not say
}

func (b *builder) report(p v1alpha1.Problem) { b.problems = append(b.problems, p) }

func (b *builder) reportAt(at v1alpha1.Pos, code v1alpha1.Code, hint, format string, args ...any) {
	b.report(at.Problem(code, hint, format, args...))
}

// warnAt says what is accepted, and weaker or emptier than it looks.
func (b *builder) warnAt(at v1alpha1.Pos, code v1alpha1.Code, hint, format string, args ...any) {
	b.warnings = append(b.warnings, at.Problem(code, hint, format, args...))
}

// tenantKinds are the kinds that a tenant may write; all others are the platform's.
func tenantKind(doc v1alpha1.Document) bool {
	switch doc.(type) {
	case *v1alpha1.Service, *v1alpha1.AccessPolicy, *v1alpha1.Revocation:
		return true
	default:
		return false
	}
}

// sortDocuments puts the documents in the order of their positions, repeats what Decode said of them, and keeps those
// that their owner may write and that are not there twice.
func (b *builder) sortDocuments() {
	docs := slices.Clone(b.in.Documents)
	slices.SortStableFunc(docs, func(x, y v1alpha1.Document) int { return x.Head().Pos.Compare(y.Head().Pos) })
	type key struct{ owner, kind, name string }
	first := map[key]v1alpha1.Pos{}
	for _, doc := range docs {
		if _, test := doc.(*v1alpha1.AccessTest); test {
			continue // says what is expected of the others; see Model.CheckTests
		}
		h := doc.Head()
		b.problems = append(b.problems, h.Problems()...)
		if h.Owner() != v1alpha1.PlatformOwner && !tenantKind(doc) {
			b.reportAt(h.Kind.Pos, v1alpha1.CodeNotYours, "ask the platform's team", "kind %s is the platform's to write", h.Kind.Value)
			continue
		}
		if name := h.Name(); name.IsSet() {
			k := key{h.Owner(), h.Kind.Value, name.Value}
			if at, dup := first[k]; dup {
				b.reportAt(name.Pos, v1alpha1.CodeDuplicateDocument, "",
					"%s %s is written twice, first at %s", k.kind, v1alpha1.Quote(k.name), at)
				continue
			}
			first[k] = name.Pos
			b.name(name, "a document's name")
		}
		b.docs = append(b.docs, doc)
	}
}

// name checks a text against the grammar of names and reports whether it is one.
func (b *builder) name(s v1alpha1.String, what string) bool {
	if identity.ValidName(s.Value) {
		return true
	}
	b.reportAt(s.Pos, v1alpha1.CodeBadName, "use lower-case letters, digits and inner hyphens, at most 63", "%s cannot be %s", what, v1alpha1.Quote(s.Value))
	return false
}

// ofKind are the documents of one type and owner, by position; with an empty owner those of all owners.
func ofKind[D v1alpha1.Document](b *builder, owner string) []D {
	var of []D
	for _, doc := range b.docs {
		if d, ok := doc.(D); ok && (owner == "" || doc.Head().Owner() == owner) {
			of = append(of, d)
		}
	}
	return of
}

func broken(doc v1alpha1.Document) bool { return len(doc.Head().Problems()) > 0 }

// unique reports entries that stand in a list twice.
func (b *builder) unique(list []v1alpha1.String, what string) {
	seen := map[string]bool{}
	for _, s := range list {
		if seen[s.Value] {
			b.reportAt(s.Pos, v1alpha1.CodeRepeated, "", "%s %s stands here twice", what, v1alpha1.Quote(s.Value))
		}
		seen[s.Value] = true
	}
}

func values(list []v1alpha1.String) []string {
	texts := make([]string, len(list))
	for i, s := range list {
		texts[i] = s.Value
	}
	return texts
}

func keys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}
