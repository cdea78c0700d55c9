package extauthz

import (
	"errors"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/identity"
)

const xfccWeb = "spiffe://acme.demo.test/ns/acme/sa/web"

func TestXFCC(t *testing.T) {
	t.Parallel()
	const uri = "URI=" + xfccWeb
	tests := []struct {
		name, header string
		want         error
	}{
		{"alone", uri, nil},
		{"nothing behind a key", "By=;" + uri + ";DNS=", nil},
		{"as Envoy writes it", "By=spiffe://a.test/x;Hash=" + strings.Repeat("a", 64) + `;Cert="-----BEGIN%20CERTIFICATE-----%0AMII%3D";Chain="x";Subject="CN=\"a, b\",O=c\\d";` + uri + ";DNS=a.test;DNS=b.test", nil},
		{"subject and issuer with everything", `Subject="URI=spiffe://x;,=\"";` + uri + `;Issuer=""`, nil},

		{"empty", "", errXFCC},
		{"no URI", "Hash=a", errXFCCURI},
		{"empty URI", "URI=", errXFCCURI},
		{"two URIs", uri + ";" + uri, errXFCCURI},
		{"two elements", uri + "," + uri, errXFCCElements},
		{"two elements, the second empty", uri + ",", errXFCCElements},
		{"two elements, the first empty", "," + uri, errXFCC},
		{"a client's element before Envoy's", "Hash=a;URI=spiffe://evil.test/x," + uri, errXFCCElements},
		{"a comma behind a quote", `Subject="a",` + uri, errXFCCElements},
		{"key in another case", "uri=" + xfccWeb, errXFCC},
		{"unknown key", "Evil=a;" + uri, errXFCC},
		{"no key", "=a;" + uri, errXFCC},
		{"no value", "Hash;" + uri, errXFCC},
		{"space before a key", "Hash=a; " + uri, errXFCC},
		{"space behind the value", uri + " ", errXFCC},
		{"empty pair", uri + ";", errXFCC},
		{"two hashes", "Hash=a;Hash=b;" + uri, errXFCC},
		{"quote within a value", `URI=spiffe://a"b`, errXFCC},
		{"unclosed quote", `Subject="a;` + uri, errXFCC},
		{"text behind a quote", `Subject="a"b;` + uri, errXFCC},
		{"unknown escape", `Subject="\n";` + uri, errXFCC},
		{"escape at the end", `Subject="\`, errXFCC},
		{"equals sign in an identity", "URI=spiffe://a.test/x=y", errXFCC},
		{"line break", uri + "\r\n", errXFCC},
		{"NUL in quotes", "Subject=\"\x00\";" + uri, errXFCC},
		{"invalid UTF-8", "URI=\xff", errXFCC},
		{"too long", `Subject="` + strings.Repeat("a", maxXFCC) + `";` + uri, errXFCC},
	}
	for _, tt := range tests {
		got, err := xfccURI(tt.header)
		if !errors.Is(err, tt.want) || (err == nil) != (got == xfccWeb) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

// Whatever the header holds: one URI that stands in it as a whole, or an error.
func FuzzXFCC(f *testing.F) {
	for _, seed := range []string{
		"", "URI=" + xfccWeb, `By=a;Hash=b;Subject="CN=\"x\",O=y";URI=` + xfccWeb, "URI=a,URI=b", "URI=a;URI=b", `Subject="`, `URI="a"`, "DNS=a;DNS=b;URI=c", "By=;URI=c;",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		uri, err := xfccURI(header)
		if err != nil {
			if uri != "" {
				t.Errorf("%q beside %v", uri, err)
			}
			return
		}
		if uri == "" || strings.Count(header, "URI=") < 1 || len(header) > maxXFCC {
			t.Errorf("%q of %q", uri, header)
		}
		if _, err := identity.ParseSPIFFEID(uri); err == nil && !strings.Contains(header, uri) {
			t.Errorf("an identity that is not written: %q of %q", uri, header)
		}
	})
}

// Every byte, in quotes and without.
func TestXFCCTextsCompletely(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		b := string([]byte{byte(c)})
		printable := c >= ' ' && c <= '~'
		if visible("a"+b) != printable {
			t.Errorf("visible(%q) is not %v", b, printable)
		}
		value, rest, ok := unquote("a" + b + `z";rest`)
		switch {
		case b == `"`:
			if value != "a" || rest != `z";rest` || !ok {
				t.Errorf("a quote: %q, %q, %v", value, rest, ok)
			}
		case b == `\`:
			if ok {
				t.Errorf("an escaped letter is %q", value)
			}
		case ok != printable || ok && (value != "a"+b+"z" || rest != ";rest"):
			t.Errorf("%q in quotes: %q, %q, %v", b, value, rest, ok)
		}
	}
	if value, rest, ok := unquote(`a\"b\\c"`); value != `a"b\c` || rest != "" || !ok {
		t.Errorf("escapes: %q, %q, %v", value, rest, ok)
	}
	if got, err := xfccURI(`URI="` + xfccWeb + `"`); got != xfccWeb || err != nil {
		t.Errorf("a quoted URI: %q, %v", got, err)
	}
	for _, open := range []string{"a", `a\`, ""} {
		if _, _, ok := unquote(open); ok {
			t.Errorf("%q ends", open)
		}
	}
}
