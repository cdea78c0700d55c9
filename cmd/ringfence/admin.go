package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	adminTimeout = 10 * time.Second
	maxAnswer    = 256 << 20 // one workload's whole configuration fits
)

// addAdminSocket adds the flags that say which control plane of this machine is asked; the function gives its socket.
func addAdminSocket(cmd *cobra.Command, p process) func() string {
	state := cmd.Flags().String("state", defaultState(p), "state directory of the control plane")
	socket := cmd.Flags().String("admin-socket", "", "admin socket of the control plane (default STATE/admin.sock)")
	return func() string {
		if *socket != "" {
			return *socket
		}
		return adminSocket(*state)
	}
}

// askAdmin asks the control plane of this machine. what names the thing that is asked about, for errors; it may be empty.
func askAdmin(ctx context.Context, socket, what string, ask func(context.Context, *grpc.ClientConn) error) error {
	// Looked at first, because gRPC tells only that it could not connect.
	switch _, err := os.Stat(socket); {
	case errors.Is(err, fs.ErrPermission):
		return notPermitted(socket)
	case err != nil:
		return unreachable(socket, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return unreachable(socket, err)
	}
	return asked(ctx, conn, what, ask, func(err error) error {
		if strings.Contains(err.Error(), "permission denied") {
			return notPermitted(socket)
		}
		return unreachable(socket, err)
	})
}

// asked asks, closes the connection, and gives the answer's error its exit code; away is the error of who did not answer.
func asked(
	ctx context.Context, conn *grpc.ClientConn, what string, ask func(context.Context, *grpc.ClientConn) error, away func(error) error,
) error {
	defer func() { _ = conn.Close() }() // the answer is here
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	err := ask(ctx, conn)
	said := status.Convert(err).Message()
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.Unavailable, codes.DeadlineExceeded:
		return away(err)
	case codes.InvalidArgument:
		return usage("%s", said)
	case codes.Unauthenticated, codes.PermissionDenied:
		return &exitError{code: exitNotPermitted, err: errors.New(said)}
	default:
		if what != "" {
			what += ": "
		}
		return &exitError{code: exitFindings, err: fmt.Errorf("%s%s", what, said)}
	}
}

func notPermitted(socket string) error {
	return &exitError{code: exitNotPermitted, err: fmt.Errorf("not permitted to use %s: run as the user of the control plane", socket)}
}

func unreachable(socket string, err error) error {
	return &exitError{code: exitUnreachable, err: fmt.Errorf("cannot reach a control plane at %s (is \"ringfence serve\" running with this --state or --admin-socket?): %w", socket, err)}
}
