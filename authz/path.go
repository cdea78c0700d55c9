package authz

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPath is far above what applications use and far below what Envoy lets through.
const maxPath = 8 << 10

// canonicalPath cuts the query off and reports whether what is left can be read in one way only. Proxies and applications
// disagree on dot segments, doubled slashes, encoded separators and path parameters; a path that holds one of them could
// match a rule here and mean something else behind it, so it matches no rule at all.
func canonicalPath(target string) (string, bool) {
	path, _, _ := strings.Cut(target, "?")
	if path == "" || path[0] != '/' || len(path) > maxPath {
		return "", false
	}
	segment := 1
	for i := 1; i < len(path); {
		switch c := path[i]; {
		case c == '/':
			if s := path[segment:i]; s == "" || s == "." || s == ".." {
				return "", false
			}
			i++
			segment = i
		case c == '%':
			n := escape(path[i:])
			if n == 0 {
				return "", false
			}
			i += n
		case unreserved(c) || strings.IndexByte("!$&'()*+,=:@", c) >= 0:
			i++
		default:
			return "", false
		}
	}
	if s := path[segment:]; s == "." || s == ".." {
		return "", false
	}
	return path, true
}

// escape is the length of the percent-encoded character that s starts with, 0 if it is not acceptable: not UTF-8, a
// control, a separator, one that needs no encoding, or a percent sign that a second decoding would take for another one.
func escape(s string) int {
	var (
		char [utf8.UTFMax]byte
		n    int
	)
	for rest := s; n < len(char) && len(rest) >= 3 && rest[0] == '%'; rest = rest[3:] {
		hi, lo := unhex(rest[1]), unhex(rest[2])
		if hi < 0 || lo < 0 {
			break
		}
		char[n] = byte(hi<<4 | lo)
		n++
		if char[0] < utf8.RuneSelf {
			break
		}
	}
	r, size := utf8.DecodeRune(char[:n])
	switch {
	case n == 0, r == utf8.RuneError:
		return 0
	case r < ' ', r == 0x7f, r == '/', r == '\\', r == ';', r < utf8.RuneSelf && unreserved(byte(r)):
		return 0
	case r == '%' && len(s) >= 5 && unhex(s[3]) >= 0 && unhex(s[4]) >= 0:
		return 0
	}
	return 3 * size
}

// unreserved characters mean the same encoded or not (RFC 3986, section 2.3), so nobody needs to encode them.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// pattern matches canonical paths. "*" stands for one segment that is not empty, "**" at the end for everything behind
// the slash before it, as in Envoy's URI templates: "/a/**" matches "/a/", "/a/b" and "/a/b/c", not "/a".
type pattern struct {
	prefix   string   // up to the first wildcard; the whole path where there is none
	segments []string // what follows, "*" for any
	exact    bool     // no wildcard
	open     bool     // ends in "**"
}

var errPattern = errors.New(`a path starts with a slash, each segment is plain text or "*", the last may be "**"`)

func parsePattern(text string) (pattern, error) {
	plain := strings.ReplaceAll(text, "*", "x")
	if c, ok := canonicalPath(plain); !ok || c != plain {
		return pattern{}, fmt.Errorf("path %q: %w", clip(text), errPattern)
	}
	segments := strings.Split(text[1:], "/")
	first := len(segments)
	for i, s := range segments {
		last := i == len(segments)-1
		if strings.Contains(s, "*") && s != "*" && (s != "**" || !last) {
			return pattern{}, fmt.Errorf("path %q: %w", clip(text), errPattern)
		}
		if strings.Contains(s, "*") && first > i {
			first = i
		}
	}
	if first == len(segments) {
		return pattern{prefix: text, exact: true}, nil
	}
	p := pattern{prefix: "/", segments: segments[first:]}
	if first > 0 {
		p.prefix = "/" + strings.Join(segments[:first], "/") + "/"
	}
	if n := len(p.segments) - 1; p.segments[n] == "**" {
		p.segments, p.open = p.segments[:n], true
	}
	return p, nil
}

// match walks the segments behind the prefix. It allocates nothing.
func (p *pattern) match(path string) bool {
	if !strings.HasPrefix(path, p.prefix) {
		return false
	}
	rest, more := path[len(p.prefix):], true // more: a segment follows, possibly an empty one
	if p.exact {
		return rest == ""
	}
	for _, want := range p.segments {
		if !more {
			return false
		}
		var s string
		s, rest, more = strings.Cut(rest, "/")
		if s != want && (want != "*" || s == "") {
			return false
		}
	}
	return more == p.open
}

// clip shortens foreign text for an error.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
