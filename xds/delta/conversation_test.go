package delta_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// said is a response in short: "clusters +a -b".
func said(resp *discovery.DeltaDiscoveryResponse) string {
	short := map[string]string{
		xds.TableType: "table", xds.ClusterType: "clusters", xds.EndpointType: "endpoints",
		xds.SecretType: "secrets", xds.ListenerType: "listeners", xds.RouteType: "routes",
	}
	parts := []string{short[resp.GetTypeUrl()]}
	for _, r := range resp.GetResources() {
		parts = append(parts, "+"+r.GetName())
	}
	for _, name := range resp.GetRemovedResources() {
		parts = append(parts, "-"+name)
	}
	return strings.Join(parts, " ")
}

type talk struct {
	t *testing.T
	c *delta.Conversation
}

func newTalk(t *testing.T, rs ...xds.Resource) *talk {
	t.Helper()
	k := &talk{t: t, c: delta.New(delta.DefaultLimits())}
	k.c.SetTarget(delta.NewTarget("first", rs...))
	return k
}

func (k *talk) request(req *discovery.DeltaDiscoveryRequest) {
	k.t.Helper()
	if err := k.c.Request(req); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) ask(typeURL string, names ...string) {
	k.t.Helper()
	k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names})
}

func (k *talk) all() []*discovery.DeltaDiscoveryResponse {
	k.t.Helper()
	var all []*discovery.DeltaDiscoveryResponse
	for {
		resp, err := k.c.Next()
		if err != nil {
			k.t.Fatal(err)
		}
		if resp == nil {
			return all
		}
		all = append(all, resp)
	}
}

// hears compares everything that is said now with want, and returns it.
func (k *talk) hears(want ...string) []*discovery.DeltaDiscoveryResponse {
	k.t.Helper()
	all := k.all()
	var got []string
	for _, resp := range all {
		got = append(got, said(resp))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		k.t.Fatalf("(-want +got):\n%s", diff)
	}
	return all
}

func (k *talk) ack(resps ...*discovery.DeltaDiscoveryResponse) {
	k.t.Helper()
	for _, resp := range resps {
		k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
	}
}

func (k *talk) nack(resp *discovery.DeltaDiscoveryResponse, text string) {
	k.t.Helper()
	k.request(&discovery.DeltaDiscoveryRequest{
		TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), ErrorDetail: &status.Status{Code: 3, Message: text},
	})
}

func mesh(version string, services ...string) []xds.Resource {
	var rs []xds.Resource
	for _, s := range services {
		for _, typeURL := range allTypes[1:] {
			rs = append(rs, resourceOf(typeURL, s, version))
		}
	}
	return rs
}

// connect is a proxy that has everything of its first target.
func (k *talk) connect(services ...string) {
	k.t.Helper()
	k.ask(xds.ClusterType)
	k.ask(xds.EndpointType, services...)
	k.ask(xds.SecretType, services...)
	k.ask(xds.ListenerType)
	k.ask(xds.RouteType, services...)
	k.ack(k.all()...)
}

func TestColdStartInEnvoysOrder(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a", "b")...)
	k.ask(xds.ClusterType)
	clusters := k.hears("clusters +a", "clusters +b")
	k.ask(xds.ListenerType)
	k.hears() // the clusters' endpoints were not asked for yet
	k.ack(clusters...)
	k.hears()
	k.ask(xds.EndpointType, "a", "b")
	k.hears("endpoints +a +b", "listeners +a", "listeners +b")
	k.ask(xds.RouteType, "a")
	k.hears("routes +a")
}

func TestNewClusterHoldsListenersAndRoutes(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a")...)
	k.connect("a")
	k.c.SetTarget(delta.NewTarget("second", append(mesh("2", "a"), mesh("1", "b")...)...))
	news := k.hears("clusters +a", "clusters +b", "endpoints +a", "secrets +a")
	k.ack(news...)
	k.hears()
	if !k.c.Holding() || k.c.Idle() {
		t.Fatal("listeners wait for the endpoints of b: not idle")
	}
	k.ask(xds.EndpointType, "b")
	k.hears("endpoints +b", "listeners +a", "listeners +b", "routes +a")
}

