package v1alpha1

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// field is what the tags of a struct field say.
type field struct {
	name     string
	index    []int // nil: known, but not built yet
	required bool
	enum     []string
	notYet   []string // values that are known, but not built yet
}

// fieldsOf reads the tags of a document's struct: json names the field and says by omitempty that it is optional,
// jsonschema lists the values that it takes, notyet what is known but not built: a value, or the field itself where the
// struct has no place for it.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			for _, f := range fieldsOf(sf.Type) {
				if f.index != nil {
					f.index = append([]int{i}, f.index...)
				}
				fields = append(fields, f)
			}
			continue
		}
		if sf.Name == "_" {
			fields = append(fields, field{name: sf.Tag.Get("notyet")})
			continue
		}
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		f := field{name: name, index: []int{i}, required: options != "omitempty"}
		for tag := range strings.SplitSeq(sf.Tag.Get("jsonschema"), ",") {
			if value, ok := strings.CutPrefix(tag, "enum="); ok {
				f.enum = append(f.enum, value)
			}
		}
		if values := sf.Tag.Get("notyet"); values != "" {
			f.notYet = strings.Split(values, ",")
		}
		fields = append(fields, f)
	}
	return fields
}

// structure reads a mapping into the struct v.
func (d *decoder) structure(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.reportAt(d.pos(n), CodeWrongType, "", "%s is a mapping, not %s", path, describe(n))
		return
	}
	if p := v.FieldByName("Pos"); p.IsValid() {
		p.Set(reflect.ValueOf(d.pos(n)))
	}
	fields := fieldsOf(v.Type())
	meant := map[string]bool{}
	seen := d.entries(m, path, func(name string, key, value ast.Node) {
		at := d.pos(key)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		switch {
		case i < 0:
			meant[d.unknown(fields, name, at, path)] = true
		case fields[i].index == nil:
			d.reportAt(at, CodeNotYet, "", "%s is not built yet", join(path, name))
		default:
			d.value(value, v.FieldByIndex(fields[i].index), join(path, name), fields[i])
		}
	})
	for _, f := range fields {
		if _, ok := seen[f.name]; !ok && f.required && !meant[f.name] {
			d.reportAt(d.pos(n), CodeMissingField, "", "%s is missing", join(path, f.name))
		}
	}
}

// entries visits the entries of a mapping that every YAML reader reads alike, reports the others, and says which keys there
// are.
func (d *decoder) entries(m ast.MapNode, path string, visit func(name string, key, value ast.Node)) map[string]Pos {
	seen := map[string]Pos{}
	for it := m.MapRange(); it.Next(); {
		key, at := it.Key(), d.pos(it.Key())
		name := keyText(key)
		if name == "" {
			d.reportAt(at, CodeWrongType, "", "a key is a plain word")
			continue
		}
		if first, ok := seen[name]; ok {
			d.reportAt(at, CodeDuplicateKey, "", "%s is written twice, first in line %d", Quote(name), first.Line())
			continue
		}
		seen[name] = at
		if !isBlock(it.Value()) && d.pos(it.Value()).line != at.line {
			d.reportAt(d.pos(it.Value()), CodeSyntax, "", "the value of %s begins in the line of its key", join(path, name))
			continue
		}
		visit(name, key, it.Value())
	}
	return seen
}

// isBlock reports whether a value may begin in a line of its own.
func isBlock(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		return !n.IsFlowStyle
	case *ast.MappingValueNode:
		return !n.IsFlowStyle
	case *ast.SequenceNode:
		return !n.IsFlowStyle
	default:
		return false
	}
}

// unknown reports a field that does not exist, and returns the one that was probably meant.
func (d *decoder) unknown(fields []field, name string, at Pos, path string) string {
	known := make([]string, 0, len(fields))
	for _, f := range fields {
		if f.index != nil {
			known = append(known, f.name)
		}
	}
	where := ""
	if path != "" {
		where = " in " + path
	}
	d.reportAt(at, CodeUnknownField, Suggest(name, known), "unknown field %s%s", Quote(name), where)
	return nearest(name, known)
}

