// Package demo runs a whole mesh on this machine: the control plane, an agent and a real Envoy for every workload of a
// configuration directory, and a small sample application behind each service. It sends calls through them, and past them,
// and says which layer refused what. The demo command and the end-to-end tests are made of it.
package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/source"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Config says what to run and where.
type Config struct {
	// Dir is the configuration directory. It is read live and never written.
	Dir string
	// State is a directory for keys, caches and sockets. Its path must be short: a Unix socket's has at most 107 bytes.
	State string
	// Envoy is the path of the binary.
	Envoy string
	// Issuer is what may be chosen of the issuer.
	Issuer issuer.Options
	// TrustBundles is the control plane's; WorkloadAPI is the Workload API of a workload, by SPIFFE ID, that is not the issuer's.
	TrustBundles string
	WorkloadAPI  map[string]string
	// KeepPorts uses the ports that the documents name where they are free; otherwise every port is any free one.
	KeepPorts bool
	// Foreign are the services, "tenant/service", whose applications somebody else runs.
	Foreign []string
	Log     *zap.Logger
}

// Mesh is a running mesh. Close ends it and everything it started.
type Mesh struct {
	*Caller

	config   Config
	source   *overlay
	plane    *controlplane.ControlPlane
	sidecars map[string]*sidecar // by "tenant/account"
	apps     map[string]*App     // by "tenant/service"
	reasons  reasons

	cancel    context.CancelFunc
	tasks     sync.WaitGroup
	broken    chan struct{}
	breakOnce sync.Once
	cause     error // written before broken is closed
}

// ready is how long everything may take to come up.
const readyWithin = 30 * time.Second

// Start brings the mesh up and returns once every sidecar has acknowledged its configuration.
func Start(ctx context.Context, c Config) (*Mesh, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m := &Mesh{config: c, sidecars: map[string]*sidecar{}, apps: map[string]*App{}, cancel: cancel, broken: make(chan struct{})}
	m.Caller = &Caller{model: m.model, dial: dialHere, mint: m.Mint, stolen: m.StolenSVID, denials: m.rbacDenials, reason: m.reason}
	if err := m.start(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Mesh) start(ctx context.Context) error {
	var err error
	if m.source, err = newOverlay(ctx, source.NewDirectory(m.config.Dir, m.config.Log), m.config.KeepPorts); err != nil {
		return err
	}
	m.plane, err = controlplane.New(ctx, controlplane.Config{
		Source: m.source, State: m.PlaneDir(), XDSListen: "127.0.0.1:0", IssuerListen: "127.0.0.1:0", Issuer: m.config.Issuer,
		TrustBundles: m.config.TrustBundles,
		AdminSocket:  filepath.Join(m.PlaneDir(), "admin.sock"), Log: m.config.Log.Named("control-plane"),
	})
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	m.run(ctx, "control plane", m.plane.Run)
	deadline, stop := context.WithTimeout(ctx, readyWithin)
	defer stop()
	if err := m.poll(deadline, m.accepted); err != nil {
		return err
	}
	model := m.model()
	for _, id := range model.Tenants() {
		t, _ := model.Tenant(id)
		for _, s := range t.Services() {
			if err := m.startApp(ctx, s); err != nil {
				return err
			}
		}
		for _, w := range t.Workloads() {
			if w.Proxy() == tenancy.ProxyDirect {
				return fmt.Errorf("%w: %s has proxy: Direct, and the demo runs Ringfence's agent beside each Envoy", ErrConfig, w.ID())
			}
			if err := m.startSidecar(ctx, w); err != nil {
				return err
			}
		}
	}
	return m.Settled(deadline)
}

// accepted reports whether there is a configuration to serve.
func (m *Mesh) accepted() (bool, error) {
	if m.plane.Generation() != nil {
		return true, nil
	}
	if e, ok := m.plane.Last(); ok && len(e.Problems) > 0 {
		var text []string
		for _, p := range e.Problems {
			text = append(text, p.Render())
		}
		return false, fmt.Errorf("%w:\n%s", ErrConfig, strings.Join(text, "\n"))
	}
	return false, nil
}

// ErrConfig says that the configuration directory cannot be served.
var ErrConfig = errors.New("the configuration is not accepted")

// Settled waits until every sidecar's Envoy has what the present configuration holds for it.
func (m *Mesh) Settled(ctx context.Context) error {
	var ids []string
	for _, s := range m.sidecars {
		ids = append(ids, s.id.String())
	}
	acknowledged := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { acknowledged <- m.plane.WaitAcknowledged(ctx, ids...) }()
	select {
	case err := <-acknowledged:
		return errors.Join(err, m.refusals(err))
	case <-m.broken:
		return m.cause
	}
}

// refusals says what Envoys refused, where something is not acknowledged: a port that somebody else has taken, for example.
func (m *Mesh) refusals(unacknowledged error) error {
	if unacknowledged == nil {
		return nil
	}
	var errs []error
	for _, stream := range m.plane.Streams() {
		for _, refused := range stream.Refused {
			errs = append(errs, fmt.Errorf("%s: %s", stream.Workload, refused.Text))
		}
	}
	return errors.Join(errs...)
}

// run keeps a part of the mesh going until the mesh is closed; if it ends before, the mesh is broken.
func (m *Mesh) run(ctx context.Context, what string, part func(context.Context) error) {
	m.tasks.Go(func() {
		if err := part(ctx); ctx.Err() == nil {
			m.breakOnce.Do(func() {
				m.cause = fmt.Errorf("%s ended: %w", what, err)
				close(m.broken)
			})
		}
	})
}

// Broken is closed when a part of the mesh has ended by itself; Cause says which.
func (m *Mesh) Broken() <-chan struct{} { return m.broken }

// Cause is why the mesh is broken. It may be called once Broken is closed.
func (m *Mesh) Cause() error { return m.cause }

func (m *Mesh) poll(ctx context.Context, holds func() (bool, error)) error {
	const every = 5 * time.Millisecond
	for {
		ok, err := holds()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.broken:
			return m.cause
		case <-time.After(every):
		}
	}
}

