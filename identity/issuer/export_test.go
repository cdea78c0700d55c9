package issuer

import (
	"crypto/sha256"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// OnStep has a function called between the steps of giving an SVID.
func (i *Issuer) OnStep(f func(step string)) { i.step = f }

// Recorded says whether a certificate's serial number and key are in the ledger, for that workload.
func (i *Issuer) Recorded(td identity.TrustDomain, n [20]byte) (workload string, superseded, ok bool) {
	e, ok, err := i.store.find(td, serial(n))
	if err != nil {
		panic(err)
	}
	return e.workload, e.superseded, ok
}

// Given counts the entries of the ledger.
func (i *Issuer) Given(td identity.TrustDomain) int {
	count := 0
	if err := i.store.each(td, func(entry) { count++ }); err != nil {
		panic(err)
	}
	return count
}

// Ledger is a ledger, with what a test needs of an entry.
type Ledger struct{ l ledger }

// NewMemoryLedger is the plain one.
func NewMemoryLedger() Ledger { return Ledger{newMemoryLedger()} }

// OpenLedger is the one on the disk.
func OpenLedger(path string) (l Ledger, closed func() error, fresh bool, err error) {
	b, fresh, err := openLedger(path)
	if err != nil {
		return Ledger{}, nil, false, err
	}
	return Ledger{b}, b.db.Close, fresh, nil
}

// Add adds an entry whose numbers stand for a serial number and that of another.
func (l Ledger) Add(td identity.TrustDomain, n, renews byte, end time.Time, limit int, now time.Time) error {
	e := entry{
		serial: serial{19: n}, workload: "spiffe://" + td.String() + "/w", notBefore: end.Add(-time.Hour), notAfter: end,
		attestation: agentv1alpha1.Attestation_ATTESTATION_JOIN_TOKEN, renews: serial{19: renews}, key: sha256.Sum256([]byte{n}),
		root: [sha256.Size]byte{n % 2},
	}
	return l.l.add(td, e, limit, now)
}

// Retain drops the entries of other roots than that of a number; each entry's root has the number of the entry's serial modulo 2.
func (l Ledger) Retain(td identity.TrustDomain, root byte) {
	if err := l.l.retain(td, func(of [sha256.Size]byte) bool { return of == [sha256.Size]byte{root} }); err != nil {
		panic(err)
	}
}

// Find says what is kept under a number.
func (l Ledger) Find(td identity.TrustDomain, n byte) (end time.Time, renews byte, superseded, ok bool) {
	e, ok, err := l.l.find(td, serial{19: n})
	if err != nil {
		panic(err)
	}
	return e.notAfter, e.renews[19], e.superseded, ok
}

// Outstanding counts.
func (l Ledger) Outstanding(td identity.TrustDomain, now time.Time) int {
	n, err := l.l.outstanding(td, now)
	if err != nil {
		panic(err)
	}
	return n
}

// RoundTrip decodes an entry of the ledger and encodes it again.
func RoundTrip(key, value []byte) (again []byte, ok bool) {
	e, err := decodeEntry(key, value)
	if err != nil {
		return nil, false
	}
	again, err = e.encode()
	return again, err == nil
}

// Sum is the hash that an entry's value begins with.
func Sum(key [20]byte, payload []byte) [sha256.Size]byte { return entrySum(key, payload) }
