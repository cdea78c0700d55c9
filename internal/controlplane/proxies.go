package controlplane

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// proxies tells operators where every sidecar stands. It answers on the admin socket only: an operator of the platform may
// see every tenant.
type proxies struct {
	agentv1alpha1.UnimplementedProxiesServer

	cp *ControlPlane
}

var _ agentv1alpha1.ProxiesServer = proxies{}

// List is where the sidecar of every workload stands that the present generation names; one that is not connected is
// listed too, and so is each further stream of one workload.
func (p proxies) List(_ context.Context, req *agentv1alpha1.ListProxiesRequest) (*agentv1alpha1.ListProxiesResponse, error) {
	g := p.cp.Generation()
	if g == nil {
		return &agentv1alpha1.ListProxiesResponse{}, nil
	}
	model := g.Model()
	streams := p.streams()
	answer := &agentv1alpha1.ListProxiesResponse{Generation: g.Number(), PublishedUnix: g.At().Unix()}
	for _, id := range model.Tenants() {
		if req.GetTenant() != "" && req.GetTenant() != id.Name() {
			continue
		}
		t, _ := model.Tenant(id)
		for _, w := range t.Workloads() {
			of := streams[w.ID().String()]
			if len(of) == 0 {
				of = []*agentv1alpha1.Proxy{{Workload: w.ID().String(), Tenant: id.Name()}}
			}
			for _, proxy := range of {
				proxy.Target = p.target(w.ID().String())
				answer.Proxies = append(answer.Proxies, proxy)
			}
		}
	}
	return answer, nil
}

// Config is what the present generation holds for one workload, and where the youngest stream of its sidecar stands.
func (p proxies) Config(_ context.Context, req *agentv1alpha1.ProxyConfigRequest) (*agentv1alpha1.ProxyConfigResponse, error) {
	w, ok := p.cp.pipeline.Workload(req.GetWorkload())
	if !ok {
		return nil, status.Error(codes.NotFound, "no document names a workload of that SPIFFE ID")
	}
	snapshot, table, ok := p.cp.pipeline.Snapshot(w)
	if !ok {
		return nil, status.Error(codes.Aborted, "the configuration is changing, ask again")
	}
	answer := &agentv1alpha1.ProxyConfigResponse{
		Proxy: &agentv1alpha1.Proxy{Workload: w.String(), Tenant: w.Tenant().Name()}, Table: table,
	}
	if of := p.streams()[w.String()]; len(of) > 0 {
		answer.Proxy = of[len(of)-1]
	}
	answer.Proxy.Target = server.TargetID(snapshot.Version(), table)
	for _, r := range snapshot.All() {
		answer.Resources = append(answer.Resources, &agentv1alpha1.ConfigResource{
			TypeUrl: r.TypeURL(), Name: r.Name(), Version: r.Version(), Value: r.Value(),
		})
	}
	return answer, nil
}

// target names what the workload's sidecar shall have now.
func (p proxies) target(id string) string {
	w, ok := p.cp.pipeline.Workload(id)
	if !ok {
		return ""
	}
	snapshot, table, ok := p.cp.pipeline.Snapshot(w)
	if !ok {
		return ""
	}
	return server.TargetID(snapshot.Version(), table)
}

// streams are the open streams by workload, the oldest first.
func (p proxies) streams() map[string][]*agentv1alpha1.Proxy {
	byWorkload := map[string][]*agentv1alpha1.Proxy{}
	for _, s := range p.cp.ads.Status() {
		proxy := &agentv1alpha1.Proxy{
			Workload: s.Workload.String(), Tenant: s.Workload.Tenant().Name(), ConnectedUnix: s.Since.Unix(), Acknowledged: s.Acked,
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
