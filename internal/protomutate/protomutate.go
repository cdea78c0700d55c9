// Package protomutate makes every small change of a protobuf message, one at a time: a field cleared, changed, added,
// repeated, in the message and in everything that is packed in it. Tests use it to show that a checker notices each
// change, also those that nobody thought of.
package protomutate

import (
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	unknownField = 536_870_000 // a number that no message has
	unknownEnum  = 987_654
)

// What can be done to a field.
const (
	opClear   = "clear"
	opFlip    = "flip"
	opOther   = "other"
	opMore    = "more"
	opMax     = "max"
	opUnknown = "unknown"
	opAdd     = "add"
	opDrop    = "drop"
	opAgain   = "again"
)

// Change is one small change.
type Change struct {
	// Path leads from the message to the field, as in a[0].b.c["k"]. Packed messages are part of it.
	Path string
	// Op says what was done: clear, flip, other, more, max, unknown, add, drop, again.
	Op string
}

func (c Change) String() string { return c.Path + " " + c.Op }

// Each calls visit once for every change of m. During the call m is the changed message, which visit may read and
// serialise but not keep; afterwards m is what it was.
func Each(m proto.Message, visit func(Change)) {
	mutator{emit: visit}.message("", m.ProtoReflect())
}

type mutator struct{ emit func(Change) }

func (u mutator) message(path string, m protoreflect.Message) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		u.packed(path, packed)
		return
	}
	u.unknown(path, m)
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		at := join(path, string(f.Name()))
		if m.Has(f) {
			u.clear(at, m, f)
			u.present(at, m, f)
		} else {
			u.absent(at, m, f)
		}
	}
}

// packed opens an Any, changes what is in it, and packs it again for each change.
func (u mutator) packed(path string, a *anypb.Any) {
	url, value := a.GetTypeUrl(), a.GetValue()
	restore := func() { a.TypeUrl, a.Value = url, value }
	for _, other := range []string{"", "type.googleapis.com/google.protobuf.Struct", "evil.example/" + url, url + "x"} {
		a.TypeUrl = other
		u.emit(Change{path + "@type", opOther})
		restore()
	}
	a.Value = append(slices.Clone(value), 0xff)
	u.emit(Change{path + "@value", opOther})
	restore()
	inner, err := anypb.UnmarshalNew(a, proto.UnmarshalOptions{})
	if err != nil {
		return
	}
	mutator{emit: func(c Change) {
		bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(inner)
		if err != nil {
			return // a string that is no UTF-8 cannot be packed, so it cannot arrive either
		}
		a.Value = bytes
		u.emit(c)
		restore()
	}}.message(path, inner.ProtoReflect())
}

func (u mutator) unknown(path string, m protoreflect.Message) {
	was := m.GetUnknown()
	m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(slices.Clone(was), unknownField, protowire.VarintType), 1))
	u.emit(Change{path, opUnknown})
	m.SetUnknown(was)
}

// clear restores lists and maps by their elements: they are views of the field and empty once the field is.
func (u mutator) clear(path string, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	was := m.Get(f)
	restore := func() { m.Set(f, was) }
	switch {
	case f.IsMap():
		var keys []protoreflect.MapKey
		var values []protoreflect.Value
		m.Get(f).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			keys, values = append(keys, k), append(values, v)
			return true
		})
		restore = func() {
			for i, k := range keys {
				m.Mutable(f).Map().Set(k, values[i])
			}
		}
	case f.IsList():
		elements := make([]protoreflect.Value, m.Get(f).List().Len())
		for i := range elements {
			elements[i] = m.Get(f).List().Get(i)
		}
		restore = func() {
			for _, e := range elements {
				m.Mutable(f).List().Append(e)
			}
		}
	}
	m.Clear(f)
	u.emit(Change{path, opClear})
	restore()
}

// present changes a field that is set.
func (u mutator) present(path string, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		u.mapping(path, m.Mutable(f).Map(), f.MapValue())
	case f.IsList():
		u.list(path, m.Mutable(f).List(), f)
	case f.Message() != nil:
		u.message(path, m.Mutable(f).Message())
	default:
		was := m.Get(f)
		for _, v := range others(f, was) {
			m.Set(f, v.value)
			u.emit(Change{path, v.op})
			m.Set(f, was)
		}
	}
}

// absent sets a field that is not set, to everything that differs in kind. Setting one of a oneof drops the other one.
func (u mutator) absent(path string, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	restore := func() { m.Clear(f) }
	if o := f.ContainingOneof(); o != nil {
		if other := m.WhichOneof(o); other != nil {
			was := m.Get(other)
			restore = func() { m.Set(other, was) }
		}
	}
	set := func(v protoreflect.Value) {
		m.Set(f, v)
		u.emit(Change{path, opAdd})
		restore()
	}
	switch {
	case f.IsMap():
		v := m.NewField(f)
		v.Map().Set(zeroKey(f.MapKey()), filled(v.Map().NewValue(), f.MapValue()))
		set(v)
	case f.IsList():
		v := m.NewField(f)
		v.List().Append(filled(v.List().NewElement(), f))
		set(v)
	case f.Message() != nil:
		set(m.NewField(f))
		set(filled(m.NewField(f), f))
	default:
		for _, v := range others(f, f.Default()) {
			set(v.value)
		}
	}
}

