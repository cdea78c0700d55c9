package filters

import (
	"errors"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	authorizationHeader = "authorization"
	refusalStatus       = 403
	everyHost           = "*"
)

// Callers is the route configuration of one inbound chain: who may call, for which destination the decision point is
// asked, and the application.
type Callers struct {
	Name    string                // of the route configuration
	Service string                // "tenant/service"
	Port    string                // the port's name
	IDs     []identity.WorkloadID // the callers; none lets nobody in
	App     string                // the application's cluster
	// MaxStream is how long one request may go on.
	MaxStream time.Duration
	// KeepAuthorization passes the Authorization header on to the application.
	KeepAuthorization bool
}

// CallersRoutes builds the route configuration of an inbound chain.
func CallersRoutes(c Callers) (*routev3.RouteConfiguration, error) {
	if c.Name == "" || c.Service == "" || c.Port == "" || c.App == "" {
		return nil, errNoService
	}
	callers, err := allowCallers(c.IDs)
	if err != nil {
		return nil, err
	}
	guard1, err := pack(callers)
	if err != nil {
		return nil, err
	}
	guard2, err := pack(checkContext(c.Service, c.Port))
	if err != nil {
		return nil, err
	}
	if c.MaxStream <= 0 {
		return nil, errEndless
	}
	route := toCluster(c.App)
	route.GetRoute().MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: seconds(c.MaxStream)}
	routes := &routev3.RouteConfiguration{
		Name: c.Name,
		VirtualHosts: []*routev3.VirtualHost{{
			Name: "app", Domains: []string{everyHost}, Routes: []*routev3.Route{route},
		}},
		TypedPerFilterConfig: map[string]*anypb.Any{rbacName: guard1, extAuthzName: guard2},
	}
	if !c.KeepAuthorization {
		routes.RequestHeadersToRemove = []string{authorizationHeader}
	}
	return routes, nil
}

// Destination is one host of the outbound proxy: its names and the cluster that it leads to.
type Destination struct {
	Name    string // of the virtual host
	Hosts   []string
	Cluster string
}

// OutboundRoutes is the route configuration of an outbound listener: the destinations, and one refusal for all other names.
func OutboundRoutes(name string, destinations []Destination) (*routev3.RouteConfiguration, error) {
	if name == "" {
		return nil, errNoRoutes
	}
	routes := &routev3.RouteConfiguration{Name: name}
	for _, d := range destinations {
		if d.Name == "" || len(d.Hosts) == 0 || d.Cluster == "" {
			return nil, errors.New("a destination without a name, a host or a cluster")
		}
		routes.VirtualHosts = append(routes.GetVirtualHosts(), &routev3.VirtualHost{
			Name: d.Name, Domains: d.Hosts, Routes: []*routev3.Route{toCluster(d.Cluster)},
		})
	}
	routes.VirtualHosts = append(routes.GetVirtualHosts(), &routev3.VirtualHost{
		Name: "refused", Domains: []string{everyHost}, Routes: []*routev3.Route{{
			Match:  everyPath(),
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: refusalStatus}},
		}},
	})
	return routes, nil
}

// toCluster has no timeout of its own: Envoy's default of 15 s would cut every stream. Idle streams end by the connection
// manager's limit, long ones by the inbound route's.
func toCluster(cluster string) *routev3.Route {
	return &routev3.Route{
		Match: everyPath(),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          &durationpb.Duration{},
		}},
	}
}

func everyPath() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}
