package controlplane_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// due is when a tenant's next rotation begins by itself.
func (r rotating) due(tenant string) time.Time {
	r.t.Helper()
	answer, err := r.client.Show(within(r.t), &agentv1alpha1.RotationRequest{Tenant: tenant})
	if err != nil {
		r.t.Fatal(err)
	}
	if answer.GetDueUnix() == 0 {
		return time.Time{}
	}
	return time.Unix(answer.GetDueUnix(), 0)
}

// of is where a tenant's rotation stands.
func (r rotating) of(tenant string) string {
	r.t.Helper()
	answer, err := r.client.Show(within(r.t), &agentv1alpha1.RotationRequest{Tenant: tenant})
	if err != nil {
		r.t.Fatal(err)
	}
	return rotationText(answer)
}

func (r rotating) until(tenant, want string) {
	r.t.Helper()
	ctx := within(r.t)
	for got := r.of(tenant); got != want; got = r.of(tenant) {
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s: %q, want %q", tenant, got, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A rotation begins by itself when the root is as old as the documents say, each tenant's a little earlier in its own way, also after
// a restart; and one that was taken back does not begin again at once.
func TestRotationOnSchedule(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	config, state := example(t), filepath.Join(t.TempDir(), "state")
	r, made := startRotating(t, config, state, clock), time.Now()
	// In a running control plane such a jump would be doubted: rotations wait for two hours.
	set := func(to time.Time) {
		t.Helper()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		ahead.Store(int64(time.Until(to)))
		r = startRotating(t, config, state, clock)
	}
	if due := r.due("acme"); !due.IsZero() {
		t.Errorf("without rootLife it is due at %v", due)
	}
	r.edit("mesh.yaml", "  platformTrustDomain:", "  rootLife: 90d\n  platformTrustDomain:")
	for ctx := within(t); r.due("acme").IsZero(); {
		if ctx.Err() != nil {
			t.Fatal("rootLife is not read")
		}
	}
	first, second := "acme", "globex"
	if r.due(second).Before(r.due(first)) {
		first, second = second, first
	}
	dues := map[string]time.Time{first: r.due(first), second: r.due(second)}
	for name, due := range dues {
		if age := due.Sub(made); age < 81*day-time.Minute || age > 90*day+time.Minute {
			t.Errorf("%s: due after %v", name, age)
		}
	}
	if apart := dues[second].Sub(dues[first]); apart < time.Hour {
		t.Fatalf("the two are %v apart", apart)
	}

	set(dues[first])
	r.until(first, "none 2/0") // it has looked many times by then
	if got := r.of(second); got != "none 1/0" {
		t.Errorf("%s, whose root is not so old: %q", second, got)
	}
	if age := r.due(first).Sub(dues[first]); age < 81*day-time.Minute || age > 90*day+time.Minute {
		t.Errorf("the next one is due after %v", age)
	}

	set(dues[second].Add(-time.Minute))
	if due := r.due(second); !due.Equal(dues[second]) {
		t.Errorf("after a restart it is due at %v, not at %v", due, dues[second])
	}
	id := "spiffe://" + second + ".demo.test/ns/" + second + "/sa/orders"
	r.joined(id) // and is away: the rotation stays where it begins
	set(dues[second])
	r.until(second, "published 1/2 orders:connection…")
	if due := r.due(second); !due.IsZero() {
		t.Errorf("while one is under way another is due at %v", due)
	}
	if _, err := r.client.Rollback(within(t), &agentv1alpha1.RotationRequest{Tenant: second}); err != nil {
		t.Fatal(err)
	}
	set(dues[second].Add(2 * time.Hour)) // nobody has an SVID any more
	r.until(second, "none 1/0")
	if _, err := r.client.Begin(within(t), &agentv1alpha1.RotationRequest{Tenant: first}); err != nil {
		t.Fatal(err)
	}
	r.until(first, "none 3/0")
	if got := r.of(second); got != "none 1/0" {
		t.Errorf("what was taken back begins again at once: %q", got)
	}
	again := r.due(second)
	if pause := again.Sub(dues[second]); pause < 9*day-time.Minute || pause > 9*day+time.Minute {
		t.Errorf("what was taken back is due again after %v", pause)
	}
	set(again)
	r.until(second, "none 3/0")
}
