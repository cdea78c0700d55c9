package filters_test

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/ringfence-mesh/ringfence/filters"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/protomutate"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/xdstest"
)

// sample is a generated resource and whose it is.
type sample struct {
	xds.Resource

	scope filters.Scope
}

// samples are one of each generated resource of the test mesh; those of sidecars without an agent begin with direct.
func samples(tb testing.TB) map[string]sample {
	tb.Helper()
	out := map[string]sample{}
	add := func(kind string, files map[string]string, direct func(identity.WorkloadID) identity.WorkloadID) {
		for _, p := range xdstest.Parts(tb, tenancytest.Model(tb, files)) {
			for _, w := range p.Workloads() {
				s, _ := p.Snapshot(w)
				for _, r := range s.All() {
					typ := kind + r.TypeURL()[strings.LastIndex(r.TypeURL(), ".")+1:]
					out[typ+" "+p.Tenant().Name()+" "+r.Name()] = sample{r, filters.Scope{Tenant: p.Tenant(), Direct: direct(w)}}
				}
			}
		}
	}
	add("", xdstest.Files(), func(identity.WorkloadID) (none identity.WorkloadID) { return none })
	add("direct ", xdstest.DirectFiles(), func(w identity.WorkloadID) identity.WorkloadID { return w })
	return out
}

// What is for one kind of sidecar is refused at the other, and so is what holds another workload's SVID.
func TestLintPartsSidecars(t *testing.T) {
	t.Parallel()
	all, parted := samples(t), 0
	var web, orders sample
	for name, s := range all {
		twin, ok := all["direct "+name]
		if !ok {
			continue
		}
		web, orders = all["direct Listener globex outbound/globex/web"], all["direct Listener globex inbound/globex/orders"]
		same := bytes.Equal(s.Value(), twin.Value())
		if !same {
			parted++
		}
		for what, findings := range map[string][]filters.Finding{
			"with an agent":    filters.Lint(twin.TypeURL(), twin.Name(), twin.Value(), s.scope),
			"without an agent": filters.Lint(s.TypeURL(), s.Name(), s.Value(), twin.scope),
		} {
			if len(findings) > 0 == same {
				t.Errorf("%s at a sidecar %s: %v", name, what, findings)
			}
		}
	}
	if parted < 10 {
		t.Errorf("only %d resources differ", parted)
	}
	if findings := filters.Lint(orders.TypeURL(), orders.Name(), orders.Value(), web.scope); len(findings) == 0 {
		t.Error("another workload's SVID is taken")
	}
}

func (s sample) decode(tb testing.TB) proto.Message {
	tb.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(strings.TrimPrefix(s.TypeURL(), "type.googleapis.com/")))
	if err != nil {
		tb.Fatal(err)
	}
	m := typ.New().Interface()
	if err := proto.Unmarshal(s.Value(), m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func (s sample) lint(tb testing.TB, m proto.Message) []filters.Finding {
	tb.Helper()
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return filters.Lint(s.TypeURL(), s.Name(), value, s.scope)
}

func TestLintAcceptsWhatIsGenerated(t *testing.T) {
	t.Parallel()
	all := samples(t)
	for name, s := range all {
		for _, f := range filters.Lint(s.TypeURL(), s.Name(), s.Value(), s.scope) {
			t.Errorf("%s: %s", name, f)
		}
	}
	for _, want := range []string{
		"Listener platform inbound/platform/billing", "RouteConfiguration platform callers/platform/billing/acme", "Cluster acme import/acme/ledger",
		"Cluster acme app/acme/ledger", "ClusterLoadAssignment acme service/acme/reports", "Secret acme spiffe://platform.demo.test",
		"Listener acme inbound/acme/db", "Listener acme inbound/acme/mail", "Secret acme callers/acme/mail/acme", "Secret platform callers/platform/store/acme",
		"Listener acme tcp/acme/tool/platform/store", "Listener platform tcp/platform/ledger/platform/store", "Cluster acme import/acme/store",
	} {
		if _, ok := all[want]; !ok {
			t.Errorf("the test mesh has no %s: %q", want, slices.Sorted(maps.Keys(all)))
		}
	}
}

// free are the changes that are not the linter's to notice: whose names, identities and addresses are is judged by package
// prove, and a number may move within its bounds.
var free = []*regexp.Regexp{
	// Package prove compares these with the model.
	regexp.MustCompile(`socket_address\.(address|port_value) more$`),
	regexp.MustCompile(`socket_address\.ipv4_compat (clear|flip)$`),
	regexp.MustCompile(`explicit_http_config\.http2?_protocol_options add$`),
	regexp.MustCompile(`\.server_names\[\d+\] (more|other)$`),
	regexp.MustCompile(`\.sni (more|other)$`),
	regexp.MustCompile(`\.matcher\.exact more$`),
	regexp.MustCompile(`\.domains\[\d+\] (more|other|drop)$`),
	regexp.MustCompile(`\.domains add$`),
	regexp.MustCompile(`\.route\.cluster more$`),
	regexp.MustCompile(`validation_context_sds_secret_config\.name more$`),
	regexp.MustCompile(`upstream_connect_mode other$`), // who speaks first; no mode that connects before the handshake is free
	regexp.MustCompile(`context_extensions\["port"\] (more|other)$`),
	regexp.MustCompile(`^virtual_hosts\[\d+\]\.name (more|other)$`),
	regexp.MustCompile(`(filter_chains|virtual_hosts|principals|match_typed_subject_alt_names|endpoints|lb_endpoints)\[\d+\] (drop|again)$`),
	regexp.MustCompile(`policies\["callers"\] drop$`),
	regexp.MustCompile(`policies clear$`),
	regexp.MustCompile(`filter_chains\[\d+\]\.metadata clear$`),
	regexp.MustCompile(`^endpoints(\[\d+\]\.lb_endpoints)? (clear|add)$`),
	regexp.MustCompile(`^request_headers_to_remove clear$`),
	// One more unit within the bounds.
	regexp.MustCompile(`(value|seconds|nanos|max_denied_response_body_bytes) more$`),
	regexp.MustCompile(`\.(seconds|nanos) add$`),
	regexp.MustCompile(`max_retries\.value clear$`),
}

// Every small change of every generated resource is a finding, or is on the short list of what is free. So no field of the
// generated configuration can be weakened, dropped or added without notice, whether somebody thought of it or not.
func TestLintNoticesEveryChange(t *testing.T) {
	t.Parallel()
	used := make([]bool, len(free))
	for name, s := range samples(t) {
		m, changes := s.decode(t), 0
		protomutate.Each(m, func(c protomutate.Change) {
			changes++
			if len(s.lint(t, m)) > 0 {
				return
			}
			i := slices.IndexFunc(free, func(r *regexp.Regexp) bool { return r.MatchString(c.String()) })
			if i < 0 {
				t.Errorf("%s: not noticed: %s", name, c)
				return
			}
			used[i] = true
		})
		if changes < 10 {
			t.Errorf("%s: only %d changes tried", name, changes)
		}
	}
	for i, r := range free {
		if !used[i] {
			t.Errorf("%s is free for nothing", r)
		}
	}
}
