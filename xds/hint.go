package xds

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Hint is what a client of discovery says of itself in its node. Nobody vouches for it: it is shown to people, and nothing is
// decided by it. The zero value says nothing.
type Hint struct {
	// EnvoyVersion is such as 1.40.0; empty where none was said.
	EnvoyVersion string
	// Clock is the time at which it was said, by the clock of who said it.
	Clock time.Time
}

const (
	envoyAgent   = "envoy" // user_agent_name, as Envoy fills it in
	clockKey     = "ringfence.clock"
	maxClockText = 64
)

// Node is the node of an agent: an id for logs, and the hint.
func (h Hint) Node(id string) *corev3.Node {
	n := &corev3.Node{Id: id}
	var v typev3.SemanticVersion
	if _, err := fmt.Sscanf(h.EnvoyVersion, "%d.%d.%d", &v.MajorNumber, &v.MinorNumber, &v.Patch); err == nil {
		n.UserAgentName = envoyAgent
		n.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{Version: &v}}
	}
	if !h.Clock.IsZero() {
		said := structpb.NewStringValue(h.Clock.UTC().Format(time.RFC3339Nano))
		n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{clockKey: said}}
	}
	return n
}

// ReadHint reads the hint of an Envoy's node, or of an agent's. The version is written anew from its numbers, so no text of the
// client's is in it.
func ReadHint(n *corev3.Node) Hint {
	var h Hint
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil && n.GetUserAgentName() == envoyAgent {
		h.EnvoyVersion = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	if text := n.GetMetadata().GetFields()[clockKey].GetStringValue(); len(text) <= maxClockText {
		h.Clock, _ = time.Parse(time.RFC3339Nano, text) // what is no time says nothing
	}
	return h
}
