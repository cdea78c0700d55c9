package agent

import (
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// Where every version stands that a control plane may have sent, by what is committed, received, and known to Envoy.
func TestStands(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.connect(v[0])
	p.receiveAll()
	r := p.relay
	one, gone := v[0].snapshot.Resources(xds.ClusterType)[0], xds.NewResource(xds.ClusterType, "service/acme/gone", []byte("gone"))
	oldSecret := xds.NewResource(xds.SecretType, "spiffe://gone.test", []byte("gone"))
	key, now := keyOf(one), one.Version()
	for name, tt := range map[string]struct {
		envoy    delta.Report
		quiet    bool
		received map[delta.Key]arrived
		k        delta.Key
		version  string
		want     standing
		text     string
	}{
		"acknowledged":                      {envoy: delta.Report{Acked: versions(one)}, k: key, version: now, want: settledWell},
		"another version acknowledged":      {envoy: delta.Report{Acked: map[delta.Key]string{key: "older"}}, k: key, version: now, want: waiting},
		"refused":                           {envoy: delta.Report{Refused: map[delta.Key]delta.Refusal{key: {Version: now, Text: "bad"}}}, k: key, version: now, want: settledBadly, text: "bad"},
		"another version refused":           {envoy: delta.Report{Refused: map[delta.Key]delta.Refusal{key: {Version: "older"}}}, k: key, version: now, want: waiting},
		"not asked for yet":                 {k: key, version: now, want: waiting},
		"asked for, and not answered":       {envoy: delta.Report{Asked: map[delta.Key]struct{}{key: {}}}, quiet: true, k: key, version: now, want: waiting},
		"never asked for":                   {quiet: true, k: key, version: now, want: settledWell},
		"on its way to be committed":        {received: map[delta.Key]arrived{key: {called: "newer"}}, k: key, version: "newer", want: waiting},
		"overtaken before it was committed": {received: map[delta.Key]arrived{key: {called: "newest"}}, k: key, version: "newer", want: settledWell},
		"overtaken by a removal":            {k: key, version: "newer", want: settledWell},
		"removed, and still in force":       {k: key, version: "", want: waiting},
		"removed, and back again":           {received: map[delta.Key]arrived{key: {called: now}}, k: key, version: "", want: settledWell},
		"removed, and Envoy still has it":   {envoy: delta.Report{Acked: versions(gone)}, k: keyOf(gone), version: "", want: waiting},
		"removed, and Envoy let go":         {k: keyOf(gone), version: "", want: settledWell},
		"a removed secret of Envoy's":       {envoy: delta.Report{Acked: versions(oldSecret)}, k: keyOf(oldSecret), version: "", want: settledWell},
		"never committed, on its way":       {received: map[delta.Key]arrived{keyOf(gone): {called: "new"}}, k: keyOf(gone), version: "new", want: waiting},
		"never committed, overtaken":        {k: keyOf(gone), version: "new", want: settledWell},
	} {
		r.envoy, r.quiet, r.received = tt.envoy, tt.quiet, tt.received
		if got, text := r.stands(tt.k, tt.version); got != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %v, %q", name, got, text)
		}
		// One resource that waits or is refused makes its whole response so.
		all := &letter{items: map[delta.Key]string{tt.k: tt.version, {TypeURL: xds.SecretType, Name: "done"}: ""}}
		if got, text := r.letter(all); got != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s, in a response: %v, %q", name, got, text)
		}
	}
}

func versions(rs ...xds.Resource) map[delta.Key]string {
	all := map[delta.Key]string{}
	for _, r := range rs {
		all[keyOf(r)] = r.Version()
	}
	return all
}

func TestTableStands(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.attach()
	p.connect(v[0])
	p.finish()
	p.plane.SetTarget(v[2].target())
	p.receive()
	ofTable := delta.Key{TypeURL: xds.TableType, Name: acmeOrders}
	for name, tt := range map[string]struct {
		of   published
		want standing
	}{"in force": {v[0], settledWell}, "on its way": {v[2], waiting}, "overtaken": {v[1], settledWell}} {
		if got, _ := p.relay.stands(ofTable, tt.of.table.Version()); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	p.relay.disconnected()
	p.relay.arriving = table{}
	if got, _ := p.relay.stands(ofTable, v[2].table.Version()); got != waiting {
		t.Errorf("still the newest: %v", got)
	}
}

// Only when Envoy has answered everything of what is offered now can it be waited for that it asks for more.
func TestListening(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.connect(v[0])
	p.receiveAll()
	r := p.relay
	for name, tt := range map[string]struct {
		envoy delta.Report
		quiet bool
		want  bool
	}{
		"idle":              {delta.Report{Idle: true, Target: r.targetID()}, false, true},
		"busy":              {delta.Report{Target: r.targetID()}, false, false},
		"idle with another": {delta.Report{Idle: true, Target: "older"}, false, false},
		"already waited":    {delta.Report{Idle: true, Target: r.targetID()}, true, false},
		"no Envoy":          {delta.Report{}, false, false},
	} {
		if r.envoy, r.quiet = tt.envoy, tt.quiet; r.listening() != tt.want {
			t.Errorf("%s: %v", name, !tt.want)
		}
	}
	r.quiet = true
	if r.report(delta.Report{}); r.quiet {
		t.Error("a new report of Envoy's does not end the wait")
	}
}

// An SVID or a bundle is missing until Envoy has acknowledged it, or has been waited for without asking for it.
func TestMissingSecrets(t *testing.T) {
	t.Parallel()
	v := variants(t)
	p := newPairing(t, v)
	p.connect(v[0])
	p.receiveAll()
	r := p.relay
	bundles := len(v[0].snapshot.Resources(xds.SecretType))
	asked := map[delta.Key]struct{}{keyOf(r.own): {}}
	for name, tt := range map[string]struct {
		envoy delta.Report
		quiet bool
		want  int
	}{
		"nothing yet":         {delta.Report{}, false, bundles + 1},
		"never asked":         {delta.Report{}, true, 0},
		"asked, not answered": {delta.Report{Asked: asked}, true, 1},
		"acknowledged":        {delta.Report{Asked: asked, Acked: versions(append(v[0].snapshot.Resources(xds.SecretType), r.own)...)}, false, 0},
		"an older one":        {delta.Report{Asked: asked, Acked: map[delta.Key]string{keyOf(r.own): "older"}}, true, 1},
	} {
		if r.envoy, r.quiet = tt.envoy, tt.quiet; len(r.missingSecrets()) != tt.want {
			t.Errorf("%s: %v", name, r.missingSecrets())
		}
	}
}

// A hint is a request that asks for nothing, and goes nowhere without a stream.
func TestHint(t *testing.T) {
	t.Parallel()
	p := newPairing(t, variants(t))
	p.relay.hint()
	s := p.stream()
	clear(s.asked)
	p.relay.hint()
	if req := s.asked[xds.TableType]; len(s.asked) != 1 || len(req.GetResourceNamesSubscribe()) != 0 {
		t.Errorf("asked: %v", s.asked)
	}
}
