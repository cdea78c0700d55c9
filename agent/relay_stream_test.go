package agent

import (
	"maps"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// stream is a control plane's that the test writes itself, and what was answered on it.
type stream struct {
	p       *pairing
	asked   map[string]*discovery.DeltaDiscoveryRequest
	answers map[string][]string // by nonce: the refusals, empty for an acknowledgement
}

func (p *pairing) stream() *stream {
	s := &stream{p: p, asked: map[string]*discovery.DeltaDiscoveryRequest{}, answers: map[string][]string{}}
	p.relay.connected(func(req *discovery.DeltaDiscoveryRequest) {
		if req.GetResponseNonce() == "" {
			s.asked[req.GetTypeUrl()] = req
			return
		}
		s.answers[req.GetResponseNonce()] = append(s.answers[req.GetResponseNonce()], req.GetErrorDetail().GetMessage())
	})
	return s
}

func resource(r xds.Resource) *discovery.Resource {
	return &discovery.Resource{Name: r.Name(), Version: r.Version(), Resource: &anypb.Any{TypeUrl: r.TypeURL(), Value: r.Value()}}
}

// send is a response; the nonce is its type's URL, so each type has one.
func (s *stream) send(typeURL string, removed []string, rs ...*discovery.Resource) {
	s.p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: typeURL, Resources: rs, RemovedResources: removed})
	s.p.relay.commit()
	s.p.relay.settle()
}

// all sends a whole configuration, a response for each type, the table last.
func (s *stream) all(v published) {
	for _, typeURL := range upstreamTypes()[1:] {
		var rs []*discovery.Resource
		for _, r := range v.snapshot.Resources(typeURL) {
			rs = append(rs, resource(r))
		}
		s.send(typeURL, nil, rs...)
	}
	s.send(xds.TableType, nil, resource(v.table))
}

// A new stream names what Envoy has acknowledged, and nothing else.
func TestStreamNamesWhatEnvoyHas(t *testing.T) {
	t.Parallel()
	v := variants(t)
	named := func(s *stream) map[string]string { // by type and name: a cluster and its endpoints have one name
		all := map[string]string{}
		for _, req := range s.asked {
			for name, version := range req.GetInitialResourceVersions() {
				all[req.GetTypeUrl()+" "+name] = version
			}
		}
		return all
	}
	table := xds.TableType + " " + acmeOrders
	fresh := newPairing(t, v).stream()
	if got := named(fresh); len(fresh.asked) != len(upstreamTypes()) || len(got) != 0 {
		t.Errorf("an agent that has nothing names %v", got)
	}

	p := newPairing(t, v)
	p.connect(v[0])
	p.receiveAll()
	p.relay.disconnected()
	if got := named(p.stream()); len(got) != 1 || got[table] != v[0].table.Version() {
		t.Errorf("without Envoy it names %v", got)
	}

	p = newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	want := map[string]string{table: v[0].table.Version()}
	for _, r := range v[0].snapshot.All() {
		want[r.TypeURL()+" "+r.Name()] = r.Version()
	}
	p.plane = nil
	p.relay.disconnected()
	if got := named(p.stream()); !maps.Equal(got, want) {
		t.Errorf("with Envoy it names %v, want %v", got, want)
	}
	saves := p.saves
	p.connect(v[0])
	if p.finish(); p.saves != saves {
		t.Error("what it has was saved again")
	}
	p.wantTables(v[0], published{})
}

// On a stream that has ended nothing is answered, and what still comes of it is not worked in.
func TestEndedStream(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.plane = nil
	s := p.stream()
	s.all(v[2])
	before := len(s.answers)
	p.wantTables(v[0], v[2])
	p.relay.disconnected()
	p.finish()
	if len(s.answers) != before {
		t.Errorf("answered: %v", s.answers)
	}
	s.send(xds.TableType, nil, resource(v[0].table))
	s.send(xds.TableType, []string{acmeOrders})
	p.wantTables(v[2], published{})
	if !p.relay.current() {
		t.Error("Envoy's answers do not count without a stream")
	}
}

