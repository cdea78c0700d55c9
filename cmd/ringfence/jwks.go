package main

import (
	"net/netip"

	"github.com/spf13/pflag"
)

// addJWKSAllow adds --jwks-allow. It is a flag and no document: who writes documents must not open the way from this
// process into its own network.
func addJWKSAllow(f *pflag.FlagSet) *[]string {
	return f.StringSlice("jwks-allow", nil,
		"address range, such as 10.1.2.0/24, from which TokenIssuers' jwks.uri may be fetched although it is not public; repeatable")
}

func parsePrefixes(flag string, texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return nil, usage("%s is an address range such as 10.1.2.0/24 or fd00:1::/64, not %q", flag, text)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}
