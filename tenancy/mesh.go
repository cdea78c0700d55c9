package tenancy

import (
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	meshFile = "mesh.yaml"
	// maxRulePath keeps every SPIFFE ID below the 2048 bytes that all implementations take, with a trust domain and three
	// names of the greatest length. So no tenant's name for an account can be too long for the Mesh.
	maxRulePath = 1024
)

// readMesh finds the one Mesh and compiles its rules.
func (b *builder) readMesh() {
	meshes := ofKind[*v1alpha1.Mesh](b, v1alpha1.PlatformOwner)
	if len(meshes) == 0 {
		b.report(v1alpha1.FileProblem(meshFile, v1alpha1.CodeNoMesh, "write it in "+meshFile, "there is no Mesh document"))
		return
	}
	for _, extra := range meshes[1:] {
		b.reportAt(extra.Kind.Pos, v1alpha1.CodeNoMesh, "", "there is another Mesh at %s", meshes[0].Kind.Pos)
	}
	mesh := meshes[0]
	if broken(mesh) {
		return
	}
	b.readClasses(mesh)
	b.rootLife = b.readRootLife(mesh.Spec.RootLife)
	platform, err := identity.ParseTrustDomain(mesh.Spec.PlatformTrustDomain.Value)
	if err != nil {
		b.reportAt(mesh.Spec.PlatformTrustDomain.Pos, v1alpha1.CodeIdentityRule, "", "%s", err)
	}
	rules := make([]identity.MappingRule, len(mesh.Spec.Identities))
	valid := err == nil
	for i, r := range mesh.Spec.Identities {
		rules[i] = identity.MappingRule{TrustDomain: r.TrustDomain.Value, Path: r.Path.Value}
		// Each rule is tried alone first, so that every wrong one is reported at its own place.
		if _, err := identity.NewMapping(platform, rules[i:i+1]); err != nil && !platform.IsZero() {
			b.reportAt(r.Pos, v1alpha1.CodeIdentityRule, "", "%s", strings.TrimPrefix(err.Error(), "rule 1: "))
			valid = false
		}
		if len(r.Path.Value) > maxRulePath {
			b.reportAt(r.Path.Pos, v1alpha1.CodeIdentityRule, "", "a path has at most %d bytes", maxRulePath)
			valid = false
		}
	}
	if !valid {
		return
	}
	if b.mapping, err = identity.NewMapping(platform, rules); err != nil {
		b.reportAt(mesh.Spec.Pos, v1alpha1.CodeIdentityRule, "", "%s", err)
	}
}

// readTenants makes the drafts of the platform and of every declared tenant.
func (b *builder) readTenants() {
	b.draft[v1alpha1.PlatformOwner] = newDraft(nil)
	if !b.mapping.IsZero() {
		d := b.draft[v1alpha1.PlatformOwner]
		d.id, _ = b.mapping.TenantID(identity.PlatformName) // a Mapping always has a platform
		if b.roots(d); d.bundle.IsZero() {
			at := ofKind[*v1alpha1.Mesh](b, v1alpha1.PlatformOwner)[0].Spec.PlatformTrustDomain.Pos
			b.reportAt(at, v1alpha1.CodeNoBundle, "", noRoots, d.id.TrustDomain())
		}
	}
	namespaces := map[string]v1alpha1.Pos{}
	for _, doc := range ofKind[*v1alpha1.Tenant](b, v1alpha1.PlatformOwner) {
		name := doc.Metadata.Name
		if !name.IsSet() || !identity.ValidName(name.Value) {
			continue
		}
		if name.Value == identity.PlatformName {
			b.reportAt(name.Pos, v1alpha1.CodeReservedName, "", "no tenant may be called %s: that is the owner of the shared services", identity.PlatformName)
			continue
		}
		d := newDraft(doc)
		d.broken = broken(doc)
		if d.rootLife = b.rootLife; doc.Spec.RootLife.IsSet() {
			d.rootLife = b.readRootLife(doc.Spec.RootLife)
		}
		b.draft[name.Value] = d
		b.claimNamespaces(d, namespaces)
		if b.mapping.IsZero() {
			continue
		}
		id, err := b.mapping.TenantID(name.Value)
		if err != nil {
			b.reportAt(name.Pos, v1alpha1.CodeIdentityClash, "", "%s", err)
			continue
		}
		d.id = id
		b.roots(d)
	}
}

// A rotation takes about the life of an SVID, and a root ends by itself after ten years.
const (
	minRootLife = 24 * time.Hour
	maxRootLife = 5 * 365 * 24 * time.Hour
)

