package filters

import (
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	mtlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rbac/principals/mtls_authenticated/v3"

	"github.com/ringfence-mesh/ringfence/identity"
)

// callersPolicy is the name of the one policy that lets callers in.
const callersPolicy = "callers"

// denyAll is guard 1 as it stands in the listener: an ALLOW without a policy, which lets nobody in. The callers come with
// the route configuration, so a changed caller drains no connection.
func denyAll() *rbacv3.RBAC {
	return &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}}
}

// allowCallers is guard 1 with its callers: exactly these identities, proved by the connection's validated certificate.
// Without callers it lets nobody in. The rbac field is always there: RBACPerRoute without it switches RBAC off.
func allowCallers(callers []identity.WorkloadID) (*rbacv3.RBACPerRoute, error) {
	rules := &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}
	if len(callers) > 0 {
		policy := &rbacconfigv3.Policy{
			Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
		}
		for _, id := range callers {
			san, err := exactURI(id)
			if err != nil {
				return nil, err
			}
			principal, err := extension(mtlsPrincipalName, &mtlsv3.Config{SanMatcher: san})
			if err != nil {
				return nil, err
			}
			policy.Principals = append(policy.GetPrincipals(), &rbacconfigv3.Principal{
				Identifier: &rbacconfigv3.Principal_Custom{Custom: principal},
			})
		}
		rules.Policies = map[string]*rbacconfigv3.Policy{callersPolicy: policy}
	}
	return &rbacv3.RBACPerRoute{Rbac: &rbacv3.RBAC{Rules: rules}}, nil
}
