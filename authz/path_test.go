package authz

import (
	"strings"
	"testing"
)

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"/": "/", "/orders": "/orders", "/orders/": "/orders/", "/orders/7?x=../..;%2f": "/orders/7", "/a?": "/a",
		"/a.b/..c/d../.e/...": "/a.b/..c/d../.e/...", "/pkg.Service/Method": "/pkg.Service/Method",
		"/a%20b/%c3%a9/%E2%82%AC/%f0%9f%98%80": "/a%20b/%c3%a9/%E2%82%AC/%f0%9f%98%80",
		"/50%25/%25x":                          "/50%25/%25x", "/a/%25%3f": "/a/%25%3f",
		"/!$&'()*+,=:@-._~":                  "/!$&'()*+,=:@-._~",
		"/" + strings.Repeat("a", maxPath-1): "/" + strings.Repeat("a", maxPath-1),
	}
	for in, want := range good {
		if got, ok := canonicalPath(in); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	bad := []string{
		"", "*", "?", "orders", "http://h/orders", "//", "//orders", "/orders//7", "/orders//", "/.", "/..", "/./a",
		"/a/..", "/a/../b", "/a/.",
		"/a/%2e%2e/b", "/a/%2E", "/%6frders", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", `/a\b`, `\a`, "/a;x=1", "/a/..;/b", "/a%3bx",
		"/a%00", "/a\x00", "/a%0d%0a", "/a%1f", "/a%7f", "/a\x7f", "/a b", "/a\tb",
		"/é", "/a#b", `/a"b`, "/a<b", "/a[b", "/a^b", "/a`b", "/a{b}", "/a|b",
		"/%", "/%2", "/%zz", "/%g0", "/%0g", "/%252f", "/%252e%252e", "/%25%32%66", "/%c0%af", "/%c3", "/%c3x",
		"/%c3%28", "/%e0%80%af", "/%ed%a0%80", "/%ff", "/%80", "/%f8%80%80%80",
		"/" + strings.Repeat("a", maxPath),
	}
	for _, in := range bad {
		if got, ok := canonicalPath(in); ok {
			t.Errorf("%q passes as %q", in, got)
		}
	}
}

// matches asks the pattern, and a tree of it alone, which must agree.
func matches(t testing.TB, pattern, path string) bool {
	t.Helper()
	p, err := parsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	r := &rule{name: "r", from: bitset{1}, until: forever, methods: []string{"GET"}}
	var tree pathTree
	tree.add(p, r)
	found := tree.find(path[1:], &call{method: "GET"}, nil) == r
	if found != p.matches(path) {
		t.Errorf("%s on %s: the tree says %t, the pattern %t", pattern, path, found, p.matches(path))
	}
	return found
}

func TestPatternMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern     string
		match, miss []string
	}{
		{"/", []string{"/"}, []string{"/a"}},
		{"/orders", []string{"/orders"}, []string{"/", "/orders/", "/order", "/orders2", "/orders/7"}},
		{"/orders/", []string{"/orders/"}, []string{"/orders", "/orders/7"}},
		{"/orders/*", []string{"/orders/7", "/orders/a.b"}, []string{"/orders", "/orders/", "/orders/7/", "/orders/7/8", "/orders2/7"}},
		{"/orders/*/", []string{"/orders/7/"}, []string{"/orders/7", "/orders//", "/orders/7/8"}},
		{"/*", []string{"/a"}, []string{"/", "/a/", "/a/b"}},
		{"/*/lines", []string{"/7/lines"}, []string{"/lines", "//lines", "/7/8/lines", "/7/lines/"}},
		{"/a/*/c/*", []string{"/a/b/c/d"}, []string{"/a/b/c", "/a/b/c/", "/a/b/x/d", "/a/b/c/d/e"}},
		{"/**", []string{"/", "/a", "/a/", "/a/b/c"}, nil},
		{"/orders/**", []string{"/orders/", "/orders/7", "/orders/7/8/"}, []string{"/orders", "/orders2", "/"}},
		{"/a/*/**", []string{"/a/b/", "/a/b/c", "/a/b/c/d"}, []string{"/a/b", "/a/", "/a//c"}},
		{"/a/%20", []string{"/a/%20"}, []string{"/a/x"}},
	}
	for _, tc := range tests {
		for _, path := range tc.match {
			if !matches(t, tc.pattern, path) {
				t.Errorf("%s does not match %s", tc.pattern, path)
			}
		}
		for _, path := range tc.miss {
			if matches(t, tc.pattern, path) {
				t.Errorf("%s matches %s", tc.pattern, path)
			}
		}
	}
	for _, text := range []string{
		"", "*", "**", "orders", "/**/a", "/a*", "/*a", "/***", "/a**", "/a//b", "/../a", "/a?b", "/a;b", "/%2f", "/a b",
		"/{id}", "/" + strings.Repeat("a", maxPath),
	} {
		if p, err := parsePattern(text); err == nil {
			t.Errorf("%q is a pattern: %q", text, p.segments)
		}
	}
}

