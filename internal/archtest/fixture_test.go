package archtest

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/types"
	"strings"
	"testing"
)

const fixturePath = "fixture"

// fixture type-checks code that is not in the tree, as if it stood in the module. It must be right.
func (tr *tree) fixture(t *testing.T, code string) *pkg {
	t.Helper()
	p, errs := tr.compile(t, code)
	if len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	return p
}

// compile type-checks code as the compiler would and returns its complaints. What the code names is imported.
func (tr *tree) compile(t *testing.T, code string) (*pkg, []error) {
	t.Helper()
	var src strings.Builder
	src.WriteString("package fixture\n")
	for name, path := range importable() {
		if strings.Contains(code, name+".") {
			src.WriteString("import " + name + " \"" + path + "\"\n")
		}
	}
	src.WriteString(code + "\n")
	f, err := parser.ParseFile(tr.fset, "fixture.go", src.String(), parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	p := &pkg{path: fixturePath, files: []*ast.File{f}, info: newInfo()}
	var errs []error
	conf := types.Config{Importer: tr.importer, Error: func(err error) { errs = append(errs, err) }}
	p.types, err = conf.Check(fixturePath, tr.fset, p.files, p.info)
	if err != nil && len(errs) == 0 {
		t.Fatal(err)
	}
	return p, errs
}

// importable are the names by which code of fixtures may call packages.
func importable() map[string]string {
	return map[string]string{
		"authz":    module + "/authz",
		"identity": module + "/identity",
		"iter":     "iter",
		"maps":     "maps",
		"pipeline": module + "/pipeline",
		"prove":    module + "/prove",
		"slices":   "slices",
		"tenancy":  module + "/tenancy",
		"xds":      module + "/xds",
	}
}
