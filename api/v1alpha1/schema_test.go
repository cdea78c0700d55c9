package v1alpha1_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/examples"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := v1alpha1.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("ringfence.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("ringfence.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.DraftVersion != 7 {
		t.Errorf("the schema is of draft %d, editors need 7", s.DraftVersion)
	}
	return s
}

// validate gives each document of a text to the schema, as an editor would.
func validate(t *testing.T, s *jsonschema.Schema, text string) []error {
	t.Helper()
	var errs []error
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var doc any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return errs
		} else if err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		errs = append(errs, s.Validate(value))
	}
}

func TestSchemaAcceptsTheExamples(t *testing.T) {
	t.Parallel()
	s, seen := compileSchema(t), 0
	for _, example := range []fs.FS{examples.TwoTenants(), examples.Starter()} {
		err := fs.WalkDir(example, ".", func(name string, _ fs.DirEntry, err error) error {
			if err != nil || path.Ext(name) != ".yaml" {
				return err
			}
			data, err := fs.ReadFile(example, name)
			if err != nil {
				return err
			}
			for _, err := range validate(t, s, string(data)) {
				seen++
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 15 {
		t.Errorf("%d documents", seen)
	}
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := compileSchema(t)
	for name, text := range map[string]string{
		"no kind":           "metadata: {name: a}\nspec: {}\n",
		"unknown kind":      strings.Replace(service, "Service", "Servce", 1),
		"unknown field":     strings.Replace(service, "namespace", "namespce", 1),
		"unknown at top":    service + "status: {}\n",
		"not yet":           policy + "      when: x\n",
		"missing":           "kind: Service\nmetadata: {name: a}\nspec: {namespace: a}\n",
		"wrong type":        strings.Replace(service, "[web]", "web", 1),
		"number as text":    strings.Replace(service, "namespace: acme", "namespace: 1", 1),
		"empty list":        strings.Replace(service, "[web]", "[]", 1),
		"name":              strings.Replace(service, "{name: web}", "{name: Web}", 1),
		"name in a list":    strings.Replace(service, "[web]", "[We_b]", 1),
		"other apiVersion":  "apiVersion: v2\n" + service,
		"token":             strings.Replace(service, "spec: {", "spec: {token: maybe, ", 1),
		"port out of range": strings.Replace(service, "spec: {", "spec: {outbound: {port: 70000}, ", 1),
		"expectation":       strings.Replace(accessTest, "expect: allow", "expect: deny", 1),
		"reason":            strings.Replace(accessTest, "deny: no_rule", "deny: no", 1),
		"two expectations":  strings.Replace(accessTest, "deny: no_rule", "deny: no_rule, allow: true", 1),
		"token of a case":   strings.Replace(accessTest, "token: clerk", "token: [clerk]", 1),
		"claims":            strings.Replace(accessTest, "claims: {", "claims: [], x: {", 1),
		"UDP":               strings.Replace(service, "spec: {", "spec: {ports: [{name: a, port: 1, protocol: UDP, appPort: 2}], ", 1),
		"class as text":     classes("a: secret\n"),
		"class unknown":     classes("a: {tokn: required}\n"),
		"class token":       classes("a: {token: none}\n"),
		"class name":        classes("Aa: {}\n"),
		"class age":         classes("a: {maxAuthAge: 5}\n"),
		"no classes":        strings.Replace(classes(""), "sensitivity:\n    ", "sensitivity: {}\n", 1),
	} {
		if errs := validate(t, s, text); len(errs) != 1 || errs[0] == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, ps := decode("platform/x.yaml", text); len(ps) == 0 && name != "name" && name != "class name" && name != "name in a list" && name != "port out of range" {
			t.Errorf("%s: Decode accepts what the schema refuses", name)
		}
	}
	if errs := validate(t, s, service+"---\n"+policy+"---\n"+accessTest+"---\n"+classes("a: {acr: [x]}\n")); len(errs) != 4 || errors.Join(errs...) != nil {
		t.Errorf("refused what is whole: %v", errs)
	}
}
