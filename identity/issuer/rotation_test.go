package issuer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

const acmeDomain = "acme.demo.test"

// roots is acme's bundle.
func roots(t testing.TB, i *issuer.Issuer) identity.Bundle {
	t.Helper()
	all, err := i.Bundles(now, domains(acmeDomain, "globex.demo.test")...)
	if err != nil {
		t.Fatal(err)
	}
	b, ok := all.Get(identity.MustTrustDomain(acmeDomain))
	if !ok {
		t.Fatal("acme has no bundle")
	}
	return b
}

func rotation(t testing.TB, i *issuer.Issuer) issuer.Rotation {
	t.Helper()
	r, err := i.Rotation(identity.MustTrustDomain(acmeDomain))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A move is what an operator or the control plane may try at any time.
type move string

const (
	rotate   move = "rotate"
	advance  move = "advance"
	rollback move = "rollback"
	withdraw move = "withdraw"
)

func moves() []move { return []move{rotate, advance, rollback, withdraw} }

func try(t testing.TB, i *issuer.Issuer, m move, at time.Time) (issuer.Rotation, error) {
	t.Helper()
	td := identity.MustTrustDomain(acmeDomain)
	switch m {
	case rotate:
		return i.Rotate(td, at)
	case rollback:
		return i.Rollback(td, at)
	case withdraw:
		return i.Compromised(td, at)
	default:
		return i.Advance(rotation(t, i), at)
	}
}

// where is a state in words: the step, whether it goes back, who signs and who is trusted beside it, counted from the root that
// signed at the beginning.
func where(r issuer.Rotation) string {
	const first = 1
	beside := "-"
	if r.Beside != 0 {
		beside = fmt.Sprint(r.Beside - first)
	}
	back := ""
	if r.Rollback {
		back = " back"
	}
	return fmt.Sprintf("%s%s %d/%s", r.Step, back, r.SigningRoot-first, beside)
}

// transitions is the whole machine: what each move leads to, or the error that it is refused with. Nothing lives that would hold
// a step up.
func transitions() map[string]map[move]any {
	return map[string]map[move]any{
		" 0/-":               {rotate: "published 0/1", advance: issuer.ErrStep, rollback: issuer.ErrNoRollback, withdraw: "attesting 1/-"},
		"published 0/1":      {rotate: issuer.ErrRotating, advance: "signing 1/0", rollback: "withdrawn back 0/-", withdraw: "attesting 2/-"},
		"signing 1/0":        {rotate: issuer.ErrRotating, advance: "withdrawn 1/-", rollback: "signing back 0/1", withdraw: "attesting 2/-"},
		"withdrawn 1/-":      {rotate: issuer.ErrRotating, advance: " 1/-", rollback: issuer.ErrNoRollback, withdraw: "attesting 2/-"},
		"signing back 0/1":   {rotate: issuer.ErrRotating, advance: "withdrawn back 0/-", rollback: issuer.ErrNoRollback, withdraw: "attesting 2/-"},
		"withdrawn back 0/-": {rotate: issuer.ErrRotating, advance: " 0/-", rollback: issuer.ErrNoRollback, withdraw: "attesting 2/-"},
		" 1/-":               {advance: issuer.ErrStep, rollback: issuer.ErrNoRollback, withdraw: "attesting 2/-"},
		"attesting 1/-":      {rotate: issuer.ErrRotating, advance: " 1/-", rollback: issuer.ErrNoRollback, withdraw: "attesting 2/-"},
	}
}

// In every state that can be reached, every move leads where the table says: in memory, and on the disk, where the issuer is
// opened again after each.
func TestRotationTakesTheStepsThatThereAre(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, path := range [][]move{
		{},
		{rotate},
		{rotate, advance},
		{rotate, advance, advance},
		{rotate, advance, rollback},
		{rotate, advance, rollback, advance},
		{rotate, rollback},
		{rotate, advance, advance, advance},
		{withdraw},
		{withdraw, advance},
	} {
		for _, m := range moves() {
			dir := filepath.Join(t.TempDir(), "state")
			disk := open(t, dir)
			memory, err := issuer.OpenMemory(issuer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			roots(t, memory)
			for n, step := range append(slices.Clone(path), m) {
				at := where(rotation(t, disk))
				want, known := transitions()[at][step]
				if !known {
					break // a second rotation
				}
				seen[at+string(step)] = true
				for _, i := range []*issuer.Issuer{disk, memory} {
					got, err := try(t, i, step, now.Add(time.Duration(n)*time.Second))
					if refused, ok := want.(error); ok && !errors.Is(err, refused) {
						t.Fatalf("%s at %q: %v, want %v", step, at, err, refused)
					} else if !ok && (err != nil || where(got) != want) {
						t.Fatalf("%s at %q: %q, %v, want %q", step, at, where(got), err, want)
					}
				}
				disk = restarted(t, disk, dir)
			}
		}
	}
	for at, moves := range transitions() {
		for m := range moves {
			if !seen[at+string(m)] {
				t.Errorf("%s at %q was never tried", m, at)
			}
		}
	}
}

// restarted is the issuer of that directory, opened again: it stands where it stood, and has the keys of its roots and no others.
func restarted(t *testing.T, i *issuer.Issuer, dir string) *issuer.Issuer {
	t.Helper()
	before, bundle := rotation(t, i), roots(t, i)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	i = open(t, dir)
	if roots(t, i).Digest() != bundle.Digest() {
		t.Error("after a restart other roots are trusted")
	}
	if after := rotation(t, i); where(after) != where(before) || !after.Since.Equal(before.Since) || !after.Started.Equal(before.Started) {
		t.Errorf("after a restart it is %v, before it was %v", after, before)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "ca", acmeDomain, "key-*.pem"))
	if err != nil || len(keys) != len(bundle.DER()) {
		t.Errorf("%d roots have %d keys, %v", len(bundle.DER()), len(keys), err)
	}
	return i
}

// Generations are never used again, and each root vouches for the next.
func TestRotationMakesSuccessors(t *testing.T) {
	t.Parallel()
	for _, kind := range []identity.KeyKind{identity.ECDSAP256, identity.ECDSAP384, identity.Ed25519} {
		i, err := issuer.OpenMemory(issuer.Options{RootKey: kind})
		if err != nil {
			t.Fatal(err)
		}
		first := roots(t, i)
		for n, m := range []move{rotate, rollback, advance, rotate} {
			if _, err := try(t, i, m, now); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
		}
		if r := rotation(t, i); r.SigningRoot != 1 || r.Beside != 3 {
			t.Errorf("after one that was rolled back: %v", r)
		}
		both := roots(t, i)
		if !both.Continues(first) || !both.Constrained() || len(both.DER()) != 2 {
			t.Errorf("%v: the new root is not the old one's successor", kind)
		}
		other, _ := inMemory(t)
		if stranger := roots(t, other); stranger.Continues(first) || first.Continues(stranger) {
			t.Error("a root that nobody vouches for continues another")
		}
	}
}

// A root is withdrawn only when nothing lives that it has signed; until then its SVIDs are good and are renewed with the other.
func TestRotationWaitsForWhatLives(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	roots(t, i)
	td := identity.MustTrustDomain(acmeDomain)
	svid := joined(t, i, p256(t), acmeWeb)
	for _, m := range []move{rotate, advance} {
		if _, err := try(t, i, m, now); err != nil {
			t.Fatal(err)
		}
	}
	seen, bundle := rotation(t, i), roots(t, i)
	if _, err := i.Advance(seen, now); !errors.Is(err, issuer.ErrStep) {
		t.Fatalf("withdrawn while an SVID lives: %v", err)
	}
	half := now.Add(issuer.DefaultTTL / 2)
	next, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], half)
	if err != nil {
		t.Fatal(err)
	}
	if next.Bundle.Digest() != bundle.Digest() {
		t.Error("a renewal brings other roots than those that are published")
	}
	living, err := i.Living(td, half)
	if err != nil || len(living) != 2 || living[0].Root != 1 || !living[0].Superseded || living[1].Root != 2 || living[1].Superseded {
		t.Fatalf("living: %v, %v", living, err)
	}
	if _, err := i.Advance(seen, half); !errors.Is(err, issuer.ErrStep) {
		t.Errorf("withdrawn while connections of the renewed SVID may be open: %v", err)
	}
	end := now.Add(issuer.DefaultTTL)
	if _, err := i.Advance(seen, end); err != nil {
		t.Errorf("nothing of the old root lives: %v", err)
	}
	if _, err := i.Advance(seen, end); !errors.Is(err, issuer.ErrStep) {
		t.Errorf("a step that was taken already: %v", err)
	}
	if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), next.Chain[0], end); err != nil {
		t.Errorf("the SVID of the new root: %v", err)
	}
	if living, err := i.Living(identity.MustTrustDomain("globex.demo.test"), end); err != nil || len(living) != 0 {
		t.Errorf("globex: %v, %v", living, err)
	}
}

