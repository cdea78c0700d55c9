package protomutate_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/internal/protomutate"
)

func sample(t *testing.T) *listenerv3.FilterChain {
	t.Helper()
	packed, err := anypb.New(&routerv3.Router{SuppressEnvoyHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	return &listenerv3.FilterChain{
		Name:             "a",
		FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"x", "y"}},
		Filters:          []*listenerv3.Filter{{Name: "f", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed}}},
		Metadata:         &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{"k": packed}},
	}
}

// Every change differs from the original, and the original is what it was afterwards.
func TestEachChangesAndRestores(t *testing.T) {
	t.Parallel()
	m, original := sample(t), sample(t)
	seen := map[string]int{}
	protomutate.Each(m, func(c protomutate.Change) {
		seen[c.String()]++
		if proto.Equal(m, original) {
			t.Errorf("%s changed nothing", c)
		}
		if _, err := proto.Marshal(m); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	})
	if !proto.Equal(m, original) {
		t.Errorf("the message is not what it was: %v", m)
	}
	for _, want := range []string{
		"name clear", "name more", "filter_chain_match.server_names[1] drop", "filter_chain_match.server_names add",
		"filters[0].typed_config.suppress_envoy_headers flip", "filters[0].typed_config@type other", "transport_socket add",
		" unknown", "filters[0].typed_config unknown", "filters[0].config_discovery add", "metadata.filter_metadata add",
	} {
		if seen[want] == 0 {
			t.Errorf("no change %q among %s", want, strings.Join(slices.Sorted(maps.Keys(seen)), "\n"))
		}
	}
}
