package sotw

import (
	"maps"
	"slices"

	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// feed is the conversation about one resource type.
type feed struct {
	typeURL string
	open    bool // the client asked for this type
	sub     stream.Subscription
	greeted bool                    // a first response was sent, be it empty
	nonce   string                  // of the last response
	letter  map[string]xds.Resource // what the response that waits for an answer brought; nil: none waits
	sent    map[string]string       // name -> version that the client was sent last
	acked   map[string]xds.Resource
	refused map[string]delta.Refusal
	held    map[string]xds.Resource // of a type that comes whole: what the client holds, as far as it can be known
	blurred bool                    // something of a response that brought several was refused, and it is not known what
}

func newFeed(typeURL string) *feed {
	return &feed{
		typeURL: typeURL, sent: map[string]string{}, acked: map[string]xds.Resource{},
		refused: map[string]delta.Refusal{}, held: map[string]xds.Resource{},
	}
}

// whole reports whether a response of this type says by leaving a resource out that it is gone. They are also the only
// types that Envoy asks for without a name.
func (f *feed) whole() bool { return f.typeURL == xds.ClusterType || f.typeURL == xds.ListenerType }

func (f *feed) subscribe(names []string) {
	if !f.open {
		f.open = true
		f.sub = stream.NewSotwSubscription(names, f.whole())
		return
	}
	f.sub.SetResourceSubscription(names)
	if !f.whole() {
		f.forget(func(name string) bool { return !f.visible(name) })
	}
}

// forget drops what the client no longer has, so that it is sent again where it is asked for again.
func (f *feed) forget(gone func(name string) bool) {
	maps.DeleteFunc(f.sent, func(name, _ string) bool { return gone(name) })
	maps.DeleteFunc(f.acked, func(name string, _ xds.Resource) bool { return gone(name) })
	maps.DeleteFunc(f.refused, func(name string, _ delta.Refusal) bool { return gone(name) })
}

func (f *feed) visible(name string) bool {
	_, named := f.sub.SubscribedResources()[name]
	return f.open && (f.sub.IsWildcard() || named)
}

// wanted are the names of what the client asked for and is there, sorted.
func (f *feed) wanted(t delta.Target) []string {
	if !f.open {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(t.Names(f.typeURL)), func(name string) bool { return !f.visible(name) })
}

// news are the names of what the client shall have and was not sent in this version, sorted.
func (f *feed) news(t delta.Target) []string {
	return slices.DeleteFunc(f.wanted(t), func(name string) bool {
		r, _ := t.Get(f.typeURL, name)
		return f.sent[name] == r.Version()
	})
}

// leaving is what a client holds of a type that comes whole, and shall no longer hold.
func (f *feed) leaving(t delta.Target) map[string]xds.Resource {
	gone := maps.Clone(f.held)
	maps.DeleteFunc(gone, func(name string, _ xds.Resource) bool {
		_, there := t.Get(f.typeURL, name)
		return there && f.visible(name)
	})
	return gone
}

// all is what the next response of a type that comes whole holds: what was sent and is still visible; of what comes later,
// and of what the client refused, the version that it holds; and what may not go yet.
func (f *feed) all(t delta.Target, leaving map[string]xds.Resource) map[string]xds.Resource {
	all := maps.Clone(leaving)
	if all == nil {
		all = map[string]xds.Resource{}
	}
	for _, name := range f.wanted(t) {
		r, _ := t.Get(f.typeURL, name)
		refused := !f.blurred && f.refused[name].Version == r.Version()
		if f.sent[name] == r.Version() && !refused {
			all[name] = r
		} else if old, ok := f.held[name]; ok {
			all[name] = old
		}
	}
	return all
}

// accept works in an acknowledgement. Of a type that comes whole it speaks for all that the client holds.
func (f *feed) accept() {
	good := f.letter
	if f.whole() {
		good = f.held
	}
	for name, r := range good {
		f.acked[name] = r
		if _, brought := f.letter[name]; brought || f.refused[name].Version == r.Version() {
			delete(f.refused, name)
		}
	}
	f.letter, f.blurred = nil, false
}

// refuse works in a refusal. Where it cannot be told which resource it is about, all new ones are under suspicion, and all
// stay in the responses: the client has taken the good ones, and to leave them out would end what runs.
func (f *feed) refuse(text string) {
	f.blurred = f.whole() && (f.blurred || len(f.letter) > 1)
	for name, r := range f.letter {
		f.refused[name] = delta.Refusal{Version: r.Version(), Text: text}
		if !f.whole() || f.blurred {
			continue
		}
		delete(f.held, name)
		if good, ok := f.acked[name]; ok {
			f.held[name] = good
		}
	}
	f.letter = nil
}

// greeting reports whether a first response is due though there is nothing to tell: the client waits for it.
func (f *feed) greeting() bool { return f.open && f.whole() && !f.greeted }
