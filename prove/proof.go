package prove

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds"
)

// method is how the proofs of this version are made.
const method = "lint"

// Proof says that one exact configuration was checked and found isolated. Only Prove and Extend make one; the zero value
// covers nothing.
type Proof struct {
	digest  [32]byte
	method  string
	tenants map[identity.TenantID]cover // what was checked of each; never changed
}

// cover names the exact share of one tenant: all that its handle reaches, all that its workloads get, all its rules.
type cover struct {
	handle, part [32]byte
	table        string
}

// IsZero reports whether p proves nothing.
func (p Proof) IsZero() bool { return p.method == "" }

// Method is how the proof was made: "lint".
func (p Proof) Method() string { return p.method }

// Digest is a hash over what the proof covers.
func (p Proof) Digest() [32]byte { return p.digest }

// Covers reports whether the proof is of exactly this configuration.
func (p Proof) Covers(m *tenancy.Model, parts []xds.Part, tables []*authz.Table) bool {
	return !p.IsZero() && m != nil && p.digest == digest(m, parts, tables)
}

// digest covers the method, every tenant of the model, every part and every table, in any order.
func digest(m *tenancy.Model, parts []xds.Part, tables []*authz.Table) [32]byte {
	var lines []string
	for _, id := range m.Tenants() {
		t, _ := m.Tenant(id)
		lines = append(lines, fmt.Sprintf("model %s %s %x", id.Name(), id.TrustDomain(), t.Digest()))
	}
	for _, p := range parts {
		lines = append(lines, fmt.Sprintf("part %s %s %x", p.Tenant().Name(), p.Tenant().TrustDomain(), p.Digest()))
	}
	for _, t := range tables {
		if t == nil {
			lines = append(lines, "table")
			continue
		}
		lines = append(lines, fmt.Sprintf("table %s %s %s", t.Tenant().Name(), t.Tenant().TrustDomain(), t.Version()))
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range append([]string{"ringfence-proof/1", method}, lines...) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(l)))
		h.Write(n[:])
		h.Write([]byte(l))
	}
	return [32]byte(h.Sum(nil))
}

// Counterexample is the first thing that keeps a configuration from being proved.
//
//nolint:errname // it is data that can also be read as an error
type Counterexample struct {
	// Tenant is whose configuration it is, and Workload whose sidecar or agent would get it; zero where it is nobody's.
	Tenant   identity.TenantID
	Workload identity.WorkloadID
	// TypeURL, Resource and Field say where.
	TypeURL, Resource, Field string
	// Text says what is wrong. It may name other tenants: it is for the platform's operators.
	Text string
}

// Error is one line.
func (c *Counterexample) Error() string {
	var where []string
	for _, part := range []string{c.Tenant.Name(), c.Workload.String(), c.TypeURL, c.Resource, c.Field} {
		if part != "" {
			where = append(where, part)
		}
	}
	text := c.Text
	if text == "" {
		text = "not proved"
	}
	return strings.Join(append(where, text), ": ")
}
