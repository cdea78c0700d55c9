package health

import (
	"strings"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

func (f Facts) sidecars() list {
	l := list{group: "sidecars"}
	if f.Proxies == nil {
		l.notKnown("streams", noAnswer)
		return l
	}
	all := f.proxies()
	if len(all) == 0 {
		l.fail(CodeNoSidecar, orElse(f.Workload, "streams"), "no document names it, or it is not yours to see")
	}
	for _, p := range all {
		switch {
		case p.GetConnectedUnix() == 0:
			l.fail(CodeDisconnected, p.GetWorkload(), "no agent holds a stream to the control plane")
		case len(p.GetRefused()) > 0:
			l.notKnown(p.GetWorkload(), "it refuses something, see below")
		case p.GetAcknowledged() != p.GetTarget():
			l.fail(CodeBehind, p.GetWorkload(), "its Envoy has not acknowledged everything that it shall have")
		default:
			l.ok(p.GetWorkload())
		}
	}
	return l
}

func (f Facts) refusals() list {
	l := list{group: "refusals"}
	if f.Proxies == nil {
		l.notKnown("what was refused, and by whom", noAnswer)
		return l
	}
	const check = "no sidecar that is connected refuses anything"
	connected, refused := false, false
	for _, p := range f.proxies() {
		connected = connected || p.GetConnectedUnix() > 0
		for _, r := range p.GetRefused() {
			refused = true
			kind := r.GetTypeUrl()[strings.LastIndexByte(r.GetTypeUrl(), '.')+1:]
			l.fail(CodeRefused, p.GetWorkload(), "%s %s: %s", kind, r.GetName(), r.GetText())
		}
	}
	switch {
	case refused:
	case !connected:
		l.notKnown(check, "none is connected")
	default:
		l.ok(check)
	}
	return l
}

// agents are the agents of the sidecars that are meant, and those that did not say whose they are.
func (f Facts) agents() []Agent {
	var all []Agent
	for _, a := range f.Agents {
		if f.Workload == "" || a.Status.Workload == "" || a.Status.Workload == f.Workload {
			all = append(all, a)
		}
	}
	return all
}

func (f Facts) secrets() list {
	l := list{group: "agents and secrets"}
	known := map[string]bool{}
	for _, a := range f.agents() {
		if a.Err != nil {
			l.fail(CodeAgentAway, "the agent at "+a.Address, "%v", a.Err)
			continue
		}
		who := orElse(a.Status.Workload, "the agent at "+a.Address)
		known[who] = true
		if a.Status.NotReady != "" {
			l.fail(CodeAgentUnready, who+" is ready", "%s", a.Status.NotReady)
		} else {
			l.ok(who + " is ready")
		}
		if a.Status.WorkloadAPI != "" {
			l.fail(CodeAgentSVID, who+": its Workload API gives SVIDs", "%s", a.Status.WorkloadAPI)
		}
		check := who + ": its Envoy holds its secrets"
		switch {
		case len(a.Status.Missing) > 0:
			l.fail(CodeNoSecret, check, "it lacks %s", strings.Join(a.Status.Missing, ", "))
		case a.Status.EnvoyVersion == "":
			l.notKnown(check, "no Envoy has said that it is there")
		default:
			l.ok(check)
		}
	}
	for _, p := range f.proxies() {
		if !known[p.GetWorkload()] {
			l.notKnown(p.GetWorkload()+": its Envoy holds its secrets", "its agent alone knows, and --agent does not name one that is reached")
		}
	}
	return l
}

func (f Facts) envoys() list {
	l := list{group: "Envoy"}
	for _, p := range f.proxies() {
		if p.GetConnectedUnix() > 0 {
			judgeEnvoy(&l, "the Envoy of "+p.GetWorkload(), f.envoyVersion(p))
		}
	}
	if len(l.checks) == 0 {
		l.notKnown("versions and known vulnerabilities", "no Envoy is connected")
	}
	return l
}

// envoyVersion is what the sidecar's agent says at its own address, else what the stream says.
func (f Facts) envoyVersion(p *agentv1alpha1.Proxy) string {
	for _, a := range f.agents() {
		if a.Err == nil && a.Status.Workload == p.GetWorkload() && a.Status.EnvoyVersion != "" {
			return a.Status.EnvoyVersion
		}
	}
	return p.GetEnvoyVersion()
}

// judgeEnvoy judges a version that an Envoy says it has.
func judgeEnvoy(l *list, who, text string) {
	v, err := ParseVersion(text)
	if err != nil {
		l.notKnown(who, "it has not said its version")
		return
	}
	who += " (" + v.String() + ")"
	if v.compare(Oldest()) < 0 {
		l.fail(CodeEnvoyOld, who, "it is %s, needed is %s or newer", v, Oldest())
	}
	var unsure []string
	well := true
	for _, u := range Vulnerabilities() {
		switch u.In(v) {
		case Open:
			well = false
			l.fail(CodeEnvoyOpen, who, "%s: %s; fixed in %s", u.ID, u.What, u.Fixed[len(u.Fixed)-1])
		case Unknown:
			unsure = append(unsure, u.ID)
		case Closed:
		}
	}
	if well && v.compare(Oldest()) >= 0 {
		l.ok(who + " is new enough, and has no vulnerability that is known to be open in it")
	}
	if len(unsure) > 0 {
		l.notKnown(who+": "+strings.Join(unsure, ", "), "Envoy's change lists do not say whether this version has it")
	}
}
