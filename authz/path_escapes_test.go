package authz_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringfence-mesh/ringfence/authz"
)

// The dumb twin of what may be escaped in a path: all escaped characters, one behind the other, and the text that follows.
func twinEscapes(escaped []byte, behind string) bool {
	const hex, unreserved = "0123456789abcdefABCDEF", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
	if !utf8.Valid(escaped) {
		return false
	}
	for i, r := range string(escaped) {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || strings.ContainsRune(`/\;`, r) || strings.ContainsRune(unreserved, r) {
			return false
		}
		// What is decoded a second time would be another character.
		last := i+utf8.RuneLen(r) == len(escaped)
		if r == '%' && last && len(behind) >= 2 && strings.Contains(hex, behind[:1]) && strings.Contains(hex, behind[1:2]) {
			return false
		}
	}
	return true
}

func TestEscapesAgainstDumbTwinCompletely(t *testing.T) {
	t.Parallel()
	var all [][]byte
	edges := []byte{0x00, 0x25, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff}
	for a := range 256 {
		all = append(all, []byte{byte(a)})
		for b := range 256 {
			all = append(all, []byte{byte(a), byte(b)})
			if a < 0xe0 {
				continue
			}
			for _, c := range edges {
				all = append(all, []byte{byte(a), byte(b), c})
				if a < 0xf0 {
					continue
				}
				for _, d := range edges {
					all = append(all, []byte{byte(a), byte(b), c, d}, []byte{byte(a), byte(b), c, d, 0xc3, 0xa9})
				}
			}
		}
	}
	tried, accepted := 0, 0
	for _, escaped := range all {
		forms, behinds := []string{"%%%02X"}, []string{"", "x"}
		if len(escaped) == 1 || escaped[len(escaped)-1] == '%' {
			forms, behinds = []string{"%%%02X", "%%%02x"}, []string{"", "x", "4", "41", "aF", "4g", "g4", "/41"}
		}
		for _, form := range forms {
			var text strings.Builder
			for _, b := range escaped {
				fmt.Fprintf(&text, form, b)
			}
			for _, behind := range behinds {
				path := "/a" + text.String() + behind
				got, ok := authz.CanonicalPath(path)
				if want := twinEscapes(escaped, behind); ok != want || ok && got != path {
					t.Fatalf("%q: %q, %v; the twin says %v", path, got, ok, want)
				}
				if tried++; ok {
					accepted++
				}
			}
		}
	}
	if tried < 100_000 || accepted < 1_000 {
		t.Errorf("%d tried, %d accepted", tried, accepted)
	}
}

// What begins like an escape and is none.
func TestHalfEscapes(t *testing.T) {
	t.Parallel()
	const hex = "0123456789abcdefABCDEF"
	for x := range 128 {
		for y := range 128 {
			text := string([]byte{'/', '%', byte(x), byte(y)})
			if strings.IndexByte(hex, byte(x)) >= 0 && strings.IndexByte(hex, byte(y)) >= 0 {
				continue
			}
			for _, behind := range []string{"", "%2C", "%A9", "%82%AC"} {
				if got, ok := authz.CanonicalPath(text + behind); ok {
					t.Errorf("%q can be read: %q", text+behind, got)
				}
			}
		}
	}
	for _, text := range []string{
		"%", "%4", "%g1", "%1g", "%4G", "%G4", "%%41", "%-1", "% 1", "%C3", "%C3x", "%C3xA9", "%C3%", "%C3%A", "%C3%gA", "%C3%Ag", "%C3A9", "%C3/A9",
		"%E2%82xAC", "%E2%82%A", "%F0%9F%98x80", "%c3%a9%", "%C3%A9%C3",
	} {
		for _, before := range []string{"/", "/a", "/a/%C3%A9"} {
			if got, ok := authz.CanonicalPath(before + text); ok {
				t.Errorf("%q can be read: %q", before+text, got)
			}
		}
	}
}
