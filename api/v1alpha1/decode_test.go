package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

const (
	service = "kind: Service\nmetadata: {name: web}\nspec: {namespace: acme, serviceAccounts: [web]}\n"
	policy  = "kind: AccessPolicy\nmetadata: {name: p}\nspec:\n  service: orders\n  rules:\n    - name: r\n      from: {services: [web]}\n      to: {methods: [GET], paths: [/a]}\n"
)

func decode(path, text string) ([]v1alpha1.Document, []v1alpha1.Problem) {
	return v1alpha1.Decode(v1alpha1.File{Path: path, Data: []byte(text)})
}

// short is code, line and column: what a case expects of a problem.
func short(ps []v1alpha1.Problem) []string {
	var out []string
	for _, p := range ps {
		out = append(out, fmt.Sprintf("%s %d:%d", p.Code, p.Line, p.Col))
	}
	return out
}

// classes is a Mesh with these classes of sensitivity; the first begins at 7:5.
func classes(text string) string {
	return "kind: Mesh\nmetadata: {name: a}\nspec:\n  identities: [{trustDomain: a, path: /b}]\n  platformTrustDomain: p\n  sensitivity:\n    " + text
}

func TestDecodeProblems(t *testing.T) {
	t.Parallel()
	spec := func(s string) string { return "kind: Service\nmetadata: {name: web}\nspec:\n" + s }
	valid := "  namespace: acme\n  serviceAccounts: [web]\n"
	cases := []struct {
		name, text string
		want       []string // code line:col
		says       string   // in the first problem's text or hint
	}{
		{"whole", service, nil, ""},
		{"two whole", service + "---\n" + policy, nil, ""},
		{"empty", "", nil, ""},
		{"comments alone", "# a\n---\n  # b\n---\n\n", nil, ""},
		{"comments before a document", "# a\n---\n# b\n---\n# c\n" + service, nil, ""},
		{"byte order mark", "\ufeff" + service, nil, ""},
		{"CR LF", strings.ReplaceAll(service+"---\n"+policy, "\n", "\r\n"), nil, ""},
		{"trailing spaces", strings.ReplaceAll(service, "\n", "   \n"), nil, ""},
		{"JSON", `{"kind": "Service", "metadata": {"name": "web"}, "spec": {"namespace": "acme", "serviceAccounts": ["web"]}}`, nil, ""},

		{"no YAML", "kind: [Service", []string{"RF1003 1:7"}, "not valid YAML"},
		{"quote left open", "kind: \"Service\nmetadata: {name: a}\n", []string{"RF1003 1:7"}, "double-quoted"},
		{"NUL", "kind: Ser\x00vice", []string{"RF1002 1:10"}, "U+0000"},
		{"no UTF-8", "kind: Service\nmetadata: {name: \xff}", []string{"RF1002 2:18"}, "byte 0xFF is not UTF-8"},
		{"overlong UTF-8", "kind: \xc0\xaf", []string{"RF1002 1:7"}, "0xC0"},
		{"tab", "kind:\tService", []string{"RF1002 1:6"}, "spaces"},
		{"carriage return alone", "kind: a\rkind: b", []string{"RF1002 1:8"}, "carriage return"},
		{"text that runs backwards", "kind: Service # \u202e", []string{"RF1002 1:17"}, "U+202E"},
		{"escape", "kind: \x1b[31m", []string{"RF1002 1:7"}, "U+001B"},
		{"line separator", "kind: a\u2028b", []string{"RF1002 1:8"}, ""},
		{"text behind ---", "--- {kind: Service}\n", []string{"RF1005 1:5"}, ""},
		{"document end", service + "...\n", []string{"RF1005 4:1"}, ""},

		{"anchor", "kind: &a Service\n", []string{"RF1005 1:7"}, "anchors"},
		{"alias", "kind: *a\n", []string{"RF1005 1:7"}, "aliases"},
		{"tag", "kind: !!str Service\n", []string{"RF1005 1:7"}, "tags"},
		{"merge key", "<<: {kind: Service}\n", []string{"RF1005 1:1"}, "merge"},
		{"complex key", "? kind\n: Service\n", []string{"RF1005 1:1"}, "complex"},
		{"directive", "%YAML 1.1\n---\n" + service, []string{"RF1005 1:1"}, "directives"},
		{"block of text", "kind: |\n  Service\n", []string{"RF1005 1:7"}, "blocks"},
		{"several at once", "kind: &a Service\nmetadata: *b\nspec: !x y\n", []string{"RF1005 1:7", "RF1005 2:11", "RF1005 3:7"}, ""},
		{"alias bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", []string{"RF1005 1:4", "RF1005 2:4", "RF1005 2:8", "RF1005 2:11", "RF1005 3:4", "RF1005 3:8", "RF1005 3:11"}, ""},

		{"text over two lines", "kind: Ser\n  vice\nmetadata: {name: a}\n", []string{"RF1003 1:7"}, "one line"},
		{"quoted text over two lines", "kind: \"Ser\n  vice\"\n", []string{"RF1003 1:7"}, "one line"},
		{"value in the next line", "kind:\n  Service\nmetadata: {name: a}\nspec: {namespace: a, serviceAccounts: [a]}\n", []string{"RF1003 2:3"}, "in the line of its key"},
		{"no space after the colon", "metadata: {name:web}\n", []string{"RF1003 1:16"}, "space after the colon"},
		{"two colons", "metadata: {name: a: b}\n", []string{"RF1003 1:18"}, ""},
		{"pair in a list", "spec: [a: b]\n", []string{"RF1003 1:9"}, "colon cannot stand here"},
		{"comma first", "metadata: {,name: a}\n", []string{"RF1003 1:12"}, "comma"},
		{"bracket in a text", "metadata: {name: a]b}\n", []string{"RF1003 1:18"}, "quote"},
		{"colon in its own line", "kind # x\n: Service\n", []string{"RF1003 2:1"}, "line of its key"},
		{"question mark", "spec: [?a]\n", []string{"RF1003 1:8"}, "quote"},

		{"document is a list", "- a\n", []string{"RF1007 1:1"}, "this is a list"},
		{"document is a text", "hello\n", []string{"RF1007 1:1"}, "a text"},
		{"document is null", "~\n", []string{"RF1007 1:1"}, "empty"},
		{"no kind", "metadata: {name: a}\n", []string{"RF1009 1:1"}, "kind: Service"},
		{"kind is a number", "kind: 1\n", []string{"RF1007 1:7"}, ""},
		{"unknown kind", "kind: Servce\n", []string{"RF1012 1:7"}, `did you mean "Service"?`},
		{"unknown kind, nothing near", "kind: Zebra\n", []string{"RF1012 1:7"}, ""},
		{"unknown apiVersion", "apiVersion: v1\nkind: Service\n", []string{"RF1011 1:13"}, "ringfence.dev/v1alpha1"},
		{"kind not yet", "kind: Egress\n", []string{"RF1013 1:7"}, "not built yet"},
		{"kind of another group not yet", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x}\n", []string{"RF1013 2:7"}, ""},

		{"unknown field", spec(valid + "  prots: []\n"), []string{"RF1008 6:3"}, `did you mean "ports"?`},
		{"unknown field at the top", service + "status: {}\n", []string{"RF1008 4:1"}, ""},
		{"unknown field in metadata", "kind: Service\nmetadata: {name: a, nmae: b}\nspec: {namespace: a, serviceAccounts: [a]}\n", []string{"RF1008 2:21"}, `did you mean "name"?`},
		{"duplicate key", service + "kind: Mesh\n", []string{"RF1006 4:1"}, "first in line 1"},
		{"duplicate key, quoted", "kind: Service\n\"kind\": Service\nmetadata: {name: a}\nspec: {namespace: a, serviceAccounts: [a]}\n", []string{"RF1006 2:1"}, ""},
		{"missing fields", "kind: Service\nmetadata: {}\nspec: {}\n", []string{"RF1009 2:11", "RF1009 3:7", "RF1009 3:7"}, "metadata.name"},
		{"number as key", "kind: Service\n1: 2\nmetadata: {name: a}\nspec: {namespace: a, serviceAccounts: [a]}\n", []string{"RF1007 2:1"}, ""},
		{
			"all at once", spec("  namespace: [acme]\n  serviceAccounts: web\n  token: maybe\n  ports: {}\n  endpoints: []\n  outbound: 7\n"),
			[]string{"RF1007 4:14", "RF1007 5:20", "RF1010 6:10", "RF1007 7:10", "RF1010 8:14", "RF1007 9:13"},
			"",
		},

		{"truth value as text", spec("  namespace: true\n  serviceAccounts: [web]\n"), []string{"RF1007 4:14"}, `quote it: "true"`},
		{"YAML 1.1 truth value as text", spec("  namespace: on\n  serviceAccounts: [No]\n"), []string{"RF1007 4:14", "RF1007 5:21"}, `quote it: "on"`},
		{"the same in quotes", spec("  namespace: \"on\"\n  serviceAccounts: ['No']\n"), nil, ""},
		{
			"number as text", spec("  namespace: 12\n  serviceAccounts: [0x1F, 08, 1e3, .5, 1_0]\n"),
			[]string{"RF1007 4:14", "RF1007 5:21", "RF1007 5:27", "RF1007 5:31", "RF1007 5:36", "RF1007 5:40"},
			"quote it",
		},
		{"date as text", spec("  namespace: 2026-01-01\n  serviceAccounts: [web]\n"), []string{"RF1007 4:14"}, "a time"},
		{"null as text", spec("  namespace: ~\n  serviceAccounts: [web]\n"), []string{"RF1007 4:14"}, ""},
		{"no value", spec("  namespace:\n  serviceAccounts: [web]\n"), []string{"RF1007 4:13"}, "empty"},
		{"escape in a text", spec("  namespace: \"a\\nb\"\n  serviceAccounts: [\"\\u202e\"]\n"), []string{"RF1010 4:14", "RF1010 5:21"}, "line break"},
		{"truth value in words", spec(valid + "  forwardToken: yes\n"), []string{"RF1007 6:17"}, "true or false"},
		{"number in quotes", spec(valid + "  outbound: {port: \"80\"}\n"), []string{"RF1007 6:20"}, "without quotes"},
		{"octal", spec(valid + "  outbound: {port: 0777}\n"), []string{"RF1007 6:20"}, "decimal"},
		{"grouped", spec(valid + "  outbound: {port: 1_000}\n"), []string{"RF1007 6:20"}, "decimal"},
		{"huge", spec(valid + "  outbound: {port: 99999999999999999999}\n"), []string{"RF1007 6:20"}, ""},
		{"fraction", spec(valid + "  outbound: {port: 1.5}\n"), []string{"RF1007 6:20"}, ""},
		{"protocol unknown", spec(valid + "  ports: [{name: a, port: 1, protocol: HTPP, appPort: 2}]\n"), []string{"RF1010 6:40"}, `did you mean "HTTP"?`},
		{"entry of a list is a text", spec(valid + "  ports: [a]\n"), []string{"RF1007 6:11"}, "is a mapping, not a text"},
		{"list of one as a text", strings.Replace(policy, "[GET]", "GET", 1), []string{"RF1007 8:21"}, "write [GET]"},

		{"TCP", spec(valid + "  ports: [{name: a, port: 1, protocol: TCP, speaksFirst: server, appPort: 2}]\n"), nil, ""},
		{"who speaks first unknown", spec(valid + "  ports: [{name: a, port: 1, protocol: TCP, speaksFirst: both, appPort: 2}]\n"), []string{"RF1010 6:58"}, "client, server"},
		{"loopback ports", spec(valid + "  outbound: {tcp: [{port: 1, service: platform/a}]}\n"), nil, ""},
		{"loopback port without a service", spec(valid + "  outbound: {tcp: [{port: 1}]}\n"), []string{"RF1009 6:20"}, "service is missing"},
		{"when not yet", policy + "      when: \"true\"\n", []string{"RF1013 9:7"}, "when"},
		{"labels not yet", "kind: Service\nmetadata: {name: a, labels: {a: b}}\nspec: {namespace: a, serviceAccounts: [a]}\n", []string{"RF1013 2:21"}, ""},
		{"hosts, quota and state not yet", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], hosts: [a], quota: {}, state: Quarantined}\n", []string{"RF1013 3:25", "RF1013 3:37", "RF1013 3:55"}, ""},
		{"sensitivity", classes("internal: {}\n    secret: {token: required, acr: [mfa, \"1\"], amr: [hwk], maxAuthAge: 5m}\n"), nil, ""},
		{"sensitivity empty", "kind: Mesh\nmetadata: {name: a}\nspec: {identities: [{trustDomain: a, path: /b}], platformTrustDomain: p, sensitivity: {}}\n", []string{"RF1010 3:87"}, "empty mapping"},
		{"sensitivity as a list", classes("- internal\n"), []string{"RF1007 7:5"}, "is a mapping, not a list"},
		{"class as a text", classes("internal: secret\n"), []string{"RF1007 7:15"}, "spec.sensitivity.internal is a mapping, not a text"},
		{"class twice", classes("a: {}\n    \"a\": {}\n"), []string{"RF1006 8:5"}, "first in line 7"},
		{"class with a number for a name", classes("1: {}\n"), []string{"RF1007 7:5"}, "plain word"},
		{"class with a truth value for a name", classes("no: {}\n"), []string{"RF1007 7:5"}, "truth value"},
		{"class with an unknown field", classes("a: {tokn: required}\n"), []string{"RF1008 7:9"}, `did you mean "token"?`},
		{"class with a wrong token", classes("a: {token: none}\n"), []string{"RF1010 7:16"}, "one of optional, required"},
		{"class in the next line", classes("a:\n      {}\n"), []string{"RF1003 8:7"}, "in the line of its key"},
		{"asker by nothing known", "kind: Mesh\nmetadata: {name: a}\nspec:\n  identities: [{trustDomain: a, path: /b}]\n  platformTrustDomain: p\n  askers:\n    - {name: a, socket: /s, identityFrom: XFCC, service: [a/b]}\n", []string{"RF1010 7:43", "RF1008 7:49"}, "xfcc"},
		{"a format of tokens that there is not", "kind: TokenIssuer\nmetadata: {name: a}\nspec: {format: paseto, jwks: {uri: u}, audiences: [a], tenants: [a]}\n", []string{"RF1010 3:16"}, "jwt-svid"},

		{"no time", "kind: Grant\nmetadata: {name: a}\nspec: {tenant: a, service: b, to: {methods: [GET], paths: [/]}, notAfter: 2026-01-01}\n", []string{"RF1010 3:75"}, "RFC 3339"},
		{"no length of time", "kind: TokenIssuer\nmetadata: {name: a}\nspec: {issuer: i, jwks: {file: f}, audiences: [a], tenants: [a], maxLifetime: 15 minutes}\n", []string{"RF1010 3:79"}, "15m"},
		{"days", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: 90d}\n", nil, ""},
		{"half days", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: 1.5d}\n", []string{"RF1010 3:35"}, "length of time"},
		{"days and hours", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: 1d12h}\n", []string{"RF1010 3:35"}, "length of time"},
		{"days before", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: -1d}\n", []string{"RF1010 3:35"}, "length of time"},
		{"days without a number", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: d}\n", []string{"RF1010 3:35"}, "length of time"},
		{"more days than there are", "kind: Tenant\nmetadata: {name: a}\nspec: {namespaces: [a], rootLife: 65536d}\n", []string{"RF1010 3:35"}, "length of time"},
		{"time without quotes", "kind: Grant\nmetadata: {name: a}\nspec:\n  tenant: a\n  service: b\n  to: {methods: [GET], paths: [/]}\n  notAfter: 2027-01-01T00:00:00Z\n", nil, ""},

		{"deep brackets", "kind: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), []string{"RF1004 1:38"}, "lie in each other"},
		{"deep blocks", strings.Repeat("- ", 40) + "a", []string{"RF1004 1:65"}, ""},
		{"long line", "kind: " + strings.Repeat("a", 5000), []string{"RF1004 1:1"}, "4096 bytes"},
		{"blank lines", "kind: Service\n" + strings.Repeat("\n", 300), []string{"RF1004 202:1"}, "blank"},
		{"many keys", keys(201), []string{"RF1004 201:4"}, "200 keys"},
		{"many empty entries", strings.Repeat("-\n", 101), []string{"RF1004 101:1"}, "have no value"},
		{"many empty keys", strings.Repeat("- {a, b, c: }\n", 100), []string{"RF1004 51:5"}, "have no value"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, ps := decode("platform/x.yaml", c.text)
			if diff := cmp.Diff(c.want, short(ps)); diff != "" {
				t.Fatalf("problems (-want +got):\n%s\n%v", diff, render(ps))
			}
			if c.says != "" && !strings.Contains(ps[0].Text+" "+ps[0].Hint, c.says) {
				t.Errorf("%q is not in:\n%s", c.says, ps[0].Render())
			}
		})
	}
}

