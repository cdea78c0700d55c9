package archtest

import (
	"fmt"
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sealed are the types whose values are facts, with the only functions that may fill one in. Elsewhere in the module,
// their own package included, there is only the zero value, which denies or holds nothing.
func sealed() map[string][]string {
	return map[string][]string{
		"authz.Caller":        {"AskerRef.Bearer", "AskerRef.Caller", "InvalidCaller", "Table.Caller"},
		"authz.Decision":      {"allow", "deny"},
		"authz.Token":         {"InvalidToken", "Table.Token"},
		"identity.Claims":     {"tokenIssuer.verify"},
		"identity.Peer":       {"Verifier.VerifyLeaf"},
		"identity.SPIFFEID":   {"ParseSPIFFEID"},
		"identity.TenantID":   {"Mapping.Parse", "ParseTenantID", "PlatformID"},
		"identity.WorkloadID": {"Mapping.Parse"},
		"pipeline.Generation": {"newGeneration"},
		"prove.Proof":         {"Proof.Extend"},
		"tenancy.Model":       {"builder.assemble"},
		"tenancy.Tenant":      {"Model.Tenant", "Model.Workload"},
		"xds.Part":            {"Compile"},
		"xds.Resource":        {"NewResource", "NewSnapshot"}, // the latter versions endpoints with their cluster
		"xds.Snapshot":        {"NewSnapshot"},
	}
}

// makers finds the functions that fill in a value of a sealed type, by a literal or by assigning to a field.
func makers(p *pkg, sealed map[string][]string) map[string][]string {
	found := make(map[string][]string)
	note := func(t types.Type, in string) {
		name := nameOf(t)
		if _, ok := sealed[name]; ok && !slices.Contains(found[name], in) {
			found[name] = append(found[name], in)
		}
	}
	for _, f := range p.files {
		for _, decl := range f.Decls {
			in := "a variable"
			if fn, ok := decl.(*ast.FuncDecl); ok {
				in = functionName(fn)
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit:
					if len(n.Elts) > 0 {
						note(p.info.TypeOf(n), in)
					}
				case *ast.AssignStmt:
					for _, left := range n.Lhs {
						if field, ok := ast.Unparen(left).(*ast.SelectorExpr); ok {
							note(p.info.TypeOf(field.X), in)
						}
					}
				}
				return true
			})
		}
	}
	return found
}

// functionName is the name with the receiver's type before it, if there is one.
func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	of := fn.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	return types.ExprString(of) + "." + fn.Name.Name
}

// nameOf is the type's name with its package's path below the module, such as authz.Decision; also of a pointer to it.
func nameOf(t types.Type) string {
	if t == nil {
		return ""
	}
	if ptr, ok := t.Underlying().(*types.Pointer); ok {
		t = ptr.Elem()
	}
	named, ok := types.Unalias(t).(*types.Named)
	if !ok || named.Obj().Pkg() == nil {
		return ""
	}
	return strings.TrimPrefix(named.Obj().Pkg().Path(), module+"/") + "." + named.Obj().Name()
}

func TestFactsHaveFewMakers(t *testing.T) {
	t.Parallel()
	tr := loaded(t)
	got := make(map[string][]string)
	for _, p := range tr.pkgs {
		for name, fns := range makers(p, sealed()) {
			for _, fn := range fns {
				if path, _, _ := strings.Cut(name, "."); path != p.path {
					fn = p.path + "." + fn
				}
				got[name] = append(got[name], fn)
			}
		}
	}
	for _, fns := range got {
		slices.Sort(fns)
	}
	want := sealed()
	for _, fns := range want {
		slices.Sort(fns)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who makes facts (-listed +found):\n%s", diff)
	}
}

func TestFactsCannotBeTakenApart(t *testing.T) {
	t.Parallel()
	tr := loaded(t)
	for name := range sealed() {
		path, typeName, _ := strings.Cut(name, ".")
		obj := tr.find(t, path).types.Scope().Lookup(typeName)
		if obj == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		fields, ok := obj.Type().Underlying().(*types.Struct)
		if !ok {
			t.Errorf("%s is no struct", name)
			continue
		}
		for f := range fields.Fields() {
			if f.Exported() {
				t.Errorf("%s.%s is exported", name, f.Name())
			}
		}
	}
}

