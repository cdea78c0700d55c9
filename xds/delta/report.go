package delta

import "github.com/ringfence-mesh/ringfence/xds"

// Key names a resource.
type Key struct{ TypeURL, Name string }

// Report is where a client stands. It does not change any more.
type Report struct {
	// Target is the ID of the target that the rest is about.
	Target string
	// Idle says that everything was sent that the client asked for, and that everything was answered.
	Idle bool
	// Current says that the client is idle and acknowledged all of it.
	Current bool
	// Acked are the versions that the client acknowledged, or said to have when it connected.
	Acked map[Key]string
	// Refused are the versions that it refused, where it has not acknowledged a later one.
	Refused map[Key]Refusal
	// Asked are the resources of the target that the client asked for.
	Asked map[Key]struct{}
}

// Report says where the client stands.
func (c *Conversation) Report() Report {
	r := Report{
		Target: c.target.id, Idle: c.Idle(), Current: c.Current(),
		Acked: map[Key]string{}, Refused: map[Key]Refusal{}, Asked: map[Key]struct{}{},
	}
	for _, f := range c.inOrder {
		for name, a := range f.acked {
			r.Acked[Key{f.typeURL, name}] = a.version
		}
		for name, refusal := range f.refused {
			r.Refused[Key{f.typeURL, name}] = refusal
		}
		for _, name := range c.target.Names(f.typeURL) {
			if f.visible(name) {
				r.Asked[Key{f.typeURL, name}] = struct{}{}
			}
		}
	}
	return r
}

// Idle reports whether everything was sent that the client asked for, and answered.
func (c *Conversation) Idle() bool {
	if c.target.IsZero() || len(c.open) > 0 || len(c.awaiting) > 0 {
		return false
	}
	for _, f := range c.inOrder {
		if !f.quiet(c.target) {
			return false
		}
	}
	return true
}

// Current reports whether the client asked for what a client of its kind needs and acknowledged all of it.
func (c *Conversation) Current() bool {
	if !c.Idle() {
		return false
	}
	for _, f := range c.inOrder {
		needed := f.typeURL == xds.ClusterType || f.typeURL == xds.ListenerType || c.relay()
		if (needed && !f.open) || !f.current(c.target) {
			return false
		}
	}
	return true
}

// Refusals are the versions that the client refused and has not got over, by resource.
func (c *Conversation) Refusals() map[Key]Refusal {
	all := map[Key]Refusal{}
	for _, f := range c.inOrder {
		for name, refusal := range f.refused {
			all[Key{f.typeURL, name}] = refusal
		}
	}
	return all
}

// Holding reports whether listeners and routes wait for the client to ask for endpoints.
func (c *Conversation) Holding() bool { return len(c.awaiting) > 0 }

// Release ends that wait: a client that does not ask shall not wait for ever for the rest.
func (c *Conversation) Release() { clear(c.awaiting) }

// Target is what is being sent.
func (c *Conversation) Target() Target { return c.target }

// Limits are the ones that the conversation was made with.
func (c *Conversation) Limits() Limits { return c.limits }
