package sotw

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// Conversation is the state of one client's stream. It is not safe for concurrent use.
type Conversation struct {
	limits   delta.Limits
	target   delta.Target
	feeds    map[string]*feed
	inOrder  []*feed
	seq      uint64              // of the last response
	awaiting map[string]struct{} // clusters whose endpoints the client has not asked for yet
}

var _ delta.Dialogue[*discovery.DiscoveryRequest, *discovery.DiscoveryResponse] = (*Conversation)(nil)

// New starts a conversation in which nothing is known yet.
func New(limits delta.Limits) *Conversation {
	c := &Conversation{limits: limits, feeds: map[string]*feed{}, awaiting: map[string]struct{}{}}
	for _, typeURL := range delta.Order() {
		if typeURL == xds.TableType {
			continue
		}
		f := newFeed(typeURL)
		c.feeds[typeURL] = f
		c.inOrder = append(c.inOrder, f)
	}
	return c
}

// SetTarget changes what the client may see.
func (c *Conversation) SetTarget(t delta.Target) {
	c.target = t
	for name := range c.awaiting {
		_, cluster := t.Get(xds.ClusterType, name)
		_, endpoints := t.Get(xds.EndpointType, name)
		if !cluster || !endpoints {
			delete(c.awaiting, name)
		}
	}
}

// Target is what is being sent.
func (c *Conversation) Target() delta.Target { return c.target }

// Limits are the ones that the conversation was made with.
func (c *Conversation) Limits() delta.Limits { return c.limits }

// Request works in what the client sent: names, an answer to a response, or both. A type that is never served is
// ignored, and so is everything that comes with the nonce of an older response than the last one of its type: the client
// speaks again when it has read that one. The errors, delta.ErrProtocol and delta.ErrLimit, end the stream. The request's
// node is not read.
func (c *Conversation) Request(req *discovery.DiscoveryRequest) error {
	switch {
	case req.GetTypeUrl() == "":
		return fmt.Errorf("%w: no type URL", delta.ErrProtocol)
	case proto.Size(req) > c.limits.RequestBytes:
		return fmt.Errorf("%w: a request has more than %d bytes", delta.ErrLimit, c.limits.RequestBytes)
	case len(req.GetResourceNames()) > c.limits.Names:
		return fmt.Errorf("%w: more than %d names of one type", delta.ErrLimit, c.limits.Names)
	}
	f, ok := c.feeds[req.GetTypeUrl()]
	if !ok || (f.open && req.GetResponseNonce() != f.nonce) {
		return nil
	}
	if c.answers(f, req) {
		c.answer(f, req)
	}
	f.subscribe(req.GetResourceNames())
	if f.typeURL == xds.EndpointType {
		maps.DeleteFunc(c.awaiting, func(name string, _ struct{}) bool { return f.visible(name) })
	}
	return nil
}

// answers reports whether the request is the answer to the feed's open response.
func (*Conversation) answers(f *feed, req *discovery.DiscoveryRequest) bool {
	return f.letter != nil && req.GetResponseNonce() == f.nonce
}

func (c *Conversation) answer(f *feed, req *discovery.DiscoveryRequest) {
	if req.GetErrorDetail() == nil {
		f.accept()
		return
	}
	if f.typeURL == xds.ClusterType {
		for name := range f.letter {
			delete(c.awaiting, name) // nobody will ask for the endpoints of a refused cluster
		}
	}
	f.refuse(delta.Text(req.GetErrorDetail().GetMessage()))
}

// Refuses reports whether the request, which was not worked in yet, refuses a response that waits for an answer.
func (c *Conversation) Refuses(req *discovery.DiscoveryRequest) bool {
	f, ok := c.feeds[req.GetTypeUrl()]
	return ok && c.answers(f, req) && req.GetErrorDetail() != nil
}

