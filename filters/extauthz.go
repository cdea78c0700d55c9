package filters

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// Keys of the context that tells the decision point which destination a call is for. Clients cannot write it.
const (
	ContextService = "service" // "tenant/service"
	ContextPort    = "port"    // the port's name
)

// decidedHeaders are the only request headers that the decision point may set.
const decidedHeaders = "x-ringfence-(tenant|caller|subject)"

// denyAtDisableKey is a runtime key that nothing sets; Envoy demands one.
const denyAtDisableKey = "ringfence.ext_authz.deny_at_disable"

// extAuthz is guard 2: the decision point decides every request. It sees the caller's certificate and raw headers, and it may add
// three headers and nothing else. No answer, a late one or an error is 503, told from a refusal.
func extAuthz(s Sidecar) *extauthzv3.ExtAuthz {
	return &extauthzv3.ExtAuthz{
		TransportApiVersion:         corev3.ApiVersion_V3,
		Services:                    &extauthzv3.ExtAuthz_GrpcService{GrpcService: ask(s)},
		StatusOnError:               &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		DenyAtDisable:               &corev3.RuntimeFeatureFlag{DefaultValue: yes(), RuntimeKey: denyAtDisableKey},
		IncludePeerCertificate:      true,
		IncludeTlsSession:           true,
		EncodeRawHeaders:            true,
		ValidateMutations:           true,
		EnforceResponseHeaderLimits: true,
		MaxDeniedResponseBodyBytes:  maxDeniedBodyBytes,
		DecoderHeaderMutationRules: &mutationv3.HeaderMutationRules{
			DisallowAll:     yes(),
			AllowExpression: &matcherv3.RegexMatcher{Regex: decidedHeaders},
			DisallowIsError: yes(),
		},
	}
}

// ask is where the decision point is.
func ask(s Sidecar) *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: s.decisionPoint()}},
		Timeout:         seconds(checkTimeout),
	}
}

// checkContext names the destination of the calls of one route configuration.
func checkContext(service, port string) *extauthzv3.ExtAuthzPerRoute {
	return &extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_CheckSettings{
		CheckSettings: &extauthzv3.CheckSettings{ContextExtensions: map[string]string{
			ContextService: service,
			ContextPort:    port,
		}},
	}}
}
