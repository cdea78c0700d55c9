package authz

import (
	"errors"
	"slices"

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
	Revoked
	UnknownDestination
	CrossTenant
	GrantMissing
	GrantExpired
	TokenMissing
	TokenInvalid
	TokenExpired
	TokenTenantMismatch
	IssuerNotAllowed
	StepUpRequired
	NoRule
	reasonCount
)

var reasonNames = [reasonCount]string{
	"not_ready", "allowed", "unknown_caller", "invalid_identity", "expired_identity", "revoked", "unknown_destination",
	"cross_tenant", "grant_missing", "grant_expired", "token_missing", "token_invalid", "token_expired",
	"token_tenant_mismatch", "issuer_not_allowed", "step_up_required", "no_rule",
}

// String is the reason as records and metrics show it.
func (r Reason) String() string {
	return reasonNames[r.known()]
}

// ParseReason reads what String writes.
func ParseReason(text string) (Reason, bool) {
	i := slices.Index(reasonNames[:], text)
	return Reason(max(i, 0)), i >= 0 //nolint:gosec // an index of a short list
}

// words say each reason to people, and what those may do about it.
var words = [reasonCount]struct{ text, advice string }{
	NotReady: {"no rules were in force yet", "try again; if it stays, look whether the control plane and the agent are ready"},
	Allowed:  {"a rule or Grant allows the call", ""},
	UnknownCaller: {
		"nobody is proved: there is no certificate, or its SPIFFE ID names no tenant of this mesh",
		"call through the workload's own sidecar; a new shape of SPIFFE ID needs a line under identities in mesh.yaml",
	},
	InvalidIdentity: {
		"the caller's certificate cannot be trusted, or its proofs contradict each other",
		"call with an SVID that this mesh has issued",
	},
	ExpiredIdentity: {"the caller's certificate has expired", "look why the caller's agent does not get a new SVID"},
	Revoked: {
		"the caller, or the token, its subject or its session, is revoked",
		"look with ringfence revoke list, or in the Revocation documents, for which one and until when",
	},
	UnknownDestination: {"the asked proxy runs no service of that name", "correct the name: TENANT/SERVICE, of a service with ports"},
	CrossTenant: {
		"the caller is of another tenant, and no rule can open a tenant's own service to another",
		"only a shared service of the platform can be called across tenants, with a Grant",
	},
	GrantMissing: {
		"no Grant lets the caller's tenant call this shared service",
		"ask the platform team for a Grant in platform/ that names the tenant and the service",
	},
	GrantExpired: {"every Grant of the caller's tenant for this service is past its notAfter", "ask the platform team for a Grant with a later notAfter"},
	TokenMissing: {"the service demands a bearer token, and the call has none", "send Authorization: Bearer with a token of the tenant's own issuer"},
	TokenInvalid: {"the bearer token does not verify", "look at its signature, audience, times and claims: they must be as the TokenIssuer document says"},
	TokenExpired: {"the bearer token has expired", "get a new token"},
	TokenTenantMismatch: {
		"the bearer token speaks of another tenant than the caller's",
		"send a token of the caller's own tenant",
	},
	IssuerNotAllowed: {
		"no TokenIssuer lets the token's issuer speak of the tenant that it asserts",
		"send a token of the tenant's own issuer, or ask the platform team for a TokenIssuer document",
	},
	StepUpRequired: {
		"the token does not show the authentication that the service's class of data demands",
		"let the user authenticate again, with the acr_values and max_age of the answer, and send the new token",
	},
	NoRule: {
		"no rule or Grant covers the call",
		"widen a rule of the service's AccessPolicy, or the Grant, or call as one of them allows",
	},
}

// Words are the reason for people who may see it.
func (r Reason) Words() string { return words[r.known()].text }

// Advice is what a developer of the tenant can do about it; empty where nothing is wrong.
func (r Reason) Advice() string { return words[r.known()].advice }

func (r Reason) known() Reason {
	if r >= reasonCount {
		return NotReady
	}
	return r
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
