package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

// Agent stands beside one Envoy. It is made by New and runs once.
type Agent struct {
	config     Config
	anchor     anchor
	dir        *stateDir
	envoyDir   *stateDir // dir, where Envoy shares it
	log        *zap.Logger
	supervisor *supervisor // nil: somebody else starts Envoy

	mu     sync.Mutex
	status Status
}

// New checks the configuration and takes the state directory; Run gives it back.
func New(c Config) (*Agent, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	anchor, err := newAnchor(c)
	if err != nil {
		return nil, err
	}
	dir, err := openStateDir(c.StateDir)
	if err != nil {
		return nil, err
	}
	envoyDir := dir
	if c.EnvoyDir != "" {
		if envoyDir, err = openStateDir(c.EnvoyDir); err != nil {
			return nil, errors.Join(fmt.Errorf("for Envoy: %w", err), dir.close())
		}
	}
	a := &Agent{config: c, anchor: anchor, dir: dir, envoyDir: envoyDir, log: c.Log.With(zap.String("workload", c.ID))}
	if c.EnvoyPath != "" {
		a.supervisor = newSupervisor(c.EnvoyPath, append(envoyFlags(envoyDir.file(bootstrapFile)), c.EnvoyArgs...), a.log.Named("envoy"))
	}
	return a, nil
}

// Run makes an agent and runs it until ctx ends or it cannot go on.
func Run(ctx context.Context, c Config) error {
	a, err := New(c)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// Run serves Envoy until ctx ends. It fails where the workload cannot be identified or the state directory not be used;
// a control plane that is away is no failure.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() {
		if a.envoyDir != a.dir {
			err = errors.Join(err, a.envoyDir.close())
		}
		err = errors.Join(err, a.dir.close())
	}()
	var before error // why the identity before this one is gone
	for {
		own, err := a.identify(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil // told to stop while waiting for the issuer
			}
			return errors.Join(before, err)
		}
		if before = a.runAs(ctx, own); !errors.Is(before, ErrWithdrawn) {
			return before
		}
		if err := a.removeIdentity(); err != nil {
			return err
		}
	}
}

// runAs serves Envoy with that identity.
func (a *Agent) runAs(ctx context.Context, own svid) error {
	a.log.Info("identity", zap.Time("not_after", own.notAfter))
	judge, err := newJudge(own, a.anchor.bundle)
	if err != nil {
		return err
	}
	if err := a.writeBootstrap(own); err != nil {
		return err
	}
	to, ts := newTarget(), &tables{workload: own.id}
	r := newRelay(judge, own.secret, a.log, ts, to, a.store)
	a.restore(r)
	return a.serve(ctx, own, r, ts, to)
}

