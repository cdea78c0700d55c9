package issuer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

var (
	// ErrRotating says that a rotation is under way already, so that no other can begin.
	ErrRotating = errors.New("a rotation is under way already")
	// ErrNoRollback says that there is no rotation that could be taken back: none is under way, it is being taken back
	// already, or the old root is withdrawn.
	ErrNoRollback = errors.New("nothing to roll back")
	// ErrStep says that a rotation is not, or no longer, where a caller believes, or that it still waits for something.
	ErrStep = errors.New("the rotation is not so far")
)

// Step is where the rotation of a root stands. The zero value: none is under way.
type Step string

// A rotation takes these steps, each once everybody concerned is ready for it.
const (
	// Published: both roots are trusted and the old one signs.
	Published Step = "published"
	// Signing: both are trusted and the other one signs: the new one, or the old one again after a rollback.
	Signing Step = "signing"
	// Withdrawn: only one is trusted any more, and not everybody knows.
	Withdrawn Step = "withdrawn"
	// Attesting: all that were trusted are withdrawn as compromised, one that none of them vouches for signs, and whoever had an
	// SVID joins again.
	Attesting Step = "attesting"
)

// Rotation is where a trust domain's roots stand.
type Rotation struct {
	TrustDomain identity.TrustDomain
	Step        Step
	// Rollback says that it leads back to the root from before.
	Rollback bool
	// Started is when the rotation began, Since when its step did.
	Started, Since time.Time
	// SigningRoot is the generation of the root that signs, Beside that of the other one that is trusted; 0: there is none.
	SigningRoot, Beside int
	// SigningSince is when the root that signs was made, Begun when the last rotation began, which may have been taken back;
	// zero: there was none.
	SigningSince, Begun time.Time
}

// underway is the part of a Rotation that roots.json keeps. The roles of the roots say the rest.
type underway struct {
	Step     Step      `json:"step"`
	Rollback bool      `json:"rollback,omitempty"`
	Started  time.Time `json:"started"`
	Since    time.Time `json:"since"`
	// Ended are the workloads, by SPIFFE ID and sorted, whose SVIDs were ended with compromised roots; at Attesting only.
	Ended []string `json:"ended,omitempty"`
}

// fits reports whether roots of these roles can be there at this step; u is nil where no rotation is under way.
func (u *underway) fits(roles []role) bool {
	var beside []role
	if u != nil {
		if u.Step != Attesting && len(u.Ended) > 0 {
			return false
		}
		switch u.Step {
		case Published:
			if u.Rollback {
				return false
			}
			beside = []role{roleNext}
		case Signing:
			beside = []role{rolePrevious}
		case Attesting:
			if u.Rollback {
				return false
			}
		case Withdrawn:
		default:
			return false
		}
	}
	return slices.Equal(roles, append([]role{roleCurrent}, beside...))
}

func (a *authority) rotation() Rotation {
	r := Rotation{
		TrustDomain: a.td, SigningRoot: a.current().generation, SigningSince: a.current().cert.NotBefore.Add(backdate), Begun: a.begun,
	}
	if other := a.beside(); other != nil {
		r.Beside = other.generation
	}
	if a.underway != nil {
		r.Step, r.Rollback, r.Started, r.Since = a.underway.Step, a.underway.Rollback, a.underway.Started, a.underway.Since
	}
	return r
}

// beside is the root that is trusted and does not sign; nil where there is none.
func (a *authority) beside() *root {
	if len(a.roots) > 1 {
		return a.roots[1]
	}
	return nil
}

// begin publishes a new root.
func (a *authority) begin(next *root, now time.Time) (*authority, error) {
	if a.underway != nil {
		return nil, ErrRotating
	}
	b := a.changed(&underway{Step: Published, Started: now, Since: now}, a.current(), next.as(roleNext))
	b.last, b.begun = next.generation, now
	return b, nil
}

// changed is the authority with other roots, at another step.
func (a *authority) changed(u *underway, roots ...*root) *authority {
	return &authority{td: a.td, last: a.last, begun: a.begun, compromised: a.compromised, underway: u, roots: roots}
}

