package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bundle is the SPIFFE trust bundle of one trust domain: the root certificates that vouch for its identities. It is
// immutable; the zero value vouches for nobody.
type Bundle struct {
	td        TrustDomain
	roots     []*x509.Certificate
	withdrawn [][sha256.Size]byte
}

// NewBundle makes the bundle of a trust domain from DER certificates. It refuses an empty list and a certificate that is
// no CA. The order is kept, equal certificates are dropped.
func NewBundle(td TrustDomain, rootsDER ...[]byte) (Bundle, error) {
	if td.IsZero() {
		return Bundle{}, fmt.Errorf("%w: a bundle has a trust domain", ErrInvalidID)
	}
	b := Bundle{td: td}
	for _, der := range rootsDER {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return Bundle{}, fmt.Errorf("bundle of %s: %w", td, err)
		}
		if !root.IsCA {
			return Bundle{}, fmt.Errorf("bundle of %s: %q is no CA certificate", td, clip(root.Subject.String()))
		}
		if !slices.ContainsFunc(b.roots, root.Equal) {
			b.roots = append(b.roots, root)
		}
	}
	if len(b.roots) == 0 {
		return Bundle{}, fmt.Errorf("bundle of %s holds no certificate", td)
	}
	return b, nil
}

// Without says of roots, by the SHA-256 of their certificates, that they were withdrawn from this trust domain because they are
// compromised: what they have proved is to end, connections too. It refuses a root that the bundle holds.
func (b Bundle) Without(roots ...[sha256.Size]byte) (Bundle, error) {
	for _, r := range b.roots {
		if slices.Contains(roots, sha256.Sum256(r.Raw)) {
			return Bundle{}, fmt.Errorf("bundle of %s: a root is trusted and withdrawn", b.td)
		}
	}
	b.withdrawn = slices.Clone(roots)
	return b, nil
}

// Withdrawn are the roots that Without was told of, in that order.
func (b Bundle) Withdrawn() [][sha256.Size]byte { return slices.Clone(b.withdrawn) }

// ParseBundlePEM makes a Bundle from a PEM file that holds CERTIFICATE blocks and nothing else.
func ParseBundlePEM(td TrustDomain, data []byte) (Bundle, error) {
	var roots [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return Bundle{}, fmt.Errorf("bundle of %s holds a %q block: only CERTIFICATE belongs there", td, clip(block.Type))
		}
		roots = append(roots, block.Bytes)
	}
	if len(bytes.TrimSpace(data)) > 0 {
		return Bundle{}, fmt.Errorf("bundle of %s: text behind the last certificate", td)
	}
	return NewBundle(td, roots...)
}

// TrustDomain is the one trust domain that the bundle vouches for.
func (b Bundle) TrustDomain() TrustDomain { return b.td }

// IsZero reports whether the bundle vouches for nobody.
func (b Bundle) IsZero() bool { return len(b.roots) == 0 }

// DER are the root certificates; the bytes must not be changed.
func (b Bundle) DER() [][]byte {
	ders := make([][]byte, len(b.roots))
	for i, r := range b.roots {
		ders[i] = r.Raw
	}
	return ders
}

// PEM are the root certificates in PEM.
func (b Bundle) PEM() []byte {
	var out []byte
	for _, r := range b.roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
	}
	return out
}

// Digest is a hash over the trust domain and the roots: over what vouches. Roots that were withdrawn are no part of it.
func (b Bundle) Digest() [32]byte {
	h := sha256.New()
	write := func(p []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	write([]byte(b.td.name))
	for _, r := range b.roots {
		write(r.Raw)
	}
	return [32]byte(h.Sum(nil))
}

// Constrained reports whether every root carries a critical name constraint that permits URIs of this trust domain's
// host and of no other. A root without it can mint identities of every trust domain where it is trusted for more than
// one (RFC 5280, section 4.2.1.10).
func (b Bundle) Constrained() bool {
	for _, r := range b.roots {
		if !r.PermittedDNSDomainsCritical || len(r.PermittedURIDomains) != 1 || r.PermittedURIDomains[0] != b.td.name {
			return false
		}
	}
	return !b.IsZero()
}

// Bundles are the bundles of several trust domains, at most one for each. Immutable; the zero value holds none.
type Bundles struct{ byDomain map[TrustDomain]Bundle }

// NewBundles puts bundles side by side. It refuses a zero bundle and a second one for the same trust domain.
func NewBundles(bundles ...Bundle) (Bundles, error) {
	m := make(map[TrustDomain]Bundle, len(bundles))
	for _, b := range bundles {
		if b.IsZero() {
			return Bundles{}, errors.New("a bundle vouches for nobody")
		}
		if _, dup := m[b.td]; dup {
			return Bundles{}, fmt.Errorf("two bundles for trust domain %s", b.td)
		}
		m[b.td] = b
	}
	return Bundles{byDomain: m}, nil
}

// Get is the bundle of that trust domain.
func (bs Bundles) Get(td TrustDomain) (Bundle, bool) {
	b, ok := bs.byDomain[td]
	return b, ok
}

// All are the bundles, sorted by trust domain.
func (bs Bundles) All() []Bundle {
	all := make([]Bundle, 0, len(bs.byDomain))
	for _, b := range bs.byDomain {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Bundle) int { return strings.Compare(a.td.name, b.td.name) })
	return all
}
