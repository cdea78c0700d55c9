package issuer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
)

// ErrLedger says that the ledger cannot be read, where it lies, and what can be done.
var ErrLedger = errors.New("ledger of issued SVIDs")

var errOutstanding = fmt.Errorf("%w: too many SVIDs that have not expired", ErrLimited)

const serialSize = 20 // RFC 5280, section 4.1.2.2

// serial is a certificate's serial number, big-endian. The zero value is none: a serial number is positive.
type serial [serialSize]byte

func serialOf(n *big.Int) (serial, bool) {
	var s serial
	if n == nil || n.Sign() <= 0 || n.BitLen() > 8*serialSize {
		return serial{}, false
	}
	n.FillBytes(s[:])
	return s, true
}

// entry is what the ledger keeps of one SVID.
type entry struct {
	serial      serial
	workload    string
	key         [sha256.Size]byte // of the SubjectPublicKeyInfo
	root        [sha256.Size]byte // of the root's certificate
	notBefore   time.Time
	notAfter    time.Time
	attestation agentv1alpha1.Attestation
	renews      serial // zero: none
	superseded  bool   // another one was got with it
}

// newEntry describes a certificate that is about to be given.
func newEntry(id identity.WorkloadID, leaf *x509.Certificate, r *root, on grounds) (entry, error) {
	s, ok := serialOf(leaf.SerialNumber)
	if !ok {
		return entry{}, fmt.Errorf("%w: a serial number that cannot be kept", ErrLedger)
	}
	return entry{
		serial: s, workload: id.String(), key: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), root: r.fingerprint(),
		notBefore: leaf.NotBefore, notAfter: leaf.NotAfter, attestation: on.how, renews: on.renews,
	}, nil
}

func (e entry) expired(now time.Time) bool { return !now.Before(e.notAfter) }

// What has expired stays for a while: a clock that was set ahead and back again must not have made anybody's SVID one that was
// never given. Machines start with clocks that are hours ahead; of what was renewed already only a lost answer needs it.
const (
	keptAfterEnd     = 24 * time.Hour
	keptIfSuperseded = 2 * time.Hour
)

// over reports whether the ledger may forget an entry.
func (e entry) over(now time.Time) bool {
	kept := keptAfterEnd
	if e.superseded {
		kept = keptIfSuperseded
	}
	return !now.Before(e.notAfter.Add(kept))
}

// encode is the value under the serial number: a hash over both, and a LedgerEntry.
func (e entry) encode() ([]byte, error) {
	m := &agentv1alpha1.LedgerEntry{
		Workload: e.workload, Key: e.key[:], Root: e.root[:], NotBeforeUnix: e.notBefore.Unix(), NotAfterUnix: e.notAfter.Unix(),
		Attestation: e.attestation, Superseded: e.superseded,
	}
	if e.renews != (serial{}) {
		m.Renews = e.renews[:]
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	sum := entrySum(e.serial, payload)
	return append(sum[:], payload...), nil
}

func entrySum(s serial, payload []byte) [sha256.Size]byte {
	return sha256.Sum256(append(s[:], payload...))
}

var errEntry = errors.New("damaged entry")

// decodeEntry reads what encode wrote, and nothing else.
func decodeEntry(key, value []byte) (entry, error) {
	if len(key) != serialSize || len(value) < sha256.Size {
		return entry{}, errEntry
	}
	e := entry{serial: serial(key)}
	payload := value[sha256.Size:]
	if sum := entrySum(e.serial, payload); !bytes.Equal(sum[:], value[:sha256.Size]) {
		return entry{}, errEntry
	}
	var m agentv1alpha1.LedgerEntry
	if err := proto.Unmarshal(payload, &m); err != nil {
		return entry{}, errEntry
	}
	renews := m.GetRenews()
	known := m.GetAttestation() >= agentv1alpha1.Attestation_ATTESTATION_JOIN_TOKEN &&
		m.GetAttestation() <= agentv1alpha1.Attestation_ATTESTATION_CONTROL_PLANE
	ok := e.serial != serial{} && m.GetWorkload() != "" && known && len(m.ProtoReflect().GetUnknown()) == 0 &&
		len(m.GetKey()) == sha256.Size && len(m.GetRoot()) == sha256.Size &&
		(len(renews) == 0 || (len(renews) == serialSize && serial(renews) != serial{})) && m.GetNotBeforeUnix() < m.GetNotAfterUnix()
	if !ok {
		return entry{}, errEntry
	}
	e.workload, e.key, e.root = m.GetWorkload(), [sha256.Size]byte(m.GetKey()), [sha256.Size]byte(m.GetRoot())
	e.notBefore, e.notAfter = time.Unix(m.GetNotBeforeUnix(), 0).UTC(), time.Unix(m.GetNotAfterUnix(), 0).UTC()
	e.attestation, e.superseded = m.GetAttestation(), m.GetSuperseded()
	if len(renews) > 0 {
		e.renews = serial(renews)
	}
	return e, nil
}

// ledger is what was issued and is not over, apart for each trust domain. It is what makes a certificate renewable: one
// that a root signed behind the issuer's back is not in it.
type ledger interface {
	// add records an SVID and drops what is over. Where it renews another one, that one is superseded. It fails with
	// ErrLimited where more than limit would be outstanding: neither expired nor superseded. What supersedes adds none.
	add(td identity.TrustDomain, e entry, limit int, now time.Time) error
	find(td identity.TrustDomain, s serial) (entry, bool, error)
	// outstanding counts those that are neither expired nor superseded.
	outstanding(td identity.TrustDomain, now time.Time) (int, error)
	// each gives all of them, in no order.
	each(td identity.TrustDomain, f func(entry)) error
	// retain drops those that other roots have signed, which cannot be renewed and are not to count.
	retain(td identity.TrustDomain, trusted func(root [sha256.Size]byte) bool) error
}

// memoryLedger ends with the process. It is also what the one on disk is compared with in tests, so it is plain.
type memoryLedger struct {
	mu      sync.Mutex
	entries map[identity.TrustDomain]map[serial]entry
}

var _ ledger = (*memoryLedger)(nil)

func newMemoryLedger() *memoryLedger {
	return &memoryLedger{entries: map[identity.TrustDomain]map[serial]entry{}}
}

func (l *memoryLedger) add(td identity.TrustDomain, e entry, limit int, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	of, count := map[serial]entry{}, 0
	for s, old := range l.entries[td] {
		if old.over(now) {
			continue
		}
		if of[s] = old; !old.superseded && !old.expired(now) {
			count++
		}
	}
	old, free := of[e.renews]
	if free = free && !old.superseded && !old.expired(now); free {
		old.superseded = true
		of[e.renews] = old
	}
	if !free && count >= limit {
		return errOutstanding
	}
	of[e.serial] = e
	l.entries[td] = of
	return nil
}

func (l *memoryLedger) find(td identity.TrustDomain, s serial) (entry, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[td][s]
	return e, ok, nil
}

func (l *memoryLedger) outstanding(td identity.TrustDomain, now time.Time) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for _, e := range l.entries[td] {
		if !e.expired(now) && !e.superseded {
			count++
		}
	}
	return count, nil
}

func (l *memoryLedger) each(td identity.TrustDomain, f func(entry)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries[td] {
		f(e)
	}
	return nil
}

func (l *memoryLedger) retain(td identity.TrustDomain, trusted func([sha256.Size]byte) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.entries[td], func(_ serial, e entry) bool { return !trusted(e.root) })
	return nil
}
