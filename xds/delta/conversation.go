package delta

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/xds"
)

// One response holds at most this much, for types of which several resources may share a response.
const (
	batchResources = 64
	batchBytes     = 256 << 10
	batchNames     = 1024
)

// Conversation is the state of one client's stream. It is not safe for concurrent use.
type Conversation struct {
	limits   Limits
	target   Target
	feeds    map[string]*feed
	inOrder  []*feed
	seq      uint64             // of the last response
	open     map[uint64]*letter // responses without an answer
	fresh    int                // of these, the ones that brought something
	awaiting map[string]struct{}
}

// letter is a response that waits for the client's answer.
type letter struct {
	feed  *feed
	items map[string]string // name -> version
	fresh bool
}

// New starts a conversation in which nothing is known yet.
func New(limits Limits) *Conversation {
	c := &Conversation{
		limits: limits, feeds: map[string]*feed{}, open: map[uint64]*letter{}, awaiting: map[string]struct{}{},
	}
	for _, typeURL := range Order() {
		f := newFeed(typeURL)
		c.feeds[typeURL] = f
		c.inOrder = append(c.inOrder, f)
	}
	return c
}

// SetTarget changes what the client may see.
func (c *Conversation) SetTarget(t Target) {
	c.target = t
	for _, f := range c.inOrder {
		f.stale = true
	}
	for name := range c.awaiting {
		_, cluster := t.Get(xds.ClusterType, name)
		_, endpoints := t.Get(xds.EndpointType, name)
		if !cluster || !endpoints {
			delete(c.awaiting, name)
		}
	}
}

// Request works in what the client sent: a subscription, an answer to a response, or both. A type that is never served
// is ignored. The errors, ErrProtocol and ErrLimit, end the stream. The request's node is not read.
func (c *Conversation) Request(req *discovery.DeltaDiscoveryRequest) error {
	switch {
	case req.GetTypeUrl() == "":
		return fmt.Errorf("%w: no type URL", ErrProtocol)
	case proto.Size(req) > c.limits.RequestBytes:
		return fmt.Errorf("%w: a request has more than %d bytes", ErrLimit, c.limits.RequestBytes)
	}
	f, ok := c.feeds[req.GetTypeUrl()]
	if !ok {
		return nil
	}
	if req.GetResponseNonce() != "" {
		c.answer(f, req)
	}
	f.subscribe(req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe(), req.GetInitialResourceVersions(), c.target)
	if len(f.sub.SubscribedResources()) > c.limits.Names || len(req.GetInitialResourceVersions()) > c.limits.Names {
		return fmt.Errorf("%w: more than %d names of one type", ErrLimit, c.limits.Names)
	}
	if f.typeURL == xds.EndpointType {
		for name := range c.awaiting {
			if f.visible(name) {
				delete(c.awaiting, name)
			}
		}
	}
	return nil
}

// answer takes an ACK or NACK. What answers no open response of that type is ignored.
func (c *Conversation) answer(f *feed, req *discovery.DeltaDiscoveryRequest) {
	seq, l := c.answered(req)
	if l == nil {
		return
	}
	delete(c.open, seq)
	if l.fresh {
		c.fresh--
	}
	for name, version := range l.items {
		if req.GetErrorDetail() == nil {
			f.accept(name, version, seq)
			continue
		}
		f.refuse(name, version, Text(req.GetErrorDetail().GetMessage()), seq)
		if f.typeURL == xds.ClusterType {
			delete(c.awaiting, name) // nobody will ask for the endpoints of a refused cluster
		}
	}
}

// answered is the open response that a request answers, nil if there is none.
func (c *Conversation) answered(req *discovery.DeltaDiscoveryRequest) (uint64, *letter) {
	seq, err := strconv.ParseUint(req.GetResponseNonce(), 10, 64)
	if l, ok := c.open[seq]; ok && err == nil && l.feed.typeURL == req.GetTypeUrl() {
		return seq, l
	}
	return 0, nil
}

// Refuses reports whether the request, which was not worked in yet, refuses a response that waits for an answer.
func (c *Conversation) Refuses(req *discovery.DeltaDiscoveryRequest) bool {
	_, l := c.answered(req)
	return l != nil && req.GetErrorDetail() != nil
}

// Text is a client's text as it may be kept and logged: bounded, and valid UTF-8.
func Text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}

