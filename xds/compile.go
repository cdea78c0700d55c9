package xds

import (
	"errors"
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// ErrForeign says that something of another tenant was about to get into a Snapshot. It means an error in Ringfence.
var ErrForeign = errors.New("belongs to another tenant")

// meshDomain ends the full names of services: SERVICE.TENANT.mesh.
const meshDomain = "mesh"

// builder fills the Snapshot of one workload. It takes values of package tenancy, which know their owner, and refuses
// those of another one; it takes no text and no Envoy message.
type builder struct {
	made      *pieces
	side      filters.Sidecar
	w         tenancy.Workload
	resources map[pieceKey]Resource
}

func snapshot(made *pieces, w tenancy.Workload) (Snapshot, error) {
	if !w.ID().Tenant().Same(made.t.ID()) {
		return Snapshot{}, fmt.Errorf("workload %s: %w", w.ID(), ErrForeign)
	}
	b := &builder{made: made, side: sidecar(w), w: w, resources: map[pieceKey]Resource{}}
	for _, s := range w.Services() {
		if err := b.inbound(s); err != nil {
			return Snapshot{}, fmt.Errorf("calls to service %s: %w", s.Name(), err)
		}
		if err := b.outbound(s); err != nil {
			return Snapshot{}, fmt.Errorf("calls of service %s: %w", s.Name(), err)
		}
	}
	all := make([]Resource, 0, len(b.resources))
	for _, r := range b.resources {
		all = append(all, r)
	}
	return NewSnapshot(w.ID(), all...)
}

// sidecar is what the workload's Envoy has beside it.
func sidecar(w tenancy.Workload) filters.Sidecar {
	if w.Proxy() == tenancy.ProxyDirect {
		return filters.Direct(w.ID())
	}
	return filters.Sidecar{}
}

func (b *builder) own(s tenancy.Service) error {
	if !s.Owner().Same(b.made.t.ID()) {
		return fmt.Errorf("service %s: %w", s.Name(), ErrForeign)
	}
	return nil
}

// inbound is the sidecar in front of a service: one listener, in it one chain for each tenant that may call, each with
// that tenant's roots and callers only.
func (b *builder) inbound(s tenancy.Service) error {
	if err := b.own(s); err != nil {
		return err
	}
	port, ok := s.Port()
	if !ok || len(s.Endpoints()) == 0 {
		return nil // nobody can call it
	}
	listener, err := filters.InboundListener(b.made.t.ResourceName(tenancy.KindInbound, s.Name()))
	if err != nil {
		return err
	}
	listener.Address = listenAddress(s.Endpoints())
	build := b.chain
	if port.Protocol == tenancy.TCP {
		build = b.chainTCP
	}
	for _, c := range b.made.t.Callers(s.Name()) {
		chain, err := build(s, port, c)
		if err != nil {
			return fmt.Errorf("caller %s: %w", c.Tenant(), err)
		}
		listener.FilterChains = append(listener.GetFilterChains(), chain)
	}
	return errors.Join(b.take(b.made.app(s, port)), b.add(ListenerType, listener.GetName(), listener))
}

// chain is what one tenant's callers meet. The chain itself does not say who of them may call: that comes with the route
// configuration, so a changed caller drains nothing.
func (b *builder) chain(s tenancy.Service, port tenancy.Port, c tenancy.Caller) (*listenerv3.FilterChain, error) {
	if err := b.caller(s, c); err != nil {
		return nil, err
	}
	t := b.made.t
	routes, err := filters.CallersRoutes(filters.Callers{
		Name:    t.ResourceName(tenancy.KindCallers, s.Name(), c.Tenant().Name()),
		Service: t.ID().Name() + "/" + s.Name(),
		Port:    port.Name,
		IDs:     c.IDs(),
		App:     t.ResourceName(tenancy.KindApp, s.Name()),

		MaxStream: s.MaxStreamDuration(),
		// A shared service gets the tokens of its callers only if it asks for them. Where tokens are not read, the header is
		// the application's own affair.
		KeepAuthorization: !s.Shared() || s.ForwardToken() || s.Token() == tenancy.TokenNone,
	})
	if err != nil {
		return nil, err
	}
	chain, err := filters.InboundChain(b.side, c.SNI(), c.Tenant().TrustDomain(), routes.GetName())
	if err != nil {
		return nil, err
	}
	filters.WithEpoch(chain, c.Epoch())
	return chain, errors.Join(b.add(RouteType, routes.GetName(), routes), b.take(b.made.bundle(c.Bundle())))
}

// chainTCP is the same for a TCP service. Who may connect comes with the roots, in a secret of the chain's name.
func (b *builder) chainTCP(s tenancy.Service, port tenancy.Port, c tenancy.Caller) (*listenerv3.FilterChain, error) {
	if err := b.caller(s, c); err != nil {
		return nil, err
	}
	t := b.made.t
	secret, err := filters.CallersSecret(t.ResourceName(tenancy.KindCallers, s.Name(), c.Tenant().Name()), c.Bundle(), c.IDs())
	if err != nil {
		return nil, err
	}
	chain, err := filters.InboundTCPChain(filters.InboundTCP{
		Sidecar: b.side, Name: secret.GetName(), SNI: c.SNI(), App: t.ResourceName(tenancy.KindApp, s.Name()),
		ServerFirst: port.ServerFirst,
	})
	if err != nil {
		return nil, err
	}
	filters.WithEpoch(chain, c.Epoch())
	return chain, b.add(SecretType, secret.GetName(), secret)
}

// caller refuses a caller that is neither of the own tenant nor a stranger at a shared service, and one whose identities
// or roots are not its own.
func (b *builder) caller(s tenancy.Service, c tenancy.Caller) error {
	own := c.Tenant().Same(b.made.t.ID())
	foreign := c.Tenant().IsZero() || !own && !s.Shared() || c.Bundle().TrustDomain() != c.Tenant().TrustDomain()
	for _, id := range c.IDs() {
		foreign = foreign || !id.Tenant().Same(c.Tenant())
	}
	if foreign {
		return fmt.Errorf("caller %s of service %s: %w", c.Tenant(), s.Name(), ErrForeign)
	}
	return nil
}

// outbound is the HTTP proxy for the application's own calls, to the tenant's own services and what is granted to it, and
// the ports that lead to TCP services.
func (b *builder) outbound(s tenancy.Service) error {
	if err := b.own(s); err != nil {
		return err
	}
	for _, o := range s.OutboundTCP() {
		if err := b.outboundTCP(s, o); err != nil {
			return fmt.Errorf("to %s: %w", o.Service, err)
		}
	}
	port, ok := s.Outbound()
	if !ok {
		return nil
	}
	name := b.made.t.ResourceName(tenancy.KindRoutes, s.Name())
	destinations, err := b.destinations()
	if err != nil {
		return err
	}
	routes, err := filters.OutboundRoutes(name, destinations)
	if err != nil {
		return err
	}
	chain, err := filters.OutboundChain(name)
	if err != nil {
		return err
	}
	filters.WithEpoch(chain, b.made.t.Epoch())
	listener := filters.OutboundListener(b.made.t.ResourceName(tenancy.KindOutbound, s.Name()))
	listener.Address = socketAddress(netip.AddrPortFrom(loopback, port))
	listener.FilterChains = []*listenerv3.FilterChain{chain}
	return errors.Join(b.add(RouteType, name, routes), b.add(ListenerType, listener.GetName(), listener))
}

// outboundTCP is a listener for the application's own connections to one TCP service. There is none to a shared service that
// is not granted, or that speaks something else.
func (b *builder) outboundTCP(s tenancy.Service, o tenancy.OutboundTCP) error {
	owner, cluster, epoch, err := b.connects(o)
	if cluster == "" || err != nil {
		return err
	}
	name := b.made.t.ResourceName(tenancy.KindTCP, s.Name(), owner.Name(), o.Service)
	chain, err := filters.OutboundTCPChain(name, cluster)
	if err != nil {
		return err
	}
	filters.WithEpoch(chain, epoch)
	listener := filters.OutboundListener(name)
	listener.Address = socketAddress(netip.AddrPortFrom(loopback, o.Port))
	listener.FilterChains = []*listenerv3.FilterChain{chain}
	return b.add(ListenerType, name, listener)
}

// connects takes the cluster of a TCP destination into the Snapshot; its name is empty where there is no such destination.
func (b *builder) connects(o tenancy.OutboundTCP) (owner identity.TenantID, cluster, epoch string, err error) {
	t := b.made.t
	if !o.Shared {
		s, ok := t.Service(o.Service)
		if port, called := s.Port(); !ok || !called || port.Protocol != tenancy.TCP {
			return owner, "", "", fmt.Errorf("%s takes no TCP connections", o.Service)
		}
		if err := b.own(s); err != nil {
			return owner, "", "", err
		}
		err = errors.Join(b.take(b.made.service(b.side, s)), b.take(b.made.serviceEndpoints(s)), b.take(b.made.bundle(t.Bundle())))
		return t.ID(), t.ResourceName(tenancy.KindService, s.Name()), s.Epoch(), err
	}
	for _, i := range t.Imports() {
		if i.Name() != o.Service || i.Protocol() != tenancy.TCP {
			continue
		}
		if err := b.shared(i); err != nil {
			return owner, "", "", err
		}
		err = errors.Join(b.take(b.made.imported(b.side, i)), b.take(b.made.importEndpoints(i)), b.take(b.made.bundle(i.Bundle())))
		return i.IDs()[0].Tenant(), t.ResourceName(tenancy.KindImport, i.Name()), i.Epoch(), err
	}
	return owner, "", "", nil
}

// destinations are the services that the workload can send requests to, with their clusters. An own service keeps its short name
// before a shared one.
func (b *builder) destinations() ([]filters.Destination, error) {
	t := b.made.t
	var out []filters.Destination
	short := map[string]bool{}
	for _, s := range t.Services() {
		if p, ok := s.Port(); !ok || p.Protocol == tenancy.TCP {
			continue
		}
		if err := b.own(s); err != nil {
			return nil, err
		}
		err := errors.Join(b.take(b.made.service(b.side, s)), b.take(b.made.serviceEndpoints(s)), b.take(b.made.bundle(t.Bundle())))
		if err != nil {
			return nil, fmt.Errorf("destination %s: %w", s.Name(), err)
		}
		short[s.Name()] = true
		cluster, hosts := t.ResourceName(tenancy.KindService, s.Name()), []string{s.Name(), fullName(s.Name(), t.ID().Name())}
		out = append(out, filters.Destination{Name: cluster, Cluster: cluster, Hosts: hosts})
	}
	for _, i := range t.Imports() {
		if i.Protocol() == tenancy.TCP {
			continue
		}
		if err := b.shared(i); err != nil {
			return nil, err
		}
		err := errors.Join(b.take(b.made.imported(b.side, i)), b.take(b.made.importEndpoints(i)), b.take(b.made.bundle(i.Bundle())))
		if err != nil {
			return nil, fmt.Errorf("shared destination %s: %w", i.Name(), err)
		}
		hosts := []string{fullName(i.Name(), identity.PlatformName)}
		if !short[i.Name()] {
			hosts = append([]string{i.Name()}, hosts...)
		}
		cluster := t.ResourceName(tenancy.KindImport, i.Name())
		out = append(out, filters.Destination{Name: cluster, Cluster: cluster, Hosts: hosts})
	}
	return out, nil
}

// shared refuses an import that is not the platform's.
func (b *builder) shared(i tenancy.Import) error {
	foreign := i.Bundle().TrustDomain() != b.made.t.Mapping().Platform()
	for _, id := range i.IDs() {
		foreign = foreign || !id.Tenant().IsPlatform()
	}
	if foreign {
		return fmt.Errorf("shared service %s: %w", i.Name(), ErrForeign)
	}
	return nil
}

func fullName(service, tenant string) string { return service + "." + tenant + "." + meshDomain }

// add puts a message of this workload's own into the Snapshot.
func (b *builder) add(typeURL, name string, m proto.Message) error {
	return b.take(freeze(typeURL, name, m))
}

// take puts a finished resource into the Snapshot.
func (b *builder) take(r Resource, err error) error {
	if err == nil {
		b.resources[pieceKey{r.TypeURL(), r.Name()}] = r
	}
	return err
}

// freeze serialises a message, always to the same bytes.
func freeze(typeURL, name string, m proto.Message) (Resource, error) {
	if name == "" {
		return Resource{}, errors.New("a resource without a name")
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return Resource{}, fmt.Errorf("serialising %s: %w", name, err)
	}
	return NewResource(typeURL, name, value), nil
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// listenAddress is where a sidecar listens that is one of these endpoints: at the endpoint itself if it is the only one,
// and at their port on every address if it cannot know which one it is.
func listenAddress(endpoints []netip.AddrPort) *corev3.Address {
	if len(endpoints) == 1 {
		return socketAddress(endpoints[0])
	}
	any4 := true
	for _, e := range endpoints {
		any4 = any4 && e.Addr().Is4()
	}
	if any4 {
		return socketAddress(netip.AddrPortFrom(netip.IPv4Unspecified(), endpoints[0].Port()))
	}
	a := socketAddress(netip.AddrPortFrom(netip.IPv6Unspecified(), endpoints[0].Port()))
	a.GetSocketAddress().Ipv4Compat = true
	return a
}

func socketAddress(a netip.AddrPort) *corev3.Address { return hostAddress(a.Addr().String(), a.Port()) }

func hostAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
