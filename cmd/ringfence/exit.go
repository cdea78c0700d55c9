package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The exit codes of every command.
const (
	exitDone         = 0
	exitFindings     = 1 // findings, a refusal, or a failure that no other code names
	exitUsage        = 2
	exitUnreachable  = 3
	exitNotPermitted = 4
)

// exitError is an error that says its exit code.
type exitError struct {
	code int
	err  error // nil: everything is said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// found ends a command whose findings are printed already.
func found() error { return &exitError{code: exitFindings} }

func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode is the code of what a command returned.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, fs.ErrPermission):
		return exitNotPermitted
	case errors.Is(err, syscall.ECONNREFUSED):
		return exitUnreachable
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return exitUnreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		return exitNotPermitted
	default:
		return exitFindings
	}
}
