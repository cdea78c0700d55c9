package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/demo"
)

func newDemo(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run two tenants and a shared service on this machine",
		Long: `Runs the control plane, and for each workload an agent, a real Envoy and a sample application, all on loopback. It sends
calls through the sidecars and past them, prints which were allowed and which layer refused the others, and stays up for
you to try more. Documents can be changed while it runs. Nothing is left when it ends.`,
		Example: `  ringfence demo
  ringfence demo --config examples/two-tenants --check`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	config := f.String("config", "", "configuration directory, read live (default: a copy of the example two-tenants)")
	check := f.Bool("check", false, "end after the calls, with exit code 1 unless each ended as expected")
	envoy := f.String("envoy", "", "path of Envoy 1.40 or later (default: $ENVOY, then envoy on PATH)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := findEnvoy(p, *envoy)
		if err != nil {
			return err
		}
		// Not below TMPDIR: that may be a long path, and a Unix socket's has at most 107 bytes.
		state, err := os.MkdirTemp("/tmp", "ringfence-")
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		defer os.RemoveAll(state) //nolint:errcheck // what is left is below /tmp
		tour := demo.Tour{Config: demo.Config{Dir: *config, State: state, Envoy: path, KeepPorts: true}, Check: *check, Out: p.out}
		if tour.Dir == "" {
			tour.Dir = filepath.Join(state, "config")
			if err := os.CopyFS(tour.Dir, examples.TwoTenants()); err != nil {
				return fmt.Errorf("example: %w", err)
			}
		}
		if tour.Dir, err = filepath.Abs(tour.Dir); err != nil {
			return fmt.Errorf("--config: %w", err)
		}
		log, err := os.OpenFile(filepath.Join(state, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		defer log.Close() //nolint:errcheck // lines are written as they come
		tour.Log = newLog(log, logLevel(zapcore.InfoLevel))
		tour.Log.Info("demo", zap.String("version", version))
		ok, err := tour.Run(cmd.Context())
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if !ok {
			return found()
		}
		return nil
	}
	return cmd
}

var errNoEnvoy = errors.New("no Envoy: give --envoy PATH or set ENVOY, or run `make demo` in a checkout, which fetches one")

// findEnvoy is the flag, $ENVOY, or the envoy on PATH.
func findEnvoy(p process, flag string) (string, error) {
	path := flag
	if path == "" {
		path, _ = p.lookupEnv("ENVOY")
	}
	if path == "" {
		path = "envoy"
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", &exitError{code: exitUsage, err: fmt.Errorf("%w (%w)", errNoEnvoy, err)}
	}
	return filepath.Abs(found)
}
