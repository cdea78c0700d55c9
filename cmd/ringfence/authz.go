package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/jwks"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/source"
)

// authzFlags are the flags of `ringfence authz`.
type authzFlags struct {
	config, trust, asker, svid, key, http string
	listen                                []string
	allow                                 []netip.Prefix
	jwksState, revocations                string
}

func newAuthz(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "authz",
		Short: "Run the ext_authz server alone, for any Envoy",
		Long: `Answers envoy.service.auth.v3 checks by the rules of a configuration directory, which it follows while it runs.

An Envoy that asks over TCP shows its SVID, and may ask about the services that this workload runs. A Unix socket (unix:PATH,
mode 0600) answers for the one workload that --asker names. --trust holds the trust bundles as <trust domain>.pem; a control
plane keeps them in STATE/trust.

Proxies that run no workload of the mesh, such as gateways, are the askers of the Mesh document: those with spiffeIDs ask
over TCP, their roots lie in --trust as well; those with a socket ask there, and the sockets are opened and closed as the
Mesh says.`,
		Example: `  ringfence authz --config DIR --trust STATE/trust --listen unix:/run/authz.sock \
    --asker spiffe://acme.demo.test/ns/acme/sa/orders
  ringfence authz --config DIR --trust STATE/trust --listen :9001 --svid svid.pem --key key.pem`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	var o authzFlags
	f.StringVar(&o.config, "config", "", "configuration directory (required)")
	f.StringVar(&o.trust, "trust", "", "directory of trust bundles, <trust domain>.pem (required)")
	f.StringSliceVar(&o.listen, "listen", nil, "ADDRESS:PORT or unix:PATH; repeatable (required)")
	f.StringVar(&o.asker, "asker", "", "SPIFFE ID of the workload whose Envoy opens the Unix sockets")
	f.StringVar(&o.svid, "svid", "", "certificate that TCP listeners show, PEM")
	f.StringVar(&o.key, "key", "", "its key, PEM")
	f.StringVar(&o.http, "http-listen", "127.0.0.1:7482", "address of /healthz, /readyz and /metrics; empty: none")
	f.StringVar(&o.jwksState, "jwks-state", "", "file, in a directory that nobody else can write to, that keeps fetched key sets over a restart; empty: none")
	f.StringVar(&o.revocations, "revocations", "", "file in which a control plane keeps what ringfence revoke says, its STATE/revocations.yaml; empty: only documents revoke")
	allow := addJWKSAllow(f)
	level := addLogLevel(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		var err error
		if o.allow, err = parsePrefixes("--jwks-allow", *allow); err != nil {
			return err
		}
		return runAuthz(cmd.Context(), o, newLog(p.err, *level))
	}
	return cmd
}

func (o authzFlags) check() error {
	var sockets, ports int
	for _, l := range o.listen {
		if strings.HasPrefix(l, "unix:") {
			sockets++
		} else {
			ports++
		}
	}
	switch {
	case o.config == "":
		return usage("--config is missing: name a configuration directory")
	case o.trust == "":
		return usage("--trust is missing: name a directory of trust bundles, for example the control plane's STATE/trust")
	case len(o.listen) == 0:
		return usage("--listen is missing: ADDRESS:PORT or unix:PATH")
	case sockets > 0 && o.asker == "":
		return usage("--asker is missing: a Unix socket answers for one workload, name its SPIFFE ID")
	case sockets == 0 && o.asker != "":
		return usage("--asker is for Unix sockets: over TCP the asking Envoy's own certificate says who it is")
	case ports > 0 && (o.svid == "" || o.key == ""):
		return usage("--svid and --key are missing: a TCP listener shows a certificate")
	}
	return nil
}

func runAuthz(ctx context.Context, o authzFlags, log *zap.Logger) error {
	registry := newRegistry()
	metrics, err := extauthz.NewMetrics(registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	trust := controlplane.TrustDir(o.trust)
	keySets := jwks.New(jwks.Config{Allow: o.allow, State: o.jwksState, Log: sampled(log)})
	registry.MustRegister(keySets)
	config := pipeline.Config{
		Source:   trust.Beside(source.NewDirectory(o.config, log)),
		Bundles:  trust.Bundles,
		KeySets:  keySets,
		Recorder: pipeline.Recorders{pipeline.NewLog(sampled(log)), pipeline.NewMetrics(registry)},
	}
	if o.revocations != "" {
		revocations, err := controlplane.OpenRevocationFile(o.revocations, log)
		if err != nil {
			return err
		}
		config.Source, config.Revocations = revocations.Beside(config.Source), revocations.List
	}
	p := pipeline.New(config)
	var tasks controlplane.Tasks
	tasks.Add(func(ctx context.Context) error { p.Run(ctx); return nil })
	tasks.Add(func(ctx context.Context) error { keySets.Run(ctx); return nil })
	d := decisions{log, metrics, keySets}
	tasks.Add(func(ctx context.Context) error { return newAskerSockets(p, d, log).run(ctx) })
	for _, l := range o.listen {
		server, listener, err := o.open(ctx, l, p, trust, d)
		if err != nil {
			return errors.Join(err, tasks.Close())
		}
		tasks.ServeGRPC(server, listener)
		log.Info("listening", zap.String("address", l))
	}
	if o.http != "" {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.http)
		if err != nil {
			return errors.Join(fmt.Errorf("health and metrics: %w", err), tasks.Close())
		}
		tasks.ServeHTTP(controlplane.HealthServer(ready(p), registry), listener)
	}
	return tasks.Run(ctx)
}

