package delta_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

var allTypes = []string{xds.TableType, xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType}

// client is a dumb peer: it does what the protocol says, one step at a time, and checks what it is told.
type client struct {
	t      failer
	c      *delta.Conversation
	target map[delta.Key]xds.Resource
	agent  bool

	asked   map[string]map[string]bool // type -> names, "*" included; a type that is there was asked for
	has     map[delta.Key]string       // applied versions
	pending []*discovery.DeltaDiscoveryResponse
	refuses map[string]bool // versions
	named   map[delta.Key]bool
	loops   map[delta.Key]string // the version refused last

	received map[delta.Key]string // what came last, applied or not
	dropped  map[delta.Key]bool   // unsubscribed by name, or forgotten
	legacy   map[string]bool      // types asked for without any name so far
}

type failer interface {
	Fatalf(format string, args ...any)
}

func newClient(t failer) *client {
	return &client{
		t: t, c: delta.New(delta.DefaultLimits()), target: map[delta.Key]xds.Resource{},
		asked: map[string]map[string]bool{}, has: map[delta.Key]string{}, refuses: map[string]bool{}, named: map[delta.Key]bool{},
		received: map[delta.Key]string{}, dropped: map[delta.Key]bool{}, legacy: map[string]bool{},
		loops: map[delta.Key]string{},
	}
}

func (m *client) setTarget(rs ...xds.Resource) {
	m.target = map[delta.Key]xds.Resource{}
	for _, r := range rs {
		m.target[delta.Key{TypeURL: r.TypeURL(), Name: r.Name()}] = r
	}
	m.c.SetTarget(delta.NewTarget(fmt.Sprint(len(rs)), rs...))
}

func (m *client) send(req *discovery.DeltaDiscoveryRequest) {
	if err := m.c.Request(req); err != nil {
		m.t.Fatalf("request %v: %v", req, err)
	}
}

func (m *client) subscribe(typeURL string, names ...string) {
	first := m.asked[typeURL] == nil
	m.legacy[typeURL] = len(names) == 0
	if first {
		m.asked[typeURL] = map[string]bool{}
	}
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names}
	if first {
		req.InitialResourceVersions = map[string]string{}
		for k, v := range m.has {
			if k.TypeURL == typeURL && (slices.Contains(names, k.Name) || slices.Contains(names, "*")) {
				req.InitialResourceVersions[k.Name] = v
			}
		}
	}
	for _, n := range names {
		m.asked[typeURL][n] = true
		k := delta.Key{TypeURL: typeURL, Name: n}
		m.named[k] = true
		if _, has := m.received[k]; has && !first {
			m.dropped[k] = true // asked for again, so forgotten
		}
	}
	m.send(req)
}

func (m *client) unsubscribe(typeURL, name string) {
	if m.asked[typeURL] == nil || !m.asked[typeURL][name] || m.legacy[typeURL] {
		return
	}
	delete(m.asked[typeURL], name)
	m.dropped[delta.Key{TypeURL: typeURL, Name: name}] = true
	for k := range m.received {
		if k.TypeURL == typeURL && !m.wants(k) {
			delete(m.has, k)
			delete(m.received, k)
		}
	}
	m.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesUnsubscribe: []string{name}})
}

func (m *client) wants(k delta.Key) bool {
	return m.asked[k.TypeURL]["*"] || m.asked[k.TypeURL][k.Name]
}

// receive takes the next response, checks it, and leaves it unanswered.
func (m *client) receive() bool {
	resp, err := m.c.Next()
	if err != nil {
		m.t.Fatalf("next: %v", err)
	}
	if resp == nil {
		return false
	}
	m.check(resp)
	for _, r := range resp.GetResources() {
		m.received[delta.Key{TypeURL: resp.GetTypeUrl(), Name: r.GetName()}] = r.GetVersion()
	}
	for _, name := range resp.GetRemovedResources() {
		delete(m.received, delta.Key{TypeURL: resp.GetTypeUrl(), Name: name})
	}
	m.pending = append(m.pending, resp)
	return true
}

func (m *client) check(resp *discovery.DeltaDiscoveryResponse) {
	for _, r := range resp.GetResources() {
		k := delta.Key{TypeURL: resp.GetTypeUrl(), Name: r.GetName()}
		want, ok := m.target[k]
		if !ok || want.Version() != r.GetVersion() || string(want.Value()) != string(r.GetResource().GetValue()) {
			m.t.Fatalf("got %v, which is not in the visible set", r)
		}
		if !m.wants(k) {
			m.t.Fatalf("got %v, which was not asked for", k)
		}
	}
	if len(resp.GetResources()) > 0 {
		m.checkEarlierTypes(resp.GetTypeUrl())
		one := resp.GetTypeUrl() == xds.ListenerType || resp.GetTypeUrl() == xds.ClusterType
		if one && len(resp.GetResources()) > 1 {
			m.t.Fatalf("%d resources in one response of %s", len(resp.GetResources()), resp.GetTypeUrl())
		}
	}
	for _, name := range resp.GetRemovedResources() {
		m.checkRemoved(delta.Key{TypeURL: resp.GetTypeUrl(), Name: name})
	}
}

