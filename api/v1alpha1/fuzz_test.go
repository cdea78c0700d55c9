package v1alpha1_test

import (
	"io/fs"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/examples"
)

// exampleFiles are the documents of the examples, by path, and one that has what they do not.
func exampleFiles(tb testing.TB) map[string]string {
	tb.Helper()
	files := map[string]string{}
	err := fs.WalkDir(examples.TwoTenants(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(examples.TwoTenants(), name)
		files[name] = string(data)
		return err
	})
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d example files, %v", len(files), err)
	}
	files["platform/classes.yaml"] = classes("internal: {}\n    secret:\n      token: required\n      acr: [mfa, \"1\"]\n      maxAuthAge: 5m\n")
	return files
}

func FuzzDecode(f *testing.F) {
	for _, text := range exampleFiles(f) {
		f.Add([]byte(text))
	}
	for _, seed := range []string{
		"", "---\n---\n", service, policy, accessTest, strings.Replace(accessTest, "allow", "{deny: [no_rule]}", 1),
		strings.Replace(accessTest, "token: {", "token: {a: [{b: [1, -9007199254740993, true, [], {}]}], ", 1), service + "---\n# c\n---\n" + policy,
		"kind: &a [*a]", "a: &a [x]\nb: [*a,*a]", "<<: *x", "? a\n: b", "!!binary aGk=", "%YAML 1.1\n---\na: b",
		"kind: |\n a\n b", "kind: >-\n a", "{a: {b: {c: [[[]]]}}}", "- - - - a", "kind: 'it''s'", "kind: \"\\x41\\u0000\"",
		"kind: Service\nkind: Mesh", "kind: Tenant\nmetadata: {name: no}\nspec: {namespaces: [on, 1e3, ~]}", "\xff\xfe", "a\x00b", "\ufeffkind: x", "a: b: c", "{a:b}", "[a,,b]", "a:\n b\n c: d",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, path := range []string{"tenants/acme/x.yaml", "tenants/acme/tests/x.yaml"} {
			decodeHostile(t, path, data)
		}
	})
}

func decodeHostile(t *testing.T, path string, data []byte) {
	t.Helper()
	docs, problems := v1alpha1.Decode(v1alpha1.File{Path: path, Data: data})
	lines := strings.Split(string(data), "\n")
	for _, p := range problems {
		if p.Owner != "acme" || p.File != path || p.Text == "" || p.Code == "" {
			t.Fatalf("a problem without owner, file, code or text: %+v", p)
		}
		if p.Line > len(lines) || p.Col < 0 || (p.Line > 0 && p.Col > utf8.RuneCountInString(lines[p.Line-1])+1) {
			t.Fatalf("a problem outside the file: %s", p)
		}
		if out := p.Render(); !utf8.ValidString(out) || strings.ContainsAny(out, "\x1b\x00\r") {
			t.Fatalf("a problem that is not safe to print: %q", out)
		}
		if strings.Contains(p.Text, "reader failed") {
			t.Fatalf("the YAML library panicked on %q", data)
		}
	}
	broken := 0
	for _, d := range docs {
		h := d.Head()
		if h.Owner() != "acme" || h.Pos.IsZero() {
			t.Fatalf("a document without its owner or place: %+v", h)
		}
		if len(h.Problems()) > 0 {
			broken++
		}
		if _, test := d.(*v1alpha1.AccessTest); test != v1alpha1.IsTest(path) {
			t.Fatalf("%s in %s", h.Kind.Value, path)
		}
	}
	if len(problems) == 0 && broken > 0 || len(problems) > 101 {
		t.Fatalf("%d documents have problems, the file has %d", broken, len(problems))
	}
	again, same := v1alpha1.Decode(v1alpha1.File{Path: path, Data: data})
	if len(again) != len(docs) || len(same) != len(problems) {
		t.Fatal("the same bytes are read in two ways")
	}
}
