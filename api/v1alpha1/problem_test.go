package v1alpha1_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

var update = flag.Bool("update", false, "write docs/problems.md anew")

func TestRender(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, text, want string }{
		{"with a hint", "kind: Servce\n", `platform/x.yaml:1:7: RF1012: unknown kind "Servce"
    1 | kind: Servce
      |       ^
  did you mean "Service"?`},
		{"without a hint", "- a\n", `platform/x.yaml:1:1: RF1007: a document is a mapping with kind, metadata and spec; this is a list
    1 | - a
      | ^`},
		{
			"far in a long line", "kind: Service # " + strings.Repeat("é", 100) + "\nmetadata: {name: a, " + strings.Repeat("x", 80) + ": " + strings.Repeat("y", 80) + "}\nspec: {namespace: a, serviceAccounts: [a]}\n",
			`platform/x.yaml:2:21: RF1008: unknown field "` + strings.Repeat("x", 64) + `…" in metadata
    2 | metadata: {name: a, ` + strings.Repeat("x", 60) + `…
      |                     ^`,
		},
		{"hostile text", "kind: \"\\e[31m\\u202e\"\n", `platform/x.yaml:1:7: RF1010: kind holds a line break or a character that cannot be printed
    1 | kind: "\e[31m\u202e"
      |       ^`},
		{"what cannot be shown", "kind: a\x1b\n", `platform/x.yaml:1:8: RF1002: character U+001B is not allowed
    1 | kind: a` + "\ufffd" + `
      |        ^`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, ps := decode("platform/x.yaml", c.text)
			if len(ps) != 1 {
				t.Fatalf("problems:\n%s", render(ps))
			}
			if diff := cmp.Diff(c.want, ps[0].Render()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRenderWithoutAPlace(t *testing.T) {
	t.Parallel()
	p := v1alpha1.FileProblem("mesh.yaml", v1alpha1.CodeNoMesh, "write it", "there is no %s", "Mesh")
	if got, want := p.Render(), "mesh.yaml: RF2001: there is no Mesh\n  write it"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (v1alpha1.Problem{Code: "RF1", Text: "x"}).String(), "RF1: x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if p := (v1alpha1.Pos{}).Problem(v1alpha1.CodePort, "", "x"); p.Owner != "" || p.Line != 0 || p.Snippet != "" || (v1alpha1.Pos{}).String() != "" {
		t.Errorf("a problem nowhere has a place: %+v", p)
	}
}

func TestProblemAsJSON(t *testing.T) {
	t.Parallel()
	_, ps := decode("tenants/acme/x.yaml", "kind: Servce\n")
	got, err := json.Marshal(ps)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"code":"RF1012","owner":"acme","file":"tenants/acme/x.yaml","line":1,"column":7,"text":"unknown kind \"Servce\"",` +
		`"hint":"did you mean \"Service\"?","snippet":"    1 | kind: Servce\n      |       ^"}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSortProblems(t *testing.T) {
	t.Parallel()
	a := v1alpha1.Problem{Code: "RF2", File: "a", Line: 2, Text: "x"}
	b := v1alpha1.Problem{Code: "RF1", File: "a", Line: 10, Text: "x"}
	c := v1alpha1.Problem{Code: "RF2", File: "a", Line: 10, Col: 3, Text: "x"}
	d := v1alpha1.Problem{Code: "RF1", File: "b", Text: "x"}
	given := []v1alpha1.Problem{d, c, b, a, c, a}
	if diff := cmp.Diff([]v1alpha1.Problem{a, b, c, d}, v1alpha1.SortProblems(given)); diff != "" {
		t.Error(diff)
	}
	if given[0] != d {
		t.Error("the given slice was changed")
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	known := []string{"methods", "paths", "port", "ports", strings.Repeat("x", 100)}
	for word, want := range map[string]string{
		"mehtods": "methods", "METHODS": "methods", "prot": "port", "potrs": "ports", "pathes": "paths",
		"zebra": "", "": "", strings.Repeat("x", 99): "", "method": "methods",
	} {
		if want != "" {
			want = fmt.Sprintf("did you mean %q?", want)
		}
		if got := v1alpha1.Suggest(word, known); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}

// TestProblemsPage keeps docs/problems.md the table of codes; with -update it writes the page anew.
func TestProblemsPage(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Problems of documents\n\n`ringfence validate` and the control plane name each problem by a code that stays the same. This page is the table\n" +
		"`Codes` of package `api/v1alpha1`.\n\n")
	last := v1alpha1.Code("")
	for _, c := range v1alpha1.Codes() {
		if c.Code <= last || len(c.Code) != 6 || !strings.HasPrefix(string(c.Code), "RF") {
			t.Errorf("code %q after %q: codes are RF and four digits, in order, each once", c.Code, last)
		}
		if c.Title == "" || c.Meaning == "" || c.Fix == "" {
			t.Errorf("%s is not explained", c.Code)
		}
		last = c.Code
		fmt.Fprintf(&b, "## %s: %s\n\n%s\n\n*What to do:* %s\n\n", c.Code, c.Title, c.Meaning, c.Fix)
	}
	page := filepath.Join("..", "..", "docs", "problems.md")
	want := strings.TrimRight(b.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/problems.md is not the table; write it anew with -update (-want +got):\n%s", diff)
	}
}
