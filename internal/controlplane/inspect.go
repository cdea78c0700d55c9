package controlplane

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// XDSAddr is where configuration streams are served.
func (cp *ControlPlane) XDSAddr() net.Addr { return cp.xds.Addr() }

// IssuerAddr is where agents join.
func (cp *ControlPlane) IssuerAddr() net.Addr { return cp.join.Addr() }

// HTTPAddr is where health and metrics are served; empty where they are not.
func (cp *ControlPlane) HTTPAddr() string {
	if cp.http == nil {
		return ""
	}
	return cp.http.Addr().String()
}

// ControlPlaneID is who the control plane is; it follows from the Mesh, so there is none before the first generation.
func (cp *ControlPlane) ControlPlaneID() (identity.WorkloadID, error) { return cp.self.ID() }

// PlatformRootPEM is the trust bundle of the platform, by which agents prove the control plane.
func (cp *ControlPlane) PlatformRootPEM() ([]byte, error) {
	id, err := cp.self.ID()
	if err != nil {
		return nil, err
	}
	td := id.Tenant().TrustDomain()
	bundles, err := cp.issuer.Bundles(cp.clock(), td)
	if err != nil {
		return nil, fmt.Errorf("platform's root: %w", err)
	}
	b, _ := bundles.Get(td) // there is one where there is no error
	return b.PEM(), nil
}

// CreateToken makes a join token of a workload that a document names.
func (cp *ControlPlane) CreateToken(id string) (string, error) {
	w, ok := cp.pipeline.Workload(id)
	if !ok {
		return "", fmt.Errorf("%s: %w", id, issuer.ErrNoWorkload)
	}
	token, _, err := cp.issuer.CreateToken(w, 0, cp.clock())
	return token, err
}

// Generation is what is served; nil before the first.
func (cp *ControlPlane) Generation() *pipeline.Generation { return cp.pipeline.Current() }

// Last is what came of the last attempt to bring a new configuration.
func (cp *ControlPlane) Last() (pipeline.Event, bool) { return cp.pipeline.Last() }

// Streams is where every open configuration stream stands.
func (cp *ControlPlane) Streams() []server.Status { return cp.ads.Status() }

// WaitGeneration waits for a generation that the condition likes; nil likes any.
func (cp *ControlPlane) WaitGeneration(ctx context.Context, like func(*pipeline.Generation) bool) (*pipeline.Generation, error) {
	changed, stop := cp.pipeline.Subscribe()
	defer stop()
	for {
		if g := cp.pipeline.Current(); g != nil && (like == nil || like(g)) {
			return g, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a generation: %w", ctx.Err())
		}
	}
}

// lookEvery is how often WaitAcknowledged looks: acknowledgements come one by one and have no notice of their own.
const lookEvery = 5 * time.Millisecond

// WaitAcknowledged waits until each of these workloads has a stream, and the youngest of them has acknowledged what the
// current generation holds for it, which means: its Envoy has it. Older streams are what a dead agent left behind.
func (cp *ControlPlane) WaitAcknowledged(ctx context.Context, ids ...string) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		missing := cp.unacknowledged(ids)
		if missing == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s has not acknowledged its configuration: %w", missing, ctx.Err())
		}
	}
}

// unacknowledged is the first of these workloads that is not up to date.
func (cp *ControlPlane) unacknowledged(ids []string) string {
	youngest := map[string]server.Status{}
	for _, s := range cp.ads.Status() { // the oldest first
		youngest[s.Workload.String()] = s
	}
	for _, id := range ids {
		w, ok := cp.pipeline.Workload(id)
		if !ok {
			return id
		}
		snapshot, table, ok := cp.pipeline.Snapshot(w)
		if !ok || youngest[id].Acked != server.TargetID(snapshot.Version(), table) {
			return id
		}
	}
	return ""
}
