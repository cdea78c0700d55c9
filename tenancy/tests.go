package tenancy

import (
	"slices"
	"strings"
	"time"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// The reasons that are expected of calls which would be mistakes in every other test.
const (
	expectsNoService = "unknown_destination"
	expectsNoID      = "invalid_identity"
)

// CheckTests judges policy tests by the model: which of them can be run, and what is wrong with the others. The model
// itself depends on no test.
//
// A tenant's tests are about calls of its own services only, and no answer to them tells of anybody else's things.
func (m *Model) CheckTests(tests []*v1alpha1.AccessTest) (good []*v1alpha1.AccessTest, problems, warnings []v1alpha1.Problem) {
	tests = slices.Clone(tests)
	slices.SortStableFunc(tests, func(x, y *v1alpha1.AccessTest) int { return x.Pos.Compare(y.Pos) })
	c := testCheck{model: m, first: map[[2]string]v1alpha1.Pos{}, times: map[string]map[time.Time]bool{}}
	for _, t := range tests {
		before := len(c.problems)
		c.test(t)
		if len(c.problems) == before {
			good = append(good, t)
		}
	}
	return good, v1alpha1.SortProblems(c.problems), v1alpha1.SortProblems(c.warnings)
}

// testCheck reports as a builder does.
type testCheck struct {
	builder

	model *Model
	first map[[2]string]v1alpha1.Pos // by owner and name
	times map[string]map[time.Time]bool
}

// Between these times there are certificates of every life, so that the mesh can be built as of them.
var (
	firstTestTime = time.Date(1970, time.January, 2, 0, 0, 0, 0, time.UTC)
	lastTestTime  = time.Date(3000, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// maxTestTimes is at how many times an owner's tests may be: the whole mesh is built for each.
const maxTestTimes = 100

func (c *testCheck) test(t *v1alpha1.AccessTest) {
	owner, name := t.Owner(), t.Metadata.Name
	if _, ok := c.tenantNamed(owner); !ok {
		c.reportAt(t.Pos, v1alpha1.CodeUndeclaredTenant, "", "no Tenant document in platform/ declares the tenant of this directory")
		return
	}
	c.name(name, "a document's name")
	if at, dup := c.first[[2]string{owner, name.Value}]; dup {
		c.reportAt(name.Pos, v1alpha1.CodeDuplicateDocument, "",
			"%s %s is written twice, first at %s", v1alpha1.KindAccessTest, v1alpha1.Quote(name.Value), at)
	}
	c.first[[2]string{owner, name.Value}] = name.Pos
	var tokens []v1alpha1.String
	for _, token := range t.Spec.Tokens {
		c.name(token.Name, "the name of a token")
		tokens = append(tokens, token.Name)
	}
	c.unique(tokens, "token")
	c.at(owner, t.Spec.At)
	var cases []v1alpha1.String
	for _, tc := range t.Spec.Cases {
		cases = append(cases, tc.Name)
		if tc.Name.Value == "" {
			c.reportAt(tc.Name.Pos, v1alpha1.CodeBadName, "say what the case shows", "a case has a name")
		}
		c.at(owner, tc.At)
		if c.comes(tc) {
			c.caller(owner, tc)
		}
		c.destination(owner, tc)
		c.method(tc.Request.Method)
		if !strings.HasPrefix(tc.Request.Path.Value, "/") {
			c.reportAt(tc.Request.Path.Pos, v1alpha1.CodePath, "", "a path starts with a slash")
		}
		if named := tc.Token.Name; named.IsSet() && !slices.Contains(values(tokens), named.Value) {
			c.reportAt(named.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(named.Value, values(tokens)),
				"there is no token %s in spec.tokens", v1alpha1.Quote(named.Value))
		}
	}
	c.unique(cases, "case")
}

// at judges the time of calls, where one is given.
func (c *testCheck) at(owner string, at v1alpha1.Time) {
	if !at.IsSet() {
		return
	}
	if at.Value.Before(firstTestTime) || !at.Value.Before(lastTestTime) {
		c.reportAt(at.Pos, v1alpha1.CodeBadValue, "", "the time of a call is between %d and %d", firstTestTime.Year(), lastTestTime.Year())
		return
	}
	seen := c.times[owner]
	if seen == nil {
		seen = map[time.Time]bool{}
		c.times[owner] = seen
	}
	if seen[at.Value.UTC()] = true; len(seen) == maxTestTimes+1 {
		c.reportAt(at.Pos, v1alpha1.CodeTooMuch, "let cases share their times", "the tests are at more than %d times", maxTestTimes)
	}
}

func (c *testCheck) tenantNamed(name string) (Tenant, bool) {
	id, err := c.model.mapping.TenantID(name)
	if err != nil {
		return Tenant{}, false
	}
	return c.model.Tenant(id)
}

// comes judges by whom the call comes, and reports whether its caller has an ID. Of the Mesh's askers a tenant's tests learn
// those that may ask about its services.
func (c *testCheck) comes(tc v1alpha1.TestCase) bool {
	from := FromCertificate
	if tc.Asker.IsSet() {
		owner, _, _ := strings.Cut(tc.To.Value, "/")
		to, ok := c.tenantNamed(owner)
		if !ok {
			return false // reported with the destination
		}
		var known []string
		at := -1
		for i, a := range to.Askers() {
			if known = append(known, a.Name()); a.Name() == tc.Asker.Value {
				at = i
			}
		}
		if at < 0 {
			c.reportAt(tc.Asker.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(tc.Asker.Value, known),
				"no asker %s may ask about a service of %s", v1alpha1.Quote(tc.Asker.Value), owner)
			return false
		}
		from = to.Askers()[at].IdentityFrom()
	}
	switch bearer := from == FromToken; {
	case bearer && tc.From.IsSet():
		c.reportAt(tc.From.Pos, v1alpha1.CodeNoEffect, "remove from", "the token alone names the callers of this asker, so none has an ID")
	case !bearer && !tc.From.IsSet():
		c.reportAt(tc.Pos, v1alpha1.CodeMissingField, "write for example from: spiffe://acme.demo.test/ns/acme/sa/web", "from is missing: the caller has an ID")
	}
	return tc.From.IsSet()
}

func (c *testCheck) caller(owner string, tc v1alpha1.TestCase) {
	if _, err := identity.ParseSPIFFEID(tc.From.Value); err != nil {
		if tc.Expect.Deny.Value != expectsNoID {
			c.reportAt(tc.From.Pos, v1alpha1.CodeBadValue, "write for example spiffe://acme.demo.test/ns/acme/sa/web", "%s", err)
		}
		return
	}
	id, err := c.model.mapping.Parse(tc.From.Value)
	if err != nil || owner != v1alpha1.PlatformOwner && id.Tenant().Name() != owner {
		return // an ID of no tenant is refused for that, and of another tenant's accounts its tests learn nothing
	}
	if _, _, there := c.model.Workload(id); there {
		return
	}
	var known []string
	if t, ok := c.model.Tenant(id.Tenant()); ok {
		for _, w := range t.Workloads() {
			known = append(known, w.ID().String())
		}
	}
	c.warnAt(tc.From.Pos, v1alpha1.CodeNoCaller, v1alpha1.Suggest(tc.From.Value, known), "no Service names the account of this caller")
}

func (c *testCheck) destination(owner string, tc v1alpha1.TestCase) {
	tenant, service, ok := strings.Cut(tc.To.Value, "/")
	switch {
	case !ok || !identity.ValidName(tenant) || !identity.ValidName(service):
		c.reportAt(tc.To.Pos, v1alpha1.CodeBadName, "write for example acme/orders",
			"a called service is tenant/service, not %s", v1alpha1.Quote(tc.To.Value))
		return
	case owner != v1alpha1.PlatformOwner && tenant != owner:
		c.reportAt(tc.To.Pos, v1alpha1.CodeNotYours, "tests of calls that leave the tenant are the platform's, in tests/",
			"a tenant's tests are about its own services, not %s", v1alpha1.Quote(tc.To.Value))
		return
	}
	t, ok := c.tenantNamed(tenant)
	if !ok {
		var known []string
		for _, id := range c.model.ids {
			known = append(known, id.Name())
		}
		c.reportAt(tc.To.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(tenant, known),
			"there is no tenant %s", v1alpha1.Quote(tenant))
		return
	}
	var known []string
	for _, s := range t.Services() {
		port, called := s.Port()
		if called {
			known = append(known, s.Name())
		}
		if s.Name() == service && port.Protocol == TCP {
			c.reportAt(tc.To.Pos, v1alpha1.CodeNotOfTCP, "ask ringfence explain", "service %s speaks TCP: a test is about a request, and a connection is none", v1alpha1.Quote(service))
		}
	}
	if !slices.Contains(known, service) && tc.Expect.Deny.Value != expectsNoService {
		c.reportAt(tc.To.Pos, v1alpha1.CodeUnknownReference, v1alpha1.Suggest(service, known),
			"tenant %s has no service %s that takes calls", tenant, v1alpha1.Quote(service))
	}
}