func (u mutator) list(path string, l protoreflect.List, f protoreflect.FieldDescriptor) {
	for i := range l.Len() {
		at := fmt.Sprintf("%s[%d]", path, i)
		if f.Message() != nil {
			u.message(at, l.Get(i).Message())
		} else {
			was := l.Get(i)
			for _, v := range others(f, was) {
				l.Set(i, v.value)
				u.emit(Change{at, v.op})
				l.Set(i, was)
			}
		}
		l.Append(l.Get(i))
		u.emit(Change{at, opAgain})
		l.Truncate(l.Len() - 1)
		u.drop(at, l, i)
	}
	l.Append(filled(l.NewElement(), f))
	u.emit(Change{path, opAdd})
	l.Truncate(l.Len() - 1)
}

func (u mutator) drop(path string, l protoreflect.List, i int) {
	if l.Len() == 1 {
		return // the same as clearing the field
	}
	var rest []protoreflect.Value
	for j := i; j < l.Len(); j++ {
		rest = append(rest, l.Get(j))
	}
	l.Truncate(i)
	for _, v := range rest[1:] {
		l.Append(v)
	}
	u.emit(Change{path, opDrop})
	l.Truncate(i)
	for _, v := range rest {
		l.Append(v)
	}
}

func (u mutator) mapping(path string, m protoreflect.Map, value protoreflect.FieldDescriptor) {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return slices.Compare([]byte(a.String()), []byte(b.String())) })
	for _, k := range keys {
		at := fmt.Sprintf("%s[%q]", path, k.String())
		was := m.Get(k)
		m.Clear(k)
		u.emit(Change{at, opDrop})
		m.Set(k, was)
		if value.Message() != nil {
			u.message(at, was.Message())
			continue
		}
		for _, v := range others(value, was) {
			m.Set(k, v.value)
			u.emit(Change{at, v.op})
			m.Set(k, was)
		}
	}
	if len(keys) > 0 && keys[0].Interface() == keys[0].String() {
		extra := protoreflect.ValueOfString("evil").MapKey()
		m.Set(extra, m.Get(keys[0]))
		u.emit(Change{path, opAdd})
		m.Clear(extra)
	}
}

type variant struct {
	op    string
	value protoreflect.Value
}

// others are values that differ from v.
func others(f protoreflect.FieldDescriptor, v protoreflect.Value) []variant {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return []variant{{opFlip, protoreflect.ValueOfBool(!v.Bool())}}
	case protoreflect.EnumKind:
		out := []variant{{opUnknown, protoreflect.ValueOfEnum(unknownEnum)}}
		for i := range f.Enum().Values().Len() {
			if n := f.Enum().Values().Get(i).Number(); n != v.Enum() {
				out = append(out, variant{opOther, protoreflect.ValueOfEnum(n)})
			}
		}
		return out
	case protoreflect.StringKind:
		return []variant{{opMore, protoreflect.ValueOfString(v.String() + "x")}, {opOther, protoreflect.ValueOfString("evil")}}
	case protoreflect.BytesKind:
		return []variant{{opMore, protoreflect.ValueOfBytes(append(slices.Clone(v.Bytes()), 'x'))}}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		more := protoreflect.ValueOfInt32(int32(v.Int()) + 1) //nolint:gosec // read from an int32
		return []variant{{opMore, more}, {opMax, protoreflect.ValueOfInt32(math.MaxInt32)}}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return []variant{{opMore, protoreflect.ValueOfInt64(v.Int() + 1)}, {opMax, protoreflect.ValueOfInt64(math.MaxInt64)}}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		more := protoreflect.ValueOfUint32(uint32(v.Uint()) + 1) //nolint:gosec // read from a uint32
		return []variant{{opMore, more}, {opMax, protoreflect.ValueOfUint32(math.MaxUint32)}}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return []variant{{opMore, protoreflect.ValueOfUint64(v.Uint() + 1)}, {opMax, protoreflect.ValueOfUint64(math.MaxUint64)}}
	case protoreflect.FloatKind:
		return []variant{{opOther, protoreflect.ValueOfFloat32(float32(v.Float()) + 1)}}
	case protoreflect.DoubleKind:
		return []variant{{opOther, protoreflect.ValueOfFloat64(v.Float() + 1)}}
	default:
		return nil
	}
}

// filled sets the first plain field of a new message, so that it differs from an absent one in every reading.
func filled(v protoreflect.Value, f protoreflect.FieldDescriptor) protoreflect.Value {
	if f.Message() == nil {
		if o := others(f, v); len(o) > 0 {
			return o[len(o)-1].value
		}
		return v
	}
	m := v.Message()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		inner := fields.Get(i)
		if inner.IsList() || inner.IsMap() || inner.Message() != nil {
			continue
		}
		if o := others(inner, inner.Default()); len(o) > 0 {
			m.Set(inner, o[0].value)
			break
		}
	}
	return v
}

func zeroKey(f protoreflect.FieldDescriptor) protoreflect.MapKey {
	if f.Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString("evil").MapKey()
	}
	return f.Default().MapKey()
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
