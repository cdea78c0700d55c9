package health_test

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/health"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

var update = flag.Bool("update", false, "write docs/checks.md anew")

const (
	plane  = "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"
	web    = "spiffe://acme.demo.test/ns/acme/sa/web"
	orders = "spiffe://acme.demo.test/ns/acme/sa/orders"
)

var errAway = errors.New("connection refused")

// well are the facts of a mesh in which nothing fails.
func well(t *testing.T) health.Facts {
	t.Helper()
	now := time.Now()
	platform, acme := testca.Constrained(t, "platform.demo.test"), testca.Constrained(t, "acme.demo.test")
	sidecar := func(id string) *agentv1alpha1.Proxy {
		return &agentv1alpha1.Proxy{
			Workload: id, Tenant: "acme", ConnectedUnix: now.Unix(), Target: "1", Acknowledged: "1", EnvoyVersion: "1.40.0",
			SvidNotBeforeUnix: now.Add(-time.Minute).Unix(), SvidNotAfterUnix: now.Add(time.Hour).Unix(), ClockAheadMs: proto.Int64(-3),
		}
	}
	return health.Facts{
		Now: now, Plane: "mesh.example:7443", Own: acme.SVID(web).Cert,
		Health: &agentv1alpha1.HealthResponse{
			NowUnixNano: now.UnixNano(), Published: true, All: true, Svid: platform.SVID(plane, testca.ValidFor(-time.Minute, time.Hour)).Cert.Raw,
			Bundles: []*agentv1alpha1.HealthBundle{
				{TrustDomain: "platform.demo.test", Roots: [][]byte{platform.Cert.Raw}}, {TrustDomain: "acme.demo.test", Roots: [][]byte{acme.Cert.Raw}},
			},
			Owners: []string{"acme", "platform"},
		},
		Proxies: &agentv1alpha1.ListProxiesResponse{Generation: 1, Proxies: []*agentv1alpha1.Proxy{sidecar(orders), sidecar(web)}},
		Issuer:  health.Probe{Address: "mesh.example:7444"},
		Agents: []health.Agent{
			{Address: "a:1", Status: health.AgentStatus{Workload: web, Now: now, NotAfter: now.Add(time.Hour), ControlPlane: true, EnvoyVersion: "1.40.0"}},
			{Address: "a:2", Status: health.AgentStatus{Workload: orders, Now: now, NotAfter: now.Add(time.Hour), ControlPlane: true, EnvoyVersion: "1.40.0"}},
		},
	}
}

// wellBefore are the facts of a machine on which everything can start.
func wellBefore() health.BeforeFacts {
	yes, room := true, uint64(1<<30)
	now := time.Date(2027, time.January, 2, 3, 4, 5, 0, time.UTC)
	return health.BeforeFacts{
		Now: now, Envoy: "/usr/bin/envoy", Version: "\n/usr/bin/envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL\n",
		Listen: []health.Port{{Address: ":7443"}}, State: "state", Socket: "/state/s", Room: &room, Config: "mesh", Newest: now, Synchronised: &yes,
		API: &health.WorkloadAPI{Address: "unix:///run/spire/agent.sock", ID: web},
	}
}

// TestWell: nothing fails, and only what the change lists of Envoy do not say is not known.
func TestWell(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]health.Report{"running": health.Judge(well(t)), "before": health.JudgeBefore(wellBefore())} {
		if !r.Healthy || len(r.Failures()) != 0 {
			t.Errorf("%s: %v", name, r.Failures())
		}
		for _, c := range r.Checks {
			if (c.Status == health.OK) != (c.Cause == "") || c.Code != "" {
				t.Errorf("%s: %+v", name, c)
			}
			if c.Status == health.NotKnown && !strings.Contains(c.Check, "CVE-2026-35189") {
				t.Errorf("%s: not known: %+v", name, c)
			}
		}
	}
}

