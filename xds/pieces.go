package xds

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

type pieceKey struct{ typeURL, name string }

type sharedKey struct {
	pieceKey

	side filters.Sidecar
}

// pieces are the resources of one tenant that its workloads share: each is made once, and its bytes are kept once. Clusters of
// other sidecars hold where the SVID comes from, so a workload without an agent has its own.
type pieces struct {
	t    tenancy.Tenant
	done map[sharedKey]Resource
}

func (p *pieces) once(side filters.Sidecar, typeURL, name string, build func() (Resource, error)) (Resource, error) {
	key := sharedKey{pieceKey{typeURL, name}, side}
	if r, ok := p.done[key]; ok {
		return r, nil
	}
	r, err := build()
	if err == nil {
		p.done[key] = r
	}
	return r, err
}

// service is the cluster to a service of the tenant's own.
func (p *pieces) service(side filters.Sidecar, s tenancy.Service) (Resource, error) {
	port, _ := s.Port()
	name, own := p.t.ResourceName(tenancy.KindService, s.Name()), p.t.ID()
	return p.mesh(side, name, own.TrustDomain(), s.Servers(), s.SNI(own), port.Protocol)
}

func (p *pieces) serviceEndpoints(s tenancy.Service) (Resource, error) {
	return p.endpoints(p.t.ResourceName(tenancy.KindService, s.Name()), s.Endpoints())
}

// imported is the cluster to a shared service. It is the tenant's own: no two tenants share a connection pool.
func (p *pieces) imported(side filters.Sidecar, i tenancy.Import) (Resource, error) {
	return p.mesh(side, p.t.ResourceName(tenancy.KindImport, i.Name()), i.Bundle().TrustDomain(), i.Servers(), i.SNI(), i.Protocol())
}

func (p *pieces) importEndpoints(i tenancy.Import) (Resource, error) {
	return p.endpoints(p.t.ResourceName(tenancy.KindImport, i.Name()), i.Endpoints())
}

// mesh is a cluster of other sidecars: found by EDS, pinned to the identities of the service that are not revoked.
func (p *pieces) mesh(
	side filters.Sidecar, name string, td identity.TrustDomain, ids []identity.WorkloadID, sni string, speaks tenancy.Protocol,
) (Resource, error) {
	tcp := speaks == tenancy.TCP
	protocol := func() (map[string]*anypb.Any, error) { return filters.MeshProtocol(p.t.ConnectionLife()) }
	if tcp {
		protocol = filters.TCPProtocol
	}
	return p.once(side, ClusterType, name, func() (Resource, error) {
		c := filters.Cluster(name, true)
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: filters.ADS()}
		var err error
		if c.TransportSocket, err = filters.UpstreamTLS(side, td, ids, sni, tcp); err != nil {
			return Resource{}, err
		}
		if c.TypedExtensionProtocolOptions, err = protocol(); err != nil {
			return Resource{}, err
		}
		return freeze(ClusterType, name, c)
	})
}

// app is the cluster to the application itself, on loopback.
func (p *pieces) app(s tenancy.Service, port tenancy.Port) (Resource, error) {
	name := p.t.ResourceName(tenancy.KindApp, s.Name())
	return p.once(filters.Sidecar{}, ClusterType, name, func() (Resource, error) {
		c := filters.Cluster(name, false)
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.LoadAssignment = assignment(name, []netip.AddrPort{netip.AddrPortFrom(loopback, port.AppPort)})
		var err error
		if port.Protocol == tenancy.TCP {
			c.TypedExtensionProtocolOptions, err = filters.TCPProtocol()
		} else {
			c.TypedExtensionProtocolOptions, err = filters.AppProtocol(port.Protocol == tenancy.GRPC)
		}
		if err != nil {
			return Resource{}, err
		}
		return freeze(ClusterType, name, c)
	})
}

func (p *pieces) endpoints(name string, addresses []netip.AddrPort) (Resource, error) {
	return p.once(filters.Sidecar{}, EndpointType, name, func() (Resource, error) {
		return freeze(EndpointType, name, assignment(name, addresses))
	})
}

func assignment(cluster string, addresses []netip.AddrPort) *endpointv3.ClusterLoadAssignment {
	locality := &endpointv3.LocalityLbEndpoints{}
	for _, a := range addresses {
		locality.LbEndpoints = append(locality.GetLbEndpoints(), &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(a)}},
		})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{locality}}
}

// bundle is the SDS secret with the roots of a trust domain.
func (p *pieces) bundle(b identity.Bundle) (Resource, error) {
	return p.once(filters.Sidecar{}, SecretType, b.TrustDomain().ID(), func() (Resource, error) {
		s, err := filters.BundleSecret(b)
		if err != nil {
			return Resource{}, err
		}
		return freeze(SecretType, s.GetName(), s)
	})
}
