package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
)

func (p published) committed(t testing.TB, j judge) committed {
	t.Helper()
	tab, err := j.table(p.table)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := j.coherent(tab, p.snapshot.All())
	if !ok {
		t.Fatal("the fixture is not coherent")
	}
	return c
}

func encoded(t testing.TB, c committed, settled table) []byte {
	t.Helper()
	data, err := encodeState(c, settled)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sealed is a state file with this payload and a good checksum.
func sealed(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return bytes.Join([][]byte{[]byte(stateHeader), sum[:], payload}, nil)
}

func changed(t testing.TB, data []byte, change func(*agentv1alpha1.State)) []byte {
	t.Helper()
	var m agentv1alpha1.State
	if err := proto.Unmarshal(data[len(stateHeader)+sha256.Size:], &m); err != nil {
		t.Fatal(err)
	}
	change(&m)
	payload, err := proto.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	return sealed(payload)
}

func TestStateRoundTrip(t *testing.T) {
	t.Parallel()
	j, v := testJudge(t), variants(t)
	c, before := v[2].committed(t, j), v[0].committed(t, j).table
	for name, settled := range map[string]table{"settled": c.table, "on the way": before} {
		got, gotSettled, err := j.decodeState(encoded(t, c, settled))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.snapshot.Version() != c.snapshot.Version() || got.table.version() != c.table.version() || gotSettled.version() != settled.version() {
			t.Errorf("%s: something else came back", name)
		}
	}
}

func TestBadStateIsNotUsed(t *testing.T) {
	t.Parallel()
	j, v := testJudge(t), variants(t)
	c := v[0].committed(t, j)
	good := encoded(t, c, c.table)
	foreign := encoded(t, v[2].committed(t, j), c.table)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	tests := map[string][]byte{
		"empty":                {},
		"header only":          []byte(stateHeader),
		"cut":                  good[:len(good)-1],
		"a bit flipped":        flipped,
		"another version":      bytes.Replace(good, []byte("state 1"), []byte("state 2"), 1),
		"no message":           sealed([]byte{0xff}),
		"another workload":     changed(t, good, func(m *agentv1alpha1.State) { m.Workload = strings.Replace(acmeOrders, "orders", "web", 1) }),
		"another tenant's":     changed(t, good, func(m *agentv1alpha1.State) { m.Workload = strings.ReplaceAll(acmeOrders, "acme", "globex") }),
		"no table":             changed(t, good, func(m *agentv1alpha1.State) { m.Table = nil }),
		"a garbled table":      changed(t, good, func(m *agentv1alpha1.State) { m.SettledTable = []byte{0xff} }),
		"a resource less":      changed(t, good, func(m *agentv1alpha1.State) { m.Resources = m.GetResources()[1:] }),
		"a resource twice":     changed(t, good, func(m *agentv1alpha1.State) { m.Resources = append(m.GetResources(), m.GetResources()[0]) }),
		"a garbled resource":   changed(t, good, func(m *agentv1alpha1.State) { m.GetResources()[0].Value = []byte{0xff} }),
		"another's name":       changed(t, good, func(m *agentv1alpha1.State) { m.GetResources()[0].Name = "service/globex/orders" }),
		"a table as resource":  changed(t, good, func(m *agentv1alpha1.State) { m.GetResources()[0].TypeUrl = v[0].table.TypeURL() }),
		"a newer one's table":  changed(t, foreign, func(m *agentv1alpha1.State) { m.Table = m.GetSettledTable() }),
		"text behind the last": append(bytes.Clone(good), 0),
		"half a field behind":  sealed(append(bytes.Clone(good[len(stateHeader)+sha256.Size:]), 0xff)),
	}
	for name, data := range tests {
		if _, _, err := j.decodeState(data); !errors.Is(err, errState) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzState: whatever lies in the state file: no panic, and what is used is a whole of the agent's own workload.
func FuzzState(f *testing.F) {
	j, v := testJudge(f), variants(f)
	for _, one := range v[1:3] {
		c := one.committed(f, j)
		data := encoded(f, c, v[0].committed(f, j).table)
		f.Add(data)
		f.Add(data[len(stateHeader)+sha256.Size:])
	}
	f.Add([]byte{})
	f.Add([]byte(stateHeader))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range [][]byte{data, sealed(data)} { // as it is, and as if somebody had made the checksum good
			c, settled, err := j.decodeState(file)
			if err != nil {
				continue
			}
			if !c.snapshot.Workload().Same(j.workload) || c.table.decoded.SnapshotVersion() != c.snapshot.Version() || settled.decoded == nil {
				t.Fatal("something was taken that is not a whole of this workload")
			}
		}
	})
}

// An agent pins its own roots and the platform's, which are the same for the platform's own workloads, and must have some.
func TestJudgePinsBothRoots(t *testing.T) {
	t.Parallel()
	j := testJudge(t)
	own, platform := j.workload.Tenant().TrustDomain(), j.mapping.Platform()
	bundle := func(td identity.TrustDomain) identity.Bundle { b, _ := j.pinned.Get(td); return b }
	for name, tt := range map[string]struct {
		own, platform identity.Bundle
		want          []identity.TrustDomain // none: an error
	}{
		"a tenant's":        {bundle(own), bundle(platform), []identity.TrustDomain{own, platform}},
		"the platform's":    {bundle(platform), bundle(platform), []identity.TrustDomain{platform}},
		"no own roots":      {identity.Bundle{}, bundle(platform), nil},
		"no platform roots": {bundle(own), identity.Bundle{}, nil},
	} {
		got, err := newJudge(svid{id: j.workload, mapping: j.mapping, bundle: tt.own}, tt.platform)
		if (err != nil) != (tt.want == nil) || len(got.pinned.All()) != len(tt.want) {
			t.Errorf("%s: %d are pinned, %v", name, len(got.pinned.All()), err)
		}
		for _, td := range tt.want {
			if b, ok := got.pinned.Get(td); !ok || b.Digest() != bundle(td).Digest() || !got.workload.Same(j.workload) || got.mapping.IsZero() {
				t.Errorf("%s: the roots of %s are others", name, td)
			}
		}
	}
}

// A whole that a hostile control plane made, its table naming what must not be relayed, is refused from disk as it is from a
// stream.
func TestHostileStateIsNotUsed(t *testing.T) {
	t.Parallel()
	j := testJudge(t)
	tab, err := authz.Compile(tenancytest.Tenant(t, tenancytest.TwoTenants(t), "acme"))
	if err != nil {
		t.Fatal(err)
	}
	state := func(s xds.Snapshot) []byte {
		t.Helper()
		data, err := tab.For(j.workload, s.Version())
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := authz.DecodeTable(data)
		if err != nil {
			t.Fatal(err)
		}
		of := table{resource: xds.NewResource(xds.TableType, acmeOrders, data), decoded: decoded}
		return encoded(t, committed{snapshot: s, table: of}, of)
	}
	if _, _, err := j.decodeState(state(compile(t, "clerk", "clerk").snapshot)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a foreign cluster", "a foreign listener", "a foreign bundle", "an own key", "garbage"} {
		if _, _, err := j.decodeState(state(hostile(t)[name].snapshot)); !errors.Is(err, errState) || !errors.Is(err, prove.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