// Next is the next response to send, or nil if there is nothing to say before the next request or target.
func (c *Conversation) Next() (*discovery.DeltaDiscoveryResponse, error) {
	resp := c.next()
	if resp != nil && len(c.open) > c.limits.Unanswered {
		return nil, fmt.Errorf("%w: %d responses without an answer", ErrLimit, len(c.open))
	}
	return resp, nil
}

func (c *Conversation) next() *discovery.DeltaDiscoveryResponse {
	held := false
	for _, f := range c.inOrder {
		f.replan(c.target)
		held = held || (len(c.awaiting) > 0 && (f.typeURL == xds.ListenerType || f.typeURL == xds.RouteType))
		switch {
		case len(f.plan.absent) > 0:
			return c.tellAbsent(f)
		case held:
		case len(f.plan.add) > 0:
			return c.tellNew(f)
		case f.greeting(c.target):
			return c.write(f, &discovery.DeltaDiscoveryResponse{}, nil)
		}
	}
	if held || (c.fresh > 0 && !c.relay()) {
		return nil
	}
	for _, f := range slices.Backward(c.inOrder) {
		if len(f.plan.remove) > 0 {
			return c.tellRemoved(f)
		}
	}
	return nil
}

// relay reports whether the client is an agent, which commits a set as a whole and therefore acknowledges late.
func (c *Conversation) relay() bool { return c.feeds[xds.TableType].open }

func (c *Conversation) tellNew(f *feed) *discovery.DeltaDiscoveryResponse {
	resp, items, size := &discovery.DeltaDiscoveryResponse{}, map[string]string{}, 0
	sent := f.sub.ReturnedResources()
	for len(f.plan.add) > 0 {
		r, _ := c.target.Get(f.typeURL, f.plan.add[0])
		if len(items) > 0 && (alone(f.typeURL) || len(items) == batchResources || size+len(r.Value()) > batchBytes) {
			break
		}
		f.plan.add = f.plan.add[1:]
		size += len(r.Value())
		items[r.Name()], sent[r.Name()] = r.Version(), r.Version()
		delete(f.absent, r.Name())
		resp.Resources = append(resp.Resources, &discovery.Resource{
			Name: r.Name(), Version: r.Version(), Resource: &anypb.Any{TypeUrl: f.typeURL, Value: r.Value()},
		})
		c.await(f, r.Name())
	}
	return c.write(f, resp, items)
}

// alone reports whether resources of that type come one per response, so that a refusal means one of them.
func alone(typeURL string) bool {
	return typeURL == xds.ClusterType || typeURL == xds.ListenerType || typeURL == xds.RouteType
}

// await remembers that a proxy will ask for the endpoints of this cluster, and that listeners and routes wait for it.
func (c *Conversation) await(f *feed, name string) {
	if f.typeURL != xds.ClusterType || c.relay() {
		return
	}
	if _, ok := c.target.Get(xds.EndpointType, name); ok && !c.feeds[xds.EndpointType].visible(name) {
		c.awaiting[name] = struct{}{}
	}
}

func (c *Conversation) tellAbsent(f *feed) *discovery.DeltaDiscoveryResponse {
	var names []string
	names, f.plan.absent = cut(f.plan.absent)
	for _, name := range names {
		f.forget(name)
		if f.named(name) {
			f.absent[name] = struct{}{}
		}
	}
	return c.write(f, &discovery.DeltaDiscoveryResponse{RemovedResources: names}, nil)
}

func (c *Conversation) tellRemoved(f *feed) *discovery.DeltaDiscoveryResponse {
	var names []string
	names, f.plan.remove = cut(f.plan.remove)
	for _, name := range names {
		f.forget(name)
		if f.named(name) {
			f.absent[name] = struct{}{}
		}
		for _, l := range c.open {
			if l.feed == f {
				delete(l.items, name) // a late answer about what is gone says nothing
			}
		}
	}
	return c.write(f, &discovery.DeltaDiscoveryResponse{RemovedResources: names}, nil)
}

func cut(names []string) (head, tail []string) {
	n := min(len(names), batchNames)
	return names[:n:n], names[n:]
}

// write gives the response its nonce and waits for the answer.
func (c *Conversation) write(f *feed, resp *discovery.DeltaDiscoveryResponse, items map[string]string) *discovery.DeltaDiscoveryResponse {
	c.seq++
	f.greeted = true
	resp.TypeUrl, resp.Nonce = f.typeURL, strconv.FormatUint(c.seq, 10)
	c.open[c.seq] = &letter{feed: f, items: items, fresh: len(items) > 0}
	if len(items) > 0 {
		c.fresh++
	}
	return resp
}
