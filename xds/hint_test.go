package xds_test

import (
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/xds"
)

// FuzzReadHint: whatever a client sends as its node, the hint is one that Node would write, and is read the same again.
func FuzzReadHint(f *testing.F) {
	for _, h := range []xds.Hint{{}, {EnvoyVersion: "1.40.0", Clock: time.Unix(1, 2)}, {EnvoyVersion: "4294967295.0.1"}} {
		data, err := proto.Marshal(h.Node("x"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var n corev3.Node
		if proto.Unmarshal(data, &n) != nil {
			return
		}
		h := xds.ReadHint(&n)
		again := xds.ReadHint(h.Node("x"))
		if again.EnvoyVersion != h.EnvoyVersion || len(h.EnvoyVersion) > len("4294967295.4294967295.4294967295") {
			t.Errorf("%q is read again as %q", h.EnvoyVersion, again.EnvoyVersion)
		}
		if y := h.Clock.UTC().Year(); y > 0 && y < 10000 && !again.Clock.Equal(h.Clock) {
			t.Errorf("%v is read again as %v", h.Clock, again.Clock)
		}
	})
}

// TestHint: what an agent says of itself is read again, and what is no hint says nothing.
func TestHint(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 14, 0, 0, 5, time.UTC)
	for _, h := range []xds.Hint{{}, {EnvoyVersion: "1.40.0"}, {Clock: at}, {EnvoyVersion: "1.41.12", Clock: at}} {
		if got := xds.ReadHint(h.Node("x")); got.EnvoyVersion != h.EnvoyVersion || !got.Clock.Equal(h.Clock) {
			t.Errorf("%v is read as %v", h, got)
		}
	}
	if h := xds.ReadHint(nil); h != (xds.Hint{}) {
		t.Errorf("no node says %v", h)
	}
	n := xds.Hint{EnvoyVersion: "1.40.0"}.Node("x")
	n.UserAgentName = "other"
	if h := xds.ReadHint(n); h.EnvoyVersion != "" {
		t.Errorf("another program counts as Envoy %s", h.EnvoyVersion)
	}
	late := xds.Hint{Clock: at}.Node("x")
	late.GetMetadata().GetFields()["ringfence.clock"].Kind = nil
	if h := xds.ReadHint(late); !h.Clock.IsZero() {
		t.Errorf("no text is the time %v", h.Clock)
	}
}
