package prove

import (
	"crypto/x509"
	"fmt"

	"github.com/ringfence-mesh/ringfence/identity"
)

// ofDomain refuses a bundle with a root whose name constraints are for other trust domains: it is another tenant's root,
// put where this one's belong. A root without constraints says nothing about whose it is.
func ofDomain(b identity.Bundle) error {
	for _, der := range b.DER() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("roots of %s: %w", b.TrustDomain(), err)
		}
		permitted := root.PermittedURIDomains
		if len(permitted) > 0 && (len(permitted) != 1 || permitted[0] != b.TrustDomain().String()) {
			return fmt.Errorf("a root among those of %s may vouch for others: %w", b.TrustDomain(), errForeign)
		}
	}
	return nil
}
