package filters

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// lintDecided are the headers that the decision point may set.
const lintDecided = "x-ringfence-(tenant|caller|subject)"

// inboundFilters judges the filters before a service: guard 1, guard 2, router.
func (l *linter) inboundFilters(fs []*hcmv3.HttpFilter, path string) {
	if !l.filterOrder(fs, path, rbacName, extAuthzName, routerName) {
		return
	}
	at := func(i int) string { return fmt.Sprintf("%s.http_filters[%d]", path, i) }
	var base rbacv3.RBAC
	if l.unpack(fs[0].GetTypedConfig(), &base, at(0)) {
		rules := base.GetRules()
		denies := rules != nil && rules.GetAction() == rbacconfigv3.RBAC_ALLOW && len(rules.GetPolicies()) == 0
		l.need(denies, setRBACBase, at(0), "it lets somebody in")
	}
	var authz extauthzv3.ExtAuthz
	if l.unpack(fs[1].GetTypedConfig(), &authz, at(1)) {
		l.extAuthz(&authz, at(1))
	}
	l.router(fs[2], at(2))
}

func (l *linter) outboundFilters(fs []*hcmv3.HttpFilter, path string) {
	if l.filterOrder(fs, path, routerName) {
		l.router(fs[0], path+".http_filters[0]")
	}
}

func (l *linter) filterOrder(fs []*hcmv3.HttpFilter, path string, order ...string) bool {
	ok := len(fs) == len(order)
	for i := 0; ok && i < len(order); i++ {
		ok = fs[i].GetName() == order[i]
	}
	var got []string
	for _, f := range fs {
		got = append(got, clip(f.GetName()))
	}
	return l.need(ok, setFilterOrder, path+".http_filters", "%q, not %q", got, order)
}

func (l *linter) router(f *hcmv3.HttpFilter, path string) {
	var r routerv3.Router
	if l.unpack(f.GetTypedConfig(), &r, path) {
		l.need(r.GetSuppressEnvoyHeaders(), setRouter, path, "x-envoy- headers are added")
	}
}

func (l *linter) extAuthz(a *extauthzv3.ExtAuthz, path string) {
	l.asks(a.GetGrpcService(), path)
	demand(l, a.GetTransportApiVersion(), corev3.ApiVersion_V3, setAuthzVersion, path)
	demand(l, a.GetStatusOnError().GetCode(), typev3.StatusCode_ServiceUnavailable, setAuthzStatus, path)
	flag := a.GetDenyAtDisable()
	denies := flag.GetDefaultValue().GetValue() && flag.GetRuntimeKey() == "ringfence.ext_authz.deny_at_disable"
	l.need(denies, setAuthzDeny, path, "a filter that is switched off lets requests pass")
	l.need(a.GetIncludePeerCertificate(), setAuthzCertificate, path, "the certificate is left out")
	l.need(a.GetIncludeTlsSession(), setAuthzSession, path, "the TLS session is left out")
	l.need(a.GetEncodeRawHeaders(), setAuthzRaw, path, "headers are joined")
	l.need(a.GetValidateMutations(), setAuthzMutations, path, "changes are not looked at")
	l.need(a.GetEnforceResponseHeaderLimits(), setAuthzHeaderLimits, path, "limits are not looked at")
	body := a.GetMaxDeniedResponseBodyBytes()
	l.need(body > 0 && body <= lintBody, setAuthzBody, path, "no bound, or too high a one")
	rules := a.GetDecoderHeaderMutationRules()
	strict := rules.GetDisallowAll().GetValue() && rules.GetDisallowIsError().GetValue() &&
		rules.GetAllowExpression().GetRegex() == lintDecided
	l.need(strict, setAuthzRules, path, "the decision point may change more than three headers")
}

// asks judges who decides, and that the answer has a time limit.
func (l *linter) asks(grpc *corev3.GrpcService, path string) {
	asked, decides := grpc.GetEnvoyGrpc().GetClusterName(), "ringfence_agent"
	if !l.scope.Direct.IsZero() {
		decides = "ringfence_authz"
	}
	l.need(asked == decides, setAuthzCluster, path, "asked is %q", clip(asked))
	l.need(grpc.GetEnvoyGrpc().GetRetryPolicy() == nil, setAuthzCluster, path, "a question is asked once")
	l.limited(grpc.GetTimeout(), lintCheck, setAuthzTimeout, path)
}

// callers judges guard 1 as a route configuration brings it.
func (l *linter) callers(r *rbacv3.RBACPerRoute, path string) {
	rules := r.GetRbac().GetRules()
	if !l.need(r.GetRbac() != nil && rules != nil, setRBACPresent, path, "RBAC is switched off") {
		return
	}
	demand(l, rules.GetAction(), rbacconfigv3.RBAC_ALLOW, setRBACAction, path)
	l.need(len(rules.GetPolicies()) <= 1, setRBACPolicy, path, "%d policies", len(rules.GetPolicies()))
	for name, p := range rules.GetPolicies() {
		l.need(name == "callers", setRBACPolicy, path, "the policy is called %q", clip(name))
		any1 := len(p.GetPermissions()) == 1 && p.GetPermissions()[0].GetAny()
		l.need(any1, setRBACPermission, path, "the policy is not for every request")
		l.need(len(p.GetPrincipals()) > 0, setRBACPolicy, path, "a policy without callers")
		for i, principal := range p.GetPrincipals() {
			l.principal(principal, fmt.Sprintf("%s.principals[%d]", path, i))
		}
	}
}

func (l *linter) principal(p *rbacconfigv3.Principal, path string) {
	custom := p.GetCustom()
	var c mtlsv3.Config
	if !l.need(custom != nil, setRBACPrincipal, path, "not proved by the validated certificate") {
		return
	}
	l.need(custom.GetName() == mtlsPrincipalName, setExtName, path, "%q", clip(custom.GetName()))
	if l.unpack(custom.GetTypedConfig(), &c, path) && l.need(c.GetSanMatcher() != nil, setRBACPrincipal, path, "any certificate would do") {
		l.exactURI(c.GetSanMatcher(), path)
	}
}
