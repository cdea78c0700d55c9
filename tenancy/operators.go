package tenancy

import (
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// readOperators reads who may look at which tenants. They are the platform's to name, and no tenant's documents count here.
func (b *builder) readOperators() {
	meshes := ofKind[*v1alpha1.Mesh](b, v1alpha1.PlatformOwner)
	if len(meshes) == 0 || broken(meshes[0]) || b.mapping.IsZero() {
		return
	}
	var names, ids []v1alpha1.String
	for _, doc := range meshes[0].Spec.Operators {
		names, ids = append(names, doc.Name), append(ids, doc.SPIFFEIDs...)
		b.name(doc.Name, "the name of an operator")
		watched := b.watched(doc)
		for _, text := range doc.SPIFFEIDs {
			if id, ok := b.operator(text, watched); ok {
				b.operators[id] = watched
			}
		}
	}
	b.unique(names, "operator")
	b.unique(ids, "the identity of an operator,")
}

// watched are the tenants that an operator may look at.
func (b *builder) watched(doc v1alpha1.Operator) []*draft {
	var watched []*draft
	for _, name := range doc.Tenants {
		if name.Value == v1alpha1.AllTenants {
			if len(doc.Tenants) > 1 {
				b.reportAt(name.Pos, v1alpha1.CodeNoEffect, "", "%s is every tenant: leave the others out", v1alpha1.Quote(name.Value))
			}
			for _, owner := range keys(b.draft) {
				watched = append(watched, b.draft[owner])
			}
			continue
		}
		d := b.draft[name.Value]
		if d == nil {
			b.reportAt(name.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(name.Value, keys(b.draft)),
				"there is no tenant %s", v1alpha1.Quote(name.Value))
			continue
		}
		watched = append(watched, d)
	}
	b.unique(doc.Tenants, "tenant")
	return watched
}

// operator is who shows the certificate: of the platform, or of the one tenant that it looks at.
func (b *builder) operator(text v1alpha1.String, watched []*draft) (identity.WorkloadID, bool) {
	id, err := b.mapping.Parse(text.Value)
	if err != nil {
		b.reportAt(text.Pos, v1alpha1.CodeOperator, "", "%s", err)
		return id, false
	}
	if control, err := b.mapping.ControlPlaneID(); err == nil && control.Same(id) {
		b.reportAt(text.Pos, v1alpha1.CodeReservedName, "", "%s is the control plane's own", id)
		return id, false
	}
	of := b.draft[id.Tenant().Name()]
	if of == nil || !of.id.Same(id.Tenant()) {
		b.reportAt(text.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(id.Tenant().Name(), keys(b.draft)),
			"%s is of a tenant that there is not", id)
		return id, false
	}
	if id.Tenant().IsPlatform() {
		return id, true
	}
	for _, d := range watched {
		if d != of {
			b.reportAt(text.Pos, v1alpha1.CodeOperator, "give the operator an identity of the platform",
				"an identity of tenant %s can look at that tenant only: the tenant's root could sign it for anybody", id.Tenant().Name())
			return id, false
		}
	}
	return id, true
}
