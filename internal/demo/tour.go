package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Tour is what the demo command shows: the mesh coming up, the matrix, and what to try next.
type Tour struct {
	Config
	// Check ends after the matrix.
	Check bool
	// Out is what people read.
	Out io.Writer
}

// Run brings the mesh up, sends the matrix and, unless Check is set, stays up until ctx ends. It is false where a call did
// not end as expected.
func (t Tour) Run(ctx context.Context) (bool, error) {
	t.say("Ringfence demo: a mesh on this machine, each workload behind an Envoy of its own")
	t.say("  config  %s", t.Dir)
	t.say("  state   %s  (keys, caches, sockets, log)", t.State)
	t.say("  envoy   %s", t.Envoy)
	start := time.Now()
	t.say("starting the control plane, agents and Envoys …")
	m, err := Start(ctx, t.Config)
	if err != nil {
		return false, err
	}
	defer m.Close()
	t.say("ready in %.1f s: %d sidecars have acknowledged their configuration", time.Since(start).Seconds(), len(m.sidecars))
	t.say("")
	calls, left, err := m.calls(ctx)
	if err != nil {
		return false, err
	}
	rows, err := m.RunMatrix(ctx, calls, t.Out)
	if err != nil {
		return false, err
	}
	wrong := 0
	for _, r := range rows {
		if !r.OK() {
			wrong++
		}
	}
	t.say("")
	switch {
	case wrong > 0:
		t.say("%d of %d calls did NOT end as expected.", wrong, len(rows))
	case len(rows) == 0:
		t.say("nothing was called: what is called are the policy tests, in tests/")
	default:
		t.say("all %d calls ended as expected.", len(rows))
	}
	if left > 0 {
		t.say("cases of the policy tests that cannot be sent as calls: %d; `ringfence test %s` runs them.", left, t.Dir)
	}
	if t.Check {
		return wrong == 0 && len(rows) > 0, nil
	}
	if err := t.stay(ctx, m, rows); err != nil {
		return false, err
	}
	return wrong == 0, nil
}

func (t Tour) say(format string, args ...any) {
	fmt.Fprintf(t.Out, format+"\n", args...)
}

// stay keeps the tokens of the suggestions fresh and tells what becomes of changed documents.
func (t Tour) stay(ctx context.Context, m *Mesh, rows []Row) error {
	example := m.hasMatrix()
	if example {
		files, err := m.writeTokens()
		if err != nil {
			return err
		}
		if err := t.suggest(m, files); err != nil {
			return err
		}
	} else if err := t.suggestAnother(m, rows); err != nil {
		return err
	}
	refresh := time.NewTicker(tokenLife / 3)
	defer refresh.Stop()
	const look = 100 * time.Millisecond
	changes := time.NewTicker(look)
	defer changes.Stop()
	last, _ := m.plane.Last()
	for {
		select {
		case <-ctx.Done():
			t.say("stopping the Envoys …")
			return nil
		case <-m.Broken():
			return m.Cause()
		case <-refresh.C:
			if !example {
				continue
			}
			if _, err := m.writeTokens(); err != nil {
				return err
			}
		case <-changes.C:
			e, ok := m.plane.Last()
			if !ok || e.Revision == last.Revision {
				continue
			}
			last = e
			t.tell(ctx, m)
		}
	}
}

// tell says what became of a change.
func (t Tour) tell(ctx context.Context, m *Mesh) {
	e, _ := m.plane.Last()
	for _, p := range e.Problems {
		t.say("%s", p.Render())
	}
	if len(e.Problems) > 0 {
		t.say("the last accepted documents stay in force")
	}
	if e.Counterexample != nil {
		t.say("not published, it is not isolated: %v", e.Counterexample)
	}
	if e.Err != nil {
		t.say("cannot read the configuration: %v", e.Err)
	}
	if e.Published {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if err := m.Settled(ctx); err != nil {
			t.say("generation %d is published, but %v", e.Generation.Number(), err)
			return
		}
		t.say("changed: generation %d is in force at every sidecar", e.Generation.Number())
	}
}

// tokenFiles are the tokens of the suggestions.
type tokenFiles struct{ clerk, manager string }

// writeTokens signs the suggestions' tokens anew: they live for minutes.
func (m *Mesh) writeTokens() (tokenFiles, error) {
	const private = 0o600
	f := tokenFiles{clerk: filepath.Join(m.config.State, "clerk"), manager: filepath.Join(m.config.State, "manager")}
	for path, token := range map[string]Token{f.clerk: clerk, f.manager: manager} {
		signed, err := m.Mint(token)
		if err != nil {
			return f, err
		}
		if err := os.WriteFile(path, []byte(signed), private); err != nil {
			return f, fmt.Errorf("token: %w", err)
		}
	}
	return f, nil
}

func (t Tour) suggest(m *Mesh, f tokenFiles) error {
	acme, err := m.Outbound("acme/web")
	if err != nil {
		return err
	}
	globex, err := m.Outbound("globex/web")
	if err != nil {
		return err
	}
	t.say("")
	t.say("Try next, in another terminal:")
	t.say("  acme's web reads an order, as a clerk:")
	t.say(`    curl -s -x http://%s -H "authorization: Bearer $(cat %s)" http://orders/orders/7`, acme, f.clerk)
	t.say("  a clerk may not order, a manager may:")
	t.say(`    curl -s -x http://%s -H "authorization: Bearer $(cat %s)" -X POST http://orders/orders`, acme, f.clerk)
	t.say(`    curl -s -x http://%s -H "authorization: Bearer $(cat %s)" -X POST http://orders/orders`, acme, f.manager)
	t.say("  for globex's web, \"orders\" is another service, and acme's does not exist:")
	t.say("    curl -s -x http://%s http://orders/orders/7", globex)
	t.say("    curl -s -x http://%s http://orders.acme.mesh/orders/7", globex)
	t.say("  the shared service is granted to acme alone:")
	t.say("    curl -s -x http://%s http://billing/invoices/12", acme)
	t.say("    curl -s -x http://%s http://billing/invoices/12", globex)
	t.say("Change a rule or a Grant in %s and ask again: it holds for the next call.", t.Dir)
	t.sayEnd()
	return nil
}

// suggestAnother shows how calls of another mesh than the example's are sent by hand.
func (t Tour) suggestAnother(m *Mesh, rows []Row) error {
	const several = 4
	t.say("")
	t.say("Try next, in another terminal:")
	for _, r := range rows[:min(len(rows), several)] {
		if !r.Call.Token.IsZero() {
			continue
		}
		proxy, err := m.Outbound(r.Call.From)
		if err != nil {
			return err
		}
		t.say("    curl -s -x http://%s -X %s http://%s%s", proxy, r.Call.Method, r.Call.To, r.Call.Path)
	}
	t.say("Change a document in %s and ask again: it holds for the next call.", t.Dir)
	t.sayEnd()
	return nil
}

func (t Tour) sayEnd() {
	t.say("Is all of it well? ringfence check --state %s", filepath.Join(t.State, "plane"))
	t.say("Why was a call refused? ringfence why X-RINGFENCE-DECISION --log %s", filepath.Join(t.State, "log"))
	t.say("")
	t.say("Ctrl-C ends it.")
}
