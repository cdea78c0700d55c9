package sotw_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
	"github.com/ringfence-mesh/ringfence/xds/sotw"
)

// proxy is a dumb peer that does what Envoy does: it asks for all clusters and listeners, for the endpoints of the clusters
// it holds and for the routes of the listeners it holds (here: of the same name), and applies whole responses or refuses
// them. It answers late, and checks what it is told.
type proxy struct {
	t       failer
	c       *sotw.Conversation
	visible map[string]map[string]string // type -> name -> text
	has     map[string]map[string]string
	nonce   map[string]string
	asked   map[string][]string
	pending []*discovery.DiscoveryResponse
	bad     map[string]bool // texts that it refuses
	seen    map[string]int  // refused text -> how often it came
	blurred map[string]bool // a refusal of a type's first response is about any of its resources, until the next acknowledgement
}

type failer interface {
	Fatalf(format string, args ...any)
}

func newProxy(t failer) *proxy {
	p := &proxy{
		t: t, c: sotw.New(delta.DefaultLimits()), visible: map[string]map[string]string{}, has: map[string]map[string]string{},
		nonce: map[string]string{}, asked: map[string][]string{}, bad: map[string]bool{}, seen: map[string]int{},
		blurred: map[string]bool{},
	}
	for _, typeURL := range delta.Order() {
		p.has[typeURL] = map[string]string{}
	}
	return p
}

// text of a resource holds its name, because the wire form has no other place for it here.
func text(name string, version int) string { return fmt.Sprintf("%s@%d", name, version) }

func nameOf(text string) string { return text[:strings.IndexByte(text, '@')] }

func (p *proxy) setTarget(rs map[string]map[string]string) {
	p.visible = rs
	var all []xds.Resource
	for typeURL, of := range rs {
		for name, value := range of {
			all = append(all, xds.NewResource(typeURL, name, []byte(value)))
		}
	}
	p.c.SetTarget(delta.NewTarget("t", all...))
}

func (p *proxy) request(typeURL string, refusal *status.Status) {
	req := &discovery.DiscoveryRequest{
		TypeUrl: typeURL, ResourceNames: p.asked[typeURL], ResponseNonce: p.nonce[typeURL], ErrorDetail: refusal,
	}
	if err := p.c.Request(req); err != nil {
		p.t.Fatalf("request %v: %v", req, err)
	}
}

// follow asks for what the held clusters and listeners need.
func (p *proxy) follow() {
	for typeURL, from := range map[string]string{xds.EndpointType: xds.ClusterType, xds.RouteType: xds.ListenerType} {
		names := slices.Sorted(maps.Keys(p.has[from]))
		if slices.Equal(names, p.asked[typeURL]) {
			continue
		}
		p.asked[typeURL] = names
		maps.DeleteFunc(p.has[typeURL], func(name, _ string) bool { return !slices.Contains(names, name) })
		p.request(typeURL, nil)
	}
}

// receive takes the next response and leaves it unanswered.
func (p *proxy) receive() bool {
	resp, err := p.c.Next()
	if err != nil {
		p.t.Fatalf("next: %v", err)
	}
	if resp == nil {
		return false
	}
	for _, r := range p.pending {
		if r.GetTypeUrl() == resp.GetTypeUrl() {
			p.t.Fatalf("two open responses of %s", resp.GetTypeUrl())
		}
	}
	for _, r := range resp.GetResources() {
		if r.GetTypeUrl() != resp.GetTypeUrl() || resp.GetTypeUrl() == xds.TableType {
			p.t.Fatalf("a %s in a response of %s", r.GetTypeUrl(), resp.GetTypeUrl())
		}
	}
	p.pending = append(p.pending, resp)
	return true
}

