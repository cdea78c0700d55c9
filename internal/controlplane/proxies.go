package controlplane

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// proxies tells where sidecars stand, to each caller those that it may see.
type proxies struct {
	agentv1alpha1.UnimplementedProxiesServer

	cp *ControlPlane
	// begin says whom an answer is for, and is told its end.
	begin func(context.Context) (viewer, func(), error)
}

var _ agentv1alpha1.ProxiesServer = proxies{}

// viewer is whom an answer is for. The zero value sees nothing.
type viewer struct {
	everything bool
	self       identity.WorkloadID
}

// sees reports whether the viewer may know of the workload's sidecar: its own, or one of a tenant that the Mesh lets it
// look at.
func (v viewer) sees(m *tenancy.Model, w identity.WorkloadID) bool {
	return v.everything || v.self.Same(w) || m.Operates(v.self, w.Tenant())
}

// seesOf reports whether the viewer may know of any sidecar of the tenant.
func (v viewer) seesOf(m *tenancy.Model, t identity.TenantID) bool {
	return v.everything || v.self.Tenant().Same(t) || m.Operates(v.self, t)
}

// seesAll reports whether no tenant is hidden from the viewer.
func (v viewer) seesAll(m *tenancy.Model) bool {
	return v.everything || !slices.ContainsFunc(m.Tenants(), func(t identity.TenantID) bool { return !m.Operates(v.self, t) })
}

// localProxies answers on the admin socket: who can open it may see every tenant.
func (cp *ControlPlane) localProxies() proxies {
	return proxies{cp: cp, begin: func(context.Context) (viewer, func(), error) { return viewer{everything: true}, func() {}, nil }}
}

// remoteProxies answers over mutual TLS: who calls is proved from the connection, and nothing that it says widens what it
// sees.
func (cp *ControlPlane) remoteProxies() proxies {
	// Far above what people look at, and far below what would be felt.
	limits := limit.New(limit.Limits{Concurrent: 2, PerSecond: 5, Burst: 50})
	return proxies{cp: cp, begin: func(ctx context.Context) (viewer, func(), error) {
		peer, end, err := cp.ads.Admit(ctx, limits, "question about sidecars")
		return viewer{self: peer.ID()}, end, err
	}}
}

// List is where the sidecar of every workload stands that the present generation names and the caller may see; one that is
// not connected is listed too, and so is each further stream of one workload.
func (p proxies) List(ctx context.Context, req *agentv1alpha1.ListProxiesRequest) (*agentv1alpha1.ListProxiesResponse, error) {
	v, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	g := p.cp.Generation()
	if g == nil {
		return &agentv1alpha1.ListProxiesResponse{}, nil
	}
	model := g.Model()
	streams := p.streams(func(w identity.WorkloadID) bool { return v.sees(model, w) })
	answer := &agentv1alpha1.ListProxiesResponse{}
	if v.seesAll(model) { // it moves when any tenant changes
		answer.Generation, answer.PublishedUnix = g.Number(), g.At().Unix()
	}
	for _, id := range model.Tenants() {
		if req.GetTenant() != "" && req.GetTenant() != id.Name() || !v.seesOf(model, id) {
			continue // so the answer costs what is seen, not what there is
		}
		t, _ := model.Tenant(id)
		for _, w := range t.Workloads() {
			if !v.sees(model, w.ID()) {
				continue
			}
			of := streams[w.ID().String()]
			if len(of) == 0 {
				of = []*agentv1alpha1.Proxy{{Workload: w.ID().String(), Tenant: id.Name()}}
			}
			for _, proxy := range of {
				proxy.Target, proxy.Generation = target(g, w.ID()), g.State(id)
				answer.Proxies = append(answer.Proxies, proxy)
			}
		}
	}
	return answer, nil
}

// Config is what the present generation holds for one workload, and where the youngest stream of its sidecar stands. Of a
// workload that the caller may not see it says what it says of one that there is not.
func (p proxies) Config(ctx context.Context, req *agentv1alpha1.ProxyConfigRequest) (*agentv1alpha1.ProxyConfigResponse, error) {
	v, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	g := p.cp.Generation()
	w, ok := g.Workload(req.GetWorkload())
	if !ok || !v.sees(g.Model(), w) {
		return nil, status.Error(codes.NotFound, "no document names a workload of that SPIFFE ID, or it is not yours to see")
	}
	snapshot, table, ok := g.Snapshot(w)
	if !ok {
		return nil, status.Error(codes.Internal, "the workload has no configuration")
	}
	answer := &agentv1alpha1.ProxyConfigResponse{
		Proxy: &agentv1alpha1.Proxy{Workload: w.String(), Tenant: w.Tenant().Name()}, Table: table,
	}
	if of := p.streams(w.Same)[w.String()]; len(of) > 0 {
		answer.Proxy = of[len(of)-1]
	}
	answer.Proxy.Target, answer.Proxy.Generation = target(g, w), g.State(w.Tenant())
	for _, r := range snapshot.All() {
		answer.Resources = append(answer.Resources, &agentv1alpha1.ConfigResource{
			TypeUrl: r.TypeURL(), Name: r.Name(), Version: r.Version(), Value: r.Value(),
		})
	}
	return answer, nil
}

// target names what the workload's sidecar shall have now.
func target(g *pipeline.Generation, w identity.WorkloadID) string {
	snapshot, table, ok := g.Snapshot(w)
	if !ok {
		return ""
	}
	return server.TargetID(snapshot.Version(), table)
}

// streams are the open streams of these workloads, by workload, the oldest first.
func (p proxies) streams(seen func(identity.WorkloadID) bool) map[string][]*agentv1alpha1.Proxy {
	byWorkload := map[string][]*agentv1alpha1.Proxy{}
	for _, s := range p.cp.ads.StatusOf(seen) {
		proxy := &agentv1alpha1.Proxy{
			Workload: s.Workload.String(), Tenant: s.Workload.Tenant().Name(), ConnectedUnix: s.Since.Unix(), Acknowledged: s.Acked,
			EnvoyVersion: s.Hint.EnvoyVersion, SvidNotBeforeUnix: s.NotBefore.Unix(), SvidNotAfterUnix: s.NotAfter.Unix(),
		}
		if !s.Hint.Clock.IsZero() {
			proxy.ClockAheadMs = new(s.Ahead.Milliseconds())
		}
		for k, refusal := range s.Refused {
			proxy.Refused = append(proxy.Refused, &agentv1alpha1.RefusedResource{
				TypeUrl: k.TypeURL, Name: k.Name, Version: refusal.Version, Text: refusal.Text,
			})
		}
		slices.SortFunc(proxy.GetRefused(), func(a, b *agentv1alpha1.RefusedResource) int {
			if c := strings.Compare(a.GetTypeUrl(), b.GetTypeUrl()); c != 0 {
				return c
			}
			return strings.Compare(a.GetName(), b.GetName())
		})
		byWorkload[proxy.GetWorkload()] = append(byWorkload[proxy.GetWorkload()], proxy)
	}
	return byWorkload
}
