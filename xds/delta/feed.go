package delta

import (
	"maps"
	"slices"

	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/ringfence-mesh/ringfence/xds"
)

// feed is the conversation about one resource type.
type feed struct {
	typeURL string
	open    bool // the client asked for this type
	sub     stream.Subscription
	greeted bool                // a wildcard's first response was sent, be it empty
	absent  map[string]struct{} // subscribed names that the client was told are not there
	acked   map[string]accepted
	refused map[string]Refusal

	stale bool // the plan below has to be made anew
	plan  plan
}

// plan is what is left to say, each list sorted.
type plan struct {
	add    []string // new or changed
	absent []string // names that were asked for and are not there
	remove []string // names that the client has and shall no longer have
}

// accepted is the newest acknowledged version of a resource; seq is the response's number.
type accepted struct {
	version string
	seq     uint64
}

// Refusal is a resource version that the client refused, in its own words.
type Refusal struct {
	Version string
	Text    string
	seq     uint64
}

func newFeed(typeURL string) *feed {
	return &feed{
		typeURL: typeURL,
		absent:  map[string]struct{}{},
		acked:   map[string]accepted{},
		refused: map[string]Refusal{},
		stale:   true,
	}
}

// subscribe works a request's names in. What the client says it has counts only in the first request of a type.
func (f *feed) subscribe(add, drop []string, has map[string]string, t Target) {
	switch {
	case !f.open:
		f.open = true
		legacy := f.typeURL == xds.ClusterType || f.typeURL == xds.ListenerType // the only types that Envoy asks for without a name
		f.sub = stream.NewDeltaSubscription(add, drop, maps.Clone(has), legacy)
		for name, version := range f.sub.ReturnedResources() {
			f.acked[name] = accepted{version: version}
		}
	case len(add) == 0 && len(drop) == 0:
		return
	default:
		f.sub.UpdateResourceSubscriptions(add, drop)
		for _, name := range add {
			// Who asks again for what it was sent has forgotten it: the protocol says to send it again.
			if _, there := t.Get(f.typeURL, name); there {
				delete(f.sub.ReturnedResources(), name)
			}
			delete(f.absent, name)
		}
	}
	f.prune()
	f.stale = true
}

// prune forgets what the client no longer asks for.
func (f *feed) prune() {
	gone := func(name string) bool { return !f.visible(name) }
	if !f.sub.IsWildcard() {
		maps.DeleteFunc(f.sub.ReturnedResources(), func(name, _ string) bool { return gone(name) })
		maps.DeleteFunc(f.acked, func(name string, _ accepted) bool { return gone(name) })
		maps.DeleteFunc(f.refused, func(name string, _ Refusal) bool { return gone(name) })
	}
	maps.DeleteFunc(f.absent, func(name string, _ struct{}) bool { return !f.named(name) })
}

func (f *feed) named(name string) bool {
	_, ok := f.sub.SubscribedResources()[name]
	return ok
}

func (f *feed) visible(name string) bool {
	return f.open && (f.sub.IsWildcard() || f.named(name))
}

// replan compares what the client was sent with what it shall have.
func (f *feed) replan(t Target) {
	if !f.stale {
		return
	}
	f.stale, f.plan = false, plan{}
	if !f.open || t.IsZero() {
		return
	}
	sent := f.sub.ReturnedResources()
	wanted := t.Names(f.typeURL)
	if !f.sub.IsWildcard() {
		wanted = slices.Sorted(maps.Keys(f.sub.SubscribedResources()))
	}
	for _, name := range wanted {
		if r, ok := t.Get(f.typeURL, name); ok && sent[name] != r.Version() {
			f.plan.add = append(f.plan.add, name)
		}
	}
	for name := range f.sub.SubscribedResources() {
		_, told := f.absent[name]
		if _, there := t.Get(f.typeURL, name); !there && !told && sent[name] == "" {
			f.plan.absent = append(f.plan.absent, name)
		}
	}
	for name, version := range sent {
		if _, there := t.Get(f.typeURL, name); there {
			continue
		}
		switch {
		case version != "":
			f.plan.remove = append(f.plan.remove, name)
		case !f.named(name): // a name was unsubscribed under a wildcard: the protocol wants an answer
			f.plan.absent = append(f.plan.absent, name)
		}
	}
	if f.typeURL == xds.SecretType {
		f.silence()
	}
	slices.Sort(f.plan.absent)
	slices.Sort(f.plan.remove)
}

// silence keeps from a client that it lacks a secret it asked for by name. Only who asked for all of them is told.
func (f *feed) silence() {
	f.plan.absent = slices.DeleteFunc(f.plan.absent, f.named)
	f.plan.remove = slices.DeleteFunc(f.plan.remove, f.named)
}

// greeting reports whether a wildcard's first response is due though there is nothing to tell: the client waits for it.
func (f *feed) greeting(t Target) bool {
	return f.open && !t.IsZero() && f.sub.IsWildcard() && !f.greeted && len(f.plan.add) == 0
}

// quiet reports whether nothing is left to say.
func (f *feed) quiet(t Target) bool {
	f.replan(t)
	return len(f.plan.add) == 0 && len(f.plan.absent) == 0 && len(f.plan.remove) == 0 && !f.greeting(t)
}

// current reports whether the client acknowledged all that it may see and asked for.
func (f *feed) current(t Target) bool {
	for _, name := range t.Names(f.typeURL) {
		if r, _ := t.Get(f.typeURL, name); f.visible(name) && f.acked[name].version != r.Version() {
			return false
		}
	}
	return true
}

func (f *feed) accept(name, version string, seq uint64) {
	if !f.visible(name) || seq < f.acked[name].seq {
		return
	}
	f.acked[name] = accepted{version: version, seq: seq}
	if f.refused[name].seq < seq {
		delete(f.refused, name)
	}
}

func (f *feed) refuse(name, version, text string, seq uint64) {
	if f.visible(name) && seq >= f.refused[name].seq && seq >= f.acked[name].seq {
		f.refused[name] = Refusal{Version: version, Text: text, seq: seq}
	}
}

func (f *feed) forget(name string) {
	delete(f.sub.ReturnedResources(), name)
	delete(f.acked, name)
	delete(f.refused, name)
}
