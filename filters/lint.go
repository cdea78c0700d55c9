package filters

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// maxResourceBytes bounds what the linter reads at all.
const maxResourceBytes = 4 << 20

// maxTextBytes of hostile text are repeated in a finding.
const maxTextBytes = 80

// Scope says whose sidecar a resource is for. The zero value is nobody's, and every resource is refused.
type Scope struct {
	// Tenant owns the sidecar. Names of resources have to be this tenant's.
	Tenant identity.TenantID
	// Direct is the workload whose sidecar has no agent; zero: there is one.
	Direct identity.WorkloadID
}

// Finding is one thing that the linter refuses.
type Finding struct {
	Setting string // the ID of the Setting
	TypeURL string // of the resource
	Name    string // of the resource, as it is delivered
	Path    string // the field, from the resource down; empty for the whole
	Text    string // what is wrong
}

// String is one line: resource, field, what is wrong, setting.
func (f Finding) String() string {
	where := f.Name
	if f.Path != "" {
		where += ": " + f.Path
	}
	return fmt.Sprintf("%s %s: %s [%s]", f.TypeURL, where, f.Text, f.Setting)
}

// Lint judges one serialised resource as it goes to Envoy: every finding, none if the resource is as Ringfence generates
// it. It takes any bytes. It does not know whose identities and addresses are; package prove does.
func Lint(typeURL, name string, value []byte, scope Scope) []Finding {
	l := &linter{typeURL: typeURL, name: name, scope: scope}
	if !l.need(!scope.Tenant.IsZero(), setScope, "", "nobody is named whose resource this is") {
		return l.findings
	}
	if !l.need(len(value) <= maxResourceBytes, setSize, "", "%d bytes", len(value)) {
		return l.findings
	}
	switch typeURL {
	case resource.ListenerType:
		run(l, value, &listenerv3.Listener{}, (*linter).listener)
	case resource.RouteType:
		run(l, value, &routev3.RouteConfiguration{}, (*linter).routes)
	case resource.ClusterType:
		run(l, value, &clusterv3.Cluster{}, (*linter).cluster)
	case resource.EndpointType:
		run(l, value, &endpointv3.ClusterLoadAssignment{}, (*linter).endpoints)
	case resource.SecretType:
		run(l, value, &tlsv3.Secret{}, (*linter).secret)
	default:
		l.typeURL = clip(typeURL)
		l.reportf(setType, "", "Ringfence sends no such resource to Envoy")
	}
	return l.findings
}

type linter struct {
	typeURL, name string
	scope         Scope
	findings      []Finding
}

// run decodes the resource and judges it first by the closed list, then by its settings. The settings are not looked at
// where the closed list is broken: nobody has thought about what they mean then.
func run[M proto.Message](l *linter, value []byte, m M, settings func(*linter, M)) {
	if err := (proto.UnmarshalOptions{}).Unmarshal(value, m); err != nil {
		l.reportf(setBytes, "", "the bytes are no %s", m.ProtoReflect().Descriptor().Name())
		return
	}
	l.walk("", m.ProtoReflect(), 0)
	if len(l.findings) == 0 {
		settings(l, m)
	}
}

func (l *linter) reportf(setting, path, format string, args ...any) {
	l.findings = append(l.findings, Finding{
		Setting: setting, TypeURL: l.typeURL, Name: clip(l.name), Path: path, Text: fmt.Sprintf(format, args...),
	})
}

// need reports a finding unless ok, and returns ok.
func (l *linter) need(ok bool, setting, path, format string, args ...any) bool {
	if !ok {
		l.reportf(setting, path, format, args...)
	}
	return ok
}

// resourceName judges the name of a resource and returns its kind and parts. inner is the name inside the message.
func (l *linter) resourceName(inner, path string, kinds ...tenancy.Kind) (kind tenancy.Kind, parts []string, ok bool) {
	if !l.need(inner == l.name, setInnerName, path, "the name inside is %q", clip(inner)) {
		return kind, nil, false
	}
	return l.ownName(inner, setName, path, kinds...)
}

// ownName judges a name that the mesh gives: of one of these kinds, and of the tenant whose resource this is.
func (l *linter) ownName(name, setting, path string, kinds ...tenancy.Kind) (kind tenancy.Kind, parts []string, ok bool) {
	kind, tenant, parts, err := tenancy.ParseResourceName(name)
	if !l.need(err == nil, setting, path, "%q is no name of the mesh", clip(name)) {
		return kind, nil, false
	}
	if !l.need(tenant == l.scope.Tenant.Name(), setting, path, "%q is not of the tenant whose resource this is", clip(name)) {
		return kind, nil, false
	}
	if !l.need(slices.Contains(kinds, kind), setting, path, "%q does not fit here", clip(name)) {
		return kind, nil, false
	}
	return kind, parts, true
}

// clip shortens hostile text.
func clip(s string) string {
	if len(s) > maxTextBytes {
		return s[:maxTextBytes] + "…"
	}
	return s
}
