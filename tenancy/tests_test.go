package tenancy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// policyTest has its case in lines 5 to 9.
const policyTest = `kind: AccessTest
metadata: {name: t}
spec:
  cases:
    - name: a
      from: spiffe://acme.demo.test/ns/acme/sa/web
      to: acme/orders
      request: {method: GET, path: /orders/7}
      expect: {deny: no_rule}
`

func accessTests(t *testing.T, files map[string]string) []*v1alpha1.AccessTest {
	t.Helper()
	var tests []*v1alpha1.AccessTest
	for path, text := range files {
		docs, problems := v1alpha1.Decode(v1alpha1.File{Path: path, Data: []byte(text)})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		for _, d := range docs {
			test, ok := d.(*v1alpha1.AccessTest)
			if !ok {
				t.Fatalf("%T", d)
			}
			tests = append(tests, test)
		}
	}
	return tests
}

func TestCheckTests(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	const from, to = "spiffe://acme.demo.test/ns/acme/sa/web", "to: acme/orders"
	for name, c := range map[string]struct {
		path     string
		old, new string
		problems []string
		warnings []string
		says     string
	}{
		"as it is":                     {path: "tests/t.yaml"},
		"a tenant's own":               {path: "tenants/acme/tests/t.yaml"},
		"no tenant's":                  {path: "tenants/initech/tests/t.yaml", problems: []string{"initech RF2006 tenants/initech/tests/t.yaml:1:1"}},
		"a directory's name":           {path: "tenants/Acme_/tests/t.yaml", problems: []string{"Acme_ RF2006 tenants/Acme_/tests/t.yaml:1:1"}},
		"another tenant's service":     {path: "tenants/globex/tests/t.yaml", problems: []string{"globex RF2005 tenants/globex/tests/t.yaml:7:11"}, says: "its own services"},
		"a shared service":             {"tenants/acme/tests/t.yaml", to, "to: platform/billing", []string{"acme RF2005 tenants/acme/tests/t.yaml:7:11"}, nil, "platform's"},
		"a shared, by the platform":    {"tests/t.yaml", to, "to: platform/billing", nil, nil, ""},
		"a stranger calls":             {"tenants/acme/tests/t.yaml", from, "spiffe://globex.demo.test/ns/globex/sa/nobody", nil, nil, ""},
		"a stranger, by platform":      {"tests/t.yaml", from, "spiffe://globex.demo.test/ns/globex/sa/wbe", nil, []string{"platform RF2503 tests/t.yaml:6:13"}, `did you mean "spiffe://globex.demo.test/ns/globex/sa/web"`},
		"an account of nobody":         {"tenants/acme/tests/t.yaml", from, "spiffe://acme.demo.test/ns/acme/sa/wbe", nil, []string{"acme RF2503 tenants/acme/tests/t.yaml:6:13"}, `sa/web"`},
		"a tenant of nobody":           {"tests/t.yaml", from, "spiffe://initech.demo.test/ns/x/sa/web", nil, []string{"platform RF2503 tests/t.yaml:6:13"}, ""},
		"an ID of no tenant":           {"tests/t.yaml", from, "spiffe://elsewhere.test/web", nil, nil, ""},
		"no ID":                        {"tests/t.yaml", from, "acme/web", []string{"platform RF1010 tests/t.yaml:6:13"}, nil, "write for example"},
		"no ID, on purpose":            {"tests/t.yaml", from + "\n      to: acme/orders\n      request: {method: GET, path: /orders/7}\n      expect: {deny: no_rule}", "acme/web\n      to: acme/orders\n      request: {method: GET, path: /orders/7}\n      expect: {deny: invalid_identity}", nil, nil, ""},
		"no service's name":            {"tests/t.yaml", to, "to: orders", []string{"platform RF2003 tests/t.yaml:7:11"}, nil, "tenant/service"},
		"mistyped tenant":              {"tests/t.yaml", to, "to: acne/orders", []string{"platform RF2007 tests/t.yaml:7:11"}, nil, `did you mean "acme"`},
		"mistyped service":             {"tests/t.yaml", to, "to: acme/odrers", []string{"platform RF2007 tests/t.yaml:7:11"}, nil, `did you mean "orders"`},
		"a service without ports":      {"tests/t.yaml", to, "to: acme/web", []string{"platform RF2007 tests/t.yaml:7:11"}, nil, "takes calls"},
		"no service, on purpose":       {"tests/t.yaml", to + "\n      request: {method: GET, path: /orders/7}\n      expect: {deny: no_rule}", "to: acme/web\n      request: {method: GET, path: /orders/7}\n      expect: {deny: unknown_destination}", nil, nil, ""},
		"method":                       {"tests/t.yaml", "GET", "get", []string{"platform RF2019 tests/t.yaml:8:25"}, nil, `did you mean "GET"`},
		"path":                         {"tests/t.yaml", "path: /", "path: ", []string{"platform RF2020 tests/t.yaml:8:36"}, nil, "slash"},
		"mistyped token":               {"tests/t.yaml", "  cases:\n    - name: a\n", "  tokens: [{name: clerk, claims: {iss: x}}]\n  cases:\n    - name: a\n      token: clrek\n", []string{"platform RF2007 tests/t.yaml:7:14"}, nil, `did you mean "clerk"`},
		"a token":                      {"tests/t.yaml", "  cases:\n    - name: a\n", "  tokens: [{name: clerk, claims: {iss: x}}]\n  cases:\n    - name: a\n      token: clerk\n", nil, nil, ""},
		"claims":                       {"tests/t.yaml", "    - name: a\n", "    - name: a\n      token: {iss: x}\n", nil, nil, ""},
		"tokens of one name":           {"tests/t.yaml", "  cases:", "  tokens: [{name: b, claims: {iss: x}}, {name: b, claims: {iss: z}}]\n  cases:", []string{"platform RF2018 tests/t.yaml:4:48"}, nil, "twice"},
		"a token's name":               {"tests/t.yaml", "  cases:", "  tokens: [{name: B, claims: {iss: x}}]\n  cases:", []string{"platform RF2003 tests/t.yaml:4:19"}, nil, ""},
		"a document's name":            {"tests/t.yaml", "{name: t}", "{name: T}", []string{"platform RF2003 tests/t.yaml:2:18"}, nil, ""},
		"a case without a name":        {"tests/t.yaml", "name: a", `name: ""`, []string{"platform RF2003 tests/t.yaml:5:13"}, nil, ""},
		"two cases of one name":        {"tests/t.yaml", "  cases:\n", "  cases:\n    - {name: a, from: " + `"` + from + `"` + ", to: acme/orders, request: {method: GET, path: /}, expect: allow}\n", []string{"platform RF2018 tests/t.yaml:6:13"}, nil, "case"},
		"a time before there were any": {"tests/t.yaml", "spec:", "spec:\n  at: \"0001-01-01T00:00:00Z\"", []string{"platform RF1010 tests/t.yaml:4:7"}, nil, "between"},
		"a time without certificates":  {"tests/t.yaml", "- name: a", "- name: a\n      at: \"9999-12-31T23:59:59Z\"", []string{"platform RF1010 tests/t.yaml:6:11"}, nil, "between"},
		"the last time":                {"tests/t.yaml", "spec:", "spec:\n  at: \"2999-12-31T23:59:59Z\"", nil, nil, ""},
		"several problems at a time":   {"tests/t.yaml", "acme/orders\n      request: {method: GET", "acme/x\n      request: {method: get", []string{"platform RF2007 tests/t.yaml:7:11", "platform RF2019 tests/t.yaml:8:25"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(policyTest, c.old, c.new, 1)
			if text == policyTest && c.old != c.new {
				t.Fatal("nothing was changed")
			}
			good, problems, warnings := m.CheckTests(accessTests(t, map[string]string{c.path: text}))
			if diff := cmp.Diff(c.problems, kept(problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s%v", diff, problems)
			}
			if diff := cmp.Diff(c.warnings, kept(warnings)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s%v", diff, warnings)
			}
			if (len(good) == 1) != (len(problems) == 0) {
				t.Errorf("%d tests can be run", len(good))
			}
			said := ""
			for _, p := range append(problems, warnings...) {
				said += p.Render() + "\n"
			}
			if !strings.Contains(said, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, said)
			}
		})
	}
}