// compromise withdraws every root there is, at whatever step: of two, the other one was made by a control plane whose secrets
// may be known. Nobody vouches for the fresh one, since whoever has a root's key can make it vouch for one of his own. ended are
// those who have an SVID.
func (a *authority) compromise(fresh *root, ended []string, now time.Time) *authority {
	u := &underway{Step: Attesting, Started: now, Since: now}
	if a.underway != nil {
		ended = append(slices.Clone(a.underway.Ended), ended...) // whoever has not joined again since the last time
	}
	slices.Sort(ended)
	u.Ended = slices.Compact(ended)
	b := a.changed(u, fresh.as(roleCurrent))
	b.last, b.compromised = fresh.generation, slices.Clone(a.compromised)
	for _, r := range a.roots {
		b.compromised = append(b.compromised, r.fingerprint())
	}
	return b
}

// advance takes the next step: whoever calls it knows that everybody is ready.
func (a *authority) advance(now time.Time) (*authority, error) {
	if a.underway == nil {
		return nil, ErrStep
	}
	u := *a.underway
	u.Since = now
	switch a.underway.Step {
	case Published:
		u.Step = Signing
		return a.changed(&u, a.swapped()...), nil
	case Signing:
		u.Step = Withdrawn
		return a.changed(&u, a.current()), nil
	case Withdrawn, Attesting:
		return a.changed(nil, a.roots...), nil
	default:
		return nil, ErrStep
	}
}

// rollback turns the rotation around. The new root is withdrawn at once where it has signed nothing; else the old one signs
// again, and what the new one has signed is renewed as a rotation renews it.
func (a *authority) rollback(now time.Time) (*authority, error) {
	if a.underway == nil || a.underway.Rollback || a.underway.Step == Withdrawn || a.underway.Step == Attesting {
		return nil, ErrNoRollback
	}
	u := &underway{Step: Signing, Rollback: true, Started: a.underway.Started, Since: now}
	if a.underway.Step == Published {
		u.Step = Withdrawn
		return a.changed(u, a.current()), nil
	}
	return a.changed(u, a.swapped()...), nil
}

// swapped lets the other root sign.
func (a *authority) swapped() []*root {
	return []*root{a.beside().as(roleCurrent), a.current().as(rolePrevious)}
}

func (r *root) as(now role) *root {
	again := *r
	again.role = now
	return &again
}

// Rotate makes a new root of a trust domain that has one, with a new key, and publishes it. The root that signs vouches for
// it, so that agents take it. The error is ErrRotating, or what the disk says.
func (i *Issuer) Rotate(td identity.TrustDomain, now time.Time) (Rotation, error) {
	return i.change(td, func(a *authority) (*authority, error) {
		if a.underway != nil {
			return nil, ErrRotating // before a key is made for nothing
		}
		next, err := newRoot(td, i.store.rootKeys(), i.rootKey, a.current(), now)
		if err != nil {
			return nil, err
		}
		next.generation = a.last + 1
		i.step("made")
		return a.begin(next, now)
	})
}

// Rollback goes back to the old root. The error is ErrNoRollback, or what the disk says.
func (i *Issuer) Rollback(td identity.TrustDomain, now time.Time) (Rotation, error) {
	return i.change(td, func(a *authority) (*authority, error) { return a.rollback(now) })
}

// Compromised withdraws every root of a trust domain at once, at whatever step its rotation is, and lets a new one sign that none
// of them vouches for. What they have signed is worth nothing from then on: nothing of it is renewed, and whoever had an SVID
// joins again. The error is what the disk says.
func (i *Issuer) Compromised(td identity.TrustDomain, now time.Time) (Rotation, error) {
	return i.change(td, func(a *authority) (*authority, error) {
		living, err := i.living(a, now)
		if err != nil {
			return nil, err
		}
		var ended []string
		for _, l := range living {
			ended = append(ended, l.Workload)
		}
		fresh, err := newRoot(td, i.store.rootKeys(), i.rootKey, nil, now)
		if err != nil {
			return nil, err
		}
		fresh.generation = a.last + 1
		i.step("made")
		return a.compromise(fresh, ended, now), nil
	})
}