func TestRefusedClusterDoesNotHoldForEver(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a")...)
	k.connect("a")
	k.c.SetTarget(delta.NewTarget("second", append(mesh("2", "a"), mesh("1", "b")...)...))
	news := k.hears("clusters +a", "clusters +b", "endpoints +a", "secrets +a")
	k.nack(news[1], "no such extension")
	rest := k.hears("listeners +a", "listeners +b", "routes +a")
	k.ack(news[0], news[2], news[3])
	k.ack(rest...)
	k.hears() // the refused version does not come again
	if got := k.c.Refusals()[delta.Key{TypeURL: xds.ClusterType, Name: "b"}].Text; got != "no such extension" {
		t.Errorf("refusal text %q", got)
	}
	if !k.c.Idle() || k.c.Current() {
		t.Errorf("idle %v, current %v: everything was answered, not everything accepted", k.c.Idle(), k.c.Current())
	}
	k.c.SetTarget(delta.NewTarget("third", append(mesh("2", "a"), mesh("3", "b")...)...))
	news = k.hears("clusters +b")
	k.ack(news...)
	k.ask(xds.EndpointType, "b")
	k.ask(xds.SecretType, "b")
	k.ask(xds.RouteType, "b")
	k.ack(k.hears("endpoints +b", "secrets +b", "listeners +b", "routes +b")...)
	if !k.c.Current() || len(k.c.Refusals()) > 0 {
		t.Errorf("current %v, refusals %v: it got over it", k.c.Current(), k.c.Refusals())
	}
}

func TestReleaseEndsTheWait(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a")...)
	k.ask(xds.ClusterType)
	k.ask(xds.ListenerType)
	k.hears("clusters +a")
	k.c.Release()
	k.hears("listeners +a")
}

func TestRemovalsComeLastAndBackwards(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a", "b")...)
	k.connect("a", "b")
	k.c.SetTarget(delta.NewTarget("second", mesh("2", "a")...))
	news := k.hears("clusters +a", "endpoints +a", "secrets +a", "listeners +a", "routes +a")
	k.ack(news[1:]...)
	k.hears()
	k.nack(news[0], "no")
	k.hears("routes -b", "listeners -b", "endpoints -b", "clusters -b") // of a secret nothing is said
}

func TestAgentGetsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	first := append(mesh("1", "a", "b"), resourceOf(xds.TableType, "w", "1"))
	k := newTalk(t, first...)
	for _, typeURL := range allTypes {
		k.ask(typeURL, "*")
	}
	want := []string{
		"table +w", "clusters +a", "clusters +b", "endpoints +a +b", "secrets +a +b", "listeners +a", "listeners +b", "routes +a", "routes +b",
	}
	k.hears(want...)
	k.c.SetTarget(delta.NewTarget("second", append(mesh("2", "a"), resourceOf(xds.TableType, "w", "2"))...))
	k.hears("table +w", "clusters +a", "endpoints +a", "secrets +a", "listeners +a", "routes +a",
		"routes -b", "listeners -b", "secrets -b", "endpoints -b", "clusters -b")
	k.c.SetTarget(delta.NewTarget("third"))
	k.hears("routes -a", "listeners -a", "secrets -a", "endpoints -a", "clusters -a", "table -w")
	if k.c.Current() {
		t.Error("nothing was acknowledged yet")
	}
}

func TestLateAnswersInAnyOrder(t *testing.T) {
	t.Parallel()
	k := newTalk(t, resourceOf(xds.TableType, "w", "1"))
	for _, typeURL := range allTypes {
		k.ask(typeURL, "*")
	}
	greetings := k.all()
	k.c.SetTarget(delta.NewTarget("second", resourceOf(xds.TableType, "w", "2")))
	second := k.hears("table +w")
	k.c.SetTarget(delta.NewTarget("third", resourceOf(xds.TableType, "w", "3")))
	third := k.hears("table +w")
	k.ack(third...)
	k.nack(second[0], "too late to matter")
	k.ack(greetings...)
	report := k.c.Report()
	if got, want := report.Acked[delta.Key{TypeURL: xds.TableType, Name: "w"}], third[0].GetResources()[0].GetVersion(); got != want {
		t.Errorf("acknowledged %q, want the newest, %q", got, want)
	}
	if len(report.Refused) > 0 || !report.Current || report.Target != "third" {
		t.Errorf("report %+v", report)
	}
}

func TestNothingIsSaidBeforeATarget(t *testing.T) {
	t.Parallel()
	k := &talk{t: t, c: delta.New(delta.DefaultLimits())}
	k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, InitialResourceVersions: map[string]string{"a": "1"}})
	k.ask(xds.EndpointType, "a")
	k.hears()
	k.c.SetTarget(delta.NewTarget("empty"))
	k.hears("clusters", "endpoints -a", "clusters -a")
}

func TestEmptyWildcardIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	k.ask(xds.ClusterType)
	k.ask(xds.ListenerType, "*")
	k.ack(k.hears("clusters", "listeners")...)
	k.hears()
	if !k.c.Current() {
		t.Error("it has all that there is")
	}
}

func TestLegacyWildcardOnlyWhereEnvoyUsesIt(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a")...)
	for _, typeURL := range []string{xds.TableType, xds.EndpointType, xds.SecretType, xds.RouteType} {
		k.ask(typeURL)
	}
	k.hears()
}