// open opens one address and makes the server that answers there.
func (o authzFlags) open(
	ctx context.Context, address string, p *pipeline.Pipeline, trust controlplane.TrustDir, d decisions,
) (*grpc.Server, net.Listener, error) {
	var options []grpc.ServerOption
	var (
		asker    extauthz.Asker
		listener net.Listener
		err      error
	)
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		asker = unrevoked(p, namedAsker{uri: o.asker, pipeline: p})
		listener, err = controlplane.ListenUnix(ctx, path)
	} else {
		pair := &keyPair{cert: o.svid, key: o.key}
		if _, err := pair.certificate(nil); err != nil {
			return nil, nil, err
		}
		verifier := func() (identity.Verifier, string) { g := p.Current(); return g.Verifier(), g.Label() }
		roots := &askerRoots{trust: trust, pipeline: p, log: d.log}
		asker = unrevoked(p, extauthz.First(
			extauthz.NamedFromTLS(roots.verifier, namedTables{p}.Names, time.Now), extauthz.FromTLS(verifier, time.Now)))
		creds := extauthz.LimitConnections(credentials.NewTLS(askerTLS(p, roots, pair)), maxConnections)
		options = append(options, grpc.Creds(creds), grpc.ConnectionTimeout(handshake))
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	return d.server(p, asker, options...), listener, nil
}

// decisions is where decisions are kept and counted.
type decisions struct {
	log     *zap.Logger
	metrics *extauthz.Metrics
	keySets *jwks.Fetcher
}

// server answers who the Asker knows.
func (d decisions) server(p *pipeline.Pipeline, asker extauthz.Asker, options ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(append(extauthz.ServerOptions(), options...)...)
	extauthz.Register(server, extauthz.New(
		tenantTables{p}, asker, extauthz.Log(d.log), d.metrics, time.Now,
		extauthz.StripToken(), extauthz.WithNamed(namedTables{p}), extauthz.WithLimits(extauthz.DefaultLimits()),
		extauthz.WithUnknownKeys(d.keySets.UnknownKey),
	))
	return server
}

// maxConnections is how many connections one asker may hold, handshake how long it may take to prove who it is.
const (
	maxConnections = 64
	handshake      = 10 * time.Second
)

// askerTLS takes only who shows an SVID of the mesh, or the certificate of an asker that the Mesh names. TLS 1.2 is taken
// because Envoy's clients speak nothing newer unless they are told to.
func askerTLS(p *pipeline.Pipeline, roots *askerRoots, pair *keyPair) *tls.Config {
	own := controlplane.VerifyPeer(func() identity.Verifier { return p.Current().Verifier() }, time.Now)
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		GetCertificate:         pair.certificate,
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would keep an old judgement of the certificate
		NextProtos:             []string{"h2"},
		VerifyPeerCertificate: func(chain [][]byte, verified [][]*x509.Certificate) error {
			err := own(chain, verified)
			if err != nil && roots.names(chain) {
				return nil
			}
			return err
		},
	}
}

// unrevoked refuses askers with an identity of the mesh that is revoked.
func unrevoked(p *pipeline.Pipeline, asker extauthz.Asker) extauthz.Asker {
	return extauthz.Unrevoked(asker, func(id, serial string) bool {
		w, err := p.Mapping().Parse(id)
		return err == nil && p.Current().Revokes(w, serial, time.Now())
	})
}

// namedAsker is the one workload whose Envoy can open a socket, as far as the documents name it.
type namedAsker struct {
	uri      string
	pipeline *pipeline.Pipeline
}

var errNotNamed = errors.New("no document names the workload of this socket")

// Asker is who the socket belongs to.
func (a namedAsker) Asker(context.Context) (extauthz.Asking, error) {
	w, ok := a.pipeline.Workload(a.uri)
	if !ok {
		return extauthz.Asking{}, errNotNamed
	}
	return extauthz.Own(w), nil
}

// tenantTables answers each asker by its own tenant's rules.
type tenantTables struct{ *pipeline.Pipeline }

// Tables are the rules in force; here a change has no second half that an Envoy must take first.
func (t tenantTables) Tables(asker identity.WorkloadID) (current, next *authz.Table) {
	return t.Current().Table(asker.Tenant()), nil
}

var errNoGeneration = errors.New("no configuration is in force yet")

func ready(p *pipeline.Pipeline) func() error {
	return func() error {
		if p.Current() == nil {
			return errNoGeneration
		}
		return nil
	}
}
