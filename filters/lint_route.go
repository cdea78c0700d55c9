package filters

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

func (l *linter) routes(m *routev3.RouteConfiguration) {
	kind, parts, ok := l.resourceName(m.GetName(), "name", tenancy.KindCallers, tenancy.KindRoutes)
	if !ok {
		return
	}
	l.domains(m.GetVirtualHosts())
	if kind == tenancy.KindCallers {
		l.callersRoutes(m, parts[0])
	} else {
		l.outboundRoutes(m)
	}
}

func (l *linter) callersRoutes(m *routev3.RouteConfiguration, service string) {
	const perRoute = "typed_per_filter_config"
	config := m.GetTypedPerFilterConfig()
	guard1, ok1 := config[rbacName]
	guard2, ok2 := config[extAuthzName]
	if l.need(ok1 && ok2 && len(config) == 2, setPerRoute, perRoute, "not exactly the two guards' configuration") {
		var callers rbacv3.RBACPerRoute
		if l.unpack(guard1, &callers, perRoute) {
			l.callers(&callers, perRoute)
		}
		var check extauthzv3.ExtAuthzPerRoute
		if l.unpack(guard2, &check, perRoute) {
			l.checkContext(check.GetCheckSettings().GetContextExtensions(), service, perRoute)
		}
	}
	for _, h := range m.GetRequestHeadersToRemove() {
		l.need(h == "authorization", setHeadersToDrop, "request_headers_to_remove", "%q", clip(h))
	}
	l.need(len(m.GetRequestHeadersToRemove()) <= 1, setHeadersToDrop, "request_headers_to_remove", "more than one")
	hosts := m.GetVirtualHosts()
	if !l.need(len(hosts) == 1, setVirtualHosts, "virtual_hosts", "%d of them", len(hosts)) {
		return
	}
	l.need(len(hosts[0].GetDomains()) == 1 && hosts[0].GetDomains()[0] == "*", setDomains, "virtual_hosts[0]", "not the one for every host")
	if r := l.oneRoute(hosts[0], "virtual_hosts[0]"); r != nil {
		parts, ok := l.toCluster(r, "virtual_hosts[0]", tenancy.KindApp)
		l.need(!ok || parts[0] == service, setRouteTarget, "virtual_hosts[0]", "the application of another service")
		l.limited(r.GetRoute().GetMaxStreamDuration().GetMaxStreamDuration(), lintConnectionLife, setRouteStream, "virtual_hosts[0]")
	}
}

// checkContext judges what the decision point is told: this service and a port, nothing else.
func (l *linter) checkContext(context map[string]string, service, path string) {
	want := l.scope.Tenant.Name() + "/" + service
	ok := len(context) == 2 && context["service"] == want && identity.ValidName(context["port"])
	l.need(ok, setAuthzContext, path, "the context is not service %q and a port", want)
}

func (l *linter) outboundRoutes(m *routev3.RouteConfiguration) {
	l.need(len(m.GetTypedPerFilterConfig()) == 0, setPerRoute, "typed_per_filter_config", "outbound routes have none")
	l.need(len(m.GetRequestHeadersToRemove()) == 0, setHeadersToDrop, "request_headers_to_remove", "outbound routes remove none")
	hosts := m.GetVirtualHosts()
	if !l.need(len(hosts) > 0, setVirtualHosts, "virtual_hosts", "none, not even the refusal") {
		return
	}
	for i, h := range hosts {
		path := fmt.Sprintf("virtual_hosts[%d]", i)
		r := l.oneRoute(h, path)
		if r == nil {
			continue
		}
		if i < len(hosts)-1 {
			l.toCluster(r, path, tenancy.KindService, tenancy.KindImport)
			l.need(r.GetRoute().GetMaxStreamDuration() == nil, setRouteStream, path, "an end of streams")
			continue
		}
		l.need(len(h.GetDomains()) == 1 && h.GetDomains()[0] == "*", setDomains, path, "the last one is not for every other host")
		l.need(r.GetDirectResponse().GetStatus() == 403, setRefusal, path, "the last one refuses nobody")
	}
}

// domains judges all hosts of a route configuration: Envoy refuses the whole of it for one duplicate.
func (l *linter) domains(hosts []*routev3.VirtualHost) {
	names, domains := map[string]bool{}, map[string]bool{}
	for i, h := range hosts {
		path := fmt.Sprintf("virtual_hosts[%d]", i)
		only := h.GetName() != "" && !names[h.GetName()]
		l.need(only, setVirtualHosts, path, "its name %q is empty or not the only one", clip(h.GetName()))
		names[h.GetName()] = true
		l.need(len(h.GetDomains()) > 0, setDomains, path, "no host")
		for _, d := range h.GetDomains() {
			l.need(!domains[d], setDomains, path, "host %q twice", clip(d))
			domains[d] = true
			everyOther := d == "*" && i == len(hosts)-1
			l.need(everyOther || hostName(d), setDomains, path, "host %q", clip(d))
		}
	}
}

// oneRoute returns the one route of a virtual host, which is for every path.
func (l *linter) oneRoute(h *routev3.VirtualHost, path string) *routev3.Route {
	if !l.need(len(h.GetRoutes()) == 1, setRouteMatch, path, "%d routes", len(h.GetRoutes())) {
		return nil
	}
	r := h.GetRoutes()[0]
	l.need(r.GetMatch().GetPrefix() == "/", setRouteMatch, path, "the route is not for every path")
	return r
}

// toCluster judges a route that leads to a cluster of one of these kinds.
func (l *linter) toCluster(r *routev3.Route, path string, kinds ...tenancy.Kind) ([]string, bool) {
	action := r.GetRoute()
	if !l.need(action != nil && action.GetCluster() != "", setRouteTarget, path, "the route leads to no cluster") {
		return nil, false
	}
	timeout := action.GetTimeout()
	l.need(timeout != nil && timeout.GetSeconds() == 0 && timeout.GetNanos() == 0, setRouteTimeout, path, "the route has a timeout")
	_, parts, ok := l.ownName(action.GetCluster(), setRouteTarget, path, kinds...)
	return parts, ok
}
