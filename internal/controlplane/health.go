package controlplane

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// health tells how the control plane is, to each caller what it may know.
type health struct {
	agentv1alpha1.UnimplementedHealthServer

	cp *ControlPlane
	// begin is that of proxies. local says that the caller is on this machine.
	begin func(context.Context) (viewer, func(), error)
	local bool
}

var _ agentv1alpha1.HealthServer = health{}

func (cp *ControlPlane) localHealth() health {
	return health{cp: cp, begin: cp.localProxies().begin, local: true}
}

func (cp *ControlPlane) remoteHealth() health { return health{cp: cp, begin: cp.remoteProxies().begin} }

// Report is how the control plane is at this moment.
func (h health) Report(ctx context.Context, req *agentv1alpha1.HealthRequest) (*agentv1alpha1.HealthResponse, error) {
	v, end, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	now := h.cp.clock()
	answer := &agentv1alpha1.HealthResponse{NowUnixNano: now.UnixNano()}
	if h.local {
		answer.IssuerListen = h.cp.IssuerAddr().String()
	}
	cert, err := h.cp.self.certificate(nil)
	switch {
	case err == nil:
		answer.Svid = cert.Certificate[0]
	case errors.Is(err, errNotReady):
		answer.SvidMissing = err.Error()
	default:
		h.cp.log.Error("no SVID of the control plane's own", zap.Error(err))
		answer.SvidMissing = "the issuer does not sign it; the control plane's log says why"
		if h.local {
			answer.SvidMissing = err.Error()
		}
	}
	answer.All = v.everything
	var model *tenancy.Model
	if g := h.cp.Generation(); g != nil {
		model = g.Model()
		answer.Published, answer.All = true, v.seesAll(model)
		h.bundles(answer, v, model, req.GetTenant())
	}
	h.documents(answer, v, model, req.GetTenant())
	return answer, nil
}

// bundles are the roots of the platform, which every workload knows, and of the tenants that the viewer may look at or is of.
func (h health) bundles(answer *agentv1alpha1.HealthResponse, v viewer, m *tenancy.Model, only string) {
	for _, id := range m.Tenants() {
		wanted := only == "" || only == id.Name()
		sees := v.everything || m.Operates(v.self, id) || v.self.Tenant().Same(id)
		if !id.IsPlatform() && (!wanted || !sees) {
			continue
		}
		td := id.TrustDomain()
		b := &agentv1alpha1.HealthBundle{TrustDomain: td.String(), External: h.cp.external.has(td)}
		if bundles, err := h.cp.bundles(td); err != nil {
			h.cp.log.Error("no roots", zap.Stringer("trust_domain", td), zap.Error(err))
		} else if got, ok := bundles.Get(td); ok {
			b.Roots = got.DER()
		}
		answer.Bundles = append(answer.Bundles, b)
	}
}

// documents tells of the documents of those owners that the viewer may look at. Files that belong to nobody, and owners whom
// no document of the platform declares, are the platform's to see to: only who sees the whole mesh is told.
func (h health) documents(answer *agentv1alpha1.HealthResponse, v viewer, m *tenancy.Model, only string) {
	operated := map[string]bool{}
	if m != nil {
		for _, id := range m.Tenants() {
			if (only == "" || only == id.Name()) && (v.everything || m.Operates(v.self, id)) {
				operated[id.Name()] = true
				answer.Owners = append(answer.Owners, id.Name())
			}
		}
	}
	tells := func(owner string) bool { return operated[owner] || answer.GetAll() && (only == "" || only == owner) }
	last, _ := h.cp.Last()
	answer.Problems = told(last.Problems, tells)
	if m != nil {
		answer.Warnings = told(m.Warnings(), tells)
	}
	answer.Stale, answer.Dropped = filter(last.Stale, tells), filter(last.Dropped, tells)
	for _, p := range answer.GetProblems() {
		if !slices.Contains(answer.GetOwners(), p.GetOwner()) {
			answer.Owners = append(answer.Owners, p.GetOwner())
		}
	}
	if !answer.GetAll() {
		return
	}
	if last.Counterexample != nil {
		answer.Counterexample = last.Counterexample.Error()
	}
	if err := errors.Join(last.Err, last.Forgot); err != nil {
		answer.Trouble = err.Error()
	}
}

func filter(owners []string, tells func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(owners), func(owner string) bool { return !tells(owner) })
}

func told(problems []v1alpha1.Problem, tells func(string) bool) []*agentv1alpha1.HealthProblem {
	var all []*agentv1alpha1.HealthProblem
	for _, p := range problems {
		if tells(p.Owner) {
			all = append(all, &agentv1alpha1.HealthProblem{Owner: p.Owner, Code: string(p.Code), Text: p.String()})
		}
	}
	return all
}
