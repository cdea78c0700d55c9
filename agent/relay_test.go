package agent

import (
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

func TestTablesFollowEnvoy(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.wantTables(published{}, published{})

	p.connect(v[0])
	p.receive()
	p.wantTables(published{}, published{}) // a table without its resources decides nothing
	p.receiveAll()
	p.wantTables(v[0], published{}) // nothing was in force that could be stricter
	p.attach()
	p.finish()
	if !p.plane.Current() || !p.relay.current() {
		t.Fatalf("the control plane's view: %+v", p.plane.Report())
	}

	// Another caller: other routes. Both tables decide until Envoy has them.
	p.plane.SetTarget(v[2].target())
	p.receive()
	p.wantTables(v[0], v[2])
	p.receiveAll()
	for p.offer() {
	}
	p.wantTables(v[0], v[2])
	if p.plane.Current() {
		t.Error("acknowledged before Envoy did")
	}
	p.finish()
	p.wantTables(v[2], published{})
	if !p.plane.Current() {
		t.Errorf("the control plane's view: %+v", p.plane.Report())
	}

	// Other rules, the same resources: nothing to wait for.
	p.plane.SetTarget(v[0].target())
	p.finish()
	p.plane.SetTarget(v[1].target())
	p.receiveAll()
	p.wantTables(v[1], published{})

	// The stream breaks between table and resources: both decide until the control plane has said more.
	p.plane.SetTarget(v[2].target())
	p.receive()
	p.plane = nil
	p.relay.disconnected()
	p.wantTables(v[1], v[2])
	p.connect(v[1])
	p.relay.commit() // a stream that is open and says nothing takes nothing back
	p.relay.settle()
	p.wantTables(v[1], v[2])
	p.finish()
	p.wantTables(v[1], published{})

	p.relay.expire(true)
	p.wantTables(published{}, published{})
}

func TestEnvoysRefusalIsPassedOn(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.refuses = func(string, string) bool { return true }
	p.plane.SetTarget(v[2].target())
	p.finish()
	p.wantTables(v[0], v[2])
	refusals := p.plane.Refusals()
	if len(refusals) == 0 {
		t.Error("the control plane was not told")
	}
	for k, refusal := range refusals {
		if !strings.HasSuffix(refusal.Text, "refused by Envoy") {
			t.Errorf("%v: %q", k, refusal.Text)
		}
	}
	p.refuses = func(string, string) bool { return false }
	p.plane.SetTarget(v[0].target())
	p.finish()
	p.wantTables(v[0], published{})
	if !p.plane.Current() || len(p.plane.Refusals()) > 0 {
		t.Errorf("it did not get over it: %+v", p.plane.Report())
	}
}

func TestUnknownWorkloadLosesEverything(t *testing.T) {
	t.Parallel()
	v := variants(t)
	for name, envoy := range map[string]bool{"with Envoy": true, "without Envoy": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPairing(t, v)
			if envoy {
				p.attach()
			}
			p.connect(v[0])
			p.finish()
			p.plane = nil
			p.relay.disconnected()
			p.connect(v[0])
			p.plane.SetTarget(delta.NewTarget("none"))
			p.finish()
			p.wantTables(published{}, published{})
			if p.saved != nil || !p.relay.committed.snapshot.IsZero() {
				t.Error("something is kept")
			}
			if envoy {
				if got := len(p.envoy.Report().Acked); got != len(v[0].snapshot.Resources(xds.SecretType))+1 {
					t.Errorf("Envoy has %d resources; only secrets may be left, unused", got)
				}
			}
			p.plane.SetTarget(v[1].target())
			p.finish()
			p.wantTables(v[1], published{})
		})
	}
}