// TestMustNotCompile holds what somebody would write who wants a shortcut. Each must fail, for one reason, the one named.
func TestMustNotCompile(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, code, want string }{
		{
			"a Snapshot by literal", `var _ = xds.Snapshot{version: "1"}`,
			"cannot refer to unexported field version in struct literal of type xds.Snapshot",
		},
		{
			"a Resource by literal", `var _ = xds.Resource{name: "inbound/globex/orders"}`,
			"cannot refer to unexported field name in struct literal of type xds.Resource",
		},
		{
			"bytes of a Snapshot replaced", `func f(s xds.Snapshot) { s.resources = nil }`,
			"s.resources undefined (type xds.Snapshot has no field or method resources, but does have method Resources)",
		},
		{
			"a string as Caller", `var _ = authz.Input{Caller: "spiffe://acme.demo.test/ns/acme/sa/web"}`,
			`cannot use "spiffe://acme.demo.test/ns/acme/sa/web" (untyped string constant) as authz.Caller value in struct literal`,
		},
		{
			"a string as Peer", `var _ identity.Peer = "spiffe://acme.demo.test/ns/acme/sa/web"`,
			`cannot use "spiffe://acme.demo.test/ns/acme/sa/web" (untyped string constant) as identity.Peer value in variable declaration`,
		},
		{
			"an ID as Peer", `func f(id identity.WorkloadID) identity.Peer { return id }`,
			"cannot use id (variable of struct type identity.WorkloadID) as identity.Peer value in return statement",
		},
		{
			"a Peer as Caller", `func f(p identity.Peer) authz.Input { return authz.Input{Caller: p} }`,
			"cannot use p (variable of struct type identity.Peer) as authz.Caller value in struct literal",
		},
		{
			"a string as TenantID", `var _ identity.TenantID = "acme"`,
			`cannot use "acme" (untyped string constant) as identity.TenantID value in variable declaration`,
		},
		{
			"a TenantID by conversion", `var _ = identity.TenantID(struct{ name string }{"acme"})`,
			"cannot convert struct{name string}{…} (value of type struct{name string}) to type identity.TenantID",
		},
		{
			"a Decision that allows", `var _ = authz.Decision{allowed: true}`,
			"cannot refer to unexported field allowed in struct literal of type authz.Decision",
		},
		{
			"a Decision made to allow", `func f(d authz.Decision) { d.allowed = true }`,
			"d.allowed undefined (type authz.Decision has no field or method allowed, but does have method Allowed)",
		},
		{
			"a Generation by literal", `func f(m *tenancy.Model) any { return pipeline.Generation{model: m} }`,
			"cannot refer to unexported field model in struct literal of type pipeline.Generation",
		},
		{
			"a Proof by literal", `var _ = prove.Proof{method: "lint"}`,
			"cannot refer to unexported field method in struct literal of type prove.Proof",
		},
		{
			"compiling a whole Model", `func f(m *tenancy.Model) { _, _ = xds.Compile(m) }`,
			"cannot use m (variable of type *tenancy.Model) as tenancy.Tenant value in argument to xds.Compile",
		},
		{
			"rules of a whole Model", `func f(m *tenancy.Model) { _, _ = authz.Compile(m) }`,
			"cannot use m (variable of type *tenancy.Model) as tenancy.Tenant value in argument to authz.Compile",
		},
		{
			"another tenant out of a handle", `func f(t tenancy.Tenant, id identity.TenantID) { t.Tenant(id) }`,
			"t.Tenant undefined (type tenancy.Tenant has no field or method Tenant)",
		},
	}
	tr := loaded(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, errs := tr.compile(t, tt.code)
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want) {
				t.Errorf("compiling %s\ngives  %v\nwant   %s", tt.code, errs, tt.want)
			}
		})
	}
}

// TestGenerationsNeedProofs reads the one function that makes a Generation.
func TestGenerationsNeedProofs(t *testing.T) {
	t.Parallel()
	maker, ok := loaded(t).find(t, "pipeline").types.Scope().Lookup("newGeneration").(*types.Func)
	if !ok {
		t.Fatal("pipeline has no newGeneration")
	}
	for v := range maker.Signature().Params().Variables() {
		if is(v.Type(), "prove", "Proof") {
			return
		}
	}
	t.Errorf("%s makes a Generation without a Proof", maker.Signature())
}

func TestMakersFindsThem(t *testing.T) {
	t.Parallel()
	const decl = "type fact struct{ n int }\n"
	sealed := map[string][]string{fixturePath + ".fact": nil}
	tests := []struct {
		name, code string
		want       []string
	}{
		{"a literal", `func f() fact { return fact{n: 1} }`, []string{"f"}},
		{"a pointer to one", `func f() *fact { return &fact{1} }`, []string{"f"}},
		{"in a slice", `func f() []fact { return []fact{{1}} }`, []string{"f"}},
		{"the zero value", `func f() fact { return fact{} }`, nil},
		{"a field", `func f() (x fact) { x.n = 1; return x }`, []string{"f"}},
		{"a field through a pointer", `func f(x *fact) { x.n = 1 }`, []string{"f"}},
		{"a variable", `var x = fact{1}`, []string{"a variable"}},
		{"another type", `type other struct{ n int }; func f() other { return other{1} }`, nil},
	}
	tr := loaded(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := makers(tr.fixture(t, decl+tt.code), sealed)[fixturePath+".fact"]
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("makers() = %q, want %q", got, tt.want)
			}
		})
	}
}