// Wherever the process dies in a step, the next one finds the roots before it or those after it, and goes on.
func TestRotationGoesOnWhereTheProcessDied(t *testing.T) {
	t.Parallel()
	for _, moves := range [][]move{
		{rotate},
		{rotate, advance},
		{rotate, advance, advance},
		{rotate, rollback},
		{rotate, advance, rollback},
		{withdraw},
		{rotate, withdraw},
		{rotate, advance, withdraw},
		{rotate, advance, advance, withdraw},
		{withdraw, withdraw},
		{withdraw, advance},
	} {
		dir := filepath.Join(t.TempDir(), "state")
		i := open(t, dir)
		roots(t, i)
		for _, m := range moves[:len(moves)-1] {
			if _, err := try(t, i, m, now); err != nil {
				t.Fatal(err)
			}
		}
		before := where(rotation(t, i))
		copies := map[string]string{"made": before}
		i.OnStep(func(step string) {
			at := filepath.Join(dir+"-"+step, "ca")
			if err := errors.Join(os.CopyFS(at, os.DirFS(filepath.Join(dir, "ca"))), os.Chmod(dir+"-"+step, 0o700)); err != nil {
				t.Error(err)
			}
			chmod(t, dir+"-"+step)
		})
		last := moves[len(moves)-1]
		after, err := try(t, i, last, now)
		if err != nil {
			t.Fatal(err)
		}
		copies["put"] = where(after)
		for step, want := range copies {
			if step == "made" && last != rotate && last != withdraw {
				continue
			}
			died := open(t, dir+"-"+step)
			b := roots(t, died)
			if got := where(rotation(t, died)); got != want {
				t.Errorf("%v, dead at %q: %q, want %q", moves, step, got, want)
			}
			keys, err := filepath.Glob(filepath.Join(dir+"-"+step, "ca", acmeDomain, "key-*.pem"))
			if err != nil || len(keys) != len(b.DER()) {
				t.Errorf("%v, dead at %q: %d keys of %d roots", moves, step, len(keys), len(b.DER()))
			}
			published, err := os.ReadFile(filepath.Join(dir+"-"+step, "trust", acmeDomain+".pem"))
			if err != nil || string(published) != string(b.PEM()) {
				t.Errorf("%v, dead at %q: the published roots are others: %v", moves, step, err)
			}
			if _, err := try(t, died, transitionMove(want), now); err != nil {
				t.Errorf("%v, dead at %q: it does not go on: %v", moves, step, err)
			}
		}
	}
}

