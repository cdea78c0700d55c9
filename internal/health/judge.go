package health

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	// maxSkew is half of the minute by which the issuer backdates certificates.
	maxSkew = 30 * time.Second
	// rootEndsSoon is enough to replace a root without haste; for a root that lives shortly it is an eighth of its life.
	rootEndsSoon      = 90 * 24 * time.Hour
	rootEndsSoonShare = 8
)

// Judge says how a running mesh is.
func Judge(f Facts) Report {
	return report(
		f.plane(), f.certificates(), f.clocks(), f.issuer(), f.configuration(), f.sidecars(), f.refusals(), f.secrets(), f.envoys(),
	)
}

// noAnswer is why everything that the control plane would have said is not known.
const noAnswer = "the control plane did not answer"

func (f Facts) plane() list {
	l := list{group: "control plane"}
	check := "answers at " + f.Plane
	if f.Health == nil || f.Proxies == nil {
		code, why := f.PlaneCode, noAnswer
		if code == "" {
			code = CodeNoAnswer
		}
		if f.PlaneErr != nil {
			why = f.PlaneErr.Error()
		}
		l.fail(code, check, "%s", why)
		return l
	}
	l.ok(check)
	if f.Health.GetPublished() {
		l.ok("a configuration is published")
	} else {
		l.fail(CodeUnpublished, "a configuration is published", "there is none since the control plane started")
	}
	return l
}

func (f Facts) certificates() list {
	l := list{group: "certificates"}
	if f.Own != nil {
		check := "the certificate shown by this command is valid"
		if outside(f.Own.NotBefore, f.Own.NotAfter, f.Now) {
			l.fail(CodeOwnSVID, check, "it holds %s", between(f.Own.NotBefore, f.Own.NotAfter))
		} else {
			l.ok(check)
		}
	}
	if f.Health == nil {
		l.notKnown("the control plane's SVID and the trust bundles", noAnswer)
	} else {
		f.planeSVID(&l)
		for _, b := range f.Health.GetBundles() {
			f.bundle(&l, b)
		}
	}
	for _, p := range f.proxies() {
		if p.GetConnectedUnix() == 0 {
			continue
		}
		check := "SVID of " + p.GetWorkload()
		switch from, to := time.Unix(p.GetSvidNotBeforeUnix(), 0), time.Unix(p.GetSvidNotAfterUnix(), 0); {
		case p.GetSvidNotAfterUnix() == 0:
			l.notKnown(check, "the control plane does not say when it ends")
		case lastQuarter(from, to, f.planeNow()):
			l.fail(CodeSidecarStale, check, "it ends at %s and is not renewed", stamp(to))
		default:
			l.ok(check)
		}
	}
	for _, a := range f.agents() {
		if to := a.Status.NotAfter; a.Err == nil && !to.IsZero() && a.Status.Now.After(to) {
			l.fail(CodeSidecarExpiry, "SVID of "+a.Status.Workload+", by its agent", "it ended at %s", stamp(to))
		}
	}
	return l
}

func (f Facts) planeSVID(l *list) {
	const check = "the control plane's SVID"
	leaf, err := x509.ParseCertificate(f.Health.GetSvid())
	switch {
	case f.Health.GetSvidMissing() != "":
		l.fail(CodePlaneSVID, check, "there is none: %s", f.Health.GetSvidMissing())
	case err != nil:
		l.fail(CodePlaneSVID, check, "it is no certificate: %v", err)
	case outside(leaf.NotBefore, leaf.NotAfter, f.Now):
		l.fail(CodePlaneSVID, check, "it holds %s", between(leaf.NotBefore, leaf.NotAfter))
	case lastQuarter(leaf.NotBefore, leaf.NotAfter, f.Now):
		l.fail(CodePlaneStale, check, "it ends at %s and is not renewed", stamp(leaf.NotAfter))
	default:
		l.ok(check)
	}
}

func (f Facts) bundle(l *list, b *agentv1alpha1.HealthBundle) {
	check := "roots of " + b.GetTrustDomain()
	td, err := identity.ParseTrustDomain(b.GetTrustDomain())
	var bundle identity.Bundle
	if err == nil {
		bundle, err = identity.NewBundle(td, b.GetRoots()...)
	}
	if err != nil {
		l.fail(CodeNoRoot, check, "%v", err)
		return
	}
	if b.GetExternal() {
		f.external(l, check, bundle)
		return
	}
	if !bundle.Constrained() {
		l.fail(CodeRootOpen, check, "a root could vouch for other trust domains")
		return
	}
	for _, der := range bundle.DER() {
		root, err := x509.ParseCertificate(der)
		switch {
		case err != nil: // NewBundle has parsed it
			l.fail(CodeNoRoot, check, "%v", err)
			return
		case outside(root.NotBefore, root.NotAfter, f.Now):
			l.fail(CodeRootInvalid, check, "a root holds %s", between(root.NotBefore, root.NotAfter))
			return
		case root.NotAfter.Sub(f.Now) < min(rootEndsSoon, root.NotAfter.Sub(root.NotBefore)/rootEndsSoonShare):
			l.fail(CodeRootEnds, check, "a root ends at %s", stamp(root.NotAfter))
			return
		}
	}
	l.ok(check)
}

