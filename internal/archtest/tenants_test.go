package archtest

import (
	"fmt"
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// many stands for any number of tenants.
const many = 2

// oneTenantOnly are the packages in which no function may reach two tenants.
func oneTenantOnly() []string { return []string{"authz", "filters", "xds"} }

// reach is how many tenants a value of type t leads to: 0, 1 or many. Inside tenancy it looks no further than the type's
// name: Tenant is a handle on one, Model on all, and what a handle gives out leads to no tenant.
func reach(t types.Type, seen []types.Type) int {
	if slices.Contains(seen, t) {
		return 0
	}
	seen = append(seen, t)
	switch {
	case is(t, "tenancy", "Tenant"):
		return 1
	case is(t, "tenancy", "Model"), is(t, "tenancy", "Input"):
		return many
	}
	if named, ok := types.Unalias(t).(*types.Named); ok && !ownType(named) {
		sum := 0 // what is not the module's leads to a tenant only by what it was instantiated with
		for arg := range named.TypeArgs().Types() {
			sum += many * reach(arg, seen)
		}
		return sum
	}
	switch u := t.Underlying().(type) {
	case *types.Pointer:
		return reach(u.Elem(), seen)
	case *types.Slice:
		return many * reach(u.Elem(), seen)
	case *types.Array:
		return many * reach(u.Elem(), seen)
	case *types.Chan:
		return many * reach(u.Elem(), seen)
	case *types.Map:
		return many * (reach(u.Key(), seen) + reach(u.Elem(), seen))
	case *types.Struct:
		sum := 0
		for f := range u.Fields() {
			sum += reach(f.Type(), seen)
		}
		return sum
	case *types.Signature: // a function that gives a tenant can give another the next time
		return many * reachAll(u.Results(), seen)
	case *types.Interface:
		sum := 0
		for m := range u.Methods() {
			sum += many * reachAll(m.Signature().Results(), seen)
		}
		return sum
	}
	return 0
}

// ownType reports whether the type may hold tenants: it is declared in the module, outside tenancy.
func ownType(t *types.Named) bool {
	p := t.Obj().Pkg()
	return p != nil && p.Path() != module+"/tenancy" && (strings.HasPrefix(p.Path(), module+"/") || p.Path() == fixturePath)
}

func reachAll(tuple *types.Tuple, seen []types.Type) int {
	sum := 0
	for v := range tuple.Variables() {
		sum += reach(v.Type(), seen)
	}
	return sum
}

// manyTenants finds the functions of a package, literals too, whose receiver and parameters lead to two tenants.
func manyTenants(tr *tree, p *pkg) []string {
	var found []string
	check := func(n ast.Node, name string, sig *types.Signature) {
		sum := reachAll(sig.Params(), nil)
		if sig.Recv() != nil {
			sum += reach(sig.Recv().Type(), nil)
		}
		if sum >= many {
			found = append(found, fmt.Sprintf("%s: %s gets more than one tenant", tr.at(n), name))
		}
	}
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if fn, ok := p.info.Defs[n.Name].(*types.Func); ok {
					check(n, fn.Name(), fn.Signature())
				}
			case *ast.FuncLit:
				if sig, ok := p.info.TypeOf(n).(*types.Signature); ok {
					check(n, "a function literal", sig)
				}
			}
			return true
		})
	}
	return found
}

func TestNoFunctionGetsTwoTenants(t *testing.T) {
	t.Parallel()
	tr := loaded(t)
	for _, path := range oneTenantOnly() {
		for _, f := range manyTenants(tr, tr.find(t, path)) {
			t.Error(f)
		}
	}
}

func TestManyTenantsFindsThem(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, code string
		want       int
	}{
		{"one", `func f(t tenancy.Tenant) {}`, 0},
		{"one in a struct", `type b struct { t tenancy.Tenant; n int }; func (b *b) f(s tenancy.Service) {}`, 0},
		{"two", `func f(a, b tenancy.Tenant) {}`, 1},
		{"a slice", `func f(ts []tenancy.Tenant) {}`, 1},
		{"variadic", `func f(ts ...*tenancy.Tenant) {}`, 1},
		{"a map", `func f(m map[string]tenancy.Tenant) {}`, 1},
		{"a Model", `func f(m *tenancy.Model) {}`, 1},
		{"a Model in a struct in a slice", `type s struct{ m *tenancy.Model }; func f(s []s) {}`, 1},
		{"receiver and parameter", `type b struct { t tenancy.Tenant }; func (b b) f(t tenancy.Tenant) {}`, 1},
		{"a literal", `var f = func(a, b tenancy.Tenant) {}`, 1},
		{"a function that gives tenants", `func f(next func() (tenancy.Tenant, bool)) {}`, 1},
		{"an interface that gives tenants", `type all interface { Tenant(string) tenancy.Tenant }; func f(a all) {}`, 1},
		{"an iterator over tenants", `func f(ts iter.Seq[tenancy.Tenant]) {}`, 1},
		{"a type that leads to itself", `type n struct { next *n; t tenancy.Tenant }; func f(n *n) {}`, 0},
	}
	tr := loaded(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := manyTenants(tr, tr.fixture(t, tt.code)); len(got) != tt.want {
				t.Errorf("manyTenants() = %q, want %d", got, tt.want)
			}
		})
	}
}