// transitionMove is a move that there is from a state.
func transitionMove(at string) move {
	if _, ok := transitions()[at][advance].(string); ok || strings.HasPrefix(at, "attesting") {
		return advance
	}
	return rotate
}

// chmod makes a copy as private as a state directory is.
func chmod(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Error(err)
	}
}

// Roots whose roles are not those of the step are not served: somebody has edited the file.
func TestRotationThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, now string }{
		"a step that there is not": {`"step": "published"`, `"step": "done"`},
		"no next":                  {`"step": "published"`, `"step": "withdrawn"`},
		"the wrong role":           {`"role": "next"`, `"role": "previous"`},
		"both at once":             {`"step": "published",`, `"step": "published", "rollback": true,`},
		"nothing was ended":        {`"step": "published",`, `"step": "published", "ended": ["x"],`},
		"withdrawn and published":  {`"step": "published"`, `"step": "attesting"`},
		"no fingerprint":           {`"version": 1,`, `"version": 1, "compromised": ["00"],`},
		"no rotation":              {`"rotation": {`, `"notes": {`},
	} {
		dir := filepath.Join(t.TempDir(), "state")
		i := open(t, dir)
		roots(t, i)
		if _, err := try(t, i, rotate, now); err != nil {
			t.Fatal(err)
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		edit(t, rootsFile(dir), c.old, c.now)
		again, err := issuer.Open(dir, issuer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Bundles(now, domains(acmeDomain)...); err == nil {
			t.Errorf("%s: served", name)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