// hostile are things that a control plane may not send, each beside an otherwise good configuration.
func hostile(t testing.TB) map[string]published {
	t.Helper()
	m := tenancytest.TwoTenants(t)
	globex := compiled(t, m, m.Mapping(), "spiffe://globex.demo.test/ns/globex/sa/web")
	web := compiled(t, m, m.Mapping(), "spiffe://acme.demo.test/ns/acme/sa/web")
	good := compile(t, "clerk", "clerk")
	with := func(rs ...xds.Resource) published {
		s, err := xds.NewSnapshot(good.snapshot.Workload(), append(slices.Clone(good.snapshot.All()), rs...)...)
		if err != nil {
			t.Fatal(err)
		}
		return published{snapshot: s, table: good.table}
	}
	return map[string]published{
		"a foreign cluster":    with(globex.snapshot.Resources(xds.ClusterType)[0]),
		"a foreign listener":   with(globex.snapshot.Resources(xds.ListenerType)[0]),
		"a foreign bundle":     with(globex.snapshot.Resources(xds.SecretType)[0]),
		"an own key":           with(xds.NewResource(xds.SecretType, ownSecret, []byte("evil"))),
		"garbage":              with(xds.NewResource(xds.ClusterType, "service/acme/x", []byte{0xff})),
		"another type":         with(xds.NewResource("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "x", nil)),
		"a foreign table":      {snapshot: good.snapshot, table: globex.table},
		"a colleague's table":  {snapshot: good.snapshot, table: web.table},
		"a renamed table":      {snapshot: good.snapshot, table: xds.NewResource(xds.TableType, acmeOrders, globex.table.Value())},
		"a garbled table":      {snapshot: good.snapshot, table: xds.NewResource(xds.TableType, acmeOrders, []byte{0xff})},
		"less than the table":  {snapshot: mustSnapshot(t, good.snapshot.Workload(), good.snapshot.Resources(xds.ClusterType)...), table: good.table},
		"a colleague's bundle": {snapshot: web.snapshot, table: good.table},
	}
}

func mustSnapshot(t testing.TB, w identity.WorkloadID, rs ...xds.Resource) xds.Snapshot {
	t.Helper()
	s, err := xds.NewSnapshot(w, rs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHostileControlPlane(t *testing.T) {
	t.Parallel()
	v := variants(t)
	for name, bad := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPairing(t, v)
			p.attach()
			p.connect(v[1])
			p.finish()
			p.plane.SetTarget(bad.target())
			p.finish()
			// The good part of what came may be a whole of its own; anything else must not be in force.
			got := p.relay.committed.snapshot.Version()
			if got != v[0].snapshot.Version() && got != v[1].snapshot.Version() {
				t.Error("the bad configuration was committed")
			}
			if now := p.relay.target.Target().ID(); now != got+"/"+p.relay.own.Version() {
				t.Error("Envoy was offered something else")
			}
			if current, _ := p.inForce(); current == "" {
				t.Error("the old table is gone")
			}
			if _, _, err := p.relay.judge.decodeState(p.saved); err != nil {
				t.Errorf("what is kept cannot be used: %v", err)
			}
		})
	}
}

// What is refused is refused at once, whatever Envoy does.
func TestOwnRefusalIsImmediate(t *testing.T) {
	t.Parallel()
	p := newPairing(t, variants(t))
	p.connect(hostile(t)["a foreign cluster"])
	p.receiveAll()
	refusals := p.plane.Refusals()
	if len(refusals) != 1 {
		t.Fatalf("refusals: %v", refusals)
	}
	for k, refusal := range refusals {
		if k.TypeURL != xds.ClusterType || !strings.Contains(k.Name, "globex") || !strings.Contains(refusal.Text, "refused") {
			t.Errorf("%v: %q", k, refusal.Text)
		}
	}
}

func TestVersionsMustBeThoseOfTheContent(t *testing.T) {
	t.Parallel()
	all := variants(t)
	v := all[0]
	for _, typeURL := range upstreamTypes() {
		p := newPairing(t, all)
		p.attach()
		var refused []string
		p.relay.connected(func(req *discovery.DeltaDiscoveryRequest) {
			if req.GetErrorDetail() != nil {
				refused = append(refused, req.GetTypeUrl())
			}
		})
		for _, r := range append([]xds.Resource{v.table}, v.snapshot.All()...) {
			version := r.Version()
			if r.TypeURL() == typeURL {
				version = "1"
			}
			p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: r.TypeURL(), Nonce: "n", Resources: []*discovery.Resource{
				{Name: r.Name(), Version: version, Resource: &anypb.Any{TypeUrl: r.TypeURL(), Value: r.Value()}},
			}})
			p.relay.commit()
			p.relay.settle()
		}
		if len(refused) == 0 || slices.ContainsFunc(refused, func(s string) bool { return s != typeURL }) || !p.relay.committed.snapshot.IsZero() {
			t.Errorf("%s: refused %v, committed %v", typeURL, refused, !p.relay.committed.snapshot.IsZero())
		}
	}
}

