package identity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

func TestCheckAudience(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 255)
	for name, c := range map[string]struct {
		audience []string
		ok       bool
	}{
		"one":                {[]string{"orders"}, true},
		"a SPIFFE ID":        {[]string{"spiffe://acme.demo.test/ns/acme/sa/orders"}, true},
		"16":                 {slices.Repeat([]string{"a"}, 16), true},
		"6 of 255 and a bit": {append(slices.Repeat([]string{long}, 6), "123456"), true},
		"none":               {nil, false},
		"an empty one":       {[]string{"orders", ""}, false},
		"17":                 {slices.Repeat([]string{"a"}, 17), false},
		"of 256":             {[]string{long + "a"}, false},
		"too many together":  {append(slices.Repeat([]string{long}, 6), "1234567"), false},
		"a space":            {[]string{"a b"}, false},
		"a line break":       {[]string{"a\n"}, false},
		"not ASCII":          {[]string{"ä"}, false},
		"NUL":                {[]string{"a\x00"}, false},
	} {
		if err := identity.CheckAudience(c.audience); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The error says which audience is wrong, and a JWT-SVID lives for five minutes, as the documentation says.
func TestJWTSVIDBounds(t *testing.T) {
	t.Parallel()
	if err := identity.CheckAudience([]string{"orders", "a b"}); err == nil || !strings.HasPrefix(err.Error(), "audience 2:") {
		t.Errorf("which audience is wrong: %v", err)
	}
	if identity.MaxJWTSVIDLife.Minutes() != 5 {
		t.Errorf("a JWT-SVID lives for %s", identity.MaxJWTSVIDLife)
	}
}
