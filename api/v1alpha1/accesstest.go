package v1alpha1

import (
	"reflect"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"
)

// AccessTest says what the other documents must decide of some calls. Nothing that is served depends on it.
type AccessTest struct {
	Header
	Spec AccessTestSpec `json:"spec"`
}

// AccessTestSpec is what an AccessTest says.
type AccessTestSpec struct {
	At     Time        `json:"at,omitempty" jsonschema_description:"The time of the calls that say none of their own; the present where it is not written."`
	Tokens []TestToken `json:"tokens,omitempty" jsonschema_description:"Tokens that cases name."`
	Cases  []TestCase  `json:"cases" jsonschema_description:"The calls, each with what is expected of it."`
	Pos    Pos         `json:"-"`
}

// TestToken is a bearer token that cases of its document name.
type TestToken struct {
	Name   String `json:"name" jsonschema:"format=name" jsonschema_description:"The name that cases write as their token."`
	Claims Claims `json:"claims" jsonschema_description:"Its claims. aud, iat and exp are filled in where they are not written, so that the token holds."`
	Pos    Pos    `json:"-"`
}

// TestCase is one call and what is expected of it.
type TestCase struct {
	Name    String       `json:"name" jsonschema_description:"What the case shows, in a few words; unique in its document."`
	From    String       `json:"from,omitempty" jsonschema_description:"The caller's SPIFFE ID; left out where the call comes through an asker whose callers the token alone names, and only there."`
	Asker   String       `json:"asker,omitempty" jsonschema:"format=name" jsonschema_description:"The asker of the Mesh through which the call comes; the service's own proxy where it is not written."`
	To      String       `json:"to" jsonschema_description:"The called service, as tenant/service."`
	Request TestRequest  `json:"request" jsonschema_description:"What is asked for."`
	Token   TestTokenRef `json:"token,omitempty" jsonschema_description:"The bearer token: the name of one of spec.tokens, or its claims. No token where it is not written."`
	At      Time         `json:"at,omitempty" jsonschema_description:"The time of the call."`
	Todo    Bool         `json:"todo,omitempty" jsonschema_description:"Whether the case waits for what is to come: it is listed, and not run."`
	Expect  Expectation  `json:"expect" jsonschema_description:"allow, or {deny: reason}."`
	Pos     Pos          `json:"-"`
}

// TestRequest is an HTTP or gRPC request.
type TestRequest struct {
	Method String   `json:"method" jsonschema_description:"The HTTP method, in capitals. gRPC is POST."`
	Path   String   `json:"path" jsonschema_description:"The path, as the proxy sees it."`
	_      struct{} `notyet:"headers"`
	Pos    Pos      `json:"-"`
}

// Claims are the claims of a token. The values are of the types that encoding/json gives an any; who reads them must not
// change them.
type Claims struct {
	Values map[string]any
	Pos    Pos
}

// TestTokenRef is the name of a token, or the claims of one.
//
//nolint:recvcheck // only a pointer is read into, and who has a value asks it too
type TestTokenRef struct {
	Name   String
	Claims Claims
	Pos    Pos
}

// IsSet reports whether there is a token.
func (t TestTokenRef) IsSet() bool { return !t.Pos.IsZero() }

// Expectation is what a call must come to. The zero value is met by no call.
type Expectation struct {
	Allow bool
	// Deny is the reason of the refusal, one of Denials.
	Deny String
	Pos  Pos
}

const expectAllow = "allow"

// denial is the form of an Expectation that refuses. Its values are the decision point's reasons that a call can have
// whose certificate is valid.
type denial struct {
	Deny String `json:"deny" jsonschema:"enum=unknown_caller,enum=invalid_identity,enum=revoked,enum=unknown_destination,enum=cross_tenant,enum=grant_missing,enum=grant_expired,enum=token_missing,enum=token_invalid,enum=token_expired,enum=token_tenant_mismatch,enum=issuer_not_allowed,enum=step_up_required,enum=no_rule" notyet:"quarantined"`
	Pos  Pos    `json:"-"`
}

// Denials are the reasons that an AccessTest can expect.
func Denials() []string { return slices.Clone(fieldsOf(reflect.TypeFor[denial]())[0].enum) }

var (
	_ reader = (*Claims)(nil)
	_ reader = (*TestTokenRef)(nil)
	_ reader = (*Expectation)(nil)
)

func (c *Claims) read(d *decoder, n ast.Node, path string) {
	c.Pos = d.pos(n)
	m, ok := n.(ast.MapNode)
	if !ok {
		d.reportAt(c.Pos, CodeWrongType, "", "%s is a mapping of claims, not %s", path, describe(n))
		return
	}
	c.Values = d.object(m, path)
}

func (t *TestTokenRef) read(d *decoder, n ast.Node, path string) {
	t.Pos = d.pos(n)
	if _, ok := n.(ast.MapNode); ok {
		t.Claims.read(d, n, path)
		return
	}
	d.scalar(n, &t.Name, path)
}

func (e *Expectation) read(d *decoder, n ast.Node, path string) {
	e.Pos = d.pos(n)
	if _, ok := n.(ast.MapNode); ok {
		var deny denial
		d.structure(n, reflect.ValueOf(&deny).Elem(), path)
		e.Deny = deny.Deny
		return
	}
	var word String
	if !d.scalar(n, &word, path) {
		return
	}
	if e.Allow = word.Value == expectAllow; e.Allow {
		return
	}
	hint := Suggest(word.Value, []string{expectAllow})
	if near := nearest(word.Value, Denials()); near != "" {
		hint = "write {deny: " + near + "}"
	}
	d.reportAt(word.Pos, CodeBadValue, hint, "%s is allow or {deny: reason}, not %s", path, Quote(word.Value))
}

// object is a mapping as encoding/json would give it.
func (d *decoder) object(m ast.MapNode, path string) map[string]any {
	values := map[string]any{}
	d.entries(m, path, func(name string, key, value ast.Node) {
		if _, ok := d.text(key, path); !ok {
			return
		}
		values[name] = d.free(value, join(path, name))
	})
	return values
}

// maxExact is the largest whole number up to which every JSON reader takes all of them for what they are.
const maxExact = 1 << 53

// free is a value of any type, as encoding/json would give it.
func (d *decoder) free(n ast.Node, path string) any {
	switch n := n.(type) {
	case ast.MapNode:
		return d.object(n, path)
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, item := range n.Values {
			list[i] = d.free(item, path+"["+strconv.Itoa(i)+"]")
		}
		return list
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode:
		var i Int
		if d.scalar(n, &i, path) && (i.Value > maxExact || i.Value < -maxExact) {
			d.reportAt(i.Pos, CodeBadValue, "", "%s is a number that not every reader of JSON keeps exact", path)
		}
		return float64(i.Value)
	default:
		text, _ := d.text(n, path)
		return text
	}
}
