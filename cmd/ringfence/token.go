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
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

const adminTimeout = 10 * time.Second

func newToken(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Join tokens of workloads",
		Args:  subcommand,
		RunE:  help,
	}
	cmd.AddCommand(newTokenCreate(p))
	return cmd
}

func newTokenCreate(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create SPIFFE-ID",
		Short: "Make a one-time join token for the agent of one workload",
		Long: `Asks the control plane on this machine, through its admin socket, for a token by which the agent of that workload gets
its first SVID. It works once. The token alone goes to standard output.`,
		Example: `  ringfence token create spiffe://acme.demo.test/ns/acme/sa/web > token
  ringfence agent --join-token-file token …`,
		Args: cobra.ExactArgs(1),
	}
	state := cmd.Flags().String("state", defaultState(p), "state directory of the control plane")
	socket := cmd.Flags().String("admin-socket", "", "admin socket of the control plane (default STATE/admin.sock)")
	ttl := cmd.Flags().Duration("ttl", 0, "how long the token may wait for its use (default 1h)")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !strings.HasPrefix(args[0], "spiffe://") {
			return usage("%q is no SPIFFE ID, write for example spiffe://acme.demo.test/ns/acme/sa/web", args[0])
		}
		if *ttl < 0 {
			return usage("--ttl must be positive")
		}
		path := *socket
		if path == "" {
			path = adminSocket(*state)
		}
		request := &agentv1alpha1.CreateTokenRequest{Workload: args[0]}
		if *ttl > 0 {
			request.Ttl = durationpb.New(*ttl)
		}
		answer, err := createToken(cmd.Context(), path, request)
		if err != nil {
			return err
		}
		return printToken(p, *format, args[0], answer)
	}
	return cmd
}

func printToken(p process, format output, id string, answer *agentv1alpha1.CreateTokenResponse) error {
	expires := time.Unix(answer.GetExpiresUnix(), 0).UTC()
	if format == outputJSON {
		return printJSON(p.out, struct {
			APIVersion string    `json:"apiVersion"`
			Kind       string    `json:"kind"`
			Workload   string    `json:"workload"`
			Token      string    `json:"token"`
			Expires    time.Time `json:"expires"`
		}{v1alpha1.APIVersion, "JoinToken", id, answer.GetToken(), expires})
	}
	fmt.Fprintln(p.out, answer.GetToken())
	fmt.Fprintf(p.err, "Good once, for %s, until %s. Give it to the agent in a file (--join-token-file) or as RINGFENCE_JOIN_TOKEN.\n",
		id, expires.Format(time.RFC3339))
	return nil
}

func createToken(
	ctx context.Context, socket string, request *agentv1alpha1.CreateTokenRequest,
) (*agentv1alpha1.CreateTokenResponse, error) {
	// Looked at first, because gRPC tells only that it could not connect.
	switch _, err := os.Stat(socket); {
	case errors.Is(err, fs.ErrPermission):
		return nil, &exitError{code: exitNotPermitted, err: fmt.Errorf("not permitted to use %s: run as the user of the control plane", socket)}
	case err != nil:
		return nil, unreachable(socket, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, unreachable(socket, err)
	}
	defer func() { _ = conn.Close() }() // the answer is here
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	answer, err := agentv1alpha1.NewAdminClient(conn).CreateToken(ctx, request)
	switch code := status.Code(err); code {
	case codes.OK:
		return answer, nil
	case codes.Unavailable, codes.DeadlineExceeded:
		if strings.Contains(err.Error(), "permission denied") {
			return nil, &exitError{code: exitNotPermitted, err: fmt.Errorf("not permitted to use %s: run as the user of the control plane", socket)}
		}
		return nil, unreachable(socket, err)
	case codes.InvalidArgument:
		return nil, usage("%s", status.Convert(err).Message())
	default:
		return nil, &exitError{code: exitFindings, err: fmt.Errorf("%s: %s", request.GetWorkload(), status.Convert(err).Message())}
	}
}

func unreachable(socket string, err error) error {
	return &exitError{code: exitUnreachable, err: fmt.Errorf("cannot reach a control plane at %s (is \"ringfence serve\" running with this --state or --admin-socket?): %w", socket, err)}
}