// failing are facts of which each makes some checks fail, and no others.
func failing(t *testing.T) map[string]struct {
	report health.Report
	codes  []health.Code
} {
	t.Helper()
	type verdict = struct {
		report health.Report
		codes  []health.Code
	}
	all := map[string]verdict{}
	running := func(name string, change func(*health.Facts), codes ...health.Code) {
		f := well(t)
		change(&f)
		all[name] = verdict{health.Judge(f), codes}
	}
	silent := func(code health.Code) func(*health.Facts) {
		return func(f *health.Facts) {
			*f = health.Facts{Now: f.Now, Plane: f.Plane, PlaneCode: code, PlaneErr: errAway, Issuer: health.Probe{Unasked: "no"}}
		}
	}
	running("unreachable", silent(health.CodeUnreachable), health.CodeUnreachable)
	running("not permitted", silent(health.CodeNotPermitted), health.CodeNotPermitted)
	running("another answer", silent(""), health.CodeNoAnswer)
	running("nothing known", func(f *health.Facts) { *f = health.Facts{} }, health.CodeNoAnswer)
	running("unpublished", func(f *health.Facts) { f.Health.Published = false }, health.CodeUnpublished)

	ca := testca.Constrained(t, "platform.demo.test")
	svid := func(from, to time.Duration) func(*health.Facts) {
		return func(f *health.Facts) { f.Health.Svid = ca.SVID(plane, testca.ValidFor(from, to)).Cert.Raw }
	}
	running("no SVID", func(f *health.Facts) { f.Health.Svid, f.Health.SvidMissing = nil, "sealed" }, health.CodePlaneSVID)
	running("SVID not said", func(f *health.Facts) { f.Health.Svid = nil }, health.CodePlaneSVID)
	running("SVID expired", svid(-2*time.Hour, -time.Minute), health.CodePlaneSVID)
	running("SVID to come", svid(time.Hour, 2*time.Hour), health.CodePlaneSVID)
	running("SVID not renewed", svid(-time.Hour, 10*time.Minute), health.CodePlaneStale)
	root := func(at func(*health.Facts) time.Duration) func(*health.Facts) {
		return func(f *health.Facts) {
			f.Local = true // this machine's clock is moved, so it is the control plane's
			f.Own = nil
			end := at(f)
			f.Now = f.Now.Add(end)
			f.Health.Svid = ca.SVID(plane, testca.ValidFor(end-time.Hour, end+time.Hour)).Cert.Raw
			f.Health.NowUnixNano = 0
			for _, p := range f.Proxies.GetProxies() {
				p.SvidNotBeforeUnix, p.SvidNotAfterUnix = f.Now.Unix(), f.Now.Add(time.Hour).Unix()
			}
		}
	}
	left := time.Until(ca.Cert.NotAfter)
	running("root ended", root(func(*health.Facts) time.Duration { return left + 24*time.Hour }), health.CodeRootInvalid, health.CodeRootInvalid)
	running("root ends", root(func(*health.Facts) time.Duration { return left - time.Minute }), health.CodeRootEnds, health.CodeRootEnds)
	running("root open", func(f *health.Facts) { f.Health.Bundles[1].Roots = [][]byte{testca.Unconstrained(t, "any").Cert.Raw} }, health.CodeRootOpen)
	running("root for another", func(f *health.Facts) { f.Health.Bundles[1].TrustDomain = "globex.demo.test" }, health.CodeRootOpen)
	external := func(f *health.Facts, roots ...*testca.CA) {
		f.Health.Bundles[1].External, f.Health.Bundles[1].Roots = true, nil
		for _, root := range roots {
			f.Health.Bundles[1].Roots = append(f.Health.Bundles[1].Roots, root.Cert.Raw)
		}
	}
	shaped := func(from, until time.Duration) *testca.CA {
		return &testca.CA{Cert: ca.SVID("spiffe://acme.demo.test", testca.Template(func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
			c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(until)
		})).Cert}
	}
	running("external root open", func(f *health.Facts) { external(f, testca.Unconstrained(t, "any")) })
	running("external, an old root beside", func(f *health.Facts) { external(f, shaped(-2*time.Hour, -time.Hour), testca.Unconstrained(t, "any")) })
	running("external ended", func(f *health.Facts) { external(f, shaped(-2*time.Hour, -time.Hour)) }, health.CodeRootInvalid)
	running("external to come", func(f *health.Facts) { external(f, shaped(time.Hour, 2*time.Hour)) }, health.CodeRootInvalid)
	running("external ends", func(f *health.Facts) { external(f, shaped(-24*time.Hour, time.Hour)) }, health.CodeRootEnds)
	running("no external root", func(f *health.Facts) { external(f) }, health.CodeNoRoot)
	running("no root", func(f *health.Facts) { f.Health.Bundles[1].Roots = nil }, health.CodeNoRoot)
	running("sidecar's SVID", func(f *health.Facts) {
		f.Proxies.Proxies[0].SvidNotBeforeUnix = f.Now.Add(-time.Hour).Unix()
		f.Proxies.Proxies[0].SvidNotAfterUnix = f.Now.Add(time.Minute).Unix()
	}, health.CodeSidecarStale)
	running("own SVID", func(f *health.Facts) {
		f.Own = testca.Constrained(t, "acme.demo.test").SVID(web, testca.ValidFor(-time.Hour, -time.Minute)).Cert
	}, health.CodeOwnSVID)
	running("sidecar's SVID ended", func(f *health.Facts) {
		f.Agents[0].Status.NotAfter = f.Now.Add(-time.Second)
		f.Agents[0].Status.NotReady = "the SVID has expired"
	}, health.CodeSidecarExpiry, health.CodeAgentUnready)

	running("clock ahead", func(f *health.Facts) { f.Health.NowUnixNano = f.Now.Add(-31 * time.Second).UnixNano() }, health.CodePlaneClock)
	running("clock behind", func(f *health.Facts) { f.Health.NowUnixNano = f.Now.Add(31 * time.Second).UnixNano() }, health.CodePlaneClock)
	running("sidecar's clock", func(f *health.Facts) { f.Proxies.Proxies[1].ClockAheadMs = proto.Int64(31_000) }, health.CodeSidecarClock)

	running("issuer away", func(f *health.Facts) { f.Issuer.Err = errAway }, health.CodeIssuerAway)
	running("issuer foreign", func(f *health.Facts) { f.Issuer.Foreign = errAway }, health.CodeIssuerForeign)

	problem := []*agentv1alpha1.HealthProblem{{Owner: "acme", Code: "RF1003", Text: "tenants/acme/x.yaml:1:1: RF1003: no"}}
	running("problems", func(f *health.Facts) { f.Health.Problems = problem }, health.CodeProblems)
	running("stale", func(f *health.Facts) { f.Health.Stale = []string{"acme"} }, health.CodeStale)
	running("dropped", func(f *health.Facts) { f.Health.Dropped = []string{"acme"} }, health.CodeStale)
	running("not isolated", func(f *health.Facts) { f.Health.Counterexample = "acme reaches globex" }, health.CodeNotIsolated)
	running("trouble", func(f *health.Facts) { f.Health.Trouble = "disk full" }, health.CodeTrouble)
	running("warning", func(f *health.Facts) { f.Health.Warnings = problem })

	running("not connected", func(f *health.Facts) { f.Proxies.Proxies[0] = &agentv1alpha1.Proxy{Workload: orders, Target: "1"} }, health.CodeDisconnected)
	running("behind", func(f *health.Facts) { f.Proxies.Proxies[0].Acknowledged = "" }, health.CodeBehind)
	running("nothing to see", func(f *health.Facts) { f.Proxies.Proxies = nil }, health.CodeNoSidecar)
	running("no such sidecar", func(f *health.Facts) { f.Workload = web + "x" }, health.CodeNoSidecar)
	running("refused", func(f *health.Facts) {
		f.Proxies.Proxies[0].Refused = []*agentv1alpha1.RefusedResource{{TypeUrl: "type.googleapis.com/a.b.Listener", Name: "inbound", Text: "address\x1b[2J\nin use"}}
	}, health.CodeRefused)
	running("agent away", func(f *health.Facts) { f.Agents[0] = health.Agent{Address: "a:1", Err: errAway} }, health.CodeAgentAway)
	running("agent not ready", func(f *health.Facts) { f.Agents[0].Status.NotReady = "no" }, health.CodeAgentUnready)
	running("no SVID from the Workload API", func(f *health.Facts) { f.Agents[0].Status.WorkloadAPI = "connection refused" }, health.CodeAgentSVID)
	running("no secret", func(f *health.Facts) { f.Agents[0].Status.Missing = []string{"default"} }, health.CodeNoSecret)
	running("Envoy old", func(f *health.Facts) { f.Agents[0].Status.EnvoyVersion = "1.39.2" }, health.CodeEnvoyOld)
	running("Envoy open", func(f *health.Facts) { f.Agents = nil; f.Proxies.Proxies[0].EnvoyVersion = "1.39.0" },
		append([]health.Code{health.CodeEnvoyOld}, slices.Repeat([]health.Code{health.CodeEnvoyOpen}, 13)...)...)

	before := func(name string, change func(*health.BeforeFacts), codes ...health.Code) {
		f := wellBefore()
		change(&f)
		all["before: "+name] = verdict{health.JudgeBefore(f), codes}
	}
	before("nothing known", func(f *health.BeforeFacts) { *f = health.BeforeFacts{} }, health.CodeEnvoyBroken, health.CodeClock)
	before("no Envoy", func(f *health.BeforeFacts) { f.EnvoyErr = errAway }, health.CodeNoEnvoy)
	before("Envoy does not run", func(f *health.BeforeFacts) { f.VersionErr = errAway }, health.CodeEnvoyBroken)
	before("no version", func(f *health.BeforeFacts) { f.Version = "envoy 1.40.0" }, health.CodeEnvoyBroken)
	before("Envoy old", func(f *health.BeforeFacts) { f.Version = strings.Replace(f.Version, "1.40.0", "1.39.2", 1) }, health.CodeEnvoyOld)
	before("port taken", func(f *health.BeforeFacts) { f.Listen[0].Err = errAway }, health.CodePortTaken)
	before("a damaged file", func(f *health.BeforeFacts) { f.Aside = []string{"state.corrupt-1"} }, health.CodeAside)
	before("disk full", func(f *health.BeforeFacts) { *f.Room = 1 << 20 }, health.CodeNoRoom)
	before("state open", func(f *health.BeforeFacts) { f.StateErr = errAway }, health.CodeStateOpen)
	before("long path", func(f *health.BeforeFacts) { f.Socket = strings.Repeat("x", 108) }, health.CodeLongPath)
	before("no directory", func(f *health.BeforeFacts) { f.ConfigErr = errAway }, health.CodeInvalid)
	before("problems", func(f *health.BeforeFacts) { f.Problems = []string{"one", "two"} }, health.CodeInvalid)
	for _, code := range []health.Code{health.CodeAPIAway, health.CodeNoSVID, health.CodeOtherSVID} {
		before(string(code), func(f *health.BeforeFacts) { f.API.Code, f.API.Err = code, errAway }, code)
	}
	before("clock early", func(f *health.BeforeFacts) { f.Now = time.Unix(0, 0); f.Newest = time.Time{} }, health.CodeClock)
	before("clock late", func(f *health.BeforeFacts) { f.Now = f.Now.AddDate(100, 0, 0) }, health.CodeClock)
	before("clock went back", func(f *health.BeforeFacts) { f.Newest = f.Now.Add(2 * time.Minute) }, health.CodeClock)
	return all
}