func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%c%02d: b\n", 'a'+i/100, i%100)
	}
	return b.String()
}

func render(ps []v1alpha1.Problem) string {
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(p.Render() + "\n")
	}
	return b.String()
}

func TestDecodeDocumentsInOrder(t *testing.T) {
	t.Parallel()
	docs, ps := decode("tenants/acme/x.yaml", "# first\n---\n# second\n---\n"+service+"---\n---\n"+policy)
	if len(ps) > 0 || len(docs) != 2 {
		t.Fatalf("%d documents, problems:\n%s", len(docs), render(ps))
	}
	s, ok := docs[0].(*v1alpha1.Service)
	if !ok || s.Metadata.Name.Value != "web" || s.Spec.ServiceAccounts[0].Value != "web" || s.Spec.Token.IsSet() || s.Spec.Outbound != nil {
		t.Errorf("not the service that was written: %+v", docs[0])
	}
	if got := s.Spec.ServiceAccounts[0].Pos.String(); got != "tenants/acme/x.yaml:7:43" {
		t.Errorf("the account stands at %s", got)
	}
	p, ok := docs[1].(*v1alpha1.AccessPolicy)
	if !ok || p.Spec.Rules[0].To.Paths[0].Value != "/a" {
		t.Errorf("not the policy that was written: %+v", docs[1])
	}
	if h := docs[1].Head(); h.Owner() != "acme" || h.Name().Value != "p" || h.Pos.Line() != 10 || len(h.Problems()) > 0 {
		t.Errorf("head of the policy: owner %q, name %q, at %s", h.Owner(), h.Name().Value, h.Pos)
	}
}

