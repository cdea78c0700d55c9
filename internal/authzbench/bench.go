package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// bench is one run.
type bench struct {
	plan

	dir    string
	mesh   *mesh
	report report
}

// pair is our server and the one that does nothing.
type pair struct{ ours, noop *target }

func (p pair) stop() error {
	var errs []error
	for _, t := range []*target{p.ours, p.noop} {
		if t != nil {
			errs = append(errs, t.stop())
		}
	}
	return errors.Join(errs...)
}

// start starts both servers, ours with the first tenants of the mesh, and attacks ours.
func (b *bench) start(ctx context.Context, tenants int) (p pair, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	file := filepath.Join(b.dir, fmt.Sprintf("tables-%d", tenants))
	encoded := make([][]byte, tenants)
	for i := range encoded {
		encoded[i] = b.mesh.tenants[i].table
	}
	if err := writeTables(file, encoded); err != nil {
		return p, err
	}
	if p.noop, err = launch(ctx, b.dir, noop); err != nil {
		return p, err
	}
	if p.ours, err = launch(ctx, b.dir, ringfence, file); err != nil {
		return p, err
	}
	return p, b.attack(ctx, p.ours)
}

// attack asks what must be answered rightly before anything is timed. Two tenants are needed for it.
func (b *bench) attack(ctx context.Context, t *target) error {
	attacks, err := b.mesh.attacks()
	if err != nil {
		return err
	}
	for transport, address := range t.addr {
		c, err := dial(address, 1)
		if err != nil {
			return err
		}
		for i := range attacks {
			if err := c.ask(ctx, 0, &attacks[i], false); err != nil {
				return errors.Join(fmt.Errorf("over %s, attack %d: %w", transport, i, err), c.close())
			}
		}
		if err := c.close(); err != nil {
			return err
		}
	}
	return nil
}

// cell is a row of questions, asked of both servers in turn.
type cell struct {
	ours, noop []sample // by repeat
}

func (b *bench) measure(ctx context.Context, p pair, transport string, inFlight int, questions []question) (cell, error) {
	var c cell
	for repeat := range b.repeats {
		order := []*target{p.ours, p.noop}
		if repeat%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, t := range order {
			s, err := t.load(ctx, transport, inFlight, questions, b.window)
			if err != nil {
				return c, err
			}
			if t == p.ours {
				c.ours = append(c.ours, s)
			} else {
				c.noop = append(c.noop, s)
			}
		}
	}
	return c, nil
}

func cpu(s sample) time.Duration { return s.cpu }
func p50(s sample) time.Duration { return s.p50 }
func p99(s sample) time.Duration { return s.p99 }

// over divides two rows of samples, repeat by repeat.
func over(a, b []sample, of func(sample) time.Duration) []float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = float64(of(a[i])) / float64(max(of(b[i]), 1))
	}
	return ratios
}

func microseconds(samples []sample, of func(sample) time.Duration) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = float64(of(s)) / float64(time.Microsecond)
	}
	return median(values)
}

// checks measures whole calls.
func (b *bench) checks(ctx context.Context) (err error) {
	p, err := b.start(ctx, few)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	idle, err := b.memory(p)
	if err != nil {
		return err
	}
	const size = 4000
	questions, err := b.mesh.pool(few, size, usual(), b.mesh.plain)
	if err != nil {
		return err
	}
	b.report.note("a CheckRequest has %d bytes; each figure is over %d repeats of %s", len(questions[0].wire), b.repeats, b.window)
	var at16 cell
	for _, row := range []struct {
		transport string
		inFlight  int
		bar       float64
	}{{overTCP, 1, 0.70}, {overTCP, 16, 0.45}, {overTCP, 64, 0.50}, {overUnix, 1, 0.50}, {overUnix, 16, 0.35}} {
		c, err := b.measure(ctx, p, row.transport, row.inFlight, questions)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("Check over %s, %d in flight: CPU ÷ no-op", row.transport, row.inFlight)
		b.report.add(what, row.bar, "×", over(c.ours, c.noop, cpu)...)
		b.report.remark("%.1f µs and %.1f µs a call", microseconds(c.ours, cpu), microseconds(c.noop, cpu))
		if row.transport == overTCP && row.inFlight == 16 {
			at16 = c
		}
	}
	b.report.add("Check over TCP, 16 in flight: p50 ÷ no-op", 0.55, "×", over(at16.ours, at16.noop, p50)...)
	b.report.add("Check over TCP, 16 in flight: p99 ÷ no-op", 0.70, "×", over(at16.ours, at16.noop, p99)...)
	used, err := b.memory(p)
	if err != nil {
		return err
	}
	b.report.add("RSS idle, 100 tenants ÷ no-op", 1.4, "×", idle[0]/idle[1])
	b.report.remark("%.0f MiB and %.0f MiB", idle[0]/1024, idle[1]/1024)
	b.report.add("RSS after 64 in flight ÷ idle", 1.5, "×", used[0]/idle[0])
	b.report.remark("%.0f MiB; no-op %.0f MiB", used[0]/1024, used[1]/1024)
	if err := b.refusals(ctx, p); err != nil {
		return err
	}
	if err := b.withTokens(ctx, p); err != nil {
		return err
	}
	return b.growth(ctx)
}