// reader is a type that reads itself, because it takes more than one form.
type reader interface {
	read(d *decoder, n ast.Node, path string)
}

// value reads n into v, which is a scalar, a struct, a pointer to a struct, a reader, a list of these, or structs by name.
func (d *decoder) value(n ast.Node, v reflect.Value, path string, f field) {
	switch v.Kind() {
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		switch {
		case !ok:
			d.reportAt(d.pos(n), CodeWrongType, listHint(n), "%s is a list, not %s", path, describe(n))
			return
		case len(list.Values) == 0:
			d.reportAt(d.pos(n), CodeBadValue, "leave it out where nothing is meant", "%s is an empty list", path)
			return
		}
		items := reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values))
		for i, item := range list.Values {
			d.value(item, items.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
		v.Set(items)
	case reflect.Map:
		d.named(n, v, path)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.structure(n, v.Elem(), path)
	default:
		if own, ok := reflect.TypeAssert[reader](v.Addr()); ok {
			own.read(d, n, path)
			return
		}
		if !isScalar(v.Type()) {
			d.structure(n, v, path)
			return
		}
		if d.scalar(n, v.Addr().Interface(), path) && len(f.enum) > 0 {
			d.oneOf(v.Addr().Interface(), path, f)
		}
	}
}

// named reads a mapping whose keys are names that the document chooses. Each struct gets its key as its Name.
func (d *decoder) named(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.reportAt(d.pos(n), CodeWrongType, "", "%s is a mapping, not %s", path, describe(n))
		return
	}
	if !m.MapRange().Next() {
		d.reportAt(d.pos(n), CodeBadValue, "leave it out where nothing is meant", "%s is an empty mapping", path)
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(m, path, func(name string, key, value ast.Node) {
		if _, ok := d.text(key, path); !ok {
			return
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.structure(value, item, join(path, name))
		item.FieldByName("Name").Set(reflect.ValueOf(String{Value: name, Pos: d.pos(key)}))
		v.SetMapIndex(reflect.ValueOf(name), item)
	})
}

func isScalar(t reflect.Type) bool {
	_, ok := t.FieldByName("Value")
	return ok
}

func (d *decoder) oneOf(v any, path string, f field) {
	s, ok := v.(*String)
	if !ok || slices.Contains(f.enum, s.Value) {
		return
	}
	if slices.Contains(f.notYet, s.Value) {
		d.reportAt(s.Pos, CodeNotYet, "", "%s: %s is not built yet", path, s.Value)
		return
	}
	d.reportAt(s.Pos, CodeBadValue, Suggest(s.Value, f.enum), "%s is one of %s, not %s", path, strings.Join(f.enum, ", "), Quote(s.Value))
}

// scalar reads n into one of the scalar types and reports whether it could.
func (d *decoder) scalar(n ast.Node, v any, path string) bool {
	at := d.pos(n)
	switch v := v.(type) {
	case *String:
		text, ok := d.text(n, path)
		if ok {
			*v = String{Value: text, Pos: at}
		}
		return ok
	case *Int:
		number, ok := n.(*ast.IntegerNode)
		if !ok {
			d.reportAt(at, CodeWrongType, numberHint(n), "%s is a whole number, not %s", path, describe(n))
			return false
		}
		i, err := strconv.ParseInt(number.GetToken().Value, 10, 64)
		// Octal, hexadecimal and grouped numbers are read differently by YAML 1.1 and 1.2.
		if err != nil || strconv.FormatInt(i, 10) != number.GetToken().Value {
			d.reportAt(at, CodeWrongType, "write it in decimal digits", "%s is not a plain decimal number", path)
			return false
		}
		*v = Int{Value: i, Pos: at}
	case *Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.reportAt(at, CodeWrongType, "write true or false", "%s is true or false, not %s", path, describe(n))
			return false
		}
		*v = Bool{Value: b.Value, Pos: at}
	case *Time:
		text, ok := d.line(n, path)
		if !ok {
			return false
		}
		var t time.Time
		// Unlike time.Parse, UnmarshalText takes RFC 3339 and nothing near it.
		if err := t.UnmarshalText([]byte(text)); err != nil {
			d.reportAt(at, CodeBadValue, `write for example "2027-01-01T00:00:00Z"`, "%s is a time (RFC 3339), not %s", path, Quote(text))
			return false
		}
		*v = Time{Value: t.UTC(), Pos: at}
	case *Duration:
		text, ok := d.text(n, path)
		if !ok {
			return false
		}
		l, err := length(text)
		if err != nil {
			d.reportAt(at, CodeBadValue, "write for example 15m", "%s is a length of time, not %s", path, Quote(text))
			return false
		}
		*v = Duration{Value: l, Pos: at}
	default:
		panic(fmt.Sprintf("v1alpha1: no reader for %T", v))
	}
	return true
}

