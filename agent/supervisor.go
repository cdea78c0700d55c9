package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const (
	restartFirst = 200 * time.Millisecond
	restartMost  = 10 * time.Second
	// stableAfter is how long an Envoy must have run for its next death to count as the first again.
	stableAfter = 30 * time.Second
	// stopGrace is how long Envoy may take to end after SIGTERM.
	stopGrace = 5 * time.Second
	// maxLogLine bounds what one line of Envoy's output may bring into our log.
	maxLogLine = 8 << 10
)

// envoyFlags are how Envoy is started. The drain time ends what is open within seconds of a change of its filter chain;
// Envoy's own default is ten minutes, and it is a flag of the process, so only who starts Envoy can promise it.
//
// --reject-unknown-dynamic-fields makes an Envoy that does not know a guard refuse the configuration in place of dropping
// the guard.
func envoyFlags(bootstrap string) []string {
	return []string{
		"--config-path", bootstrap,
		"--disable-hot-restart",
		"--drain-time-s", "3", "--drain-strategy", "immediate",
		"--reject-unknown-dynamic-fields",
		"--log-level", "warning",
	}
}

// supervisor keeps one Envoy running: it starts it, starts it again with back-off when it ends, and ends it with itself.
type supervisor struct {
	path  string
	flags []string
	log   *zap.Logger

	pid      atomic.Int64
	restarts atomic.Int64
}

func newSupervisor(path string, flags []string, log *zap.Logger) *supervisor {
	return &supervisor{path: path, flags: flags, log: log}
}

// run returns when ctx ends and Envoy with it. It never gives up: a sidecar without its Envoy serves nothing, which is
// closed, and the next attempt may succeed.
func (s *supervisor) run(ctx context.Context) {
	// The kernel ends the child when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2)), so the child must be
	// started by a thread that lives as long as this loop: no Envoy outlives its agent, however the agent dies.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	backoff := restartFirst
	for ctx.Err() == nil {
		start := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > stableAfter {
			backoff = restartFirst
		}
		s.restarts.Add(1)
		s.log.Warn("Envoy ended, starting it again",
			zap.String("exit", exitText(err)), zap.Duration("after", time.Since(start)), zap.Duration("in", backoff))
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, restartMost)
	}
}

// once runs Envoy until it ends or ctx does.
func (s *supervisor) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.path, s.flags...) //nolint:gosec // the operator's own flag
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace // then SIGKILL
	output, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	s.pid.Store(int64(cmd.Process.Pid))
	defer s.pid.Store(0)
	s.relay(output)
	return cmd.Wait()
}

// relay copies Envoy's lines into the log until Envoy closes its output.
func (s *supervisor) relay(output io.Reader) {
	lines := bufio.NewReaderSize(output, maxLogLine)
	for {
		line, long, err := lines.ReadLine()
		if err != nil {
			return
		}
		s.log.Info("envoy", zap.ByteString("line", line), zap.Bool("cut", long))
	}
}

// PID is the process that runs now, 0 where none does.
func (s *supervisor) PID() int { return int(s.pid.Load()) }

// Restarts is how often Envoy ended by itself.
func (s *supervisor) Restarts() int { return int(s.restarts.Load()) }

func exitText(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "code 0"
	case errors.As(err, &exit):
		return exit.String()
	default:
		return err.Error()
	}
}
