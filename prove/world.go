package prove

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// world is the Model as the checks ask for it.
type world struct {
	mapping  identity.Mapping
	tenants  map[identity.TenantID]tenancy.Tenant
	platform tenancy.Tenant
	bundles  map[identity.TrustDomain]identity.Bundle
}

// newWorld indexes the Model, and checks what must hold between tenants before any of them is looked at: an address and
// an identity have one owner.
func newWorld(m *tenancy.Model) (*world, error) {
	if m == nil {
		return nil, errors.New("there is no model")
	}
	w := &world{mapping: m.Mapping(), tenants: map[identity.TenantID]tenancy.Tenant{}, bundles: map[identity.TrustDomain]identity.Bundle{}}
	endpoints, ids := map[netip.AddrPort]string{}, map[string]identity.TenantID{}
	for _, id := range m.Tenants() {
		t, ok := m.Tenant(id)
		if !ok || !t.ID().Same(id) {
			return nil, fmt.Errorf("tenant %s has no handle of its own", id)
		}
		w.tenants[id] = t
		if id.IsPlatform() {
			w.platform = t
		}
		if err := w.addBundle(t); err != nil {
			return nil, err
		}
		for _, s := range t.Services() {
			for _, a := range s.Endpoints() {
				if other, taken := endpoints[a]; taken {
					return nil, fmt.Errorf("endpoint %s is of %s and of %s/%s", a, other, id, s.Name())
				}
				endpoints[a] = id.Name() + "/" + s.Name()
			}
			if err := w.accounts(t, s, ids); err != nil {
				return nil, err
			}
		}
	}
	if w.platform.IsZero() {
		return nil, errors.New("the model has no platform")
	}
	return w, nil
}

func (w *world) addBundle(t tenancy.Tenant) error {
	b := t.Bundle()
	if b.IsZero() && len(t.Services()) == 0 {
		return nil // nobody of that tenant can call or be called
	}
	if b.TrustDomain() != t.ID().TrustDomain() {
		return fmt.Errorf("tenant %s has the roots of %s", t.ID(), b.TrustDomain())
	}
	if have, ok := w.bundles[b.TrustDomain()]; ok && have.Digest() != b.Digest() {
		return fmt.Errorf("two sets of roots for %s", b.TrustDomain())
	}
	w.bundles[b.TrustDomain()] = b
	return ofDomain(b)
}

// accounts checks that a service runs as its owner's identities, by the text of the identities.
func (w *world) accounts(t tenancy.Tenant, s tenancy.Service, ids map[string]identity.TenantID) error {
	for _, id := range s.IDs() {
		read, err := w.mapping.Parse(id.String())
		if err != nil || !read.Tenant().Same(t.ID()) {
			return fmt.Errorf("service %s/%s runs as %s, which is not its owner's", t.ID(), s.Name(), id)
		}
		if owner, ok := ids[id.String()]; ok && !owner.Same(t.ID()) {
			return fmt.Errorf("identity %s is of %s and of %s", id, owner, t.ID())
		}
		ids[id.String()] = t.ID()
	}
	return nil
}

// caller is a tenant that may call a service, and who of it.
type caller struct {
	t   tenancy.Tenant
	ids []string
}

// callers are the tenants that may call a service, each as its own handle says: the owner by its rules, others by having
// the shared service granted. The owner's list of callers is not asked.
func (w *world) callers(t tenancy.Tenant, s tenancy.Service) []caller {
	own := caller{t: t}
	for _, r := range t.Rules(s.Name()) {
		own.ids = append(own.ids, texts(r.From)...)
	}
	slices.Sort(own.ids)
	own.ids = slices.Compact(own.ids)
	out := []caller{own}
	if !t.ID().Same(w.platform.ID()) {
		return out
	}
	for id, other := range w.tenants {
		granted := slices.ContainsFunc(other.Imports(), func(i tenancy.Import) bool { return i.Name() == s.Name() })
		if id.Same(t.ID()) || !granted {
			continue
		}
		c := caller{t: other}
		for _, workload := range other.Workloads() {
			c.ids = append(c.ids, workload.ID().String())
		}
		slices.Sort(c.ids)
		out = append(out, c)
	}
	slices.SortFunc(out[1:], func(a, b caller) int { return strings.Compare(a.t.ID().Name(), b.t.ID().Name()) })
	return out
}

// granted finds a shared service that is granted to the tenant, as its owner knows it.
func (w *world) granted(i tenancy.Import) (tenancy.Service, error) {
	s, ok := w.platform.Service(i.Name())
	if !ok {
		return tenancy.Service{}, fmt.Errorf("the platform has no service %s", i.Name())
	}
	return s, nil
}

// servers are the service's accounts that no revocation keeps its callers from; nobody where there are none. Names are read
// from the owner's revocations here, not asked of what the compiler reads.
func servers(owner tenancy.Tenant, s tenancy.Service) []string {
	var out []string
	for _, id := range s.IDs() {
		if !slices.ContainsFunc(owner.Revocations(), func(r tenancy.Revocation) bool { return !r.Over && r.Workload.Same(id) }) {
			out = append(out, id.String())
		}
	}
	if len(out) == 0 {
		return []string{nobody}
	}
	return out
}

func texts(ids []identity.WorkloadID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}

// sameSet compares two lists of texts without regard to order.
func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func sameAddresses(a, b []netip.AddrPort) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.AddrPort.Compare)
	slices.SortFunc(b, netip.AddrPort.Compare)
	return slices.Equal(a, b)
}

func list(ids []string) string {
	const most = 3
	if len(ids) > most {
		return fmt.Sprintf("%s and %d more", clip(strings.Join(ids[:most], ", ")), len(ids)-most)
	}
	return clip(strings.Join(ids, ", "))
}
