package v1alpha1_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

const accessTest = `kind: AccessTest
metadata: {name: orders}
spec:
  at: "2026-11-24T12:00:00Z"
  tokens: [{name: clerk, claims: {iss: "https://idp", roles: [clerk], m: 1, deep: {a: true, none: []}}}]
  cases:
    - name: a
      from: spiffe://a/b
      to: acme/orders
      request: {method: GET, path: /}
      token: clerk
      expect: allow
    - name: b
      from: spiffe://a/b
      to: acme/orders
      request: {method: GET, path: /}
      token: {iss: x}
      expect: {deny: no_rule}
`

func TestAccessTest(t *testing.T) {
	t.Parallel()
	docs, ps := decode("tests/x.yaml", accessTest)
	if len(ps) > 0 || len(docs) != 1 {
		t.Fatalf("%d documents, problems:\n%s", len(docs), render(ps))
	}
	got, ok := docs[0].(*v1alpha1.AccessTest)
	if !ok || got.Owner() != v1alpha1.PlatformOwner {
		t.Fatalf("not the test that was written: %+v", docs[0])
	}
	want := map[string]any{
		"iss": "https://idp", "roles": []any{"clerk"}, "m": float64(1), "deep": map[string]any{"a": true, "none": []any{}},
	}
	if diff := cmp.Diff(want, got.Spec.Tokens[0].Claims.Values); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	a, b := got.Spec.Cases[0], got.Spec.Cases[1]
	if a.Token.Name.Value != "clerk" || !a.Expect.Allow || a.Expect.Deny.IsSet() || a.At.IsSet() || a.Todo.Value {
		t.Errorf("the first case is %+v", a)
	}
	if b.Token.Name.IsSet() || b.Token.Claims.Values["iss"] != "x" || b.Expect.Allow || b.Expect.Deny.Value != "no_rule" {
		t.Errorf("the second case is %+v", b)
	}
}

func TestAccessTestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, text string
		want      []string
		says      string
	}{
		"deny as a word":      {"expect: allow", "expect: no_rul", []string{"RF1010 12:15"}, "write {deny: no_rule}"},
		"mistyped allow":      {"expect: allow", "expect: alow", []string{"RF1010 12:15"}, `did you mean "allow"`},
		"empty expectation":   {"expect: allow", "expect: []", []string{"RF1007 12:15"}, "a list"},
		"mistyped reason":     {"deny: no_rule", "deny: no_rul", []string{"RF1010 18:22"}, `did you mean "no_rule"`},
		"later reason":        {"deny: no_rule", "deny: quarantined", []string{"RF1013 18:22"}, "not built yet"},
		"no such reason":      {"deny: no_rule", "deny: not_ready", []string{"RF1010 18:22"}, "is one of"},
		"field of deny":       {"{deny: no_rule}", "{denied: no_rule}", []string{"RF1008 18:16"}, `did you mean "deny"`},
		"no reason":           {"{deny: no_rule}", "{}", []string{"RF1009 18:15"}, "deny is missing"},
		"allow as mapping":    {"expect: allow", "expect: {allow: true}", []string{"RF1009 12:15", "RF1008 12:16"}, "allow"},
		"no expectation":      {"      expect: allow\n", "", []string{"RF1009 7:7"}, "expect is missing"},
		"headers":             {"request: {", "request: {headers: {a: b}, ", []string{"RF1013 10:17"}, "headers"},
		"no path":             {", path: /", "", []string{"RF1009 10:16"}, "path is missing"},
		"token as list":       {"token: clerk", "token: [clerk]", []string{"RF1007 11:14"}, "a list"},
		"claims as text":      {"claims: {iss: \"https://idp\", roles: [clerk], m: 1, deep: {a: true, none: []}}", "claims: x", []string{"RF1007 5:34"}, "mapping of claims"},
		"claim twice":         {"token: {iss: x}", "token: {iss: x, iss: y}", []string{"RF1006 17:23"}, "written twice"},
		"deep claim twice":    {"token: {iss: x}", "token: {a: [{b: 1, b: 2}]}", []string{"RF1006 17:26"}, "written twice"},
		"null claim":          {"token: {iss: x}", "token: {iss: ~}", []string{"RF1007 17:20"}, "empty"},
		"fraction":            {"token: {iss: x}", "token: {iss: 1.5}", []string{"RF1007 17:20"}, "a number"},
		"octal":               {"token: {iss: x}", "token: {iss: 017}", []string{"RF1007 17:20"}, "decimal"},
		"large number":        {"token: {iss: x}", "token: {iss: 9007199254740993}", []string{"RF1010 17:20"}, "exact"},
		"truth as a word":     {"token: {iss: x}", "token: {iss: on}", []string{"RF1007 17:20"}, "quote it"},
		"key that is a truth": {"token: {iss: x}", "token: {on: x}", []string{"RF1007 17:15"}, "quote it"},
		"no cases":            {"  cases:\n    - name: a\n      from: spiffe://a/b\n      to: acme/orders\n      request: {method: GET, path: /}\n      token: clerk\n      expect: allow\n    - name: b\n      from: spiffe://a/b\n      to: acme/orders\n      request: {method: GET, path: /}\n      token: {iss: x}\n      expect: {deny: no_rule}\n", "", []string{"RF1009 4:3"}, "cases"},
		"unknown field":       {"      token: clerk", "      tokn: clerk", []string{"RF1008 11:7"}, `did you mean "token"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(accessTest, c.old, c.text, 1)
			if text == accessTest {
				t.Fatal("nothing was changed")
			}
			docs, ps := decode("tests/x.yaml", text)
			if diff := cmp.Diff(c.want, short(ps)); diff != "" {
				t.Fatalf("(-want +got):\n%s\n%s", diff, render(ps))
			}
			if all := render(ps); !strings.Contains(all, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, all)
			}
			if len(docs) != 1 || len(docs[0].Head().Problems()) == 0 {
				t.Error("the document passes for a whole one")
			}
		})
	}
}

func TestTestsLieInTheirPlace(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"tests/x.yaml": "", "tenants/acme/tests/x.yaml": "",
		"mesh.yaml": "RF1017 1:7", "platform/x.yaml": "RF1017 1:7", "tenants/acme/x.yaml": "RF1017 1:7", "tenants/tests/x.yaml": "RF1017 1:7",
	} {
		docs, ps := decode(path, accessTest)
		if got := strings.Join(short(ps), ","); got != want || (len(docs) == 1) != (want == "") {
			t.Errorf("%s: %d documents, %q", path, len(docs), got)
		}
	}
	for _, path := range []string{"tests/x.yaml", "tenants/acme/tests/x.yaml"} {
		docs, ps := decode(path, service)
		if len(docs) > 0 || len(ps) != 1 || ps[0].Code != v1alpha1.CodeMisplacedTest {
			t.Errorf("a Service in %s: %v", path, ps)
		}
	}
}
