package filters

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// anyPrefix is how every type URL of a generated message starts, exactly.
	anyPrefix = "type.googleapis.com/"
	anyName   = "google.protobuf.Any"
	// maxAnyDepth bounds messages in messages: generated ones have five.
	maxAnyDepth = 8
)

// closed is the closed list, ready for look-ups. It is written once, here.
var closed = closedSets()

func closedSets() map[protoreflect.FullName]map[protoreflect.Name]bool {
	sets := map[protoreflect.FullName]map[protoreflect.Name]bool{}
	for message, fields := range generated {
		set := make(map[protoreflect.Name]bool, len(fields))
		for _, f := range fields {
			set[f] = true
		}
		sets[message] = set
	}
	return sets
}

// walk judges a message and everything in it by the closed list. It does not go into what it refuses.
func (l *linter) walk(path string, m protoreflect.Message, depth int) {
	name := m.Descriptor().FullName()
	fields, ok := closed[name]
	if !l.need(ok, setClosed, path, "no %s is ever generated", name) {
		return
	}
	if !l.need(len(m.GetUnknown()) == 0, setUnknown, path, "%d bytes of unknown fields in %s", len(m.GetUnknown()), name) {
		return
	}
	if name == anyName {
		l.walkAny(path, m.Interface(), depth)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, string(f.Name()))
		if l.need(fields[f.Name()], setClosed, at, "the field is never generated") {
			l.walkField(at, f, v, depth)
		}
		return true
	})
}

func (l *linter) walkField(path string, f protoreflect.FieldDescriptor, v protoreflect.Value, depth int) {
	switch {
	case f.IsMap():
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			l.walkValue(fmt.Sprintf("%s[%q]", path, clip(k.String())), f.MapValue(), v, depth)
			return true
		})
	case f.IsList():
		for i := range v.List().Len() {
			l.walkValue(fmt.Sprintf("%s[%d]", path, i), f, v.List().Get(i), depth)
		}
	default:
		l.walkValue(path, f, v, depth)
	}
}

func (l *linter) walkValue(path string, f protoreflect.FieldDescriptor, v protoreflect.Value, depth int) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		l.walk(path, v.Message(), depth)
	case protoreflect.EnumKind:
		l.need(f.Enum().Values().ByNumber(v.Enum()) != nil, setEnum, path, "%d is no value of %s", v.Enum(), f.Enum().Name())
	default:
	}
}

// walkAny opens a typed configuration. Whether its type belongs in this place is judged with the settings.
func (l *linter) walkAny(path string, m proto.Message, depth int) {
	packed, ok := m.(*anypb.Any)
	if !l.need(ok && depth < maxAnyDepth, setAny, path, "typed configuration nested too deep") {
		return
	}
	name, ok := strings.CutPrefix(packed.GetTypeUrl(), anyPrefix)
	_, known := closed[protoreflect.FullName(name)]
	if !l.need(ok && known, setAny, path, "no %q is ever generated", clip(packed.GetTypeUrl())) {
		return
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if !l.need(err == nil, setAny, path, "no %q is known", clip(packed.GetTypeUrl())) {
		return
	}
	inner := typ.New().Interface()
	if l.need(proto.Unmarshal(packed.GetValue(), inner) == nil, setAny, path, "the bytes are no %s", name) {
		l.walk(path, inner.ProtoReflect(), depth+1)
	}
}

// unpack opens the typed configuration that belongs in this place.
func (l *linter) unpack(packed *anypb.Any, into proto.Message, path string) bool {
	want := anyPrefix + string(into.ProtoReflect().Descriptor().FullName())
	if !l.need(packed.GetTypeUrl() == want, setAny, path, "%q belongs here, not %q", want, clip(packed.GetTypeUrl())) {
		return false
	}
	return l.need(proto.Unmarshal(packed.GetValue(), into) == nil, setAny, path, "the bytes are no %s", want)
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
