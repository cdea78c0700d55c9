package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/source"
)

func newServe(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane over a configuration directory",
		Long: `Serves each workload's agent its own configuration over mutual TLS, issues SVIDs against join tokens, and follows the
directory while it runs: a change is validated, built and proved before it is served, and documents with a problem leave
their owner on the last accepted ones.

Root keys lie in the state directory, encrypted with the key in --key-sealing-file or RINGFENCE_SEALING_KEY if there is one,
or in a PKCS #11 token (--root-kms; a binary built with cgo).

SIGINT and SIGTERM end it; what the mesh has goes on without it.`,
		Example: `  ringfence serve --config examples/two-tenants --state /var/lib/ringfence`,
		Args:    cobra.NoArgs,
	}
	f := cmd.Flags()
	var c controlplane.Config
	config := f.String("config", "", "configuration directory (required)")
	f.StringVar(&c.State, "state", defaultState(p), "directory of roots, join tokens and accepted documents, made 0700 where it is missing")
	f.StringVar(&c.XDSListen, "xds-listen", ":7443", "address for agents' configuration streams (mutual TLS)")
	f.StringVar(&c.IssuerListen, "issuer-listen", ":7444", "address for agents that join (TLS and a join token)")
	f.StringVar(&c.AdminSocket, "admin-socket", "", "Unix socket for operators (default STATE/admin.sock)")
	f.StringVar(&c.HTTPListen, "http-listen", "127.0.0.1:7480", "address of /healthz, /readyz and /metrics; empty: none")
	f.StringVar(&c.TrustBundles, "trust-bundles", "",
		"directory of trust bundles, TRUST-DOMAIN.pem, of tenants whose SVIDs somebody else gives, such as SPIRE (default: none)")
	keys := addIssuer(f, &c.Issuer)
	allow := addJWKSAllow(f)
	level := addLogLevel(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *config == "" {
			return usage("--config is missing: name a configuration directory")
		}
		if err := keys.open(cmd.Context(), p, &c.Issuer); err != nil {
			return err
		}
		var err error
		if c.JWKS.Allow, err = parsePrefixes("--jwks-allow", *allow); err != nil {
			return err
		}
		if c.AdminSocket == "" {
			c.AdminSocket = adminSocket(c.State)
		}
		c.Log = sampled(newLog(p.err, *level))
		c.Registry = newRegistry()
		c.Source = source.NewDirectory(*config, c.Log)
		return serve(cmd.Context(), c)
	}
	return cmd
}

func serve(ctx context.Context, c controlplane.Config) error {
	start := time.Now()
	cp, err := controlplane.New(ctx, c)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	c.Log.Info("listening", zap.Stringer("xds", cp.XDSAddr()), zap.Stringer("issuer", cp.IssuerAddr()),
		zap.String("admin_socket", c.AdminSocket), zap.String("http", cp.HTTPAddr()), zap.String("version", version),
		zap.Duration("took", time.Since(start)))
	if err := cp.Run(ctx); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	return nil
}
