package identity

import "fmt"

// PlatformName is the reserved name of the owner of shared services. No tenant may bear it.
const PlatformName = "platform"

// TenantID names a tenant: its name and the trust domain that its identities live in. It is comparable, for use as a map
// key; compare two of them only with Same, because unknown never equals unknown.
type TenantID struct {
	name     string
	td       TrustDomain
	platform bool
}

// ParseTenantID makes the ID of an ordinary tenant. The name is of ValidName's grammar and not the reserved "platform".
func ParseTenantID(name string, td TrustDomain) (TenantID, error) {
	switch {
	case name == PlatformName:
		return TenantID{}, fmt.Errorf("%w: tenant name %q is reserved", ErrInvalidID, PlatformName)
	case !ValidName(name):
		return TenantID{}, fmt.Errorf("%w: tenant name %q: lower-case letters, digits and inner hyphens, at most 63", ErrInvalidID, clip(name))
	case td.IsZero():
		return TenantID{}, fmt.Errorf("%w: tenant %q has no trust domain", ErrInvalidID, name)
	}
	return TenantID{name: name, td: td}, nil
}

// PlatformID makes the reserved owner of shared services.
func PlatformID(td TrustDomain) (TenantID, error) {
	if td.IsZero() {
		return TenantID{}, fmt.Errorf("%w: the platform has no trust domain", ErrInvalidID)
	}
	return TenantID{name: PlatformName, td: td, platform: true}, nil
}

// Name is the tenant's name, "platform" for the reserved owner.
func (t TenantID) Name() string { return t.name }

// TrustDomain is where the tenant's identities live. Tenants may share one where the Mesh maps paths to tenants.
func (t TenantID) TrustDomain() TrustDomain { return t.td }

// IsZero reports whether t names nobody.
func (t TenantID) IsZero() bool { return t.name == "" }

// IsPlatform reports whether t is the reserved owner of shared services.
func (t TenantID) IsPlatform() bool { return t.platform }

// Same reports whether both name one tenant. It is false if either is zero.
func (t TenantID) Same(o TenantID) bool { return !t.IsZero() && t == o }

// String is the tenant's name.
func (t TenantID) String() string { return t.name }