// length reads a length of time as Go writes it, or whole days, of which each has 24 hours.
func length(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	const bits = 16 // more days than any length here may have, and fewer than a Duration can hold
	n, err := strconv.ParseUint(days, 10, bits)
	return time.Duration(n) * 24 * time.Hour, err
}

// text is the text of a scalar that every YAML reader takes for one.
func (d *decoder) text(n ast.Node, path string) (string, bool) {
	if s, ok := n.(*ast.StringNode); ok && s.GetToken().Type == token.StringType {
		if as := otherwise(s.Value); as != "" {
			d.reportAt(d.pos(n), CodeWrongType, fmt.Sprintf("quote it: %q", clip(s.Value)),
				"%s: some YAML readers take %s for %s", path, Quote(s.Value), as)
			return "", false
		}
	}
	return d.line(n, path)
}

// line is the text of a scalar in one line.
func (d *decoder) line(n ast.Node, path string) (string, bool) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		hint := ""
		if sc, scalar := n.(ast.ScalarNode); scalar && sc.GetToken().Value != "" {
			hint = fmt.Sprintf("if it is meant as text, quote it: %q", clip(sc.GetToken().Value))
		}
		d.reportAt(d.pos(n), CodeWrongType, hint, "%s is a text in one line, not %s", path, describe(n))
		return "", false
	}
	if strings.ContainsFunc(s.Value, func(r rune) bool { return !unicode.IsPrint(r) }) {
		d.reportAt(d.pos(n), CodeBadValue, "", "%s holds a line break or a character that cannot be printed", path)
		return "", false
	}
	return s.Value, true
}

// otherwise says what a reader of YAML 1.1, or a more generous one of 1.2, makes of a plain text: Kubernetes' tools and
// editors read no as false and 08 as a number.
func otherwise(s string) string {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off":
		return "a truth value"
	case "":
		return ""
	}
	digits := strings.ReplaceAll(s, "_", "")
	if _, err := strconv.ParseFloat(digits, 64); err == nil && strings.ContainsAny(digits[:1], "+-.0123456789") {
		return "a number"
	}
	if date := s[:min(len(s), len(time.DateOnly))]; len(date) == len(time.DateOnly) {
		if _, err := time.Parse(time.DateOnly, date); err == nil {
			return "a time"
		}
	}
	return ""
}

func keyText(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// describe says in a few words what a node is.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return "a text"
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return fmt.Sprintf("the truth value %t", n.Value)
	case *ast.NullNode:
		return "empty"
	case *ast.SequenceNode:
		return "a list"
	case ast.MapNode:
		return "a mapping"
	default:
		return "something else"
	}
}

func listHint(n ast.Node) string {
	if s, ok := n.(*ast.StringNode); ok {
		return fmt.Sprintf("write [%s]", clip(s.Value))
	}
	return ""
}

func numberHint(n ast.Node) string {
	if s, ok := n.(*ast.StringNode); ok && s.GetToken().Type != token.StringType {
		return "write it without quotes"
	}
	return ""
}

// clip shortens what a document holds for a hint, and keeps it printable.
func clip(s string) string {
	return strings.Trim(Quote(s), `"`)
}