// A name of somebody else is to this client a name that does not exist: the very same bytes.
func TestForeignAndUnknownNamesGetTheSameAnswer(t *testing.T) {
	t.Parallel()
	for _, typeURL := range allTypes {
		answer := func(target []xds.Resource, has map[string]string, names ...string) []byte {
			k := newTalk(t, target...)
			k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names, InitialResourceVersions: has})
			var out []byte
			for _, resp := range k.all() {
				b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, b...)
			}
			return out
		}
		own := mesh("1", "a")
		for _, names := range [][]string{{"globex"}, {"*", "globex"}, {"a", "globex"}} {
			for _, has := range []map[string]string{nil, {"globex": "1"}} {
				// A conversation knows its own target only, so foreign and unknown are told apart nowhere. What is
				// compared is that the answer has only the asked name in it, whatever the name.
				foreign := answer(own, has, names...)
				other := map[string]string{}
				for n, v := range has {
					other[strings.ReplaceAll(n, "globex", "nobody")] = v
				}
				unknown := answer(own, other, slices.Concat(names[:len(names)-1], []string{"nobody"})...)
				if diff := cmp.Diff(string(foreign), strings.ReplaceAll(string(unknown), "nobody", "globex")); diff != "" {
					t.Errorf("%s %v: %s", typeURL, names, diff)
				}
			}
		}
	}
}

func TestAbsentSecretIsSilence(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	k.ask(xds.SecretType, "default")
	k.hears()
	k.c.SetTarget(delta.NewTarget("there", resourceOf(xds.SecretType, "default", "key")))
	k.ack(k.hears("secrets +default")...)
	k.c.SetTarget(delta.NewTarget("gone"))
	k.hears()
	k.c.SetTarget(delta.NewTarget("back", resourceOf(xds.SecretType, "default", "key")))
	k.hears() // the client still has it
}

func TestAskingAgainSendsAgain(t *testing.T) {
	t.Parallel()
	k := newTalk(t, mesh("1", "a")...)
	k.ask(xds.EndpointType, "a", "x")
	k.ack(k.hears("endpoints -x", "endpoints +a")...)
	k.ask(xds.EndpointType, "a", "x")
	k.hears("endpoints -x", "endpoints +a")
	k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesUnsubscribe: []string{"a"}})
	k.c.SetTarget(delta.NewTarget("second", mesh("2", "a")...))
	k.hears()
}

func TestReconnectSendsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	old, now := mesh("1", "a", "b"), mesh("1", "a")
	k := newTalk(t, append(now, mesh("2", "b")...)...)
	has := map[string]string{"gone": "0"}
	for _, r := range old {
		if r.TypeURL() == xds.ClusterType {
			has[r.Name()] = r.Version()
		}
	}
	k.request(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, InitialResourceVersions: has})
	news := k.hears("clusters +b")
	k.ask(xds.EndpointType, "b")
	news = append(news, k.hears("endpoints +b")...)
	k.ack(news...)
	k.hears("clusters -gone")
}

func TestBatches(t *testing.T) {
	t.Parallel()
	var rs []xds.Resource
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("s%03d", i))
		rs = append(rs, resourceOf(xds.EndpointType, names[i], "1"))
	}
	k := newTalk(t, rs...)
	k.ask(xds.EndpointType, names...)
	all := k.all()
	if len(all) != 2 || len(all[0].GetResources()) != 64 {
		t.Errorf("%d responses for 100 small resources", len(all))
	}
	big := strings.Repeat("x", 200<<10)
	k = newTalk(t, resourceOf(xds.EndpointType, "a", big), resourceOf(xds.EndpointType, "b", big))
	k.ask(xds.EndpointType, "a", "b")
	k.hears("endpoints +a", "endpoints +b")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	limits := delta.DefaultLimits()
	limits.Names, limits.RequestBytes, limits.Unanswered = 3, 1000, 2
	tests := map[string]struct {
		req  *discovery.DeltaDiscoveryRequest
		want error
	}{
		"no type":         {&discovery.DeltaDiscoveryRequest{}, delta.ErrProtocol},
		"unknown type":    {&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/x", ResourceNamesSubscribe: []string{"a"}}, nil},
		"many names":      {&discovery.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesSubscribe: []string{"a", "b", "c", "d"}}, delta.ErrLimit},
		"many versions":   {&discovery.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, InitialResourceVersions: map[string]string{"a": "", "b": "", "c": "", "d": ""}}, delta.ErrLimit},
		"many bytes":      {&discovery.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesSubscribe: []string{strings.Repeat("a", 1000)}}, delta.ErrLimit},
		"as many as good": {&discovery.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesSubscribe: []string{"a", "b", "c"}}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := delta.New(limits).Request(tc.req); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	c := delta.New(limits)
	c.SetTarget(delta.NewTarget("x", mesh("1", "a", "b", "c")...))
	if err := c.Request(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType}); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 3 {
		_, err = c.Next()
	}
	if !errors.Is(err, delta.ErrLimit) {
		t.Errorf("three responses without an answer: %v", err)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	if got := delta.Text("a\xffb" + strings.Repeat("x", 2000)); !strings.HasPrefix(got, "a?b") || len(got) != 512 {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