// What is refused of a response keeps nothing of the rest from being taken: it will not be sent again.
func TestRestOfARefusedResponseIsTaken(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	s := p.stream()
	clusters := v[0].snapshot.Resources(xds.ClusterType)
	bad := resource(hostile(t)["a foreign cluster"].snapshot.Resources(xds.ClusterType)[0])
	for _, r := range hostile(t)["a foreign cluster"].snapshot.Resources(xds.ClusterType) {
		if strings.Contains(r.Name(), "globex") {
			bad = resource(r)
		}
	}
	s.send(xds.ClusterType, nil, bad, resource(clusters[0]))
	if got := s.answers[xds.ClusterType]; len(got) != 1 || !strings.Contains(got[0], "globex") {
		t.Errorf("answered %q", got)
	}
	if _, taken := p.relay.received[keyOf(clusters[0])]; !taken || len(p.relay.received) != 1 {
		t.Errorf("taken: %v", slices.Collect(maps.Keys(p.relay.received)))
	}
	if p.logs.FilterLevelExact(zapcore.ErrorLevel).Len() != 1 {
		t.Errorf("logged: %v", p.logs.All())
	}
}

// A type that nobody asked for, and a resource of another type than its response.
func TestOnlyTheTypesThatWereAskedFor(t *testing.T) {
	t.Parallel()
	v := variants(t)
	cluster := v[0].snapshot.Resources(xds.ClusterType)[0]
	disguised := resource(cluster)
	disguised.Resource.TypeUrl = xds.ListenerType
	const extension = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	for name, tt := range map[string]struct {
		typeURL string
		r       *discovery.Resource
	}{
		"another type":           {extension, resource(xds.NewResource(extension, "x", nil))},
		"a disguised cluster":    {xds.ClusterType, disguised},
		"a table among clusters": {xds.ClusterType, resource(v[0].table)},
	} {
		p := newPairing(t, v)
		s := p.stream()
		s.send(tt.typeURL, nil, tt.r)
		if got := s.answers[tt.typeURL]; len(got) != 1 || got[0] == "" || len(p.relay.received) != 0 || p.relay.newest.decoded != nil {
			t.Errorf("%s: answered %q, received %d", name, got, len(p.relay.received))
		}
	}
}

// A removal is acknowledged when Envoy has let go, and what a stream takes away before it is committed stays in force.
func TestRemovalWaitsForEnvoy(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.plane = nil
	s := p.stream()
	s.send(xds.ClusterType, []string{v[0].snapshot.Resources(xds.ClusterType)[0].Name()})
	if len(s.answers) != 0 {
		t.Errorf("answered: %v", s.answers)
	}
	p.wantTables(v[0], published{})
}

// There is only so much that an agent takes.
func TestRelayLimits(t *testing.T) {
	t.Parallel()
	v := variants(t)
	cluster := v[0].snapshot.Resources(xds.ClusterType)[0]
	for name, tt := range map[string]struct {
		fill  func(r *relay)
		taken bool
	}{
		"one more resource":  {func(r *relay) { fill(r, maxResources-1) }, true},
		"one too many":       {func(r *relay) { fill(r, maxResources) }, false},
		"as many bytes":      {func(r *relay) { r.bytes = maxReceived - len(cluster.Value()) }, true},
		"one byte too many":  {func(r *relay) { r.bytes = maxReceived - len(cluster.Value()) + 1 }, false},
		"the same once more": {func(r *relay) { r.keep(keyOf(cluster), arrived{cluster, ""}) }, true},
	} {
		p := newPairing(t, v)
		s := p.stream()
		tt.fill(p.relay)
		s.p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: xds.ClusterType, Nonce: "n", Resources: []*discovery.Resource{resource(cluster)}})
		if refused := len(s.answers["n"]) > 0; refused == tt.taken {
			t.Errorf("%s: refused %v", name, s.answers["n"])
		}
	}
}

