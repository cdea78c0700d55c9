package delta_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// FuzzConversation feeds a stream of requests, each with a 2-byte length before it. Whatever they say: no panic, and no
// byte but the client's own resources and the names that it wrote itself.
func FuzzConversation(f *testing.F) {
	add := func(reqs ...*discovery.DeltaDiscoveryRequest) {
		var stream []byte
		for _, req := range reqs {
			b, err := proto.Marshal(req)
			if err != nil {
				f.Fatal(err)
			}
			stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(b))), b...) //nolint:gosec // small
		}
		f.Add(stream)
	}
	add(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	add(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNamesSubscribe: []string{"*", "globex"}, InitialResourceVersions: map[string]string{"globex": "1", "own": ""}},
		&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNamesUnsubscribe: []string{"*"}, ResponseNonce: "1"},
		&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: "2", ErrorDetail: &status.Status{Message: "no"}})
	add(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.TableType, ResourceNamesSubscribe: []string{"*"}},
		&discovery.DeltaDiscoveryRequest{TypeUrl: xds.SecretType, ResourceNamesSubscribe: []string{"spiffe://globex.demo.test", ""}})
	add(&discovery.DeltaDiscoveryRequest{}, &discovery.DeltaDiscoveryRequest{TypeUrl: "x", ResponseNonce: "-1"})
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := delta.New(delta.DefaultLimits())
		own := append(mesh("1", "own"), resourceOf(xds.TableType, "own", "1"))
		c.SetTarget(delta.NewTarget("1", own...))
		spoken := stream
		for len(stream) >= 2 {
			n := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			var req discovery.DeltaDiscoveryRequest
			if proto.Unmarshal(stream[2:2+n], &req) == nil && c.Request(&req) != nil {
				return
			}
			stream = stream[2+n:]
			drain(t, c, spoken)
		}
		c.SetTarget(delta.NewTarget("2"))
		drain(t, c, spoken)
	})
}

func drain(t *testing.T, c *delta.Conversation, spoken []byte) {
	t.Helper()
	for {
		resp, err := c.Next()
		if resp == nil || err != nil {
			return
		}
		for _, r := range resp.GetResources() {
			if r.GetName() != "own" || string(r.GetResource().GetValue()) != "1" {
				t.Fatalf("sent %v", r)
			}
		}
		for _, name := range resp.GetRemovedResources() {
			if name != "own" && !bytes.Contains(spoken, []byte(name)) {
				t.Fatalf("removed %q, which nobody spoke of", name)
			}
		}
	}
}