// answer works off the i-th open response.
func (p *proxy) answer(i int) {
	resp := p.pending[i]
	p.pending = slices.Delete(p.pending, i, i+1)
	typeURL := resp.GetTypeUrl()
	p.nonce[typeURL] = resp.GetNonce()
	next, refusal := map[string]string{}, (*status.Status)(nil)
	for _, r := range resp.GetResources() {
		value := string(r.GetValue())
		name := nameOf(value)
		if p.bad[value] {
			refusal = &status.Status{Message: "no " + value}
			if p.seen[value]++; p.seen[value] > 1 && !p.blurred[typeURL] {
				p.t.Fatalf("%s came again after it was refused", value)
			}
			if old, ok := p.has[typeURL][name]; ok {
				next[name] = old
			}
			continue
		}
		next[name] = value
	}
	whole := typeURL == xds.ClusterType || typeURL == xds.ListenerType
	p.blurred[typeURL] = refusal != nil && (p.blurred[typeURL] || (whole && len(p.has[typeURL]) == 0 && len(resp.GetResources()) > 1))
	if !whole {
		for name, value := range p.has[typeURL] {
			if _, ok := next[name]; !ok {
				next[name] = value
			}
		}
		maps.DeleteFunc(next, func(name, _ string) bool { return !slices.Contains(p.asked[typeURL], name) })
	}
	if typeURL == xds.ClusterType {
		for name := range p.has[typeURL] {
			// A cluster may go only when the listener of its name, which stands for all that uses it, is gone.
			if _, stays := next[name]; !stays && p.has[xds.ListenerType][name] != "" {
				p.t.Fatalf("cluster %s went before its listener", name)
			}
		}
	}
	p.has[typeURL] = next
	p.request(typeURL, refusal)
	p.follow()
}

// settle answers and receives until both are done.
func (p *proxy) settle() {
	for range 10_000 {
		switch {
		case len(p.pending) > 0:
			p.answer(0)
		case !p.receive():
			return
		}
	}
	p.t.Fatalf("the conversation does not come to an end")
}

// expect is what a proxy that is settled must hold: what is visible and was not refused.
func (p *proxy) expect() {
	for _, typeURL := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
		for name, value := range p.visible[typeURL] {
			asked := typeURL == xds.ClusterType || typeURL == xds.ListenerType || slices.Contains(p.asked[typeURL], name)
			if asked && !p.bad[value] && p.has[typeURL][name] != value {
				p.t.Fatalf("%s %s is %q, not %q", typeURL, name, p.has[typeURL][name], value)
			}
		}
	}
	for _, typeURL := range []string{xds.ClusterType, xds.ListenerType} {
		for name := range p.has[typeURL] {
			if p.visible[typeURL][name] == "" {
				p.t.Fatalf("%s %s is still there", typeURL, name)
			}
		}
	}
	refused := false
	for typeURL, of := range p.visible {
		for name, value := range of {
			_, there := p.c.Refusals()[delta.Key{TypeURL: typeURL, Name: name}]
			was := p.bad[value] && p.seen[value] > 0
			if there != was && (was || !p.blurred[typeURL]) {
				p.t.Fatalf("%s %s: reported as refused: %v, was: %v", typeURL, value, there, was)
			}
			refused = refused || was
		}
	}
	if p.c.Current() == refused {
		p.t.Fatalf("current: %v, refused something: %v", p.c.Current(), refused)
	}
}

// TestModel: after any sequence of targets, late answers and refusals the proxy holds what it may see and nothing else;
// nothing that was refused comes again, and no cluster goes before what uses it.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newProxy(t)
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
		p.request(xds.ClusterType, nil)
		p.request(xds.ListenerType, nil)
		version := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch draw(4) {
			case 0:
				next := map[string]map[string]string{}
				for _, typeURL := range delta.Order() {
					next[typeURL] = map[string]string{}
				}
				for _, name := range []string{"a", "b", "c"} {
					if draw(3) == 0 {
						continue
					}
					for _, typeURL := range delta.Order() {
						next[typeURL][name] = p.visible[typeURL][name]
						if next[typeURL][name] == "" || draw(3) == 0 {
							version++
							next[typeURL][name] = text(name, version)
							if draw(6) == 0 && typeURL != xds.EndpointType && typeURL != xds.RouteType {
								p.bad[next[typeURL][name]] = true
							}
						}
					}
				}
				p.setTarget(next)
			case 1:
				p.receive()
			default:
				if len(p.pending) > 0 {
					p.answer(draw(len(p.pending)))
				}
			}
		}
		p.settle()
		if len(p.visible) > 0 {
			p.expect()
		}
	})
}
