package filters

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Where the epoch of a filter chain stands. Nothing in Envoy reads it.
const (
	epochNamespace = "dev.ringfence"
	epochKey       = "epoch"
)

// WithEpoch makes a chain another one wherever the epoch is another one, without changing what it does. Envoy
// then ends what the chain has open when its drain time is over, and nothing of the listener's other chains. The empty epoch
// leaves no trace.
func WithEpoch(c *listenerv3.FilterChain, epoch string) {
	if epoch == "" {
		return
	}
	c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		epochNamespace: {Fields: map[string]*structpb.Value{epochKey: structpb.NewStringValue(epoch)}},
	}}
}

// ChainEpoch reads what WithEpoch has written; empty where there is nothing, or anything else.
func ChainEpoch(c *listenerv3.FilterChain) string {
	const longest = 64
	all := c.GetMetadata().GetFilterMetadata()
	own := all[epochNamespace].GetFields()
	epoch := own[epochKey].GetStringValue()
	if len(all) != 1 || len(own) != 1 || len(epoch) > longest || strings.Trim(epoch, "0123456789abcdef") != "" {
		return ""
	}
	return epoch
}
