package filters

import (
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ringfence-mesh/ringfence/identity"
)

// The bounds of the linter. The builders have their own numbers, which must lie within.
const (
	lintConnectionLife = 12 * time.Hour
	// Of a connection to another sidecar: certificates are looked at when it is made, so it must end within the life of an SVID.
	lintMeshLife     = 5 * time.Minute
	lintIdle         = time.Hour
	lintHandshake    = 30 * time.Second
	lintHeaders      = time.Minute
	lintConnect      = 10 * time.Second
	lintCheck        = 2 * time.Second
	lintHeadersKB    = 60
	lintHeadersCount = 200
	lintStreams      = 1000
	lintWindow       = 16 << 20
	lintMinWindow    = 65_535 // of HTTP/2
	lintBuffer       = 1 << 20
	lintEarlyData    = 16 << 10
	lintBreaker      = 100_000
	lintBody         = 64 << 10
)

// within reports whether a time is set, above zero and at most limit.
func within(d *durationpb.Duration, limit time.Duration) bool {
	return d != nil && d.IsValid() && d.AsDuration() > 0 && d.AsDuration() <= limit
}

// between reports whether a number is set and in [low, high].
func between(n *wrapperspb.UInt32Value, low, high uint32) bool {
	return n != nil && n.GetValue() >= low && n.GetValue() <= high
}

// limited demands a time that is set, above zero and at most limit.
func (l *linter) limited(d *durationpb.Duration, limit time.Duration, setting, path string) {
	l.need(within(d, limit), setting, path, "no limit, or too long a one")
}

// bounded demands a number that is set and in [low, high].
func (l *linter) bounded(n *wrapperspb.UInt32Value, low, high uint32, setting, path string) {
	l.need(between(n, low, high), setting, path, "no bound, or one that is too high or too low")
}

// demand demands one value.
func demand[T comparable](l *linter, got, want T, setting, path string) {
	l.need(got == want, setting, path, "%v, not %v", got, want)
}

// address reads a socket address that is an IP address and a port.
func address(a *corev3.Address) (netip.AddrPort, bool) {
	s := a.GetSocketAddress()
	ip, err := netip.ParseAddr(s.GetAddress())
	port := s.GetPortValue()
	if err != nil || ip.Zone() != "" || ip.Is4In6() || port == 0 || port > 65_535 {
		return netip.AddrPort{}, false
	}
	// Envoy listens for IPv4 on an IPv6 address only where it is unspecified; anywhere else the field means nothing.
	if s.GetIpv4Compat() && ip != netip.IPv6Unspecified() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip, uint16(port)), true
}

// reachable reports whether an endpoint may have this address.
func reachable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast() &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// hostName reports whether s is a whole, lower-case DNS name without a wildcard. Trust domains have the same grammar.
func hostName(s string) bool {
	_, err := identity.ParseTrustDomain(s)
	return err == nil
}

// ads judges the source of something dynamic.
func (l *linter) ads(source *corev3.ConfigSource, path string) {
	ok := source.GetAds() != nil && source.GetResourceApiVersion() == corev3.ApiVersion_V3
	l.need(ok, setADS, path, "not the bootstrap's stream, in version 3")
	l.need(source.GetInitialFetchTimeout() == nil, setADS, path, "a time limit for what must come")
}