// readRootLife is the age at which roots are replaced; 0: never.
func (b *builder) readRootLife(l v1alpha1.Duration) time.Duration {
	if l.IsSet() && l.Value != 0 && (l.Value < minRootLife || l.Value > maxRootLife) {
		b.reportAt(l.Pos, v1alpha1.CodeBadValue, "write for example 90d",
			"rootLife is between 1d and %dd, or 0s for never", maxRootLife/minRootLife)
		return 0
	}
	return l.Value
}

// warnSharedRoot says what is lost where one trust domain, and so one root, is for several tenants. The first rule gives every
// tenant its trust domain, so it is all of them or none.
func (b *builder) warnSharedRoot() {
	of := map[identity.TrustDomain]int{}
	for _, d := range b.draft {
		if d.doc != nil && !d.id.IsZero() {
			of[d.id.TrustDomain()]++
		}
	}
	for td, tenants := range of {
		if tenants > 1 {
			b.warnAt(ofKind[*v1alpha1.Mesh](b, v1alpha1.PlatformOwner)[0].Spec.Identities[0].Pos, v1alpha1.CodeSharedRoot,
				"put {tenant} into trustDomain, and give each tenant a root of its own",
				"%d tenants share the trust domain %s and its roots: only the paths of their SPIFFE IDs part them", tenants, td)
		}
	}
}

func newDraft(doc *v1alpha1.Tenant) *draft {
	return &draft{
		doc: doc, namespaces: map[string]bool{}, services: map[string]*draftService{},
		rules: map[string][]Rule{}, grants: map[string][]Grant{},
	}
}

const noRoots = "there are no roots for the trust domain %s"

// roots gives the draft the roots of its trust domain, where there are any.
func (b *builder) roots(d *draft) { d.bundle, _ = b.in.Bundles.Get(d.id.TrustDomain()) }

// requireRoots refuses the services of a tenant that has no roots: nobody could believe its workloads. The problem is that
// tenant's, though no document of its can mend it, so that its lost root stops nobody else.
func (b *builder) requireRoots() {
	for _, owner := range keys(b.draft) {
		d := b.draft[owner]
		if d.doc == nil || d.id.IsZero() || len(d.services) == 0 || !d.bundle.IsZero() {
			continue
		}
		p := d.doc.Metadata.Name.Pos.Problem(v1alpha1.CodeNoBundle, "", noRoots, d.id.TrustDomain())
		p.Owner = owner
		b.report(p)
	}
}

func (b *builder) claimNamespaces(d *draft, claimed map[string]v1alpha1.Pos) {
	b.unique(d.doc.Spec.Namespaces, "namespace")
	for _, ns := range d.doc.Spec.Namespaces {
		if !ns.IsSet() || d.namespaces[ns.Value] || !b.name(ns, "a namespace") || b.reservedNamespace(ns, false) {
			continue
		}
		if at, taken := claimed[ns.Value]; taken {
			b.reportAt(ns.Pos, v1alpha1.CodeNamespaceClash, "", "namespace %s belongs to another tenant already, at %s", v1alpha1.Quote(ns.Value), at)
			continue
		}
		claimed[ns.Value] = ns.Pos
		d.namespaces[ns.Value] = true
	}
}

// reservedNamespace reports the namespaces that nobody, or only the platform, may name.
func (b *builder) reservedNamespace(ns v1alpha1.String, platform bool) bool {
	switch {
	case ns.Value == identity.ControlPlaneNamespace:
		b.reportAt(ns.Pos, v1alpha1.CodeReservedName, "", "namespace %s is the control plane's own", ns.Value)
	case ns.Value == identity.PlatformName && !platform:
		b.reportAt(ns.Pos, v1alpha1.CodeReservedName, "", "namespace %s is the platform's", ns.Value)
	default:
		return false
	}
	return true
}

// refuseStrangers reports the directories that no Tenant document declares, once each, and puts their documents aside.
// The owner of that problem is the directory: the platform may remove a tenant without asking it first.
func (b *builder) refuseStrangers() {
	told := map[string]bool{}
	kept := b.docs[:0]
	for _, doc := range b.docs {
		h := doc.Head()
		if b.draft[h.Owner()] != nil {
			kept = append(kept, doc)
			continue
		}
		if !told[h.Owner()] {
			told[h.Owner()] = true
			b.reportAt(h.Pos, v1alpha1.CodeUndeclaredTenant, "", "no Tenant document in platform/ declares the tenant of this directory")
		}
	}
	b.docs = kept
}
