package xds_test

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// visit calls f for every message within m, with what is packed, and the path of fields to it.
func visit(t *testing.T, m protoreflect.Message, path string, f func(path string, m protoreflect.Message)) {
	t.Helper()
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		m = inner.ProtoReflect()
	}
	f(path, m)
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := path + "." + string(d.Name())
		switch {
		case d.IsMap():
			if d.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { visit(t, v.Message(), at, f); return true })
			}
		case d.Message() == nil:
		case d.IsList():
			for i := range v.List().Len() {
				visit(t, v.List().Get(i).Message(), at, f)
			}
		default:
			visit(t, v.Message(), at, f)
		}
		return true
	})
}

// TestIdentitiesAreMatchedWhole: nowhere in what an Envoy gets is an identity, or anything that a client says, matched by a regular
// expression, a prefix or a suffix. What is left are the names of headers.
func TestIdentitiesAreMatchedWhole(t *testing.T) {
	t.Parallel()
	const (
		mutations = ".filter_chains.filters.typed_config.http_filters.typed_config.decoder_header_mutation_rules.allow_expression"
		stripped  = ".filter_chains.filters.typed_config.early_header_mutation_extensions.typed_config.mutations.remove_on_match.key_matcher"
	)
	found, exact := map[string]int{}, 0
	for _, p := range xdstest.Parts(t, xdstest.Model(t)) {
		for _, w := range p.Workloads() {
			s, _ := p.Snapshot(w)
			for _, r := range s.All() {
				packed := &anypb.Any{TypeUrl: r.TypeURL(), Value: r.Value()}
				visit(t, packed.ProtoReflect(), "", func(path string, m protoreflect.Message) {
					switch m.Descriptor().FullName() {
					case "envoy.type.matcher.v3.RegexMatcher":
						found[path+": "+r.TypeURL()]++
					case "envoy.type.matcher.v3.StringMatcher":
						kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("match_pattern"))
						if kind == nil || kind.Name() != "exact" || m.Get(m.Descriptor().Fields().ByName("ignore_case")).Bool() {
							found[path+": "+r.TypeURL()]++
							return
						}
						exact++
					}
				})
			}
		}
	}
	want := []string{stripped + ": " + xds.ListenerType, mutations + ": " + xds.ListenerType}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("matched by parts: %v", got)
	}
	if exact == 0 {
		t.Error("no identity was found")
	}
}
