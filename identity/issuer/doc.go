// Package issuer is the embedded SPIFFE issuer: one certificate authority for each trust domain, which gives a workload
// its X.509-SVID against a one-time join token of that workload, and the next one against the one before.
//
// Each trust domain has its own root, critically name-constrained to that trust domain's host, so a stolen root cannot
// mint an identity of another one. Root keys are used through a key manager: files in the state directory, which a sealing
// key encrypts, or a PKCS #11 token. Roots, tokens and the ledger of what was issued lie in a state directory that one
// process holds at a time; OpenMemory keeps them in memory, for checking a configuration and for tests. Of a token only
// the SHA-256 is kept.
//
// It promises that a token gives at most one SVID, also across restarts and concurrent requests: its use is on disk before
// the answer leaves. And that nothing is given that is not in the ledger, and nothing renewed that is not there: who has
// stolen a root can mint certificates of that trust domain, and cannot have them renewed. It attests nothing but the token
// and the certificate. It revokes no single certificate: what a compromised root has signed ends with that root, at once.
//
// A trust domain whose roots are somebody else's, such as a SPIRE server's, gets nothing from it.
//
// Sources: SPIFFE X509-SVID standard, RFC 5280 (certificates), RFC 2986 (certificate requests), RFC 7512 (PKCS #11 URIs).
package issuer

import (
	"errors"

	"github.com/ringfence-mesh/ringfence/internal/durable"
)

var (
	// ErrRefused says that a join token gives nothing: it is unknown, used, expired, or another workload's. Which of
	// them is not said.
	ErrRefused = errors.New("join token refused")
	// ErrNotRenewable says that a certificate is not one that this issuer gave to a workload that the mesh still names, or
	// that it has expired. Which of them is not said.
	ErrNotRenewable = errors.New("this SVID cannot be renewed: join again with a new token")
	// ErrBadRequest says that a certificate request is not of the one accepted shape.
	ErrBadRequest = errors.New("certificate request refused")
	// ErrLimited says that SVIDs or tokens are asked for faster, or in greater number, than the limits allow.
	ErrLimited = errors.New("issuing limit reached")
	// ErrLocked says that another process holds the state directory.
	ErrLocked = errors.New("state directory is in use by another process")
	// ErrOpen says that other users can reach a state directory that is in use already.
	ErrOpen = durable.ErrOpen
	// ErrTTL says that a join token was asked for with a life outside the bounds.
	ErrTTL = errors.New("bad life of a join token")
	// ErrExternal says that a trust domain's roots are somebody else's (Options.External), so that nothing is issued in it.
	ErrExternal = errors.New("its roots are not this issuer's")
	// ErrNoWorkload says that a workload may not be given a join token.
	ErrNoWorkload = errors.New("not a workload that can join")
)
