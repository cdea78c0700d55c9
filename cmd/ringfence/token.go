package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func newToken(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make join tokens, by which workloads get their first identity",
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
its first SVID. It works once. The token alone goes to standard output, or into the file of --out, which only this user can
read.`,
		Example: `  ringfence token create spiffe://acme.demo.test/ns/acme/sa/web > token
  ringfence agent --join-token-file token …`,
		Args: cobra.ExactArgs(1),
	}
	socket := addAdminSocket(cmd, p)
	ttl := cmd.Flags().Duration("ttl", 0, "how long the token may wait for its use (default 1h)")
	out := cmd.Flags().String("out", "", "file to put the token into, replacing what is there")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !strings.HasPrefix(args[0], "spiffe://") {
			return usage("%q is no SPIFFE ID, write for example spiffe://acme.demo.test/ns/acme/sa/web", args[0])
		}
		if *ttl < 0 {
			return usage("--ttl must be positive")
		}
		request := &agentv1alpha1.CreateTokenRequest{Workload: args[0]}
		if *ttl > 0 {
			request.Ttl = durationpb.New(*ttl)
		}
		answer, err := createToken(cmd.Context(), socket(), request)
		if err != nil {
			return err
		}
		if *out != "" {
			if err := writeToken(*out, answer.GetToken()); err != nil {
				return err
			}
			answer.Token = "" // not told twice
		}
		return printToken(p, *format, args[0], answer)
	}
	return cmd
}

// writeToken replaces the file, so that neither an old mode nor an agent that reads at this moment matters.
func writeToken(path, token string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-") // mode 0600
	if err != nil {
		return usage("--out: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("--out: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func printToken(p process, format output, id string, answer *agentv1alpha1.CreateTokenResponse) error {
	expires := time.Unix(answer.GetExpiresUnix(), 0).UTC()
	if format == outputJSON {
		return printJSON(p.out, struct {
			APIVersion string    `json:"apiVersion"`
			Kind       string    `json:"kind"`
			Workload   string    `json:"workload"`
			Token      string    `json:"token,omitempty"`
			Expires    time.Time `json:"expires"`
		}{v1alpha1.APIVersion, "JoinToken", id, answer.GetToken(), expires})
	}
	if answer.GetToken() != "" {
		fmt.Fprintln(p.out, answer.GetToken())
	}
	fmt.Fprintf(p.err, "Good once, for %s, until %s. Give it to the agent in a file (--join-token-file) or as RINGFENCE_JOIN_TOKEN.\n",
		id, expires.Format(time.RFC3339))
	return nil
}

func createToken(
	ctx context.Context, socket string, request *agentv1alpha1.CreateTokenRequest,
) (answer *agentv1alpha1.CreateTokenResponse, err error) {
	err = askAdmin(ctx, socket, request.GetWorkload(), func(ctx context.Context, conn *grpc.ClientConn) error {
		answer, err = agentv1alpha1.NewAdminClient(conn).CreateToken(ctx, request)
		return err
	})
	return answer, err
}
