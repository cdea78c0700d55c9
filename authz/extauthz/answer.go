package extauthz

import (
	"encoding/binary"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ringfence-mesh/ringfence/authz"
)

// The request headers that the application gets of an allowed call, and the one header of a refusal.
const (
	headerTenant        = "x-ringfence-tenant"
	headerCaller        = "x-ringfence-caller"
	headerSubject       = "x-ringfence-subject"
	headerDecision      = "x-ringfence-decision"
	headerAuthorization = "authorization"
	headerXFCC          = "x-forwarded-client-cert"
)

// shortVersion is how much of a Table's version dynamic metadata and records show.
const shortVersion = 12

// The numbers of the fields that are written (envoy/service/auth/v3/external_auth.proto, envoy/config/core/v3/base.proto,
// envoy/type/v3/http_status.proto, google/rpc/status.proto, google/protobuf/struct.proto).
const (
	responseStatus   = 1
	responseDenied   = 2
	responseOK       = 3
	responseMetadata = 4
	statusCode       = 1
	eitherHeaders    = 2 // of both kinds of answer
	okRemove         = 5
	deniedStatus     = 1
	deniedBody       = 3
	optionHeader     = 1
	optionAction     = 3
	structFields     = 1
	valueString      = 3
)

// typicalAnswer is the room for an encoded answer; a longer one gets more.
const typicalAnswer = 512

// encode is the answer to a verdict, an encoded CheckResponse.
func encode(v *verdict) []byte {
	b := make([]byte, 0, typicalAnswer)
	switch {
	case v.connection:
		return appendConnection(b, v)
	case v.decision.Allowed():
		return appendAllowed(b, v)
	}
	return appendRefused(b, v)
}

// appendConnection lets a TCP connection pass or has it closed. There is nobody to tell more: no header reaches the
// application or the caller.
func appendConnection(b []byte, v *verdict) []byte {
	code := codes.PermissionDenied
	switch {
	case v.decision.Allowed():
		code = codes.OK
	case v.decision.Reason() == authz.NotReady:
		code = codes.Unavailable
	}
	return appendMetadata(appendStatus(b, code), v)
}

// appendAllowed sets what the application may know of the caller, whatever stood under those names, and removes what it
// does not set.
func appendAllowed(b []byte, v *verdict) []byte {
	b = appendMetadata(appendStatus(b, codes.OK), v)
	ok := len(b)
	subject := v.claims.Subject()
	if v.caller.IsZero() { // whom only a token names is no workload
		b = appendHeader(b, headerTenant, v.claims.Tenant().Name())
	} else {
		b = appendHeader(b, headerTenant, v.caller.Tenant().Name())
		b = appendHeader(b, headerCaller, v.caller.String())
	}
	if subject != "" {
		b = appendHeader(b, headerSubject, subject)
	}
	if v.caller.IsZero() {
		b = appendText(b, okRemove, headerCaller)
	}
	if subject == "" {
		b = appendText(b, okRemove, headerSubject)
	}
	if v.strip {
		b = appendText(b, okRemove, headerAuthorization)
	}
	return wrap(b, ok, responseOK)
}

// appendRefused is one answer for every refusal that could reveal a tenant, a service or a rule. Only what the caller can
// know anyway, that its token is missing, wrong or old, and that nothing can be decided now, is told apart; and to who has
// passed the guard with a good token, what else the class of data of the service or route demands of one. That is said
// before any rule is looked at, so it tells of no rule.
func appendRefused(b []byte, v *verdict) []byte {
	code, grpc, challenge := typev3.StatusCode_Forbidden, codes.PermissionDenied, ""
	switch v.decision.Reason() {
	case authz.Revoked:
		if v.decision.TokenRevoked() { // as RFC 6750 section 3.1 says, the same answer as to any invalid token
			code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, challengeInvalid
		}
	case authz.NotReady:
		code, grpc = typev3.StatusCode_ServiceUnavailable, codes.Unavailable
	case authz.TokenMissing:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, challengeMissing
	case authz.TokenInvalid, authz.TokenExpired:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, challengeInvalid
	case authz.StepUpRequired:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, stepUp(v.decision.Unmet())
	default:
	}
	b = appendMetadata(appendStatus(b, grpc), v)
	denied := len(b)
	b = wrap(appendNumber(b, statusCode, uint64(code)), denied, deniedStatus)
	b = appendHeader(b, "content-type", "application/problem+json")
	b = appendHeader(b, headerDecision, v.id)
	if challenge != "" {
		b = appendHeader(b, "www-authenticate", challenge)
	}
	b = appendText(b, deniedBody, body(code))
	return wrap(b, denied, responseDenied)
}

// body says nothing that the status does not.
func body(code typev3.StatusCode) string {
	switch code {
	case typev3.StatusCode_Unauthorized:
		return `{"type":"about:blank","title":"request refused","status":401}`
	case typev3.StatusCode_ServiceUnavailable:
		return `{"type":"about:blank","title":"request refused","status":503}`
	default:
		return `{"type":"about:blank","title":"request refused","status":403}`
	}
}

// appendMetadata is what the asker's access log may show. Nothing reads it to decide.
func appendMetadata(b []byte, v *verdict) []byte {
	start := len(b)
	b = appendField(b, "decision", v.id)
	b = appendField(b, "generation", short(v.generation))
	b = appendField(b, "reason", v.decision.Reason().String())
	b = appendField(b, "rule", v.decision.Rule())
	b = appendField(b, "tenant", v.tenant().Name())
	return wrap(b, start, responseMetadata)
}

func appendStatus(b []byte, c codes.Code) []byte {
	start := len(b)
	if c != codes.OK { // proto3 does not write a zero
		b = appendNumber(b, statusCode, uint64(c))
	}
	return wrap(b, start, responseStatus)
}

// appendHeader is a HeaderValueOption that replaces what stood under the name.
func appendHeader(b []byte, name, value string) []byte {
	start := len(b)
	b = appendText(b, headerKey, name)
	b = appendText(b, headerValue, value)
	b = wrap(b, start, optionHeader)
	b = appendNumber(b, optionAction, uint64(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	return wrap(b, start, eitherHeaders)
}

// appendField is an entry of a Struct's map; an empty text is none.
func appendField(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	start := len(b)
	b = appendText(b, entryKey, name)
	value := len(b)
	b = appendText(b, valueString, text)
	b = wrap(b, value, entryValue)
	return wrap(b, start, structFields)
}

func appendText(b []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
}

func appendNumber(b []byte, number protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), n)
}

// wrap makes what was appended since start a message that is a field of that number.
func wrap(b []byte, start int, number protowire.Number) []byte {
	var room [2 * binary.MaxVarintLen64]byte
	size := len(b) - start
	head := protowire.AppendVarint(protowire.AppendTag(room[:0], number, protowire.BytesType), uint64(size)) //nolint:gosec // a length
	b = append(b, head...)
	copy(b[start+len(head):], b[start:start+size])
	copy(b[start:], head)
	return b
}

func short(version string) string { return version[:min(len(version), shortVersion)] }
