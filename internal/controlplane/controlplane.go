package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/identity/jwks"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// connectionShare is how many connections of sidecars fit into the life of an SVID, one after the other.
const connectionShare = 4

// Config is what a ControlPlane is made of.
type Config struct {
	Source pipeline.Source
	// State is the directory of roots, tokens and accepted documents; where it is empty they are in memory.
	State string
	// XDSListen and IssuerListen are TCP addresses; port 0 takes a free one.
	XDSListen, IssuerListen string
	// AdminSocket is the path of the operators' Unix socket, HTTPListen the address of health and metrics; empty: none.
	AdminSocket, HTTPListen string
	// JWKS says how key sets that token issuers publish are fetched; State, Log and Clock of it are the control plane's own.
	JWKS jwks.Config
	// TrustBundles is a directory of trust bundles of tenants, <trust domain>.pem, whose roots are not the issuer's, and which it
	// gives nothing to. It is followed. Empty: none.
	TrustBundles string
	// Issuer is what may be chosen of the issuer; Log and External of it are the control plane's own.
	Issuer issuer.Options
	Log    *zap.Logger
	// Registry takes the metrics; nil makes a new one.
	Registry *prometheus.Registry
	// Clock is time.Now where it is nil.
	Clock func() time.Time
}

// ControlPlane is a control plane whose listeners are open. Run serves them.
type ControlPlane struct {
	log      *zap.Logger
	clock    func() time.Time
	issuer   *issuer.Issuer
	external *externalTrust
	keySets  *jwks.Fetcher
	pipeline *pipeline.Pipeline
	self     *self

	revocations *revocations

	registry *prometheus.Registry
	rotation *rotations

	ads *server.Server

	xds, join, admin, http net.Listener // admin and http may be nil
}

// New opens the state and the listeners. What it returns must be Run, or Closed.
func New(ctx context.Context, c Config) (_ *ControlPlane, err error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	cp := &ControlPlane{log: c.Log, clock: c.Clock, registry: c.Registry}
	defer func() {
		if err != nil {
			err = errors.Join(err, cp.Close())
		}
	}()
	if cp.external, err = openExternalTrust(c.TrustBundles, c.Log); err != nil {
		return nil, errors.Join(err, c.Issuer.Keys.Close())
	}
	c.Issuer.Log, c.Issuer.External = c.Log, cp.external.has
	if c.State == "" {
		cp.issuer, err = issuer.OpenMemory(c.Issuer)
	} else {
		cp.issuer, err = issuer.Open(c.State, c.Issuer)
	}
	if err != nil {
		return nil, err
	}
	c.JWKS.Log, c.JWKS.Clock = c.Log, c.Clock
	if c.State != "" {
		c.JWKS.State = filepath.Join(c.State, "jwks.json")
	}
	cp.keySets = jwks.New(c.JWKS)
	if cp.revocations, err = openRevocations(c.State); err != nil {
		return nil, err
	}
	cp.pipeline = pipeline.New(pipeline.Config{
		Revocations: cp.revocations.list,
		Source:      cp.external.beside(c.Source),
		KeySets:     cp.keySets,
		Memory:      memoryIn(c.State),
		Bundles:     cp.bundles,
		Recorder:    pipeline.Recorders{pipeline.NewLog(c.Log), pipeline.NewMetrics(c.Registry), cp.external},
		Clock:       c.Clock,
		// A connection that was made just before the SVID is renewed, at half of its life, ends at three quarters of it.
		ConnectionLife: cp.issuer.TTL() / connectionShare,
	})
	cp.self = &self{issuer: cp.issuer, mapping: cp.pipeline.Mapping, clock: c.Clock}
	c.Registry.MustRegister(cp.self.expiry(), cp.keySets)
	metrics, err := server.NewMetrics(c.Registry)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	cp.ads, err = server.New(server.Config{
		Certificate: cp.self.certificate,
		Verifier:    func() identity.Verifier { return cp.pipeline.Current().Verifier() },
		Snapshots:   cp.pipeline,
		Revoked:     cp.revokes,
		UnknownKey:  cp.unknownKey,
		Clock:       c.Clock,
		Log:         c.Log,
		Metrics:     metrics,
	})
	if err != nil {
		return nil, err
	}
	cp.rotation = newRotations(cp, newRotationEvents(c.Log, c.Registry))
	agentv1alpha1.RegisterProxiesServer(cp.ads, cp.remoteProxies())
	agentv1alpha1.RegisterHealthServer(cp.ads, cp.remoteHealth())
	agentv1alpha1.RegisterRenewalServer(cp.ads, renewals{issuer.NewRenewals(cp.issuer, cp.pipeline, c.Clock, c.Log), cp})
	agentv1alpha1.RegisterMeshServer(cp.ads, cp.describer())
	agentv1alpha1.RegisterJWTSVIDsServer(cp.ads, newJWTSVIDs(cp))
	return cp, cp.listen(ctx, c)
}

