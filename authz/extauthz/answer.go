package extauthz

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ringfence-mesh/ringfence/authz"
)

// The request headers that the application gets of an allowed call, and the one header of a refusal.
const (
	headerTenant        = "x-ringfence-tenant"
	headerCaller        = "x-ringfence-caller"
	headerSubject       = "x-ringfence-subject"
	headerDecision      = "x-ringfence-decision"
	headerAuthorization = "authorization"
)

// shortVersion is how much of a Table's version dynamic metadata and records show.
const shortVersion = 12

func (s *Server) answer(v verdict) *authv3.CheckResponse {
	if v.decision.Allowed() {
		return allowed(v)
	}
	return refused(v)
}

// allowed sets what the application may know of the caller, whatever stood under those names, and removes what it does not
// set.
func allowed(v verdict) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{
		overwrite(headerTenant, v.caller.Tenant().Name()),
		overwrite(headerCaller, v.caller.String()),
	}}
	if subject := v.claims.Subject(); subject != "" {
		ok.Headers = append(ok.Headers, overwrite(headerSubject, subject))
	} else {
		ok.HeadersToRemove = append(ok.HeadersToRemove, headerSubject)
	}
	if v.strip {
		ok.HeadersToRemove = append(ok.HeadersToRemove, headerAuthorization)
	}
	return &authv3.CheckResponse{
		Status:          &statuspb.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata(v),
	}
}

// refused is one answer for every refusal that could reveal a tenant, a service or a rule. Only what the caller can know
// anyway, that its token is missing, wrong or old, and that nothing can be decided now, is told apart; and to who has passed
// the guard with a good token, what else the service's class of data demands of one. That is the same for every path of the
// service, and said before any rule is looked at, so it tells of no rule.
func refused(v verdict) *authv3.CheckResponse {
	code, grpc, challenge := typev3.StatusCode_Forbidden, codes.PermissionDenied, ""
	switch v.decision.Reason() {
	case authz.NotReady:
		code, grpc = typev3.StatusCode_ServiceUnavailable, codes.Unavailable
	case authz.TokenMissing:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, challengeMissing
	case authz.TokenInvalid, authz.TokenExpired:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, challengeInvalid
	case authz.StepUpRequired:
		code, grpc, challenge = typev3.StatusCode_Unauthorized, codes.Unauthenticated, stepUp(v.service.Sensitivity())
	default:
	}
	headers := []*corev3.HeaderValueOption{
		overwrite("content-type", "application/problem+json"),
		overwrite(headerDecision, v.id),
	}
	if challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	return &authv3.CheckResponse{
		Status: &statuspb.Status{Code: int32(grpc)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: code},
			Headers: headers,
			Body:    fmt.Sprintf(`{"type":"about:blank","title":"request refused","status":%d}`, code),
		}},
		DynamicMetadata: metadata(v),
	}
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// metadata is what the asker's access log may show. Nothing reads it to decide.
func metadata(v verdict) *structpb.Struct {
	fields := map[string]*structpb.Value{
		"decision": structpb.NewStringValue(v.id),
		"reason":   structpb.NewStringValue(v.decision.Reason().String()),
	}
	for name, text := range map[string]string{
		"rule": v.decision.Rule(), "tenant": v.visible().Tenant().Name(), "generation": short(v.generation),
	} {
		if text != "" {
			fields[name] = structpb.NewStringValue(text)
		}
	}
	return &structpb.Struct{Fields: fields}
}

func short(version string) string { return version[:min(len(version), shortVersion)] }