func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.plane.SetTarget(v[2].target())
	p.receiveAll() // committed, and Envoy does not have it yet
	p.wantTables(v[0], v[2])

	again := newPairing(t, v)
	c, settled, err := again.relay.judge.decodeState(p.saved)
	if err != nil {
		t.Fatal(err)
	}
	again.relay.restore(c, settled)
	again.wantTables(v[0], v[2])
	again.attach()
	again.finish()
	again.wantTables(v[2], published{})
	again.connect(v[2])
	if again.receiveAll(); !again.plane.Current() {
		t.Errorf("the control plane's view: %+v", again.plane.Report())
	}
}

// Whatever happens in whatever order: Envoy is only ever offered a whole that was published; a table that was received
// decides until Envoy has what belongs to it; and in the end all agree.
func TestRelayConverges(t *testing.T) {
	t.Parallel()
	v := variants(t)
	wholes := map[string]bool{}
	for _, one := range v {
		wholes[one.snapshot.Version()] = true
	}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPairing(t, v)
		last := v[0]
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				last = rapid.SampledFrom(v).Draw(rt, "what")
				if p.plane != nil {
					p.plane.SetTarget(last.target())
				}
			},
			"connect":    func(*rapid.T) { p.connect(last) },
			"disconnect": func(*rapid.T) { p.plane = nil; p.relay.disconnected() },
			"receive":    func(*rapid.T) { p.receive() },
			"attach": func(*rapid.T) {
				p.relay.report(delta.Report{})
				p.attach()
			},
			"offer":  func(*rapid.T) { p.offer() },
			"answer": func(*rapid.T) { p.answer() },
			"restart": func(rt *rapid.T) {
				saved := p.saved
				p = newPairing(t, v)
				if saved == nil {
					return
				}
				c, settled, err := p.relay.judge.decodeState(saved)
				if err != nil {
					rt.Fatalf("what is kept cannot be used: %v", err)
				}
				p.relay.restore(c, settled)
				p.saved = saved
			},
			"": func(rt *rapid.T) {
				c, size := p.relay.committed, 0
				for _, r := range p.relay.received {
					size += len(r.Value())
				}
				if size != p.relay.bytes {
					rt.Fatalf("%d bytes are counted, %d are there", p.relay.bytes, size)
				}
				if (c.table.decoded == nil) != c.snapshot.IsZero() || c.table.decoded != nil && p.relay.newest.decoded == nil {
					rt.Fatal("half of a configuration")
				}
				if !c.snapshot.IsZero() && !wholes[c.snapshot.Version()] {
					rt.Fatal("a mixture is committed")
				}
				current, next := p.inForce()
				if c.table.decoded != nil && current == "" {
					rt.Fatal("a configuration without a table in force")
				}
				if newest := p.relay.newest; newest.decoded != nil && current != "" && current != newest.decoded.Version() && next != newest.decoded.Version() {
					rt.Fatal("the newest table does not decide")
				}
			},
		})
		p.connect(last)
		p.relay.report(delta.Report{})
		p.attach()
		p.finish()
		if !p.plane.Current() || !p.relay.current() {
			rt.Fatalf("not settled: %+v", p.plane.Report())
		}
		if p.relay.committed.snapshot.Version() != last.snapshot.Version() || p.relay.settled.version() != last.table.Version() || p.relay.newest.version() != last.table.Version() {
			rt.Fatal("settled on something else than what was published last")
		}
	})
}
