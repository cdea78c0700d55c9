package authz

import (
	"errors"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Reason says why a call was allowed or refused. It goes to records and metrics, never into an answer to the caller.
type Reason uint8

// The reasons. The zero value denies.
const (
	NotReady Reason = iota
	Allowed
	UnknownCaller
	InvalidIdentity
	ExpiredIdentity
	UnknownDestination
	CrossTenant
	GrantMissing
	GrantExpired
	TokenMissing
	TokenInvalid
	TokenExpired
	TokenTenantMismatch
	IssuerNotAllowed
	NoRule
	reasonCount
)

var reasonNames = [reasonCount]string{
	"not_ready", "allowed", "unknown_caller", "invalid_identity", "expired_identity", "unknown_destination",
	"cross_tenant", "grant_missing", "grant_expired", "token_missing", "token_invalid", "token_expired",
	"token_tenant_mismatch", "issuer_not_allowed", "no_rule",
}

// String is the reason as records and metrics show it.
func (r Reason) String() string {
	if r >= reasonCount {
		return reasonNames[NotReady]
	}
	return reasonNames[r]
}

// Reasons are all reasons there are.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for r := range reasonCount {
		all[r] = r
	}
	return all
}

func identityReason(err error) Reason {
	switch {
	case errors.Is(err, identity.ErrUnmapped):
		return UnknownCaller
	case errors.Is(err, identity.ErrExpired):
		return ExpiredIdentity
	default:
		return InvalidIdentity
	}
}

func tokenReason(err error) Reason {
	switch {
	case errors.Is(err, identity.ErrTokenExpired):
		return TokenExpired
	case errors.Is(err, identity.ErrIssuerNotAllowed):
		return IssuerNotAllowed
	default:
		return TokenInvalid
	}
}
