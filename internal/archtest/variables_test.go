package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"testing"
)

// changes finds where a package changes a variable of a package after its declaration, or lets somebody else do it by
// taking its address.
func changes(tr *tree, p *pkg) []string {
	var found []string
	report := func(at ast.Node, e ast.Expr, how string) {
		if v := packageVariable(p.info, e); v != nil {
			found = append(found, fmt.Sprintf("%s: %s is %s", tr.at(at), v.Name(), how))
		}
	}
	for _, f := range p.files {
		if ast.IsGenerated(f) {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					report(n, left, "assigned to")
				}
			case *ast.IncDecStmt:
				report(n, n.X, "assigned to")
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					report(n, n.Key, "assigned to")
					report(n, n.Value, "assigned to")
				}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					report(n, n.X, "given away by its address")
				}
			case *ast.CallExpr:
				if b, ok := ast.Unparen(n.Fun).(*ast.Ident); ok && isChangingBuiltin(p.info.Uses[b]) {
					report(n, n.Args[0], "changed by "+b.Name)
				}
			}
			return true
		})
	}
	return found
}

func isChangingBuiltin(obj types.Object) bool {
	b, ok := obj.(*types.Builtin)
	return ok && (b.Name() == "delete" || b.Name() == "clear" || b.Name() == "copy")
}

// packageVariable is the variable of a package that the expression is a part of, if it is.
func packageVariable(info *types.Info, e ast.Expr) *types.Var {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.SelectorExpr:
			if v := asPackageVariable(info.Uses[x.Sel]); v != nil {
				return v
			}
			e = x.X
		case *ast.Ident:
			return asPackageVariable(info.Uses[x])
		default:
			return nil
		}
	}
}

func asPackageVariable(obj types.Object) *types.Var {
	v, ok := obj.(*types.Var)
	if !ok || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() {
		return nil
	}
	return v
}

func TestVariablesOfPackagesDoNotChange(t *testing.T) {
	t.Parallel()
	tr := loaded(t)
	for _, p := range tr.pkgs {
		for _, f := range changes(tr, p) {
			t.Error(f)
		}
	}
}

func TestChangesFindsThem(t *testing.T) {
	t.Parallel()
	const vars = `
var n int
var m = map[string]int{}
var s = []int{1}
var st struct { x int; p *int }
`
	tests := []struct {
		name, code string
		want       int
	}{
		{"reading", `func f() int { return n + m["a"] + s[0] + st.x + len(s[:0]) }`, 0},
		{"a local one of the same name", `func f() { n := 1; n++; _ = n }`, 0},
		{"assignment", `func f() { n = 1 }`, 1},
		{"one of two", `func f() { var l int; l, n = 1, 2; _ = l }`, 1},
		{"increment", `func f() { n++ }`, 1},
		{"of a map", `func f() { m["a"] = 1 }`, 1},
		{"of an element", `func f() { s[0] = 1 }`, 1},
		{"of a field", `func f() { st.x = 1 }`, 1},
		{"through a pointer in it", `func f() { *st.p = 1 }`, 1},
		{"delete", `func f() { delete(m, "a") }`, 1},
		{"clear", `func f() { clear(s) }`, 1},
		{"copy into", `func f() { copy(s[1:], []int{1}) }`, 1},
		{"its address", `func f() *int { return &n }`, 1},
		{"range", `func f() { for n = range 3 {} }`, 1},
		{"of another package", `func f() { slices.Sort(s); identity.ErrUnmapped = nil }`, 1},
	}
	tr := loaded(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := changes(tr, tr.fixture(t, vars+tt.code)); len(got) != tt.want {
				t.Errorf("changes() = %q, want %d", got, tt.want)
			}
		})
	}
}
