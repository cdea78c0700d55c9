package xds_test

import (
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/xds"
)

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