// serve runs the parts. Envoy ends first, so that its last calls are still decided.
func (a *Agent) serve(ctx context.Context, own svid, r *relay, ts *tables, to *target) error {
	l, err := listen(ctx, a.envoyDir.file(envoySocket))
	if err != nil {
		return err
	}
	applications, source, err := a.listenWorkload(ctx, own)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()

	events, reports := make(chan event), newLatest[delta.Report]()
	withdrawn := make(chan struct{})
	unknown, tokens := newUnknownKeys(a.log), newJWTSVIDs(own, source, ts, a.config, a.log)
	decide := extauthz.New(
		ts, extauthz.Fixed(own.id), a.config.Recorder, a.config.Metrics, a.config.Clock, extauthz.WithUnknownKeys(unknown.add),
	)
	down := newDownstream(to, reports, a.setEnvoyVersion, decide, a.log)
	var (
		present atomic.Pointer[tls.Certificate]
		roots   atomic.Pointer[identity.Bundle]
	)
	present.Store(&own.cert)
	roots.Store(&own.bundle)
	up := &upstream{
		address: a.config.ControlPlane, node: a.config.ID, log: a.log, events: events, unknown: unknown, tokens: tokens,
		envoy: a.envoyVersion, clock: a.config.Clock, renewed: make(chan struct{}, 1), failed: make(chan struct{}, 1),
		creds: credentials.NewTLS(a.anchor.tls(present.Load)),
	}
	a.setIdentity(own)
	renewals := make(chan svid)
	renewed := func(next svid) {
		present.Store(&next.cert)
		roots.Store(&next.bundle)
		a.setIdentity(next)
		if err := source.set(next); err != nil {
			a.log.Error("the applications keep the old SVID", zap.Error(err))
		}
		select {
		case renewals <- next:
		case <-inner.Done():
		}
		up.reopen()
	}
	var parts sync.WaitGroup
	var ended error // written before parts.Wait returns, as the failures below
	parts.Go(func() {
		defer stop()
		ended = a.own(inner, r, inputs{events: events, reports: reports, renewals: renewals, withdrawn: withdrawn}, own.notAfter)
	})
	parts.Go(func() { a.keepIdentified(inner, own, renewed) })
	parts.Go(func() {
		if a.waitWithdrawn(inner, up.failed, roots.Load) {
			source.end()
			close(withdrawn)
		}
	})
	parts.Go(func() { up.run(inner) })
	var failure, workloadFailure error
	parts.Go(func() {
		defer stop()
		failure = down.run(inner, l)
	})
	parts.Go(func() {
		defer stop()
		workloadFailure = serveWorkload(inner, applications, source, tokens)
	})
	if a.supervisor != nil {
		a.supervisor.run(ctx)
	} else {
		a.log.Info("start Envoy with this bootstrap", zap.String("path", a.envoyDir.file(bootstrapFile)))
	}
	<-ctx.Done()
	stopInner()
	parts.Wait()
	return errors.Join(ended, failure, workloadFailure)
}

// keepIdentified tells every further SVID of the workload, from wherever the first one came.
func (a *Agent) keepIdentified(ctx context.Context, own svid, tell func(svid)) {
	if a.config.WorkloadAPI != "" {
		a.keepFollowing(ctx, own, tell)
	} else {
		a.keepRenewed(ctx, own, tell)
	}
}

// listenWorkload opens the socket of the workload's applications, and says what is served there.
func (a *Agent) listenWorkload(ctx context.Context, own svid) (net.Listener, *workloadSource, error) {
	source := newWorkloadSource(a.anchor.bundle, a.config)
	if err := source.set(own); err != nil {
		return nil, nil, err
	}
	l, err := listenWorkload(ctx, a.config.WorkloadSocket, a.config.WorkloadUsers)
	return l, source, err
}

func (a *Agent) writeBootstrap(own svid) error {
	text, err := xds.Bootstrap(xds.BootstrapConfig{
		NodeID: own.id.String(), NodeCluster: own.id.Tenant().Name(),
		AgentSocket: a.envoyDir.file(envoySocket), AdminSocket: a.envoyDir.file(adminSocket),
	})
	if err != nil {
		return err
	}
	return a.envoyDir.write(bootstrapFile, text)
}

// store keeps the configuration in the state directory; nothing is kept of none. What cannot be kept leaves nothing either: an
// older one may allow what is forbidden now.
func (a *Agent) store(c committed, settled table) error {
	if c.table.decoded == nil {
		return a.dir.remove(stateFile)
	}
	data, err := encodeState(c, settled)
	if err == nil {
		err = a.dir.write(stateFile, data)
	}
	if err != nil {
		return errors.Join(err, a.dir.remove(stateFile))
	}
	return nil
}