// checkEarlierTypes: nothing new of a type before all that is new of the earlier types was sent.
func (m *client) checkEarlierTypes(typeURL string) {
	for k, r := range m.target {
		if slices.Index(allTypes, k.TypeURL) < slices.Index(allTypes, typeURL) && m.wants(k) && m.received[k] != r.Version() {
			m.t.Fatalf("%s came before %v", typeURL, k)
		}
	}
}

func (m *client) checkRemoved(k delta.Key) {
	if _, there := m.target[k]; there {
		m.t.Fatalf("%v removed, which is in the visible set", k)
	}
	_, had := m.received[k]
	if !had && !m.named[k] {
		m.t.Fatalf("%v removed, which nobody spoke of", k)
	}
	if m.silent(k) {
		m.t.Fatalf("secret %v removed", k)
	}
	if !had || m.dropped[k] {
		return // the answer to a question, which is given at once
	}
	for _, p := range m.pending {
		if len(p.GetResources()) > 0 && !m.agent {
			m.t.Fatalf("%v removed before %v was answered", k, p)
		}
	}
	for want, r := range m.target {
		if m.wants(want) && m.received[want] != r.Version() {
			m.t.Fatalf("%v removed before %v was sent", k, want)
		}
	}
	for have := range m.received {
		_, there := m.target[have]
		if !there && m.wants(have) && slices.Index(allTypes, have.TypeURL) > slices.Index(allTypes, k.TypeURL) && !m.silent(have) {
			m.t.Fatalf("%v removed before %v", k, have)
		}
	}
}

// silent: a secret that was asked for by name is never said to be missing.
func (m *client) silent(k delta.Key) bool {
	return k.TypeURL == xds.SecretType && m.asked[k.TypeURL][k.Name]
}

// answer acknowledges or refuses one response that was received.
func (m *client) answer(i int) {
	p := m.pending[i]
	m.pending = slices.Delete(m.pending, i, i+1)
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: p.GetTypeUrl(), ResponseNonce: p.GetNonce()}
	for _, r := range p.GetResources() {
		if m.refuses[r.GetVersion()] {
			req.ErrorDetail = &status.Status{Code: 3, Message: "will not have " + r.GetVersion()}
		}
	}
	m.send(req)
}

// apply is the client's own work on a response, in the order of arrival.
func (m *client) apply(p *discovery.DeltaDiscoveryResponse) {
	refuse := slices.ContainsFunc(p.GetResources(), func(r *discovery.Resource) bool { return m.refuses[r.GetVersion()] })
	for _, r := range p.GetResources() {
		k := delta.Key{TypeURL: p.GetTypeUrl(), Name: r.GetName()}
		switch {
		case refuse:
			m.refuses[r.GetVersion()] = true // the good ones beside the bad one too
			m.sentRefused(k, r.GetVersion())
		case m.wants(k):
			m.has[k] = r.GetVersion()
			delete(m.loops, k)
		}
	}
	for _, name := range p.GetRemovedResources() {
		delete(m.has, delta.Key{TypeURL: p.GetTypeUrl(), Name: name})
	}
}

// sentRefused: a refused version comes again only to who asks for it again.
func (m *client) sentRefused(k delta.Key, version string) {
	if m.loops[k] == version && !m.dropped[k] {
		m.t.Fatalf("%v: version %s was refused and came again", k, version)
	}
	m.loops[k] = version
}

func resourceOf(typeURL, name, value string) xds.Resource {
	return xds.NewResource(typeURL, name, []byte(value))
}

func drawTarget(t *rapid.T, label string) []xds.Resource {
	var rs []xds.Resource
	for _, typeURL := range allTypes {
		for _, name := range []string{"a", "b", "c"} {
			if v := rapid.IntRange(0, 3).Draw(t, label+name); v > 0 {
				rs = append(rs, resourceOf(typeURL, name, fmt.Sprint(name, v)))
			}
		}
	}
	return rs
}

var wildcardTypes = []string{xds.ClusterType, xds.ListenerType}