func (m *Mesh) startApp(ctx context.Context, s tenancy.Service) error {
	port, ok := s.Port()
	if !ok {
		return nil
	}
	name := s.Owner().Name() + "/" + s.Name()
	if slices.Contains(m.config.Foreign, name) {
		return nil
	}
	start := startApp
	if port.Protocol == tenancy.TCP {
		start = startGreeter
		if !port.ServerFirst {
			start = startEcho
		}
	}
	app, err := start(ctx, name, port.AppPort)
	if err != nil {
		return err
	}
	m.apps[name] = app
	return nil
}

// Close ends the mesh and waits for every Envoy to be gone.
func (m *Mesh) Close() {
	m.cancel()
	m.tasks.Wait()
	for _, a := range m.apps {
		a.stop()
	}
	if m.plane != nil {
		if err := m.plane.Close(); err != nil {
			m.config.Log.Warn("close", zap.Error(err))
		}
	}
}

func (m *Mesh) model() *tenancy.Model { return m.plane.Generation().Model() }

// Apps are the sample applications by "tenant/service".
func (m *Mesh) Apps() map[string]*App { return m.apps }

// ConfigDir is the directory that the mesh reads.
func (m *Mesh) ConfigDir() string { return m.config.Dir }

// PlaneDir is the control plane's state directory.
func (m *Mesh) PlaneDir() string { return filepath.Join(m.config.State, "plane") }

// XDSAddr is where the control plane serves configuration streams.
func (m *Mesh) XDSAddr() string { return m.plane.XDSAddr().String() }

// TrustBundle is the file with the roots of a trust domain.
func (m *Mesh) TrustBundle(trustDomain string) string {
	if external := filepath.Join(m.config.TrustBundles, trustDomain+".pem"); m.config.TrustBundles != "" && exists(external) {
		return external
	}
	return filepath.Join(m.PlaneDir(), "trust", trustDomain+".pem")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Mint signs a token.
func (m *Mesh) Mint(t Token) (string, error) { return m.source.mint(t) }

// StolenSVID is a workload's genuine certificate and key, as whoever took over its host would find them.
func (m *Mesh) StolenSVID(name string) (*tls.Certificate, error) {
	dir := m.StateDir(name)
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("SVID of %s: %w", name, err)
	}
	return &c, nil
}

// reasons remembers why calls were refused, as an operator would look it up by the decision's id.
type reasons struct{ byID sync.Map }

// recorder tells the matrix why a call was refused, and the log as every agent does.
type recorder struct {
	reasons *reasons
	log     extauthz.Recorder
}

// Record implements extauthz.Recorder.
func (r recorder) Record(e extauthz.Entry) {
	if !e.Allowed {
		r.reasons.byID.Store(e.ID, e.Reason.String())
	}
	r.log.Record(e)
}

func (m *Mesh) reason(_ context.Context, decision string) (string, error) {
	reason, _ := m.reasons.byID.Load(decision)
	text, _ := reason.(string)
	return text, nil
}