// restore serves what an earlier start has kept. What cannot be used is set aside, and nothing is served until the control
// plane has sent something better.
func (a *Agent) restore(r *relay) {
	data, err := a.dir.read(stateFile)
	if data == nil && err == nil {
		return
	}
	if err == nil {
		var (
			c       committed
			settled table
		)
		if c, settled, err = r.judge.decodeState(data); err == nil {
			r.restore(c, settled)
			a.log.Info("going on with the configuration on disk", zap.String("snapshot", c.snapshot.Version()))
			return
		}
	}
	aside, moved := a.setAside(stateFile)
	a.log.Error("the configuration on disk cannot be used; it is set aside and every call is denied",
		zap.Error(err), zap.String("aside", aside), zap.NamedError("rename", moved))
}

// setAside gives a file that cannot be used another name, which it returns: somebody may want to look at it.
func (a *Agent) setAside(name string) (string, error) {
	aside := fmt.Sprintf("%s.corrupt-%s", name, a.config.Clock().UTC().Format("20060102T150405.000Z"))
	return a.dir.file(aside), a.dir.rename(name, aside)
}

// Status is what an agent says of itself.
type Status struct {
	// Workload is who the agent stands beside, zero until it is identified.
	Workload identity.WorkloadID
	// NotAfter is when the SVID expires; zero: the workload is not identified yet.
	NotAfter time.Time
	// ControlPlane says that the stream to the control plane is open.
	ControlPlane bool
	// Snapshot is the version of the configuration that is offered to Envoy, empty for none.
	Snapshot string
	// Current says that Envoy has acknowledged all of it.
	Current bool
	// Refused are the resources that Envoy refused and has not got over.
	Refused map[delta.Key]delta.Refusal
	// Missing are the names of secrets that Envoy asked for, or will have to, and does not hold as they are now.
	Missing []string
	// EnvoyVersion is the version that Envoy says it has; empty: it has not connected.
	EnvoyVersion string
	// WorkloadAPI is why the Workload API gave no SVID when it was asked last; empty: it did, or is not asked. Failures is how often
	// it gave none.
	WorkloadAPI string
	Failures    int
	// EnvoyPID is the Envoy that runs now, 0 for none; Restarts is how often one ended by itself.
	EnvoyPID, Restarts int
}

// What is missing for an agent to be ready.
var (
	ErrNotIdentified   = errors.New("the workload has no SVID yet")
	ErrExpired         = errors.New("the SVID has expired")
	ErrNoConfiguration = errors.New("there is no configuration yet")
	ErrEnvoyBehind     = errors.New("the configuration is not acknowledged by Envoy yet")
)

// Status says where the agent stands.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	if a.supervisor != nil {
		s.EnvoyPID, s.Restarts = a.supervisor.PID(), a.supervisor.Restarts()
	}
	return s
}

// Ready is nil when calls can pass, else what is missing.
func (a *Agent) Ready() error {
	switch s := a.Status(); {
	case s.NotAfter.IsZero():
		return because(ErrNotIdentified, s.WorkloadAPI)
	case a.config.Clock().After(s.NotAfter):
		return because(ErrExpired, s.WorkloadAPI)
	case s.Snapshot == "":
		return ErrNoConfiguration
	case !s.Current:
		return ErrEnvoyBehind
	}
	return nil
}

func because(err error, why string) error {
	if why == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, why)
}

// setTrouble says why the Workload API gave no SVID; nil: it did.
func (a *Agent) setTrouble(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.status.WorkloadAPI = ""
		return
	}
	a.status.WorkloadAPI = err.Error()
	a.status.Failures++
}

func (a *Agent) setIdentity(own svid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Workload, a.status.NotAfter = own.id, own.notAfter
}

func (a *Agent) setEnvoyVersion(version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.EnvoyVersion = version
}

func (a *Agent) envoyVersion() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.EnvoyVersion
}

// publish copies the relay's state for Status; the relay's own goroutine calls it.
func (a *Agent) publish(r *relay) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.ControlPlane = r.send != nil
	a.status.Snapshot = r.committed.snapshot.Version()
	a.status.Current = r.current()
	a.status.Missing = r.missingSecrets()
	a.status.Refused = r.envoy.Refused // never changed once reported
}