// Any interleaving of requests, answers and changes ends with the client holding exactly what it may see and asked for.
func TestConversationConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newClient(t)
		m.agent = rapid.Bool().Draw(t, "agent")
		kinds := allTypes[1:]
		if m.agent {
			m.subscribe(xds.TableType, "*")
		}
		names := []string{"a", "b", "c", "unknown", "*"}
		t.Repeat(map[string]func(*rapid.T){
			"target": func(t *rapid.T) { m.setTarget(drawTarget(t, "v")...) },
			"ask": func(t *rapid.T) {
				m.subscribe(rapid.SampledFrom(kinds).Draw(t, "type"), rapid.SampledFrom(names).Draw(t, "name"))
			},
			"ask all": func(t *rapid.T) { // as Envoy does, without a name
				typeURL := rapid.SampledFrom(wildcardTypes).Draw(t, "type")
				if m.asked[typeURL] == nil {
					m.subscribe(typeURL)
					m.asked[typeURL]["*"] = true
				}
			},
			"drop": func(t *rapid.T) {
				m.unsubscribe(rapid.SampledFrom(kinds).Draw(t, "type"), rapid.SampledFrom(names).Draw(t, "name"))
			},
			"receive": func(*rapid.T) { m.receiveAndApply() },
			"answer": func(t *rapid.T) {
				if len(m.pending) > 0 {
					m.answer(rapid.IntRange(0, len(m.pending)-1).Draw(t, "which"))
				}
			},
			"release":   func(*rapid.T) { m.c.Release() },
			"reconnect": func(*rapid.T) { m.reconnect() },
			"nonsense": func(t *rapid.T) {
				if len(m.asked) == 0 {
					t.Skip("nothing asked for")
				}
				m.send(&discovery.DeltaDiscoveryRequest{
					TypeUrl:       rapid.SampledFrom(slices.Sorted(maps.Keys(m.asked))).Draw(t, "type"),
					ResponseNonce: rapid.SampledFrom([]string{"x", "999999", "0", "-1"}).Draw(t, "nonce"),
				})
			},
		})
		m.settle()
	})
}

func (m *client) receiveAndApply() bool {
	if !m.receive() {
		return false
	}
	m.apply(m.pending[len(m.pending)-1])
	return true
}

// reconnect starts a new stream with what the client has, as Envoy does.
func (m *client) reconnect() {
	asked := m.asked
	m.asked, m.pending, m.c = map[string]map[string]bool{}, nil, delta.New(delta.DefaultLimits())
	m.received, m.dropped, m.loops = maps.Clone(m.has), map[delta.Key]bool{}, map[delta.Key]string{}
	rs := slices.Collect(maps.Values(m.target))
	m.setTarget(rs...)
	for _, typeURL := range allTypes {
		if names, ok := asked[typeURL]; ok && len(names) > 0 {
			m.subscribe(typeURL, slices.Sorted(maps.Keys(names))...)
		}
	}
}

// settle answers everything, asks for the endpoints of every cluster, and compares.
func (m *client) settle() {
	if len(m.target) == 0 {
		m.setTarget(resourceOf(xds.ClusterType, "a", "a1"), resourceOf(xds.EndpointType, "a", "a1"))
	}
	for range 1000 {
		switch {
		case m.receiveAndApply():
		case len(m.pending) > 0:
			m.answer(0)
		case m.c.Holding():
			m.subscribe(xds.EndpointType, "a", "b", "c")
		default:
			m.compare()
			return
		}
	}
	m.t.Fatalf("no end: %v", m.pending)
}

func (m *client) compare() {
	want := map[delta.Key]string{}
	for k, r := range m.target {
		if m.wants(k) {
			want[k] = r.Version()
		}
	}
	got := maps.Clone(m.has)
	report := m.c.Report()
	for k, v := range want { // where it refused, it holds what it held, and the server knows
		if m.refuses[v] && got[k] != v {
			if report.Refused[k].Version != v {
				m.t.Fatalf("%v: refused %s, reported %+v", k, v, report.Refused[k])
			}
			delete(want, k)
			delete(got, k)
		}
	}
	maps.DeleteFunc(got, func(k delta.Key, _ string) bool { // a secret that went away is not talked about
		_, there := m.target[k]
		return !there && m.silent(k)
	})
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Fatalf("the client does not hold what it may see (-want +got):\n%s", diff)
	}
	if !m.c.Idle() {
		m.t.Fatalf("nothing left to say, but not idle: %+v", m.c.Report())
	}
	for k, v := range want {
		if report.Acked[k] != v {
			m.t.Fatalf("%v: acknowledged %q, reported %q", k, v, report.Acked[k])
		}
	}
}