// external judges roots that somebody else replaces, in their own time: one must hold, and no constraint can be demanded of them.
func (f Facts) external(l *list, check string, bundle identity.Bundle) {
	var last *x509.Certificate
	for _, der := range bundle.DER() {
		root, err := x509.ParseCertificate(der)
		if err == nil && !root.NotBefore.After(f.Now) && (last == nil || root.NotAfter.After(last.NotAfter)) {
			last = root
		}
	}
	switch {
	case last == nil:
		l.fail(CodeRootInvalid, check, "no root has begun")
	case outside(last.NotBefore, last.NotAfter, f.Now):
		l.fail(CodeRootInvalid, check, "the last root holds %s", between(last.NotBefore, last.NotAfter))
	case last.NotAfter.Sub(f.Now) < min(rootEndsSoon, last.NotAfter.Sub(last.NotBefore)/rootEndsSoonShare):
		l.fail(CodeRootEnds, check, "the last root ends at %s: bring the file in --trust-bundles up to date", stamp(last.NotAfter))
	case !bundle.Constrained():
		l.add(check, Warning, CodeRootOpen, "external, and not constrained to its trust domain: no listener trusts it for another one")
	default:
		l.ok(check)
	}
}

func (f Facts) clocks() list {
	l := list{group: "clocks"}
	const check = "this machine and the control plane"
	switch {
	case f.Health == nil:
		l.notKnown(check, noAnswer)
	case f.Local:
		l.ok(check) // one machine, one clock
	default:
		// Half of the question's time is not known to be this way or that.
		if ahead := f.Now.Sub(f.planeNow()); ahead.Abs() > maxSkew+f.Took/2 {
			l.fail(CodePlaneClock, check, "this machine is %s", apart(ahead))
		} else {
			l.ok(check)
		}
	}
	for _, p := range f.proxies() {
		check := "the agent of " + p.GetWorkload()
		ahead := time.Duration(p.GetClockAheadMs()) * time.Millisecond
		switch {
		case p.GetConnectedUnix() == 0:
		case p.ClockAheadMs == nil:
			l.notKnown(check, "it has not said what time it has")
		case ahead.Abs() > maxSkew:
			l.fail(CodeSidecarClock, check, "it was %s when it last said so", apart(ahead))
		default:
			l.ok(check)
		}
	}
	return l
}

func (f Facts) issuer() list {
	l := list{group: "issuer"}
	check := "answers as the control plane"
	if f.Issuer.Address != "" {
		check += " at " + f.Issuer.Address
	}
	switch {
	case f.Issuer.Err != nil:
		l.fail(CodeIssuerAway, check, "%v", f.Issuer.Err)
	case f.Issuer.Foreign != nil:
		l.fail(CodeIssuerForeign, check, "%v", f.Issuer.Foreign)
	case f.Issuer.Address == "" || f.Issuer.Unasked != "":
		l.notKnown(check, orElse(f.Issuer.Unasked, "nobody said where it is"))
	default:
		l.ok(check)
	}
	return l
}

func (f Facts) configuration() list {
	l := list{group: "configuration"}
	if f.Health == nil {
		l.notKnown("documents", noAnswer)
		return l
	}
	for _, owner := range f.Health.GetOwners() {
		check := "documents of " + orElse(owner, "nobody")
		problems, warnings := of(f.Health.GetProblems(), owner), of(f.Health.GetWarnings(), owner)
		well := true
		if len(problems) > 0 {
			l.fail(CodeProblems, check, "%s", some(problems))
			well = false
		}
		switch {
		case slices.Contains(f.Health.GetDropped(), owner):
			l.fail(CodeStale, check, "nothing of them is served")
			well = false
		case slices.Contains(f.Health.GetStale(), owner):
			l.fail(CodeStale, check, "the last accepted ones are served, not the newest")
			well = false
		}
		if len(warnings) > 0 {
			l.add(check, Warning, CodeWarnings, "%s", some(warnings))
		} else if well {
			l.ok(check)
		}
	}
	const whole = "the newest configuration as a whole"
	switch {
	case f.Health.GetCounterexample() != "":
		l.fail(CodeNotIsolated, whole, "%s", f.Health.GetCounterexample())
	case f.Health.GetTrouble() != "":
		l.fail(CodeTrouble, whole, "%s", f.Health.GetTrouble())
	case !f.Health.GetAll():
		l.notKnown(whole, "only who sees the whole mesh is told")
	default:
		l.ok(whole)
	}
	if len(f.Health.GetOwners()) == 0 {
		l.notKnown("documents", "only operators of a tenant are told")
	}
	return l
}

// planeNow is the control plane's time, this machine's where it did not say it.
func (f Facts) planeNow() time.Time {
	if n := f.Health.GetNowUnixNano(); n != 0 {
		return time.Unix(0, n)
	}
	return f.Now
}

// proxies are the sidecars that are meant. Of several streams of one workload the youngest counts: older ones are what a dead
// agent left behind.
func (f Facts) proxies() []*agentv1alpha1.Proxy {
	var all []*agentv1alpha1.Proxy
	for _, p := range f.Proxies.GetProxies() {
		switch n := len(all); {
		case f.Workload != "" && f.Workload != p.GetWorkload():
		case n > 0 && all[n-1].GetWorkload() == p.GetWorkload():
			all[n-1] = p
		default:
			all = append(all, p)
		}
	}
	return all
}

func of(problems []*agentv1alpha1.HealthProblem, owner string) []string {
	var texts []string
	for _, p := range problems {
		if p.GetOwner() == owner {
			texts = append(texts, p.GetText())
		}
	}
	return texts
}

// some is the first, and how many more there are.
func some(texts []string) string {
	first, _, _ := strings.Cut(texts[0], "\n")
	if len(texts) == 1 {
		return first
	}
	return fmt.Sprintf("%s, and %d more", first, len(texts)-1)
}

func outside(from, to, now time.Time) bool { return now.Before(from) || now.After(to) }

func lastQuarter(from, to, now time.Time) bool { return to.Sub(now) < to.Sub(from)/4 }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func between(from, to time.Time) string { return "from " + stamp(from) + " to " + stamp(to) }

func apart(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Millisecond).String() + " behind the control plane"
	}
	return ahead.Round(time.Millisecond).String() + " ahead of the control plane"
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
