// Command fuzzrun finds every fuzz target of the module and runs each for a bounded time. It fails where one that must
// be there is missing, where a target has no seed, and where an input breaks something.
//
// It exists because `go test -fuzz` takes one target of one package at a time, finds nothing without complaint, and does
// not mind a target without seeds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fuzzrun:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fuzzrun", flag.ContinueOnError)
	each := flags.Duration("time", 3*time.Second, "how long to fuzz each target")
	work := flags.String("work", ".cache/fuzz", "where the test binaries go")
	only := flags.String("only", "", "run only targets whose name holds this text")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *each <= 0 {
		return errors.New("-time must be positive")
	}
	r := runner{dir: ".", work: *work, each: *each, only: *only, out: out}
	return r.run(ctx, required())
}