func fill(r *relay, n int) {
	for i := range n {
		r.received[delta.Key{TypeURL: xds.ClusterType, Name: strings.Repeat("x", 1+i%7) + string(rune(i))}] = arrived{}
	}
	for i := 0; len(r.received) < n; i++ {
		r.received[delta.Key{TypeURL: xds.EndpointType, Name: string(rune(i))}] = arrived{}
	}
}

// A stream takes back only what it speaks of: silence, and talk of other things, leave the newest table deciding too.
func TestOnlyTheTableTakesTheTableBack(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.plane = nil
	p.stream().send(xds.TableType, nil, resource(v[2].table))
	p.wantTables(v[0], v[2])
	p.relay.disconnected()
	s := p.stream()
	s.send(xds.ClusterType, nil)
	p.wantTables(v[0], v[2])
	p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: xds.TableType, Nonce: "t"})
	s.send(xds.ClusterType, nil)
	p.wantTables(v[0], published{})
}

// A stream that has said nothing yet takes nothing away, whether or not an Envoy is there.
func TestSilentStream(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.connect(v[0])
	p.finish()
	p.plane = nil
	p.stream()
	p.relay.commit()
	p.relay.settle()
	p.wantTables(v[0], published{})
	if p.saved == nil {
		t.Error("nothing is kept")
	}

	// Of a mesh that does not know the workload, an agent that has nothing keeps nothing.
	p = newPairing(t, v)
	p.stream().send(xds.TableType, []string{acmeOrders})
	if p.saves != 0 || p.logs.Len() != 0 {
		t.Errorf("saved %d times, logged %v", p.saves, p.logs.All())
	}
	// A table without its resources goes as it came.
	p = newPairing(t, v)
	s := p.stream()
	s.send(xds.TableType, nil, resource(v[0].table))
	s.send(xds.TableType, []string{acmeOrders})
	if p.relay.newest.decoded != nil {
		t.Error("a table that was taken away is kept")
	}
}

func TestRenewedSVID(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.relay.expire(true)
	p.wantTables(published{}, published{})
	own := xds.NewResource(xds.SecretType, ownSecret, []byte("another key"))
	p.relay.renewed(own)
	p.wantTables(v[0], published{})
	p.finish()
	if got := p.envoy.Report().Acked[keyOf(own)]; got != own.Version() {
		t.Errorf("Envoy has %q of its own SVID, want %q", got, own.Version())
	}
	if missing := p.relay.missingSecrets(); len(missing) != 0 {
		t.Errorf("missing: %v", missing)
	}
}

// What an operator must know stands in the log once.
func TestRelayLogs(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	logged := func(level zapcore.Level, want ...string) {
		t.Helper()
		var got []string
		for _, e := range p.logs.FilterLevelExact(level).All() {
			got = append(got, e.Message)
		}
		if !slices.Equal(got, want) {
			t.Errorf("logged at %v: %q, want %q", level, got, want)
		}
		p.logs.TakeAll()
	}
	p.attach()
	p.connect(v[0])
	p.finish()
	if errs := p.logs.FilterLevelExact(zapcore.ErrorLevel).All(); len(errs) != 0 {
		t.Errorf("logged: %v", errs)
	}
	logged(zapcore.InfoLevel, "configuration received")
	p.plane.SetTarget(v[2].target())
	p.finish()
	logged(zapcore.InfoLevel, "configuration received", "configuration in force")

	refused := map[string]bool{}
	p.refuses = func(name, _ string) bool { refused[name] = true; return true }
	p.plane.SetTarget(v[0].target())
	p.finish()
	p.relay.report(p.envoy.Report())
	if got := p.logs.FilterMessage("Envoy refused a resource").Len(); got == 0 || got != len(p.envoy.Report().Refused) {
		t.Errorf("%d refusals are logged, %d are there", got, len(p.envoy.Report().Refused))
	}
	p.logs.TakeAll()

	p = newPairing(t, v)
	p.full = true
	p.connect(v[0])
	p.receiveAll()
	logged(zapcore.ErrorLevel, "cannot keep the configuration on disk: a restart now would find none; it is tried again")
	p.plane.SetTarget(delta.NewTarget("none"))
	p.receiveAll()
	logged(zapcore.WarnLevel, "the mesh no longer knows this workload: every call is denied")
}