// memory is what both servers hold, in KiB.
func (b *bench) memory(p pair) (both [2]float64, err error) {
	for i, t := range []*target{p.ours, p.noop} {
		if both[i], err = rssOf(t.cmd.Process.Pid); err != nil {
			return both, err
		}
	}
	return both, nil
}

// turns measures two kinds of questions of our server in turn.
func (b *bench) turns(ctx context.Context, t *target, first, second func(repeat int) ([]question, error)) (one, two []sample, err error) {
	for repeat := range b.repeats {
		for _, kind := range []struct {
			questions func(int) ([]question, error)
			into      *[]sample
		}{{first, &one}, {second, &two}} {
			questions, err := kind.questions(repeat)
			if err != nil {
				return nil, nil, err
			}
			s, err := t.load(ctx, overTCP, 16, questions, b.window)
			if err != nil {
				return nil, nil, err
			}
			*kind.into = append(*kind.into, s)
		}
	}
	return one, two, nil
}

func always(questions []question, err error) func(int) ([]question, error) {
	return func(int) ([]question, error) { return questions, err }
}

// refusals compares what is refused with what is allowed.
func (b *bench) refusals(ctx context.Context, p pair) error {
	const size = 2000
	allowed := always(b.mesh.pool(few, size, shares{allowed: 100}, b.mesh.plain))
	for _, row := range []struct {
		what  string
		share shares
	}{{"other tenants'", shares{foreign: 100}}, {"unknown", shares{}}} {
		refused, all, err := b.turns(ctx, p.ours, always(b.mesh.pool(few, size, row.share, b.mesh.plain)), allowed)
		if err != nil {
			return err
		}
		b.report.add("Check of "+row.what+" callers: CPU ÷ allowed ones", 1, "×", over(refused, all, cpu)...)
		b.report.remark("each with a line in the log; %.1f µs and %.1f µs", microseconds(refused, cpu), microseconds(all, cpu))
	}
	return nil
}

// withTokens compares calls with tokens to calls without.
func (b *bench) withTokens(ctx context.Context, p pair) error {
	const size = 2000
	tokens := make([]string, few) // one for each tenant, so that nearly all calls bring one that was seen before
	for i := range tokens {
		var err error
		if tokens[i], err = b.mesh.token(b.mesh.tenants[i].name, i, b.mesh.now.Add(time.Hour/2)); err != nil {
			return err
		}
	}
	plain := always(b.mesh.pool(few, size, shares{allowed: 100}, b.mesh.plain))
	known := always(b.mesh.pool(few, size, shares{allowed: 100}, func(tenant, _ int) (call, error) {
		return b.mesh.tokenCall(tenant, tokens[tenant]), nil
	}))
	seen, without, err := b.turns(ctx, p.ours, known, plain)
	if err != nil {
		return err
	}
	b.report.add("Check with a token seen before: CPU ÷ without", 1.25, "×", over(seen, without, cpu)...)
	b.report.remark("%.1f µs and %.1f µs", microseconds(seen, cpu), microseconds(without, cpu))
	return nil
}

// growth compares one tenant with more.
func (b *bench) growth(ctx context.Context) error {
	const smallest = 2 // whom the attacks need; one is asked about
	var one cell
	sizes := []int{1, min(1000, b.tenants), b.tenants}
	for _, n := range slices.Compact(sizes) {
		p, err := b.start(ctx, max(n, smallest))
		if err != nil {
			return err
		}
		questions, err := b.mesh.pool(n, max(n, 2000), shares{allowed: 100}, b.mesh.plain)
		if err != nil {
			return errors.Join(err, p.stop())
		}
		c, err := b.measure(ctx, p, overTCP, 16, questions)
		rss, errMemory := b.memory(p)
		if err := errors.Join(err, errMemory, p.stop()); err != nil {
			return err
		}
		if n == 1 {
			one = c
			continue
		}
		// The no-op beside each takes out what the machine did meanwhile.
		grown := ratios(over(c.ours, c.noop, cpu), over(one.ours, one.noop, cpu))
		b.report.add(fmt.Sprintf("growth, 1 to %d tenants: CPU", n), 1.10, "×", grown...)
		b.report.remark("RSS %.0f MiB", rss[0]/1024)
		grown = ratios(over(c.ours, c.noop, p99), over(one.ours, one.noop, p99))
		b.report.add(fmt.Sprintf("growth, 1 to %d tenants: p99", n), 1.25, "×", grown...)
	}
	return nil
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}
