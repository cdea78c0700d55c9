package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/prove"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// The state file is a header, the SHA-256 of the rest, and the rest: a State message.
const (
	stateHeader = "ringfence agent state 1\n"
	maxState    = 256 << 20
)

var errState = errors.New("agent's state")

// committed is a coherent configuration: resources and the table that names them. The zero value is none.
type committed struct {
	snapshot xds.Snapshot
	table    table
	byKey    map[delta.Key]xds.Resource // the snapshot's
}

func (c committed) get(k delta.Key) (xds.Resource, bool) {
	r, ok := c.byKey[k]
	return r, ok
}

// table is a decoded table with the bytes it came from. The zero value is none, and denies.
type table struct {
	resource xds.Resource
	decoded  *authz.Table
}

func (t table) version() string { return t.resource.Version() }

// judge decides what the agent takes: from the control plane, and again from its own disk.
type judge struct {
	workload identity.WorkloadID
	mapping  identity.Mapping
	pinned   identity.Bundles
}

// newJudge trusts the workload's own roots, got when it joined or renewed, and the platform's, got at the start.
func newJudge(own svid, platform identity.Bundle) (judge, error) {
	pinned := []identity.Bundle{own.bundle}
	if platform.TrustDomain() != own.bundle.TrustDomain() {
		pinned = append(pinned, platform)
	}
	bundles, err := identity.NewBundles(pinned...)
	if err != nil {
		return judge{}, fmt.Errorf("pinned roots: %w", err)
	}
	return judge{workload: own.id, mapping: own.mapping, pinned: bundles}, nil
}

// resource takes one of Envoy's resources.
func (j judge) resource(r xds.Resource) error {
	return prove.Relayed(j.workload, j.mapping, j.pinned, r)
}

// table takes the workload's own table, under its own name.
func (j judge) table(r xds.Resource) (table, error) {
	if err := j.resource(r); err != nil {
		return table{}, err
	}
	decoded, err := authz.DecodeTable(r.Value())
	if err != nil {
		return table{}, fmt.Errorf("table: %w", err)
	}
	return table{resource: r, decoded: decoded}, nil
}

// coherent puts resources together if they are exactly those that the table names.
func (j judge) coherent(t table, rs []xds.Resource) (committed, bool) {
	if t.decoded == nil {
		return committed{}, false
	}
	snapshot, err := xds.NewSnapshot(j.workload, rs...)
	if err != nil || snapshot.Version() != t.decoded.SnapshotVersion() {
		return committed{}, false
	}
	c := committed{snapshot: snapshot, table: t, byKey: map[delta.Key]xds.Resource{}}
	for _, r := range snapshot.All() {
		c.byKey[keyOf(r)] = r
	}
	return c, true
}

// encodeState is the file's bytes. settled is the table that Envoy acknowledged last.
func encodeState(c committed, settled table) ([]byte, error) {
	m := &agentv1alpha1.State{Workload: c.snapshot.Workload().String(), Table: c.table.resource.Value()}
	if settled.decoded != nil && settled.version() != c.table.version() {
		m.SettledTable = settled.resource.Value()
	}
	for _, r := range c.snapshot.All() {
		m.Resources = append(m.Resources, &agentv1alpha1.StateResource{
			TypeUrl: r.TypeURL(), Name: r.Name(), Value: r.Value(), Version: r.Version(),
		})
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errState, err)
	}
	sum := sha256.Sum256(payload)
	return append(append([]byte(stateHeader), sum[:]...), payload...), nil
}

// decodeState judges a state file as if its content had just arrived.
func (j judge) decodeState(data []byte) (c committed, settled table, err error) {
	body, ok := bytes.CutPrefix(data, []byte(stateHeader))
	if !ok || len(data) > maxState || len(body) < sha256.Size {
		return committed{}, table{}, fmt.Errorf("%w: not a state file of this version", errState)
	}
	sum, payload := body[:sha256.Size], body[sha256.Size:]
	if have := sha256.Sum256(payload); !bytes.Equal(have[:], sum) {
		return committed{}, table{}, fmt.Errorf("%w: the checksum is wrong", errState)
	}
	var m agentv1alpha1.State
	if err := proto.Unmarshal(payload, &m); err != nil {
		return committed{}, table{}, fmt.Errorf("%w: %w", errState, err)
	}
	if m.GetWorkload() != j.workload.String() {
		return committed{}, table{}, fmt.Errorf("%w: it is of another workload", errState)
	}
	newest, err := j.table(xds.NewResource(xds.TableType, m.GetWorkload(), m.GetTable()))
	if err != nil {
		return committed{}, table{}, fmt.Errorf("%w: %w", errState, err)
	}
	settled = newest
	if len(m.GetSettledTable()) > 0 {
		if settled, err = j.table(xds.NewResource(xds.TableType, m.GetWorkload(), m.GetSettledTable())); err != nil {
			return committed{}, table{}, fmt.Errorf("%w: %w", errState, err)
		}
	}
	var rs []xds.Resource
	for _, saved := range m.GetResources() {
		r := xds.NewResource(saved.GetTypeUrl(), saved.GetName(), saved.GetValue())
		if r.TypeURL() == xds.TableType {
			return committed{}, table{}, fmt.Errorf("%w: a table among the resources", errState)
		}
		if err := j.resource(r); err != nil {
			return committed{}, table{}, fmt.Errorf("%w: %w", errState, err)
		}
		rs = append(rs, r)
	}
	c, ok = j.coherent(newest, rs)
	if !ok {
		return committed{}, table{}, fmt.Errorf("%w: the resources are not those of the table", errState)
	}
	return c, settled, nil
}
