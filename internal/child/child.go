// Package child runs real programs as children of a test that cannot outlive it.
package child

import (
	"bytes"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Process is a running program. It ends at Stop, and by the kernel should the test process die.
type Process struct {
	pid  int
	log  logBuffer
	done chan struct{}
}

// Start runs a command, with its output in Log. The caller calls Stop.
//
// The starting OS thread is kept alive until the program is gone: the kernel sends Pdeathsig when the thread that forked
// ends, not when the process does.
func Start(binary string, args ...string) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		cmd := exec.Command(binary, args...) //nolint:noctx // ended by Stop, which waits for the exit
		cmd.Stdout, cmd.Stderr = &p.log, &p.log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		_ = cmd.Wait() // killed on purpose; an early end shows in Done and in the log
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Pid is the process id.
func (p *Process) Pid() int { return p.pid }

// Log is what the program has written so far.
func (p *Process) Log() string { return p.log.String() }

// Done is closed when the program is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop kills the program, by its process id, and waits until it is gone. It may be called more than once.
func (p *Process) Stop() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may have ended by itself in between
	<-p.done
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