// TestTestsThroughAskers: who an asker's callers are decides whether a case says from.
func TestTestsThroughAskers(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["mesh.yaml"] += `
  askers:
    - {name: edge, socket: /run/edge.sock, identityFrom: token, services: [acme/orders]}
    - {name: gate, socket: /run/gate.sock, services: [acme/orders]}
    - {name: other, socket: /run/other.sock, services: [globex/orders]}
`
	m := tenancytest.Model(t, files)
	const from = "from: spiffe://acme.demo.test/ns/acme/sa/web"
	for name, c := range map[string]struct {
		path, lines, want, says string
	}{
		"a bearer":                   {"tests/t.yaml", "asker: edge", "", ""},
		"a bearer, by its tenant":    {"tenants/acme/tests/t.yaml", "asker: edge", "", ""},
		"a bearer with an ID":        {"tests/t.yaml", "asker: edge\n      " + from, "platform RF2017 tests/t.yaml:7:13", "remove from"},
		"a workload":                 {"tests/t.yaml", "asker: gate\n      " + from, "", ""},
		"a workload without an ID":   {"tests/t.yaml", "asker: gate", "platform RF1009 tests/t.yaml:5:7", "the caller has an ID"},
		"nobody":                     {"tests/t.yaml", "todo: false", "platform RF1009 tests/t.yaml:5:7", "from is missing"},
		"mistyped":                   {"tests/t.yaml", "asker: egde", "platform RF2007 tests/t.yaml:6:14", `did you mean "edge"`},
		"an asker of another tenant": {"tenants/acme/tests/t.yaml", "asker: other", "acme RF2007 tenants/acme/tests/t.yaml:6:14", "no asker"},
	} {
		text := strings.Replace(policyTest, from, c.lines, 1)
		good, problems, warnings := m.CheckTests(accessTests(t, map[string]string{c.path: text}))
		if got := strings.Join(kept(problems), "|"); got != c.want || (len(good) == 1) != (c.want == "") || len(warnings) > 0 {
			t.Errorf("%s: %q, want %q; %d good, %v", name, got, c.want, len(good), warnings)
		}
		for _, p := range problems {
			if said := p.Render(); !strings.Contains(said, c.says) {
				t.Errorf("%s: %s", name, said)
			}
		}
	}
}

