package authz_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// sources are the package's own files, parsed.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) < 5 {
		t.Fatalf("only %d files", len(files))
	}
	return files
}

// tenants counts how often tenancy.Tenant stands in a tree, and model whether tenancy.Model does.
func tenants(n ast.Node) (count int, model bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "tenancy" {
				model = model || s.Sel.Name == "Model"
				if s.Sel.Name == "Tenant" {
					count++
				}
			}
		}
		return true
	})
	return count, model
}

// No function of the package can hold two tenants: none takes, gives, stores or lists more than one handle, and none
// names the Model.
func TestOneTenantAtATime(t *testing.T) {
	t.Parallel()
	functions := 0
	for name, file := range sources(t) {
		for _, imp := range file.Imports {
			if imp.Name != nil && strings.HasSuffix(imp.Path.Value, `/tenancy"`) {
				t.Errorf("%s imports tenancy under another name, which this test does not see", name)
			}
		}
		if _, model := tenants(file); model {
			t.Errorf("%s names tenancy.Model", name)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncType:
				functions++
				handles := 0
				for _, list := range []*ast.FieldList{n.Params, n.Results} {
					if list == nil {
						continue
					}
					for _, f := range list.List {
						count, _ := tenants(f.Type)
						handles += count * max(1, len(f.Names))
					}
				}
				if handles > 1 {
					t.Errorf("%s: a function holds %d tenants", name, handles)
				}
			case *ast.ArrayType, *ast.MapType, *ast.ChanType, *ast.StructType, *ast.Ellipsis:
				if count, _ := tenants(n); count > 0 {
					t.Errorf("%s: tenants are kept in something", name)
				}
			}
			return true
		})
	}
	if functions < 20 {
		t.Errorf("only %d functions looked at", functions)
	}
}

// Exactly one place in the package says that a call is allowed.
func TestOneAllow(t *testing.T) {
	t.Parallel()
	places := 0
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "allowed" {
					if places++; name != "decide.go" {
						t.Errorf("%s allows calls", name)
					}
				}
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					if s, ok := left.(*ast.SelectorExpr); ok && s.Sel.Name == "allowed" {
						t.Errorf("%s changes a Decision", name)
					}
				}
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "Decision" && len(n.Elts) > 0 {
					if _, keyed := n.Elts[0].(*ast.KeyValueExpr); !keyed {
						t.Errorf("%s: a Decision without field names", name)
					}
				}
			}
			return true
		})
	}
	if places != 1 {
		t.Errorf("%d places allow calls", places)
	}
}
