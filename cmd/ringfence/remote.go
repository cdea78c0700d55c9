package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/agent"
)

const probeTimeout = 5 * time.Second

// askPlane asks a control plane; what names the thing that is asked about, for errors, and may be empty.
type askPlane func(ctx context.Context, what string, ask func(context.Context, *grpc.ClientConn) error) error

// remoteFlags say which control plane is asked over mutual TLS, and as whom.
type remoteFlags struct{ address, id, root, svid, key string }

// addPlane adds the flags that say which control plane is asked: of this machine by its admin socket, or of another by
// mutual TLS.
func addPlane(cmd *cobra.Command, p process) askPlane {
	socket := addAdminSocket(cmd, p)
	var r remoteFlags
	f := cmd.Flags()
	f.StringVar(&r.address, "control-plane", "", "HOST:PORT of a control plane's configuration streams, to ask it over mutual TLS in place of its admin socket")
	f.StringVar(&r.id, "control-plane-id", "", "SPIFFE ID of that control plane")
	f.StringVar(&r.root, "platform-root", "", "trust bundle of the platform, PEM, by which that control plane is known")
	f.StringVar(&r.svid, "svid", "", "certificate that says who asks, PEM; an agent keeps it as svid.pem in its state directory")
	f.StringVar(&r.key, "key", "", "its key, PEM; the agent's key.pem")
	return func(ctx context.Context, what string, ask func(context.Context, *grpc.ClientConn) error) error {
		if r.address == "" && r.svid == "" && r.key == "" {
			return askAdmin(ctx, socket(), what, ask)
		}
		return r.ask(ctx, what, ask)
	}
}

func (r remoteFlags) check() error {
	for _, required := range []struct{ flag, value, what string }{
		{"--control-plane", r.address, "HOST:PORT of the control plane's configuration streams"},
		{"--control-plane-id", r.id, "the SPIFFE ID of the control plane"},
		{"--platform-root", r.root, "a file, for example the control plane's STATE/trust/<platform trust domain>.pem"},
		{"--svid", r.svid, "a certificate, for example svid.pem in an agent's state directory"},
		{"--key", r.key, "the certificate's key, for example key.pem in an agent's state directory"},
	} {
		if required.value == "" {
			return usage("%s is missing: name %s", required.flag, required.what)
		}
	}
	if _, _, err := net.SplitHostPort(r.address); err != nil {
		return usage("%q is not HOST:PORT", r.address)
	}
	return nil
}

func (r remoteFlags) ask(ctx context.Context, what string, ask func(context.Context, *grpc.ClientConn) error) error {
	if err := r.check(); err != nil {
		return err
	}
	root, err := os.ReadFile(r.root)
	if err != nil {
		return usage("--platform-root: %w", err)
	}
	own, err := tls.LoadX509KeyPair(r.svid, r.key)
	if err != nil {
		return usage("--svid and --key: %w", err)
	}
	config, err := agent.ControlPlaneTLS(r.id, root, own)
	if err != nil {
		return usage("%w", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+r.address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return usage("--control-plane: %w", err)
	}
	return asked(ctx, conn, what, ask, func(err error) error {
		if refused(ctx, r.address, config) {
			return &exitError{code: exitNotPermitted, err: fmt.Errorf(
				"the control plane at %s does not take the certificate %s: it has expired, or no root of the mesh vouches for it", r.address, r.svid)}
		}
		return &exitError{code: exitUnreachable, err: fmt.Errorf(
			"cannot reach the control plane %s at %s (is it the --xds-listen address of \"ringfence serve\"?): %w", r.id, r.address, err)}
	})
}

// refused reports whether the server refuses the certificate. It does so after the client takes the handshake for done, and
// gRPC, which writes at once, as often sees a broken pipe; so this only reads. Who is not refused is greeted by the server.
func refused(ctx context.Context, address string, config *tls.Config) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err == nil {
		defer func() { _ = conn.Close() }() // nothing was said
		defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
		_, err = conn.Read(make([]byte, 1))
	}
	var said *net.OpError
	return errors.As(err, &said) && said.Op == "remote error"
}