// A resource that comes again takes the place of the one before, and counts once.
func TestResourceThatComesAgainCountsOnce(t *testing.T) {
	t.Parallel()
	p := newPairing(t, variants(t))
	p.stream()
	k := delta.Key{TypeURL: xds.ClusterType, Name: "x"}
	for _, value := range []string{"a", "longer", "b"} {
		p.relay.keep(k, arrived{xds.NewResource(k.TypeURL, k.Name, []byte(value)), ""})
		if p.relay.bytes != len(value) || len(p.relay.received) != 1 {
			t.Errorf("%q: %d bytes of %d resources", value, p.relay.bytes, len(p.relay.received))
		}
	}
	p.relay.forget(k)
	if p.relay.bytes != 0 || len(p.relay.received) != 0 {
		t.Errorf("%d bytes are left", p.relay.bytes)
	}
}

// A table that is refused is said to be, and what was received before a stream ended is not committed after.
func TestRefusedTablesAndLateCommits(t *testing.T) {
	t.Parallel()
	v := variants(t)
	for _, name := range []string{"a foreign table", "a colleague's table", "a renamed table", "a garbled table"} {
		p := newPairing(t, v)
		p.connect(v[0])
		p.receiveAll()
		s := p.stream()
		s.send(xds.TableType, nil, resource(hostile(t)[name].table))
		if got := s.answers[xds.TableType]; len(got) != 1 || got[0] == "" {
			t.Errorf("%s: answered %q", name, got)
		}
		p.wantTables(v[0], published{})
	}
	p := newPairing(t, v)
	s := p.stream()
	for _, r := range append(v[0].snapshot.All(), v[0].table) {
		p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: r.TypeURL(), Nonce: "n", Resources: []*discovery.Resource{resource(r)}})
	}
	p.relay.disconnected()
	p.relay.commit()
	p.wantTables(published{}, published{})
	if len(s.answers) != 0 {
		t.Errorf("answered: %v", s.answers)
	}
}

// Endpoints whose version is not theirs are refused once, wherever among the others they stand, and keep all from being used.
func TestMiscalledEndpointsAmongOthers(t *testing.T) {
	t.Parallel()
	v := variants(t)
	endpoints := v[0].snapshot.Resources(xds.EndpointType)
	if len(endpoints) < 2 {
		t.Fatal("there are too few")
	}
	for i := range endpoints {
		p := newPairing(t, v)
		s := p.stream()
		for _, typeURL := range upstreamTypes() {
			if typeURL == xds.EndpointType {
				continue
			}
			var rs []*discovery.Resource
			for _, r := range append(v[0].snapshot.Resources(typeURL), v[0].table) {
				if r.TypeURL() == typeURL {
					rs = append(rs, resource(r))
				}
			}
			s.send(typeURL, nil, rs...)
		}
		for j, r := range endpoints {
			sent := resource(r)
			if j == i {
				sent.Version = "another"
			}
			p.relay.response(&discovery.DeltaDiscoveryResponse{TypeUrl: xds.EndpointType, Nonce: r.Name(), Resources: []*discovery.Resource{sent}})
		}
		for range 2 {
			p.relay.commit()
			p.relay.settle()
		}
		for j, r := range endpoints {
			if got := s.answers[r.Name()]; (len(got) == 1 && got[0] != "") != (j == i) || len(got) > 1 {
				t.Errorf("endpoints %d of which %d are miscalled: answered %q", j, i, got)
			}
		}
		if !p.relay.committed.snapshot.IsZero() {
			t.Error("they are committed")
		}
	}
}