// matchDumb is the matching from its own text: split, and compare segment by segment.
func matchDumb(pattern, path string) bool {
	want, got := strings.Split(pattern, "/")[1:], strings.Split(path, "/")[1:]
	if want[len(want)-1] == "**" {
		want = want[:len(want)-1]
		if len(got) <= len(want) {
			return false
		}
		got = got[:len(want)]
	}
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] == "*" && got[i] == "" || want[i] != "*" && want[i] != got[i] {
			return false
		}
	}
	return true
}

// Every pattern and every path of up to four segments out of a small alphabet.
func TestPatternMatchAgainstDumbTwin(t *testing.T) {
	t.Parallel()
	var patterns, paths []string
	var grow func(out *[]string, alphabet []string, prefix string, depth int)
	grow = func(out *[]string, alphabet []string, prefix string, depth int) {
		for _, s := range alphabet {
			*out = append(*out, prefix+"/"+s)
			if depth > 1 {
				grow(out, alphabet, prefix+"/"+s, depth-1)
			}
		}
	}
	grow(&patterns, []string{"a", "ab", "*", "**", ""}, "", 4)
	grow(&paths, []string{"a", "ab", "b", ""}, "", 4)
	compared := 0
	for _, text := range patterns {
		if _, err := parsePattern(text); err != nil {
			continue
		}
		for _, path := range paths {
			if c, ok := canonicalPath(path); !ok || c != path {
				continue
			}
			compared++
			if got, want := matches(t, text, path), matchDumb(text, path); got != want {
				t.Fatalf("%s on %s: %v, the twin says %v", text, path, got, want)
			}
		}
	}
	if compared < 10_000 {
		t.Errorf("only %d pairs compared", compared)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/orders/7", "/a/../b", "/%2e%2e/x", "/%c3%a9", "/a;b?c", "//", "/%25%32%66"} {
		f.Add("/orders/*", s)
		f.Add("/**", s)
	}
	f.Fuzz(func(t *testing.T, pattern, target string) {
		path, ok := canonicalPath(target)
		if !ok {
			return
		}
		for _, s := range strings.Split(path, "/")[1:] {
			if s == "." || s == ".." || strings.ContainsAny(s, "\\;#? \x00") {
				t.Errorf("%q passes", target)
			}
		}
		if strings.Contains(path, "//") || strings.Contains(strings.ToLower(path), "%2f") ||
			strings.Contains(strings.ToLower(path), "%5c") {
			t.Errorf("%q passes", target)
		}
		if again, ok := canonicalPath(path); !ok || again != path {
			t.Errorf("%q is canonical only once", target)
		}
		if _, err := parsePattern(pattern); err == nil && matches(t, pattern, path) != matchDumb(pattern, path) {
			t.Errorf("%q on %q: the twin differs", pattern, path)
		}
	})
}