// Next is the next response to send, or nil if there is nothing to say before the next request or target. It has no error
// to give: what waits for an answer is bounded by the number of types.
func (c *Conversation) Next() (*discovery.DiscoveryResponse, error) {
	if c.target.IsZero() {
		return nil, nil //nolint:nilnil // nothing to say
	}
	settled, blocked := true, len(c.awaiting) > 0
	for _, f := range c.inOrder {
		held := blocked && (f.typeURL == xds.ListenerType || f.typeURL == xds.RouteType)
		news := f.news(c.target)
		if f.whole() && len(f.held) > 0 && len(news) > 1 {
			news = news[:1] // so that a refusal means one resource
		}
		if !held && f.letter == nil && (len(news) > 0 || f.greeting()) {
			return c.tell(f, news, f.leaving(c.target)), nil
		}
		blocked = blocked || len(news) > 0
		settled = settled && !held && f.letter == nil && len(news) == 0
	}
	if !settled {
		return nil, nil //nolint:nilnil // nothing to say before an answer
	}
	for _, f := range slices.Backward(c.inOrder) {
		if len(f.leaving(c.target)) > 0 {
			return c.tell(f, nil, nil), nil
		}
	}
	return nil, nil //nolint:nilnil // all is said
}

// tell writes a type's next response: what is new, and, for a type that comes whole, all that is visible and what may not
// go yet.
func (c *Conversation) tell(f *feed, news []string, leaving map[string]xds.Resource) *discovery.DiscoveryResponse {
	f.letter = map[string]xds.Resource{}
	for _, name := range news {
		f.letter[name], _ = c.target.Get(f.typeURL, name)
		f.sent[name] = f.letter[name].Version()
		c.await(f, name)
	}
	send := f.letter
	if f.whole() {
		send = f.all(c.target, leaving)
		f.held = send
		f.forget(func(name string) bool { _, ok := send[name]; return !ok && !slices.Contains(f.wanted(c.target), name) })
	}
	c.seq++
	f.greeted, f.nonce = true, strconv.FormatUint(c.seq, 10)
	resp := &discovery.DiscoveryResponse{TypeUrl: f.typeURL, Nonce: f.nonce}
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(send)) {
		resp.Resources = append(resp.Resources, &anypb.Any{TypeUrl: f.typeURL, Value: send[name].Value()})
		fmt.Fprintf(hash, "%d:%s=%s\n", len(name), name, send[name].Version())
	}
	resp.VersionInfo = hex.EncodeToString(hash.Sum(nil)[:8])
	return resp
}

// await remembers that a proxy will ask for the endpoints of this cluster, and that listeners and routes wait for it.
func (c *Conversation) await(f *feed, name string) {
	if f.typeURL != xds.ClusterType {
		return
	}
	if _, ok := c.target.Get(xds.EndpointType, name); ok && !c.feeds[xds.EndpointType].visible(name) {
		c.awaiting[name] = struct{}{}
	}
}

// Holding reports whether listeners and routes wait for the client to ask for endpoints.
func (c *Conversation) Holding() bool { return len(c.awaiting) > 0 }

// Release ends that wait: a client that does not ask shall not wait for ever for the rest.
func (c *Conversation) Release() { clear(c.awaiting) }

// Current reports whether the client asked for clusters and listeners and acknowledged all that it asked for.
func (c *Conversation) Current() bool {
	if c.target.IsZero() || len(c.awaiting) > 0 {
		return false
	}
	for _, f := range c.inOrder {
		if (f.whole() && !f.open) || f.letter != nil || len(f.news(c.target)) > 0 || len(f.leaving(c.target)) > 0 || f.greeting() {
			return false
		}
		for _, name := range f.wanted(c.target) {
			if r, _ := c.target.Get(f.typeURL, name); f.acked[name].Version() != r.Version() {
				return false
			}
		}
	}
	return true
}

// Refusals are the versions that the client refused and has not got over, by resource.
func (c *Conversation) Refusals() map[delta.Key]delta.Refusal {
	all := map[delta.Key]delta.Refusal{}
	for _, f := range c.inOrder {
		for name, refusal := range f.refused {
			all[delta.Key{TypeURL: f.typeURL, Name: name}] = refusal
		}
	}
	return all
}
