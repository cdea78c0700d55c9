package identity

import (
	"fmt"
	"strings"
)

const (
	scheme = "spiffe://"
	// maxID is the length that every SPIFFE implementation must take (SPIFFE-ID standard, section 2.3).
	maxID = 2048
)

// WorkloadID is a SPIFFE ID that the Mesh's mapping has read: a tenant's service account. It comes only from a Mapping,
// is comparable for use as a map key, and is compared with Same.
type WorkloadID struct {
	tenant    TenantID
	namespace string
	account   string
	uri       string
}

// Tenant is the tenant that the workload belongs to.
func (w WorkloadID) Tenant() TenantID { return w.tenant }

// Namespace is the namespace part of the ID, empty where the mapping has none.
func (w WorkloadID) Namespace() string { return w.namespace }

// ServiceAccount is the service account part of the ID.
func (w WorkloadID) ServiceAccount() string { return w.account }

// String is the SPIFFE ID, byte for byte as it stands in a certificate.
func (w WorkloadID) String() string { return w.uri }

// IsZero reports whether w names nobody.
func (w WorkloadID) IsZero() bool { return w.uri == "" }

// Same reports whether both name one workload. It is false if either is zero.
func (w WorkloadID) Same(o WorkloadID) bool { return !w.IsZero() && w == o }

// splitID takes a SPIFFE ID apart without changing a byte of it. Only the form that every implementation reads alike is
// accepted: lower-case scheme, a trust domain without port, user or trailing dot, path segments of letters, digits and
// "-._" that are no dot segments, nothing behind the path.
func splitID(uri string) (TrustDomain, []string, error) {
	if len(uri) > maxID {
		return TrustDomain{}, nil, fmt.Errorf("%w: a SPIFFE ID has at most %d bytes", ErrInvalidID, maxID)
	}
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return TrustDomain{}, nil, fmt.Errorf("%w: %q does not start with %s", ErrInvalidID, clip(uri), scheme)
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok {
		return TrustDomain{}, nil, fmt.Errorf("%w: %q names no workload", ErrInvalidID, clip(uri))
	}
	td, err := ParseTrustDomain(domain)
	if err != nil {
		return TrustDomain{}, nil, err
	}
	segments := strings.Split(path, "/")
	for _, s := range segments {
		if !validSegment(s) {
			return TrustDomain{}, nil, fmt.Errorf("%w: %q: bad path segment", ErrInvalidID, clip(uri))
		}
	}
	return td, segments, nil
}

func validSegment(s string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
