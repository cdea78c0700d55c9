package jwks

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPermitted(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.15.255.255": true, "172.32.0.1": true, "100.63.255.255": true, "100.128.0.0": true,
		"223.255.255.255": true, "2606:4700:4700::1111": true, "2a00:1450:4001::1": true, "64:ff9b::808:808": true, "::ffff:8.8.8.8": true,

		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.255.255.254": false, "10.0.0.1": false, "172.16.0.1": false,
		"172.31.255.255": false, "192.168.0.1": false, "100.64.0.1": false, "100.127.255.255": false, "169.254.0.1": false,
		"169.254.169.254": false, "100.100.100.200": false, "168.63.129.16": false, "192.0.0.192": false, "192.0.2.1": false,
		"198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false,
		"240.0.0.1": false, "255.255.255.255": false,

		"::": false, "::1": false, "::127.0.0.1": false, "fe80::1": false, "fe80::1%eth0": false, "2606:4700::1%eth0": false,
		"fc00::1": false, "fd00::1": false, "fd00:ec2::254": false, "fec0::1": false, "ff02::1": false, "2001::1": false,
		"2001:db8::1": false, "2002:7f00:1::1": false, "3fff::1": false, "4000::1": false,

		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false, "::ffff:0:127.0.0.1": false,
		"64:ff9b::127.0.0.1": false, "64:ff9b::10.0.0.1": false, "64:ff9b::169.254.169.254": false, "64:ff9b:1::8.8.8.8": false,
	} {
		if got := permitted(netip.MustParseAddr(address), nil); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if permitted(netip.Addr{}, nil) {
		t.Error("no address is permitted")
	}
}

func TestAllowance(t *testing.T) {
	t.Parallel()
	allowed := prefixes("10.1.0.0/16", "169.254.0.0/16", "fd00::/8", "127.0.0.1/32")
	for address, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "127.0.0.2": false, "::ffff:127.0.0.1": true, "fd00::1": true,
		"64:ff9b::10.1.2.3": true, "8.8.8.8": true, "fe80::1": false,
		// A cloud's metadata is never allowed.
		"169.254.169.254": false, "fd00:ec2::254": false, "::ffff:169.254.169.254": false, "64:ff9b::169.254.169.254": false,
		"169.254.170.2": false, "169.254.170.23": false, "169.254.0.23": false, "fd00:ec2::23": false, "fd20:ce::254": false,
		"fd00:c1::a9fe:a9fe": false,
	} {
		if got := permitted(netip.MustParseAddr(address), allowed); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	for _, address := range []string{"", "localhost:443", "127.0.0.2:443", "[::1]:443", "@", "/run/x.sock"} {
		if err := control(allowed)("tcp", address, nil); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v", address, err)
		}
	}
	if err := control(allowed)("tcp4", "127.0.0.1:443", nil); err != nil {
		t.Error(err)
	}
}
