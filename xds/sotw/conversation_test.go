package sotw_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
	"github.com/ringfence-mesh/ringfence/xds/sotw"
)

func resources(version int, names ...string) []xds.Resource {
	var all []xds.Resource
	for _, typeURL := range delta.Order() {
		for _, name := range names {
			all = append(all, xds.NewResource(typeURL, name, []byte(text(name, version))))
		}
	}
	return all
}

func request(t *testing.T, c *sotw.Conversation, req *discovery.DiscoveryRequest) {
	t.Helper()
	if err := c.Request(req); err != nil {
		t.Fatal(err)
	}
}

// said is all that the conversation says until an answer is needed, as "type: texts".
func said(t *testing.T, c *sotw.Conversation) [][]string {
	t.Helper()
	var all [][]string
	for {
		resp, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if resp == nil {
			return all
		}
		line := []string{resp.GetTypeUrl()}
		for _, r := range resp.GetResources() {
			line = append(line, string(r.GetValue()))
		}
		all = append(all, line)
	}
}

func TestNothingIsSaidBeforeATargetIsKnown(t *testing.T) {
	t.Parallel()
	c := sotw.New(delta.DefaultLimits())
	request(t, c, &discovery.DiscoveryRequest{TypeUrl: xds.ClusterType})
	if got := said(t, c); got != nil || c.Current() {
		t.Errorf("said %v", got)
	}
	c.SetTarget(delta.NewTarget("none"))
	if diff := cmp.Diff([][]string{{xds.ClusterType}}, said(t, c)); diff != "" {
		t.Errorf("who waits for clusters is told that there are none:\n%s", diff)
	}
}

// What was asked for by name comes if it is there. For the rest there is silence.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	c := sotw.New(delta.DefaultLimits())
	c.SetTarget(delta.NewTarget("1", resources(1, "own")...))
	for _, typeURL := range []string{xds.EndpointType, xds.SecretType, xds.RouteType} {
		request(t, c, &discovery.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: []string{"globex", "nobody"}})
	}
	for _, typeURL := range []string{xds.TableType, "type.googleapis.com/x"} {
		request(t, c, &discovery.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: []string{"own"}})
	}
	if got := said(t, c); got != nil {
		t.Errorf("said %v", got)
	}
}

// A nonce that is not that of the last response says nothing, whatever comes with it.
func TestStaleNonce(t *testing.T) {
	t.Parallel()
	c := sotw.New(delta.DefaultLimits())
	c.SetTarget(delta.NewTarget("1", resources(1, "a", "b")...))
	request(t, c, &discovery.DiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNames: []string{"a"}})
	if diff := cmp.Diff([][]string{{xds.EndpointType, "a@1"}}, said(t, c)); diff != "" {
		t.Fatal(diff)
	}
	for _, nonce := range []string{"", "0", "2", "x"} {
		stale := &discovery.DiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNames: []string{"a", "b"}, ResponseNonce: nonce, ErrorDetail: &status.Status{Message: "no"}}
		if c.Refuses(stale) {
			t.Errorf("nonce %q refuses", nonce)
		}
		request(t, c, stale)
		if got := said(t, c); got != nil || len(c.Refusals()) > 0 {
			t.Errorf("nonce %q: said %v", nonce, got)
		}
	}
	request(t, c, &discovery.DiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNames: []string{"a", "b"}, ResponseNonce: "1"})
	if diff := cmp.Diff([][]string{{xds.EndpointType, "b@1"}}, said(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	limits := delta.DefaultLimits()
	limits.Names, limits.RequestBytes = 2, 200
	long := &discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, VersionInfo: string(bytes.Repeat([]byte("x"), 300))}
	for name, tc := range map[string]struct {
		req  *discovery.DiscoveryRequest
		want error
	}{
		"no type":    {&discovery.DiscoveryRequest{}, delta.ErrProtocol},
		"names":      {&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNames: []string{"a", "b", "c"}}, delta.ErrLimit},
		"long":       {long, delta.ErrLimit},
		"just right": {&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNames: []string{"a", "b"}}, nil},
	} {
		if err := sotw.New(limits).Request(tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConversation feeds a stream of requests, each with a 2-byte length before it. Whatever they say: no panic, and no
// byte but the client's own resources.
func FuzzConversation(f *testing.F) {
	add := func(reqs ...*discovery.DiscoveryRequest) {
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
	add(&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType}, &discovery.DiscoveryRequest{TypeUrl: xds.ListenerType})
	add(&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, ResourceNames: []string{"*", "globex"}},
		&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: "1", ErrorDetail: &status.Status{Message: "no"}},
		&discovery.DiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: "2", ResourceNames: []string{"own"}})
	add(&discovery.DiscoveryRequest{TypeUrl: xds.TableType, ResourceNames: []string{"*"}},
		&discovery.DiscoveryRequest{TypeUrl: xds.SecretType, ResourceNames: []string{"spiffe://globex.demo.test", "", "own"}})
	add(&discovery.DiscoveryRequest{}, &discovery.DiscoveryRequest{TypeUrl: "x", ResponseNonce: "-1"})
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := sotw.New(delta.DefaultLimits())
		for version := 1; len(stream) >= 2; version++ {
			c.SetTarget(delta.NewTarget(strconv.Itoa(version), resources(version%3, "own")...))
			n := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			var req discovery.DiscoveryRequest
			if proto.Unmarshal(stream[2:2+n], &req) == nil && c.Request(&req) != nil {
				return
			}
			stream = stream[2+n:]
			for _, line := range said(t, c) {
				if line[0] == xds.TableType || slices.ContainsFunc(line[1:], func(s string) bool { return nameOf(s) != "own" }) {
					t.Fatalf("said %v", line)
				}
			}
		}
		c.SetTarget(delta.NewTarget("none"))
		said(t, c)
		c.Current()
		c.Refusals()
	})
}
