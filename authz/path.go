package authz

import (
	"errors"
	"fmt"
	"slices"
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
		case plainByte[c]:
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
		hi, okHi := unhex(rest[1])
		lo, okLo := unhex(rest[2])
		if !okHi || !okLo {
			break
		}
		char[n] = hi<<4 | lo
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
	case r == '%' && len(s) >= 5 && isHex(s[3]) && isHex(s[4]):
		return 0
	}
	return 3 * size
}

// plainByte are the characters that stand for themselves in a path: RFC 3986's pchar without "%" and ";".
var plainByte = func() (plain [256]bool) {
	for c := range plain {
		plain[c] = unreserved(byte(c)) || strings.IndexByte("!$&'()*+,=:@", byte(c)) >= 0
	}
	return plain
}()

// unreserved characters mean the same encoded or not (RFC 3986, section 2.3), so nobody needs to encode them.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func isHex(c byte) bool {
	_, ok := unhex(c)
	return ok
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

var errPattern = errors.New(`a path starts with a slash, each segment is plain text or "*", the last may be "**"`)

// pattern is a path pattern, taken apart.
type pattern struct {
	segments []string
	open     bool // it ends in "**"
}

// parsePattern takes a pattern apart. "*" stands for one segment that is not empty; "**" at the end, which is told by open,
// stands for everything behind the slash before it, as in Envoy's URI templates: "/a/**" matches "/a/", "/a/b" and
// "/a/b/c", not "/a".
func parsePattern(text string) (pattern, error) {
	plain := strings.ReplaceAll(text, "*", "x")
	if c, ok := canonicalPath(plain); !ok || c != plain {
		return pattern{}, fmt.Errorf("path %q: %w", clip(text), errPattern)
	}
	p := pattern{segments: strings.Split(text[1:], "/")}
	if last := len(p.segments) - 1; p.segments[last] == "**" {
		p.segments, p.open = p.segments[:last], true
	}
	for _, s := range p.segments {
		if s != "*" && strings.Contains(s, "*") {
			return pattern{}, fmt.Errorf("path %q: %w", clip(text), errPattern)
		}
	}
	return p, nil
}

// matches reports whether a canonical path has the pattern. It allocates nothing.
func (p pattern) matches(path string) bool {
	rest, more := path[1:], true
	for _, s := range p.segments {
		if !more {
			return false
		}
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if s != segment && (s != "*" || segment == "") {
			return false
		}
	}
	return more == p.open
}

func anyMatches(patterns []pattern, path string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.matches(path) })
}

// pathTree holds the rules of a service by their path patterns, one level for each segment, so that a call meets only the
// rules whose path it has.
type pathTree struct {
	next  map[string]*pathTree // by segment
	any   *pathTree            // behind "*"
	exact []*rule              // patterns that end here
	open  []*rule              // patterns that end here in "**"
}

func (n *pathTree) add(p pattern, r *rule) {
	for _, s := range p.segments {
		n = n.child(s)
	}
	if p.open {
		n.open = append(n.open, r)
	} else {
		n.exact = append(n.exact, r)
	}
}

func (n *pathTree) child(segment string) *pathTree {
	if segment == "*" {
		if n.any == nil {
			n.any = &pathTree{}
		}
		return n.any
	}
	if n.next == nil {
		n.next = map[string]*pathTree{}
	}
	if n.next[segment] == nil {
		n.next[segment] = &pathTree{}
	}
	return n.next[segment]
}

// find is the earliest of best and the rules that match what is left of a canonical path, after a slash, and cover the
// call. It allocates nothing.
func (n *pathTree) find(rest string, c *call, best *rule) *rule {
	best = c.earliest(n.open, best)
	segment, tail, more := strings.Cut(rest, "/")
	children := [2]*pathTree{n.next[segment], n.any}
	if segment == "" { // "*" is one that is not empty
		children[1] = nil
	}
	for _, child := range children {
		switch {
		case child == nil:
		case more:
			best = child.find(tail, c, best)
		default:
			best = c.earliest(child.exact, best)
		}
	}
	return best
}

// clip shortens foreign text for an error.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
