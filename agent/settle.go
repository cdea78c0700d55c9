package agent

import (
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// report takes where Envoy stands; the zero value is for an Envoy that is not connected.
func (r *relay) report(now delta.Report) {
	for k, refusal := range now.Refused {
		if r.envoy.Refused[k].Version != refusal.Version {
			r.log.Error("Envoy refused a resource",
				zap.String("type", k.TypeURL), zap.String("name", k.Name), zap.String("text", refusal.Text))
		}
	}
	r.envoy, r.quiet = now, false
}

// listening reports whether Envoy has answered everything, so that what it has not asked for by then counts once it has
// had a moment to ask.
func (r *relay) listening() bool { return r.envoy.Idle && r.envoy.Target == r.targetID() && !r.quiet }

// standing is how far a resource is on its way to Envoy.
type standing int

const (
	waiting standing = iota
	settledWell
	settledBadly
)

// stands says where a version of a resource is that the control plane sent.
func (r *relay) stands(k delta.Key, version string) (standing, string) {
	if k.TypeURL == xds.TableType {
		return r.tableStands(version), ""
	}
	in, committed := r.inForce(k)
	switch {
	case version == "": // removed
		if _, has := r.envoy.Acked[k]; committed || (has && k.TypeURL != xds.SecretType) {
			return r.superseded(k, version), ""
		}
		return settledWell, "" // of a secret that goes away Envoy is told nothing
	case in != version:
		return r.superseded(k, version), ""
	case r.envoy.Acked[k] == version:
		return settledWell, ""
	case r.envoy.Refused[k].Version == version:
		return settledBadly, fmt.Sprintf("%s %s: %s", k.TypeURL, k.Name, r.envoy.Refused[k].Text)
	}
	if _, asked := r.envoy.Asked[k]; !asked && r.quiet {
		return settledWell, "" // Envoy has no use for it
	}
	return waiting, ""
}

// superseded: a version that is not in force any more is no longer waited for, one that is not in force yet is.
func (r *relay) superseded(k delta.Key, version string) standing {
	if res, ok := r.received[k]; (ok && res.called == version) || (!ok && version == "") {
		return waiting
	}
	return settledWell
}

func (r *relay) tableStands(version string) standing {
	switch version {
	case r.settled.version():
		return settledWell
	case r.arriving.version(), r.committed.table.version(), r.newest.version():
		return waiting
	default:
		return settledWell
	}
}

// inForce is the committed version of a resource.
func (r *relay) inForce(k delta.Key) (string, bool) {
	res, ok := r.committed.get(k)
	return res.Version(), ok
}

// settle draws what follows from Envoy's answers: the new table alone, and answers to the control plane.
func (r *relay) settle() {
	if r.current() && r.settled.version() != r.committed.table.version() {
		r.settled = r.committed.table
		r.save()
		r.decide()
		r.log.Info("configuration in force", zap.String("snapshot", r.committed.snapshot.Version()))
	}
	if r.send == nil {
		return
	}
	open := r.letters[:0]
	for _, l := range r.letters {
		switch how, text := r.letter(l); how {
		case waiting:
			open = append(open, l)
		case settledWell, settledBadly:
			r.answer(l, text)
		}
	}
	clear(r.letters[len(open):])
	r.letters = open
}

// letter is where a whole response stands: refused as soon as one resource is, settled when all are.
func (r *relay) letter(l *letter) (standing, string) {
	all := settledWell
	for k, version := range l.items {
		switch how, text := r.stands(k, version); how {
		case settledBadly:
			return settledBadly, text
		case waiting:
			all = waiting
		case settledWell:
		}
	}
	return all, ""
}

// current reports whether Envoy has acknowledged everything that is committed.
func (r *relay) current() bool {
	if r.committed.table.decoded == nil || r.envoy.Target != r.targetID() {
		return false
	}
	for _, res := range r.committed.snapshot.All() {
		if how, _ := r.stands(keyOf(res), res.Version()); how != settledWell {
			return false
		}
	}
	return true
}

// missingSecrets are the names of the secrets that Envoy shall have and does not, the workload's own SVID among them.
func (r *relay) missingSecrets() []string {
	var names []string
	for _, res := range append(slices.Clone(r.committed.snapshot.All()), r.own) {
		k := keyOf(res)
		_, asked := r.envoy.Asked[k]
		if k.TypeURL == xds.SecretType && r.envoy.Acked[k] != res.Version() && (asked || !r.quiet) {
			names = append(names, k.Name)
		}
	}
	return names
}

// hint tells the control plane the version of an Envoy that connected after the stream's first request. Nothing is asked for
// by it: the sender adds the node where the node says something new.
func (r *relay) hint() {
	if r.send != nil {
		r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.TableType})
	}
}
