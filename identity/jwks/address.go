package jwks

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrAddress says that a key set would be fetched from an address that is not for everybody.
var ErrAddress = errors.New("key sets are not fetched from this address")

// metadata are the addresses at which clouds tell a machine its secrets. No allowance covers them. On IPv4 most of them are
// link-local, where nobody publishes keys.
var metadata = prefixes(
	"169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
	"fd00:ec2::/32", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128",
)

// special are the IPv4 addresses that are not globally reachable, or reach many (IANA's registry of special-purpose
// addresses, RFC 6890).
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4",
)

var (
	// global is all of IPv6 that is assigned to hosts; special6 is what of it carries other addresses or reaches nobody.
	global   = netip.MustParsePrefix("2000::/3")
	special6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
	// nat64 carries an IPv4 address in its last four bytes (RFC 6052).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// plain is the address that packets end at: an IPv4 address in its IPv6 forms is that IPv4 address.
func plain(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

// permitted reports whether a key set may be fetched from the address: it is public, or allowed and no cloud's metadata.
func permitted(a netip.Addr, allowed []netip.Prefix) bool {
	a = plain(a)
	switch {
	case !a.IsValid() || a.Zone() != "" || within(metadata, a):
		return false
	case within(allowed, a):
		return true
	case a.Is4():
		return !within(special, a)
	default:
		return global.Contains(a) && !within(special6, a)
	}
}

// control judges the address of a connection that is about to be made, which no resolver can change any more.
func control(allowed []netip.Prefix) func(network, address string, c syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !permitted(ap.Addr(), allowed) {
			return fmt.Errorf("%w: %s is not public, and no --jwks-allow covers it", ErrAddress, address)
		}
		return nil
	}
}
