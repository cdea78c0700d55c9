// Package identity holds the names and proofs of who is who on the mesh: trust domains, tenants, workloads, the peer at
// the other end of a connection, and the claims of a token.
//
// Every value exists only after its text was parsed or its signature was verified; the zero value of each names nobody
// and equals nobody. The package does no I/O and reads no clock: certificates, keys and times are arguments.
//
// Sources: SPIFFE-ID and X509-SVID standards (github.com/spiffe/spiffe), RFC 5280 for certificates, RFC 7519 and RFC 8725
// for tokens.
package identity

import (
	"errors"
	"fmt"
)

// The reasons why an identity is not accepted. Callers branch on them with errors.Is.
var (
	// ErrInvalidID says that the bytes are no SPIFFE ID in the one form that is accepted, or that a certificate is no X.509-SVID.
	ErrInvalidID = errors.New("invalid identity")
	// ErrUnmapped says that the SPIFFE ID is well-formed but that no rule of the Mesh names a tenant for it.
	ErrUnmapped = errors.New("identity is not mapped to a tenant")
	// ErrUntrusted says that no root of the certificate's own trust domain vouches for it.
	ErrUntrusted = errors.New("certificate is not trusted")
	// ErrNoBundle is the ErrUntrusted of a trust domain that the verifier has no roots of at all.
	ErrNoBundle = fmt.Errorf("%w: no bundle for its trust domain", ErrUntrusted)
	// ErrExpired says that the certificate is outside its validity.
	ErrExpired = errors.New("certificate is outside its validity")
)
