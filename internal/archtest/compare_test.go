package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// compared are the types that only their own package may compare: unknown would equal unknown.
func compared(t types.Type) bool {
	return is(t, "identity", "TenantID") || is(t, "identity", "WorkloadID")
}

// is reports whether t is that named type of the module.
func is(t types.Type, path, name string) bool {
	named, ok := types.Unalias(t).(*types.Named)
	if !ok || named.Obj().Pkg() == nil {
		return false
	}
	return named.Obj().Pkg().Path() == module+"/"+path && named.Obj().Name() == name
}

// comparesIdentity reports whether comparing two values of type t compares an identity in them.
func comparesIdentity(t types.Type) bool {
	if t == nil {
		return false
	}
	if compared(t) {
		return true
	}
	switch u := t.Underlying().(type) {
	case *types.Struct:
		for f := range u.Fields() {
			if comparesIdentity(f.Type()) {
				return true
			}
		}
	case *types.Array:
		return comparesIdentity(u.Elem())
	}
	return false
}

// comparisons finds where a package compares identities by something other than Same.
func comparisons(tr *tree, p *pkg) []string {
	var found []string
	report := func(n ast.Node, what string, t types.Type) {
		found = append(found, fmt.Sprintf("%s: %s compares %s; only Same may", tr.at(n), what, t))
	}
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				if t := p.info.TypeOf(n.X); (n.Op == token.EQL || n.Op == token.NEQ) && comparesIdentity(t) {
					report(n, n.Op.String(), t)
				}
			case *ast.SwitchStmt:
				if n.Tag != nil && comparesIdentity(p.info.TypeOf(n.Tag)) {
					report(n, "switch", p.info.TypeOf(n.Tag))
				}
			case *ast.Ident:
				if instance, ok := p.info.Instances[n]; ok {
					if t := comparedArgument(p.info.Uses[n], instance); t != nil {
						report(n, n.Name, t)
					}
				}
			}
			return true
		})
	}
	return found
}

// comparedArgument is the type with which a generic function was instantiated, if that function may compare values of it
// and they hold an identity. Keys of maps are compared too, but an unknown key is only ever stored by mistake.
func comparedArgument(obj types.Object, instance types.Instance) types.Type {
	fn, ok := obj.(*types.Func)
	if !ok {
		return nil
	}
	params := fn.Signature().TypeParams()
	for i := range params.Len() {
		param, arg := params.At(i), instance.TypeArgs.At(i)
		isKey := fn.Pkg() != nil && fn.Pkg().Path() == "maps" && param.Obj().Name() == "K"
		constraint, ok := param.Constraint().Underlying().(*types.Interface)
		if ok && constraint.IsComparable() && !isKey && comparesIdentity(arg) {
			return arg
		}
	}
	return nil
}

func TestIdentitiesAreComparedBySameOnly(t *testing.T) {
	t.Parallel()
	tr := loaded(t)
	for _, p := range tr.pkgs {
		if p.path == "identity" {
			continue
		}
		for _, f := range comparisons(tr, p) {
			t.Error(f)
		}
	}
}

func TestComparisonsFindsThem(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, code, want string }{
		{"equal", `func f(a, b identity.TenantID) bool { return a == b }`, "=="},
		{"not equal", `func f(a, b identity.WorkloadID) bool { return a != b }`, "!="},
		{"in a struct", `type s struct{ t identity.TenantID }; func f(a, b s) bool { return a == b }`, "=="},
		{"in an array", `func f(a, b [2]identity.TenantID) bool { return a == b }`, "=="},
		{"peers", `func f(a, b identity.Peer) bool { return a == b }`, "=="},
		{"with the zero value", `func f(a identity.TenantID) bool { return a == (identity.TenantID{}) }`, "=="},
		{"switch", `func f(a, b identity.TenantID) bool { switch a { case b: return true }; return false }`, "switch"},
		{"slices.Contains", `func f(a []identity.TenantID, b identity.TenantID) bool { return slices.Contains(a, b) }`, "Contains"},
		{"maps.Equal by value", `func f(a, b map[int]identity.TenantID) bool { return maps.Equal(a, b) }`, "Equal"},
		{"maps.Keys", `func f(a map[identity.TenantID]int) any { return maps.Keys(a) }`, ""},
		{"Same", `func f(a, b identity.TenantID) bool { return a.Same(b) && slices.ContainsFunc([]identity.TenantID{a}, b.Same) }`, ""},
		{"map key", `func f(m map[identity.TenantID]int, a identity.TenantID) int { return m[a] }`, ""},
		{"pointers", `func f(a, b *identity.TenantID) bool { return a == b }`, ""},
	}
	tr := loaded(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tr.fixture(t, tt.code)
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			var got []string
			for _, f := range comparisons(tr, p) {
				_, rest, _ := strings.Cut(f, ": ")
				what, _, _ := strings.Cut(rest, " ")
				got = append(got, what)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("comparisons() (-want +got):\n%s", diff)
			}
		})
	}
}
