package identity

import (
	"fmt"
	"strings"
)

const (
	maxLabel       = 63
	maxTrustDomain = 255
)

// ValidName reports whether s is a name of the mesh: [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?, which is a DNS label.
func ValidName(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// TrustDomain is the name of a SPIFFE trust domain: DNS labels of lower-case letters, digits and inner hyphens, joined by
// single dots, at most 255 bytes. That is narrower than the SPIFFE standard: no underscore, no empty or trailing label,
// so two spellings are always two trust domains.
type TrustDomain struct{ name string }

// ParseTrustDomain makes a TrustDomain from its name alone, without a scheme.
func ParseTrustDomain(name string) (TrustDomain, error) {
	if len(name) > maxTrustDomain {
		return TrustDomain{}, fmt.Errorf("%w: a trust domain has at most %d characters", ErrInvalidID, maxTrustDomain)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !ValidName(label) {
			return TrustDomain{}, fmt.Errorf("%w: trust domain %q: each label is lower-case letters, digits and inner hyphens", ErrInvalidID, clip(name))
		}
	}
	return TrustDomain{name: name}, nil
}

// MustTrustDomain is ParseTrustDomain for constants and tests; it panics where that fails.
func MustTrustDomain(name string) TrustDomain {
	td, err := ParseTrustDomain(name)
	if err != nil {
		panic(err)
	}
	return td
}

// String is the name, without a scheme.
func (td TrustDomain) String() string { return td.name }

// ID is the SPIFFE ID of the trust domain itself, "spiffe://name", which is also the SDS name of its bundle. It is empty
// for the zero value.
func (td TrustDomain) ID() string {
	if td.IsZero() {
		return ""
	}
	return scheme + td.name
}

// IsZero reports whether td names no trust domain.
func (td TrustDomain) IsZero() bool { return td.name == "" }

// clip shortens hostile text for an error.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
