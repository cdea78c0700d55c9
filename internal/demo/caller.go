package demo

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Caller sends calls through a running mesh, and past it, and finds out which layer refused what. A Mesh is one; Remote
// is one for a mesh that runs elsewhere.
type Caller struct {
	model func() *tenancy.Model
	// dial opens a connection from where the application of "tenant/service" runs.
	dial   func(ctx context.Context, from, network, address string) (net.Conn, error)
	mint   func(Token) (string, error)
	stolen func(name string) (*tls.Certificate, error)
	// denials is how many calls the RBAC filters of all sidecars have refused so far.
	denials func(ctx context.Context) (int64, error)
	// reason is why the decision point refused a call.
	reason func(ctx context.Context, decision string) (string, error)
}

// dialHere is dial where every application shares this machine's loopback.
func dialHere(ctx context.Context, _, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (m *Caller) dialAs(name string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return m.dial(ctx, name, network, address)
	}
}

// service finds "tenant/service" in the current model.
func (m *Caller) service(name string) (tenancy.Service, identity.TenantID, error) {
	tenant, service, _ := strings.Cut(name, "/")
	model := m.model()
	id, err := model.Mapping().TenantID(tenant)
	if err != nil {
		return tenancy.Service{}, identity.TenantID{}, err
	}
	t, ok := model.Tenant(id)
	if !ok {
		return tenancy.Service{}, identity.TenantID{}, fmt.Errorf("no tenant %s", tenant)
	}
	for _, s := range t.Services() {
		if s.Name() == service {
			return s, id, nil
		}
	}
	return tenancy.Service{}, identity.TenantID{}, fmt.Errorf("tenant %s has no service %s", tenant, service)
}

// Outbound is where the sidecar of "tenant/service" takes the application's own calls.
func (m *Caller) Outbound(name string) (netip.AddrPort, error) {
	s, _, err := m.service(name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, ok := s.Outbound()
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%s has no outbound port", name)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), nil
}

// OutboundTCP is where the sidecar of "tenant/service" takes the application's own connections to a TCP service, which is
// named as the document names it.
func (m *Caller) OutboundTCP(name, destination string) (netip.AddrPort, error) {
	s, _, err := m.service(name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	to, shared := strings.CutPrefix(destination, identity.PlatformName+"/")
	for _, o := range s.OutboundTCP() {
		if o.Service == to && o.Shared == shared {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), o.Port), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("%s has no port for %s", name, destination)
}

// Backend is where the application of "tenant/service" listens.
func (m *Caller) Backend(name string) (netip.AddrPort, error) {
	s, _, err := m.service(name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, ok := s.Port()
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("nobody calls %s", name)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port.AppPort), nil
}

// Inbound is where the sidecar of "tenant/service" takes calls of others.
func (m *Caller) Inbound(name string) (netip.AddrPort, error) {
	s, _, err := m.service(name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	endpoints := s.Endpoints()
	if len(endpoints) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s has no endpoint", name)
	}
	return endpoints[0], nil
}