func TestBrokenDocumentKeepsItsNameAndItsProblems(t *testing.T) {
	t.Parallel()
	docs, ps := decode("tenants/acme/x.yaml", strings.Replace(service, "namespace: acme", "namespace: 1", 1)+"---\n"+policy)
	if len(docs) != 2 || len(ps) != 1 {
		t.Fatalf("%d documents, problems:\n%s", len(docs), render(ps))
	}
	if h := docs[0].Head(); h.Name().Value != "web" || cmp.Diff(ps, h.Problems()) != "" {
		t.Errorf("the broken document is %q with %v", h.Name().Value, h.Problems())
	}
	if h := docs[1].Head(); len(h.Problems()) > 0 {
		t.Errorf("the whole document has problems: %v", h.Problems())
	}
}

func TestFilesThatAreNotRead(t *testing.T) {
	t.Parallel()
	big := make([]byte, 5<<20)
	cases := []struct {
		name, path string
		data       []byte
		want       v1alpha1.Problem
	}{
		{"5 MB", "tenants/acme/big.yaml", big, v1alpha1.Problem{Code: v1alpha1.CodeFileTooLarge, Owner: "acme", File: "tenants/acme/big.yaml", Text: "the file has more than 1048576 bytes", Hint: "split it into several files"}},
		{"outside", "test/a.yaml", nil, v1alpha1.Problem{Code: v1alpha1.CodeMisplacedFile, File: "test/a.yaml", Text: "the path says no owner of the documents in this file", Hint: "documents lie in mesh.yaml, platform/, tenants/<tenant>/ and tests/"}},
		{"reserved directory", "tenants/platform/a.yaml", []byte("kind: Mesh"), v1alpha1.Problem{Code: v1alpha1.CodeMisplacedFile, Owner: "tenants/platform", File: "tenants/platform/a.yaml", Text: "the path says no owner of the documents in this file", Hint: "documents lie in mesh.yaml, platform/, tenants/<tenant>/ and tests/"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			docs, ps := v1alpha1.Decode(v1alpha1.File{Path: c.path, Data: c.data})
			if len(docs) > 0 {
				t.Errorf("documents of a file that is not read: %v", docs)
			}
			if diff := cmp.Diff([]v1alpha1.Problem{c.want}, ps); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOwnerFollowsFromThePathAlone(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"mesh.yaml": "platform", "platform/a.yaml": "platform", "platform/b/c.yaml": "platform",
		"tenants/acme/a.yaml": "acme", "tenants/acme/b/c.yaml": "acme", "tenants/Acme/a.yaml": "Acme",
		"tenants/platform/a.yaml": "tenants/platform",
		"tests/a.yaml":            "platform", "tests/b/c.yaml": "platform", "tenants/tests/a.yaml": "tests", "tenants/acme/tests/a.yaml": "acme",
		"other.yaml": "", "tests.yaml": "", "tests": "", "x/tests/a.yaml": "", "tenants/a.yaml": "", "tenants": "", "": "",
		"/mesh.yaml": "", "./mesh.yaml": "", "tenants/acme/../platform/a.yaml": "", "tenants/../mesh.yaml": "",
		"tenants//a.yaml": "", "tenants/acme/..": "", `tenants/acme\..\x/a.yaml`: "", "x/mesh.yaml": "", "tenants/../platform/x": "",
	} {
		if got := v1alpha1.Owner(path); got != want {
			t.Errorf("Owner(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestPlacesOfTests(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"tests": true, "tests/a.yaml": true, "tests/b/c.yaml": true, "tenants/acme/tests": true, "tenants/acme/tests/a.yaml": true,
		"tenants/tests/tests/a.yaml": true, "tenants/platform/tests/a.yaml": true,
		"mesh.yaml": false, "tests.yaml": false, "tenants/tests/a.yaml": false, "tenants/acme/tests.yaml": false,
		"tenants/acme/x/tests/a.yaml": false, "platform/tests/a.yaml": false, "tests/../mesh.yaml": false, "./tests/a.yaml": false,
		"tenants/acme/../tests/a.yaml": false, "": false, "tenants": false, "tenants/acme": false,
	} {
		if got := v1alpha1.IsTest(path); got != want {
			t.Errorf("IsTest(%q) = %t", path, got)
		}
	}
}

func TestProblemsOfOneFileAreBounded(t *testing.T) {
	t.Parallel()
	docs, ps := decode("platform/x.yaml", strings.Repeat("kind: Service\nmetadata: {name: a}\nspec: {}\n---\n", 200))
	if len(ps) != 101 || ps[0].Code != v1alpha1.CodeMoreProblems {
		t.Fatalf("%d problems, first %s", len(ps), ps[0])
	}
	for _, d := range docs {
		if len(d.Head().Problems()) == 0 {
			t.Fatalf("the document at %s passes for a whole one", d.Head().Pos)
		}
	}
}
