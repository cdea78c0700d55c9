package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
	"github.com/ringfence-mesh/ringfence/internal/health"
)

const versionTimeout = 10 * time.Second

// before finds out what is there before anything runs. It makes nothing.
func (o checkFlags) before(ctx context.Context, p process, state string) health.BeforeFacts {
	f := health.BeforeFacts{Now: time.Now(), State: state, Config: o.config, NoEnvoy: o.envoy == "none", Synchronised: synchronised()}
	if !f.NoEnvoy {
		if f.Envoy, f.EnvoyErr = findEnvoy(p, o.envoy); f.EnvoyErr == nil {
			f.Version, f.VersionErr = envoyVersion(ctx, f.Envoy)
		}
	}
	for _, address := range o.listen {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			err = l.Close()
		}
		f.Listen = append(f.Listen, health.Port{Address: address, Err: err})
	}
	if path, err := filepath.Abs(state); err == nil {
		state = path
	}
	f.StateErr = private(state)
	// The longest one: sockets are made in a directory of their own first, whose name ends in up to ten digits.
	f.Socket = filepath.Join(state, ".s0123456789", "s")
	f.Newest, f.Aside, f.Room = newest(state), setAside(state), room(state)
	if o.workloadAPI != "" {
		code, err := askWorkloadAPI(ctx, o.workloadAPI, o.id, f.Now)
		f.API = &health.WorkloadAPI{Address: o.workloadAPI, ID: o.id, Code: code, Err: err}
	}
	if o.config != "" {
		_, report, err := try(ctx, o.config)
		f.ConfigErr = err
		for _, problem := range report.Problems {
			f.Problems = append(f.Problems, problem.String())
		}
		if report.Counterexample != nil {
			f.Problems = append(f.Problems, "not isolated: "+report.Counterexample.Error())
		}
	}
	return f
}

func envoyVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	return string(out), nil
}

// private reports what keeps a directory from being a state directory: the rules of those that make it, without making it.
func private(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return canMake(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it is no directory")
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
		return errors.New("it belongs to another user")
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
		return fmt.Errorf("other users can reach it: its mode is %04o", info.Mode().Perm())
	}
	return nil // empty, so it will be narrowed
}

// canMake reports what keeps a directory from being made below the nearest one that is there.
func canMake(parent string) error {
	const write = 2 // W_OK, access(2)
	for {
		info, err := os.Stat(parent)
		switch {
		case errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent):
			parent = filepath.Dir(parent)
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is no directory", parent)
		}
		if err := syscall.Access(parent, write); err != nil {
			return fmt.Errorf("it is not there, and cannot be made in %s: %w", parent, err)
		}
		return nil
	}
}

// setAside are the files that agents and the control plane gave another name because they were damaged.
func setAside(dir string) []string {
	var found []string
	for _, pattern := range []string{"*.corrupt-*", "*.bad"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are good
		found = append(found, names...)
	}
	return found
}

// room is how many bytes this user can write into the directory, or into the nearest one above that is there; nil: not known.
func room(dir string) *uint64 {
	for {
		var fs syscall.Statfs_t
		err := syscall.Statfs(dir, &fs)
		switch {
		case err == nil:
			bytes := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block has a size
			return &bytes
		case !errors.Is(err, syscall.ENOENT) || dir == filepath.Dir(dir):
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// newest is the time of the newest file in the directory, zero where there is none.
func newest(dir string) time.Time {
	entries, _ := os.ReadDir(dir) // what cannot be read has no time
	var last time.Time
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// synchronised is whether the kernel says that a time service sets the clock (adjtimex(2)); nil where it does not say.
func synchronised() *bool {
	const timeError = 5 // TIME_ERROR
	state, err := syscall.Adjtimex(&syscall.Timex{})
	if err != nil {
		return nil
	}
	is := state != timeError
	return &is
}

// firstCertificate is the first certificate of a PEM text.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("no certificate")
}

var (
	errNoAPIAnswer = errors.New("it does not answer")
	errGiven       = errors.New("an SVID was given")
)

// askWorkloadAPI asks once for the workload's SVID, and verifies it by the roots that come with it.
func askWorkloadAPI(ctx context.Context, address, id string, now time.Time) (health.Code, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errNoAPIAnswer)
	defer cancel()
	others, answered := 0, false
	err := workloadapi.Follow(ctx, address, func(resp *workload.X509SVIDResponse) error {
		others, answered = len(resp.GetSvids()), true
		answer, err := workloadapi.Choose(resp, id)
		if err != nil {
			return err
		}
		if err := answer.Verify(id, now); err != nil {
			return err
		}
		return errGiven
	})
	switch {
	case errors.Is(err, errGiven):
		return "", nil
	case errors.Is(err, workloadapi.ErrOther), errors.Is(err, workloadapi.ErrNoSVID) && others > 0:
		return health.CodeOtherSVID, err
	case context.Cause(ctx) != nil:
		return health.CodeAPIAway, context.Cause(ctx)
	case !answered && status.Code(err) != codes.PermissionDenied:
		return health.CodeAPIAway, err
	}
	return health.CodeNoSVID, err
}
