package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const readyTimeout = 5 * time.Second

func newReady(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "ready ADDRESS",
		Short: "Ask a control plane or an agent whether it is ready",
		Long: `Asks /readyz of what was started with --http-listen ADDRESS. With unix:PATH it asks whether somebody listens on that
socket: an agent's envoy.sock does once Envoy can be started. For health checks where there is no other program. Exit code
0: ready. 1: not yet, and what is missing. 3: nobody answers.`,
		Example: `  ringfence ready 127.0.0.1:7480
  ringfence ready unix:/run/ringfence/envoy.sock`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), readyTimeout)
			defer cancel()
			if socket, ok := strings.CutPrefix(args[0], "unix:"); ok {
				return listening(ctx, socket)
			}
			if _, _, err := net.SplitHostPort(args[0]); err != nil {
				return usage("%q is neither HOST:PORT nor unix:PATH", args[0])
			}
			return askReady(ctx, p, args[0])
		},
	}
}

func listening(ctx context.Context, socket string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return &exitError{code: exitUnreachable, err: err}
	}
	return conn.Close()
}

func askReady(ctx context.Context, p process, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return usage("%q: %w", address, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return &exitError{code: exitUnreachable, err: err}
	}
	defer response.Body.Close() //nolint:errcheck // only read
	const most = 4 << 10
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return &exitError{code: exitUnreachable, err: err}
	}
	fmt.Fprintln(p.out, strings.TrimSpace(string(text)))
	if response.StatusCode != http.StatusOK {
		return found()
	}
	return nil
}
