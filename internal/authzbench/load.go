package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// target is a running server.
type target struct {
	kind string
	addr map[string]string // by transport
	cmd  *exec.Cmd
	in   io.Closer
}

const (
	overTCP  = "TCP"
	overUnix = "Unix socket"
)

// launch starts a server as a process of its own.
func launch(ctx context.Context, dir, kind string, more ...string) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, kind+strconv.FormatInt(time.Now().UnixNano(), 36))
	args := append([]string{serveCommand, kind, socket}, more...)
	t := &target{kind: kind, cmd: exec.CommandContext(ctx, self, args...)} //nolint:gosec // ourselves
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	var line []byte
	for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, b[0]) {
		if _, err := out.Read(b); err != nil {
			return nil, errors.Join(fmt.Errorf("the %s server does not start: %w", kind, err), t.stop())
		}
	}
	t.addr = map[string]string{overTCP: strings.TrimSpace(string(line)), overUnix: "unix:" + socket}
	return t, nil
}

func (t *target) stop() error {
	_ = t.in.Close()
	if err := t.cmd.Wait(); err != nil {
		return fmt.Errorf("the %s server: %w", t.kind, err)
	}
	return nil
}

// client asks in bytes, so that what it does itself costs little.
type client struct{ conns []*grpc.ClientConn }

func dial(address string, conns int) (*client, error) {
	c := &client{}
	for range conns {
		conn, err := grpc.NewClient(
			address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
		)
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *client) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// raw is the codec of messages that are encoded already.
type raw struct{}

var _ encoding.CodecV2 = raw{}

// Marshal implements encoding.CodecV2.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("no bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.New("no place for bytes")
	}
	*b = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (raw) Name() string { return proto.Name }

// ask asks one question and compares the answer; a server that does nothing is asked nothing that it would refuse.
func (c *client) ask(ctx context.Context, conn int, q *question, always bool) error {
	ctx = metadata.AppendToOutgoingContext(ctx, askerKey, strconv.Itoa(q.tenant))
	var answer []byte
	err := c.conns[conn%len(c.conns)].Invoke(ctx, authv3.Authorization_Check_FullMethodName, q.wire, &answer)
	switch {
	case q.broken && err == nil:
		return errors.New("answered what is no request")
	case q.broken:
		return nil
	case err != nil:
		return err
	}
	ok, err := allows(answer)
	if err != nil {
		return err
	}
	if ok != (q.allowed || always) {
		return fmt.Errorf("allowed: %v, for\n%q", ok, q.wire)
	}
	return nil
}

// allows reads of an encoded CheckResponse whether it allows.
func allows(answer []byte) (bool, error) {
	const okResponse, deniedResponse = 3, 2
	ok, denied := false, false
	for len(answer) > 0 {
		number, wireType, n := protowire.ConsumeTag(answer)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		answer = answer[n:]
		if n = protowire.ConsumeFieldValue(number, wireType, answer); n < 0 {
			return false, protowire.ParseError(n)
		}
		answer = answer[n:]
		ok, denied = ok || number == okResponse, denied || number == deniedResponse
	}
	if ok == denied {
		return false, errors.New("an answer that neither allows nor denies")
	}
	return ok, nil
}

// sample is what a window showed.
type sample struct {
	cpu      time.Duration // of the server, for a call
	p50, p99 time.Duration
	calls    int
}

// load asks questions at random for a while, so many at a time.
func (t *target) load(ctx context.Context, transport string, inFlight int, questions []question, window time.Duration) (sample, error) {
	conns := 1
	if inFlight > 1 {
		conns = 4 // an Envoy holds one for each of its workers
	}
	c, err := dial(t.addr[transport], conns)
	if err != nil {
		return sample{}, err
	}
	defer func() { _ = c.close() }()
	for i := range conns * 4 { // connect
		if err := c.ask(ctx, i, &questions[i%len(questions)], t.kind == noop); err != nil {
			return sample{}, fmt.Errorf("%s: %w", t.kind, err)
		}
	}
	before, err := cpuOf(t.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	end := time.Now().Add(window)
	took, errs := make([][]time.Duration, inFlight), make([]error, inFlight)
	var wg sync.WaitGroup
	for i := range inFlight {
		wg.Go(func() {
			for at := time.Now(); at.Before(end) && errs[i] == nil; {
				errs[i] = c.ask(ctx, i, &questions[rand.IntN(len(questions))], t.kind == noop) //nolint:gosec // any
				now := time.Now()
				took[i] = append(took[i], now.Sub(at))
				at = now
			}
		})
	}
	wg.Wait()
	after, err := cpuOf(t.cmd.Process.Pid)
	if err := errors.Join(err, errors.Join(errs...)); err != nil {
		return sample{}, fmt.Errorf("%s: %w", t.kind, err)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return sample{
		cpu: (after - before) / time.Duration(len(all)), p50: all[len(all)/2], p99: all[len(all)*99/100], calls: len(all),
	}, nil
}

// cpuOf is the time that the threads of a process were on a processor, for itself and in the kernel (proc(5):
// /proc/PID/task/TID/schedstat). It is that of /proc/PID/stat, in nanoseconds instead of ticks of 10 ms. Threads of a Go
// program do not end.
func cpuOf(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		ran, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	if sum == 0 {
		return 0, fmt.Errorf("process %d has used no time, or this kernel does not count it (CONFIG_SCHED_INFO)", pid)
	}
	return sum, nil
}

// rssOf is the resident memory of a process, in KiB.
func rssOf(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
