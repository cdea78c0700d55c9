package health

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is a version of Envoy. The zero value is none.
type Version struct{ Major, Minor, Patch int }

var versionText = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})$`)

// ParseVersion reads a version such as 1.40.0.
func ParseVersion(text string) (Version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("%.40q is no version of Envoy", text)
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // four digits
	}
	return Version{v[0], v[1], v[2]}, nil
}

var said = regexp.MustCompile(`version: [0-9a-f]*/([0-9]+\.[0-9]+\.[0-9]+)[-/]`)

// VersionOutput reads what `envoy --version` prints, or the version in the answer of Envoy's admin interface.
func VersionOutput(text string) (Version, error) {
	m := said.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("no version of Envoy in %.80q", strings.TrimSpace(text))
	}
	return ParseVersion(m[1])
}

// String is such as 1.40.0.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

func (v Version) compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch))
}

func (v Version) sameLine(o Version) bool { return v.Major == o.Major && v.Minor == o.Minor }

// Oldest is the oldest Envoy that Ringfence works with.
func Oldest() Version { return Version{Major: 1, Minor: 40} }

// Vulnerability is a known one of Envoy.
type Vulnerability struct {
	// ID is its CVE, What says in a few words what it is.
	ID, What string
	// Fixed are the first versions without it, one for each line of releases whose change list names it. A line that begins
	// after the last of them has it neither.
	Fixed []Version
	// Unsure are versions in which it is neither named as fixed nor known to be open.
	Unsure []Version
}

// State is how a version stands to a vulnerability.
type State int

// A version's states. The zero value is Unknown, so what was not judged is not well.
const (
	Unknown State = iota
	Open
	Closed
)

// In says how a version stands to it.
func (u Vulnerability) In(v Version) State {
	for _, unsure := range u.Unsure {
		if v.compare(unsure) == 0 {
			return Unknown
		}
	}
	newest := Version{}
	for _, fixed := range u.Fixed {
		if v.sameLine(fixed) {
			if v.compare(fixed) < 0 {
				return Open
			}
			return Closed
		}
		if fixed.compare(newest) > 0 {
			newest = fixed
		}
	}
	switch {
	case len(u.Fixed) == 0:
		return Unknown
	case v.compare(newest) > 0 && newest.Patch == 0:
		return Closed // the line began with the fix, and so did those after it
	case v.compare(newest) < 0 && v.Patch == 0:
		return Open // a line that began before the fix
	default:
		return Unknown // a later release of a line of which the table says nothing
	}
}

// Vulnerabilities are those of Envoy that matter at a tenant's border, from Envoy's change lists; the newest last. Entries
// are added when Envoy publishes them.
func Vulnerabilities() []Vulnerability {
	first := []Version{Oldest()} // named in the change list of 1.40.0
	return []Vulnerability{
		{ID: "CVE-2026-48521", What: "ends abnormally with HTTP/3 to the upstream", Fixed: first},
		{ID: "CVE-2026-50572", What: "use after free when ext_authz over HTTP refuses", Fixed: first},
		{ID: "CVE-2026-73511", What: "path parameters are kept in path segments", Fixed: first},
		{ID: "CVE-2026-73512", What: "use after free by a timed order of HTTP/3 frames", Fixed: first},
		{ID: "CVE-2026-73513", What: "ends abnormally on HTTP/2 trailers without END_STREAM", Fixed: first},
		{ID: "CVE-2026-73546", What: "names of statistics reach the admin pages as HTML", Fixed: first},
		{ID: "CVE-2026-73547", What: "ext_authz ends Envoy on a request without a path", Fixed: first},
		{ID: "CVE-2026-73548", What: "a generic upgrade poisons a shared upstream connection", Fixed: first},
		{ID: "CVE-2026-73549", What: "ends abnormally on scoped IPv6 addresses", Fixed: first},
		{ID: "CVE-2026-73550", What: "dropped Host headers count towards no limit", Fixed: first},
		{ID: "CVE-2026-73551", What: "dot segments with parameters pass normalisation", Fixed: first},
		{ID: "CVE-2026-73552", What: "regular expressions miss bytes that are not UTF-8", Fixed: first},
		{
			ID: "CVE-2026-35189", What: "a crafted certificate makes a handshake use much memory",
			Fixed:  []Version{{1, 36, 11}, {1, 37, 7}, {1, 39, 2}},
			Unsure: []Version{{1, 40, 0}, {1, 40, 1}, {1, 40, 2}}, // their change lists do not name it
		},
	}
}