// Ended are the workloads, by SPIFFE ID and sorted, whose SVIDs were ended with compromised roots and that are to join again;
// none where the step is another.
func (i *Issuer) Ended(td identity.TrustDomain) ([]string, error) {
	a, err := i.existing(td)
	if err != nil || a.underway == nil {
		return nil, err
	}
	return slices.Clone(a.underway.Ended), nil
}

// Withdrawn reports whether a root of that SHA-256 was withdrawn as compromised, from a trust domain that Bundles was asked for.
func (i *Issuer) Withdrawn(root [sha256.Size]byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, a := range i.authorities {
		if slices.Contains(a.compromised, root) {
			return true
		}
	}
	return false
}

// Advance takes the step after the one at which the caller saw everybody ready. It fails with ErrStep where the rotation has
// moved since then, and where a root is to be withdrawn while something lives that it has signed.
func (i *Issuer) Advance(seen Rotation, now time.Time) (Rotation, error) {
	return i.change(seen.TrustDomain, func(a *authority) (*authority, error) {
		if a.rotation() != seen {
			return nil, ErrStep
		}
		if seen.Step == Signing {
			living, err := i.living(a, now)
			if err != nil {
				return nil, err
			}
			for _, l := range living {
				if l.Root != a.current().generation {
					return nil, fmt.Errorf("%w: an SVID of %s holds until %s", ErrStep, l.Workload, l.NotAfter.Format(time.RFC3339))
				}
			}
		}
		return a.advance(now)
	})
}

// change puts other roots in force while nothing is given: what was given before is in the ledger.
func (i *Issuer) change(td identity.TrustDomain, to func(*authority) (*authority, error)) (Rotation, error) {
	i.giving.Lock()
	defer i.giving.Unlock()
	a, err := i.existing(td)
	if err != nil {
		return Rotation{}, err
	}
	next, err := to(a)
	if err != nil {
		return a.rotation(), err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.store.putAuthority(next); err != nil {
		// Which of them is on the disk is in force, whatever else went wrong.
		if kept, ok, _ := i.store.authority(td); ok {
			i.authorities[td] = kept
		}
		return Rotation{}, err
	}
	i.authorities[td] = next
	i.step("put")
	i.retain(next)
	return next.rotation(), nil
}

// Rotation is where the roots of a trust domain stand that Bundles was asked for before.
func (i *Issuer) Rotation(td identity.TrustDomain) (Rotation, error) {
	a, err := i.existing(td)
	if err != nil {
		return Rotation{}, err
	}
	return a.rotation(), nil
}

// Living is an SVID that was given and holds.
type Living struct {
	Workload string // SPIFFE ID
	Root     int    // generation of the root that signed it; 0: one that is not trusted any more
	NotAfter time.Time
	// Superseded says that another one was got with it.
	Superseded bool
}

// Living are the SVIDs of a trust domain that hold, sorted by workload and end.
func (i *Issuer) Living(td identity.TrustDomain, now time.Time) ([]Living, error) {
	a, err := i.existing(td)
	if err != nil {
		return nil, err
	}
	return i.living(a, now)
}

func (i *Issuer) living(a *authority, now time.Time) ([]Living, error) {
	var all []Living
	err := i.store.each(a.td, func(e entry) {
		if e.expired(now) {
			return
		}
		l := Living{Workload: e.workload, NotAfter: e.notAfter, Superseded: e.superseded}
		for _, r := range a.roots {
			if r.fingerprint() == e.root {
				l.Root = r.generation
			}
		}
		all = append(all, l)
	})
	slices.SortFunc(all, func(a, b Living) int {
		if a.Workload != b.Workload {
			if a.Workload < b.Workload {
				return -1
			}
			return 1
		}
		return a.NotAfter.Compare(b.NotAfter)
	})
	return all, err
}