func (cp *ControlPlane) listen(ctx context.Context, c Config) (err error) {
	var lc net.ListenConfig
	if cp.xds, err = lc.Listen(ctx, "tcp", c.XDSListen); err != nil {
		return fmt.Errorf("xDS: %w", err)
	}
	if cp.join, err = lc.Listen(ctx, "tcp", c.IssuerListen); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	cp.join = newBounded(cp.join, maxJoining)
	if c.AdminSocket != "" {
		if cp.admin, err = ListenUnix(ctx, c.AdminSocket); err != nil {
			return err
		}
	}
	if c.HTTPListen != "" {
		if cp.http, err = lc.Listen(ctx, "tcp", c.HTTPListen); err != nil {
			return fmt.Errorf("health and metrics: %w", err)
		}
	}
	return nil
}

// Close lets go of everything that Run did not.
func (cp *ControlPlane) Close() error {
	var errs []error
	for _, l := range []net.Listener{cp.xds, cp.join, cp.admin, cp.http} {
		if l != nil {
			errs = append(errs, closed(l.Close()))
		}
	}
	if cp.issuer != nil {
		errs = append(errs, closed(cp.issuer.Close()))
	}
	return errors.Join(errs...)
}

// closed takes being closed already for what was wanted.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Run serves until ctx ends, and then lets go of everything. What the mesh has goes on without it.
func (cp *ControlPlane) Run(ctx context.Context) error {
	var tasks Tasks
	tasks.Add(func(ctx context.Context) error { cp.pipeline.Run(ctx); return nil })
	tasks.Add(func(ctx context.Context) error { cp.keySets.Run(ctx); return nil })
	tasks.Add(func(ctx context.Context) error { cp.rotation.run(ctx); return nil })
	tasks.Add(func(ctx context.Context) error { return cp.ads.Serve(ctx, cp.xds) })
	tasks.ServeGRPC(cp.joinServer(), cp.join)
	if cp.admin != nil {
		tasks.ServeGRPC(cp.adminServer(), cp.admin)
	}
	if cp.http != nil {
		tasks.ServeHTTP(HealthServer(cp.ready, cp.registry), cp.http)
	}
	return errors.Join(tasks.Run(ctx), cp.Close())
}

// unknownKey believes a workload's word only of issuers whose tokens it gets.
func (cp *ControlPlane) unknownKey(w identity.WorkloadID, issuer string) {
	if cp.pipeline.Current().Table(w.Tenant()).Trusts(issuer) {
		cp.keySets.UnknownKey(issuer)
	}
}

// ready is nil once there is something to serve.
func (cp *ControlPlane) ready() error {
	if cp.pipeline.Current() == nil {
		return errNotReady
	}
	return cp.external.platform(cp.pipeline.Current())
}

// joinServer answers agents that have no SVID yet: its requests are small, and nobody is proved before the join token is.
func (cp *ControlPlane) joinServer() *grpc.Server {
	const (
		request   = 16 << 10
		headers   = 8 << 10
		streams   = 4
		handshake = 10 * time.Second
		idle      = 30 * time.Second
		age       = 2 * time.Minute
	)
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:             tls.VersionTLS13,
			GetCertificate:         cp.self.certificate,
			SessionTicketsDisabled: true,
		})),
		grpc.MaxRecvMsgSize(request), grpc.MaxHeaderListSize(headers), grpc.MaxConcurrentStreams(streams),
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idle, MaxConnectionAge: age, MaxConnectionAgeGrace: handshake}),
	)
	agentv1alpha1.RegisterIssuerServer(s, issuer.NewService(cp.issuer, cp.pipeline, cp.clock, cp.log))
	return s
}

// adminServer answers who can open the socket.
func (cp *ControlPlane) adminServer() *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 10))
	agentv1alpha1.RegisterAdminServer(s, issuer.NewAdmin(cp.issuer, cp.pipeline, cp.clock, cp.log))
	agentv1alpha1.RegisterProxiesServer(s, cp.localProxies())
	agentv1alpha1.RegisterRevocationsServer(s, revoker{cp: cp})
	agentv1alpha1.RegisterHealthServer(s, cp.localHealth())
	agentv1alpha1.RegisterRotationsServer(s, cp.rotation)
	return s
}
