// Command ringfence is the control plane, the agent and the tools of Ringfence in one binary. Here are flags, wiring and
// what people read; everything else is in packages.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set when the binary is linked.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], process{out: os.Stdout, err: os.Stderr, lookupEnv: os.LookupEnv})
	stop()
	os.Exit(code)
}