// TestTestsOfConnections refuses what a test cannot ask: a request is no connection, so it would always be refused.
func TestTestsOfConnections(t *testing.T) {
	t.Parallel()
	m := tenancytest.Model(t, tenancytest.TCPFiles(t))
	text := strings.Replace(policyTest, "to: acme/orders", "to: acme/db", 1)
	_, problems, _ := m.CheckTests(accessTests(t, map[string]string{"tenants/acme/tests/t.yaml": text}))
	if diff := cmp.Diff([]string{"acme RF2030 tenants/acme/tests/t.yaml:7:11"}, kept(problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s%v", diff, problems)
	}
}

// TestTestsOfManyTimes holds each owner to so many times as one run can build the mesh for, and not the others.
func TestTestsOfManyTimes(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	many := func(times int) string {
		var b strings.Builder
		b.WriteString("kind: AccessTest\nmetadata: {name: t}\nspec:\n  cases:\n")
		for n := range times {
			fmt.Fprintf(&b, "    - {name: \"%d\", from: \"spiffe://acme.demo.test/ns/acme/sa/web\", to: acme/orders, request: {method: GET, path: /}, at: \"2030-01-01T00:%02d:%02dZ\", expect: allow}\n", n, n/60, n%60)
		}
		return b.String()
	}
	for times, want := range map[int][]string{100: nil, 102: {"acme RF2029 tenants/acme/tests/t.yaml:105:123"}} {
		good, problems, _ := m.CheckTests(accessTests(t, map[string]string{"tenants/acme/tests/t.yaml": many(times), "tests/t.yaml": policyTest}))
		if diff := cmp.Diff(want, kept(problems)); diff != "" || len(good) != 2-len(want) {
			t.Errorf("%d times: %d tests can be run, problems (-want +got):\n%s", times, len(good), diff)
		}
	}
}

func TestTestsOfOneName(t *testing.T) {
	t.Parallel()
	m := tenancytest.TwoTenants(t)
	good, problems, _ := m.CheckTests(accessTests(t, map[string]string{
		"tests/b.yaml": policyTest, "tests/a.yaml": policyTest, "tenants/acme/tests/a.yaml": policyTest,
	}))
	if diff := cmp.Diff([]string{"platform RF2002 tests/b.yaml:2:18"}, kept(problems)); diff != "" || len(good) != 2 {
		t.Errorf("%d tests can be run, problems (-want +got):\n%s", len(good), diff)
	}
}

// TestModelIsWithoutTests builds the example with and without policy tests, its own and such as CheckTests refuses.
func TestModelIsWithoutTests(t *testing.T) {
	t.Parallel()
	files := tenancytest.TwoTenantsFiles(t)
	files["tenants/acme/tests/a.yaml"], files["tenants/acme/tests/b.yaml"] = policyTest, policyTest
	with := tenancytest.Model(t, files)
	for path := range files {
		if v1alpha1.IsTest(path) {
			delete(files, path)
		}
	}
	without := tenancytest.Model(t, files)
	for _, id := range with.Tenants() {
		a, _ := with.Tenant(id)
		b, ok := without.Tenant(id)
		if !ok || a.Digest() != b.Digest() {
			t.Errorf("%s depends on the tests", id)
		}
	}
}
