package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// TestARefusalWritesNoLines: why a sidecar refuses something is that sidecar's to say, and may be anything. It must not look
// like another line of the list, nor move the terminal of who reads it.
func TestARefusalWritesNoLines(t *testing.T) {
	t.Parallel()
	const text = "no\n\nspiffe://globex.demo.test/ns/globex/sa/web refused Cluster x:\n\x1b[1A\x1b[2K\u009b2J\r\x07"
	answer := &agentv1alpha1.ListProxiesResponse{Generation: 1, Proxies: []*agentv1alpha1.Proxy{{
		Workload: "spiffe://acme.demo.test/ns/acme/sa/web", Tenant: "acme", ConnectedUnix: 1,
		Refused: []*agentv1alpha1.RefusedResource{{TypeUrl: "x/envoy.Listener", Name: "inbound/acme/web", Text: text}},
	}}}
	list := newProxyTable(answer, time.Unix(2, 0))
	var out bytes.Buffer
	if err := list.print(process{out: &out, err: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 5 || strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 }) {
		t.Errorf("%q", lines)
	}
	out.Reset()
	if err := printJSON(&out, list); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\u009b") {
		t.Errorf("%q", out.String())
	}
}