// TestFailing provokes every code: what fails is exactly what was meant, and says its cause, a fix and where it is explained.
func TestFailing(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "checks.md"))
	if err != nil {
		t.Fatal(err)
	}
	provoked := map[health.Code]bool{}
	for name, c := range failing(t) {
		if diff := cmp.Diff(c.codes, c.report.Failures()); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%+v", name, diff, c.report.Checks)
		}
		if c.report.Healthy != (len(c.codes) == 0) {
			t.Errorf("%s: healthy %t", name, c.report.Healthy)
		}
		for _, r := range c.report.Checks {
			if r.Status == health.OK {
				continue
			}
			provoked[r.Code] = true
			if r.Cause == "" || strings.ContainsAny(r.Cause, "\n\x1b") {
				t.Errorf("%s: cause %q", name, r.Cause)
			}
			if r.Status != health.NotKnown && (r.Fix == "" || !strings.Contains(string(page), "## "+string(r.Code)+": ")) {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	for _, c := range health.Codes() {
		if !provoked[c.Code] {
			t.Errorf("no case provokes %s, %s", c.Code, c.Title)
		}
	}
}

// TestNotKnown: what nobody said is never well.
func TestNotKnown(t *testing.T) {
	t.Parallel()
	f := well(t)
	f.Health.All, f.Health.Owners, f.Agents, f.Issuer = false, nil, nil, health.Probe{}
	for _, p := range f.Proxies.GetProxies() {
		p.EnvoyVersion, p.ClockAheadMs, p.SvidNotAfterUnix = "", nil, 0
	}
	r := health.Judge(f)
	const unknown = 3 + 2*4 // the issuer, the documents and the whole; of each sidecar its SVID, clock, secrets and Envoy
	if !r.Healthy || r.NotKnown != unknown {
		t.Errorf("healthy %t, %d not known, want %d: %+v", r.Healthy, r.NotKnown, unknown, r.Checks)
	}
	silent := health.Judge(health.Facts{PlaneCode: health.CodeUnreachable, PlaneErr: errAway})
	for _, c := range silent.Checks {
		if c.Status == health.OK {
			t.Errorf("a control plane that is away is well: %+v", c)
		}
	}
}

// TestOneProxy: of the other sidecars, and of their agents, nothing is said.
func TestOneProxy(t *testing.T) {
	t.Parallel()
	f := well(t)
	f.Workload = web
	f.Proxies.Proxies[0].ConnectedUnix = 0
	f.Agents[1].Status.NotReady = "no"
	if r := health.Judge(f); !r.Healthy {
		t.Errorf("%v", r.Failures())
	}
	// An older stream of the same workload is what a dead agent left behind.
	old := proto.CloneOf(f.Proxies.GetProxies()[1])
	old.Acknowledged = "0"
	f.Proxies.Proxies = []*agentv1alpha1.Proxy{f.Proxies.GetProxies()[0], old, f.Proxies.GetProxies()[1]}
	if r := health.Judge(f); !r.Healthy {
		t.Errorf("with an older stream: %v", r.Failures())
	}
}

// TestVulnerabilities: a version has what was fixed after it, and of what nobody said nothing is known.
func TestVulnerabilities(t *testing.T) {
	t.Parallel()
	last := ""
	for _, u := range health.Vulnerabilities() {
		if !strings.HasPrefix(u.ID, "CVE-") || u.What == "" || u.ID == last {
			t.Errorf("%+v", u)
		}
		last = u.ID
	}
	u := health.Vulnerability{Fixed: []health.Version{{1, 36, 11}, {1, 39, 2}}, Unsure: []health.Version{{1, 40, 0}}}
	line := health.Vulnerability{Fixed: []health.Version{{1, 40, 0}}}
	for _, c := range []struct {
		u    health.Vulnerability
		v    string
		want health.State
	}{
		{u, "1.36.10", health.Open},
		{u, "1.36.11", health.Closed},
		{u, "1.39.1", health.Open},
		{u, "1.39.2", health.Closed},
		{u, "1.38.0", health.Open},
		{u, "1.38.7", health.Unknown},
		{u, "1.40.0", health.Unknown},
		{u, "1.40.9", health.Unknown},
		{line, "1.39.0", health.Open},
		{line, "1.39.2", health.Unknown},
		{line, "1.40.0", health.Closed},
		{line, "1.40.3", health.Closed},
		{line, "1.41.0", health.Closed},
		{line, "2.0.1", health.Closed},
		{health.Vulnerability{}, "1.40.0", health.Unknown},
	} {
		v, err := health.ParseVersion(c.v)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.u.In(v); got != c.want {
			t.Errorf("%s: %d, want %d", c.v, got, c.want)
		}
	}
	for _, text := range []string{"", "1.40", "1.40.0 ", "v1.40.0", "1.40.0-dev", "1.40.99999"} {
		if v, err := health.ParseVersion(text); err == nil {
			t.Errorf("%q is version %s", text, v)
		}
	}
}

// TestChecksPage keeps docs/checks.md the table of codes; with -update it writes the table anew.
func TestChecksPage(t *testing.T) {
	t.Parallel()
	const begin = "# Codes of checks\n"
	var b strings.Builder
	b.WriteString(begin + "\n`ringfence check` names each failed check by a code that stays the same. This page is the table `Codes` of package\n" +
		"`internal/health`; [check.md](check.md) says how to use it.\n\n")
	last := health.Code("")
	for _, c := range health.Codes() {
		if c.Code <= last || len(c.Code) != 6 || !strings.HasPrefix(string(c.Code), "RC") {
			t.Errorf("code %q after %q: codes are RC and four digits, in order, each once", c.Code, last)
		}
		if c.Title == "" || c.Meaning == "" || c.Fix == "" {
			t.Errorf("%s is not explained", c.Code)
		}
		last = c.Code
		fmt.Fprintf(&b, "## %s: %s\n\n%s\n\n*What to do:* %s\n\n", c.Code, c.Title, c.Meaning, c.Fix)
	}
	if got, want := health.Codes()[0].Anchor(), "docs/checks.md#rc1001-control-plane-not-reached"; got != want {
		t.Errorf("anchor %s, want %s", got, want)
	}
	page := filepath.Join("..", "..", "docs", "checks.md")
	want := strings.TrimRight(b.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/checks.md is not the table; write it anew with -update (-want +got):\n%s", diff)
	}
}
