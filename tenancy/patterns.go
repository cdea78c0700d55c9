package tenancy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

const (
	maxMethod  = 32
	maxPattern = 1024
)

// ErrPattern says why a text is no path pattern; CheckPath wraps it.
var ErrPattern = errors.New("not a path pattern")

// CheckPath checks a path pattern: a slash, then segments of characters that are the same before and after every
// normalisation. A segment * stands for one segment, ** as the last for any number.
func CheckPath(p string) error {
	rest, ok := strings.CutPrefix(p, "/")
	switch {
	case !ok:
		return fmt.Errorf("%w: it starts with a slash", ErrPattern)
	case len(p) > maxPattern:
		return fmt.Errorf("%w: it has at most %d bytes", ErrPattern, maxPattern)
	case rest == "":
		return nil
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch {
		case s == "" && !last:
			return fmt.Errorf("%w: it has an empty segment (//)", ErrPattern)
		case s == "." || s == "..":
			return fmt.Errorf("%w: it has a dot segment, which normalisation removes", ErrPattern)
		case s == "**" && !last:
			return fmt.Errorf("%w: ** is the last segment or none", ErrPattern)
		case s == "*" || s == "**":
		default:
			if err := checkSegment(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSegment(s string) error {
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '*':
			return fmt.Errorf("%w: * is a whole segment", ErrPattern)
		case isAlphanumeric(c) || strings.IndexByte("-._~!$&'()+,=:@", c) >= 0:
			// pchar of RFC 3986, without %, * and ; (authz refuses calls that have it)
		default:
			return fmt.Errorf("%w: %q cannot stand in it", ErrPattern, rune(c))
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
}

// to checks which requests a rule or grant at that place is about. A TCP service has none to tell apart.
func (b *builder) to(s *draftService, at v1alpha1.Pos, to *v1alpha1.To) (methods, paths []string) {
	known := s != nil && !s.broken && s.port.Number != 0
	switch {
	case to == nil && known && s.port.Protocol != TCP:
		b.reportAt(at, v1alpha1.CodeMissingField, "write to: {methods: [GET], paths: [/**]}",
			"to is missing: service %s speaks %s", v1alpha1.Quote(s.name), s.port.Protocol)
		return nil, nil
	case to == nil:
		return nil, nil
	case known && s.port.Protocol == TCP:
		b.reportAt(to.Pos, v1alpha1.CodeNotOfTCP, "remove to", "service %s speaks TCP: a connection has no method and no path", v1alpha1.Quote(s.name))
		return nil, nil
	}
	return b.requests(to.Methods, to.Paths)
}

// requests checks the methods and path patterns of what is about some requests only.
func (b *builder) requests(methods, paths []v1alpha1.String) (m, p []string) {
	b.unique(methods, "method")
	b.unique(paths, "path")
	for _, m := range methods {
		b.method(m)
	}
	for _, p := range paths {
		if err := CheckPath(p.Value); err != nil {
			b.reportAt(p.Pos, v1alpha1.CodePath, "", "%s: %s", v1alpha1.Quote(p.Value), err)
		}
	}
	return values(methods), values(paths)
}

func (b *builder) method(m v1alpha1.String) {
	valid := m.Value != "" && len(m.Value) <= maxMethod && m.Value[0] != '-' && m.Value[0] != '_'
	for i := range len(m.Value) {
		c := m.Value[i]
		valid = valid && ((c >= 'A' && c <= 'Z') || c == '-' || c == '_')
	}
	switch {
	case m.Value == "CONNECT":
		b.reportAt(m.Pos, v1alpha1.CodeMethod, "", "CONNECT is never passed on")
	case !valid:
		hint := ""
		if upper := strings.ToUpper(m.Value); upper != m.Value && len(upper) <= maxMethod {
			hint = fmt.Sprintf("did you mean %q?", upper)
		}
		b.reportAt(m.Pos, v1alpha1.CodeMethod, hint, "%s is no HTTP method: they are written in capitals", v1alpha1.Quote(m.Value))
	}
}
