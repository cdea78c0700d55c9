// Authzbench measures what a Check costs, beside a decision point that does nothing: an ext_authz server of the generated
// types that answers OK. Every figure is a ratio of the two within one run, because the machine and what else it does
// change all others. docs/performance.md says what is measured, and prints the bars.
//
// It starts both servers as processes of their own and asks them over loopback, for a bounded time. A server is timed only
// after it has answered a list of attacks as it must, and its answers are compared while it is timed.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		exit(serve(os.Args[2:]))
	}
	p := full()
	flag.DurationVar(&p.window, "window", p.window, "how long each server is asked, in each repeat of each row")
	flag.IntVar(&p.repeats, "repeats", p.repeats, "how often each row is repeated")
	flag.IntVar(&p.tenants, "tenants", p.tenants, "how many tenants the largest mesh has")
	limit := flag.Duration("limit", 10*time.Minute, "when to stop, and show what was measured by then")
	short := flag.Bool("quick", false, "only see that everything works: the figures mean nothing")
	flag.Parse()
	if *short {
		p = quick()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	exit(run(ctx, p, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "authzbench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// plan is how much is measured.
type plan struct {
	window  time.Duration // of one server in one repeat of one row
	repeats int
	tenants int           // of the largest mesh
	micro   time.Duration // of one step without gRPC, in one repeat
}

func full() plan {
	return plan{window: 1500 * time.Millisecond, repeats: 5, tenants: 10_000, micro: 200 * time.Millisecond}
}

func quick() plan {
	return plan{window: 50 * time.Millisecond, repeats: 1, tenants: 110, micro: 2 * time.Millisecond}
}

// few is how many tenants the mesh has where their number is not what is measured.
const few = 100

// run measures everything and prints it.
func run(ctx context.Context, p plan, out io.Writer) error {
	b := &bench{plan: p, report: report{out: out}}
	dir, err := os.MkdirTemp("", "authzbench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b.dir = dir
	if b.mesh, err = newMesh(p.tenants); err != nil {
		return err
	}
	defer b.report.show() // also what was measured before something failed
	if err := b.steps(ctx); err != nil {
		return fmt.Errorf("steps: %w", err)
	}
	if err := b.checks(ctx); err != nil {
		return fmt.Errorf("checks: %w", err)
	}
	b.report.missing("authz process behind a real Envoy, 32 connections", "the load asks the servers itself")
	b.report.missing("swap of a Generation under load", "the bench has no control plane; no call fails: TestCheckConcurrently")
	return nil
}
