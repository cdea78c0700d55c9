package tenancy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

const (
	acmeTCP = "tenants/acme/tcp.yaml"
	ledger  = "platform/ledger.yaml"
)

// What cannot be asked of a TCP connection, or only of one, is a problem with its place and a way out.
func TestTCPProblems(t *testing.T) {
	t.Parallel()
	const clientFirst = "protocol: TCP, appPort: 20411"
	for _, tc := range []struct {
		name, file, old, replacement string
		want                         []string
		says                         string
	}{
		{"none", acmeTCP, "name: db", "name: db", nil, ""},
		{"token required", acmeTCP, "  ports: [{name: sql", "  token: required\n  ports: [{name: sql", []string{"acme RF2030 tenants/acme/tcp.yaml:6:10"}, "remove token"},
		{"token optional", acmeTCP, "  ports: [{name: sql", "  token: optional\n  ports: [{name: sql", []string{"acme RF2030 tenants/acme/tcp.yaml:6:10"}, "carries no token"},
		{"token none", acmeTCP, "  ports: [{name: sql", "  token: none\n  ports: [{name: sql", nil, ""},
		{"forwardToken", ledger, "  ports:", "  forwardToken: true\n  ports:", []string{"platform RF2017 platform/ledger.yaml:6:17"}, "no effect"},
		{"methods and paths", acmeTCP, "{services: [reports]}}", "{services: [reports]}, to: {methods: [GET], paths: [/]}}", []string{"acme RF2030 tenants/acme/tcp.yaml:34:65"}, "remove to"},
		{"roles", acmeTCP, "{services: [reports]}}", "{services: [reports], roles: [clerk]}}", []string{"acme RF2030 tenants/acme/tcp.yaml:34:68"}, "remove roles"},
		{"a Grant with methods and paths", ledger, "service: ledger,", "service: ledger, to: {methods: [GET], paths: [/]},", []string{"platform RF2030 platform/ledger.yaml:11:43"}, "remove to"},
		{"speaksFirst of HTTP", "tenants/acme/orders.yaml", "protocol: HTTP", "protocol: HTTP, speaksFirst: server", []string{"acme RF2031 tenants/acme/orders.yaml:8:65"}, "remove speaksFirst"},
		{"now HTTP", acmeTCP, clientFirst, "protocol: HTTP, appPort: 20411", []string{"acme RF2031 tenants/acme/tcp.yaml:25:32", "acme RF1009 tenants/acme/tcp.yaml:34:7"}, "HTTP proxy"},
		{"a Grant that lost its to", ledger, "protocol: TCP", "protocol: GRPC", []string{"platform RF1009 platform/ledger.yaml:11:7"}, "write to:"},
		{"no such service", acmeTCP, "service: db}", "service: dp}", []string{"acme RF2007 tenants/acme/tcp.yaml:25:32"}, `did you mean "db"?`},
		{"of another tenant", acmeTCP, "service: db}", "service: globex/db}", []string{"acme RF2005 tenants/acme/tcp.yaml:25:32"}, "own owner"},
		{"of nobody", acmeTCP, "service: db}", "service: globex/none}", []string{"acme RF2005 tenants/acme/tcp.yaml:25:32"}, "own owner"},
		{"with its own tenant before it", acmeTCP, "service: db}", "service: acme/db}", []string{"acme RF2003 tenants/acme/tcp.yaml:25:32"}, "without a tenant"},
		{"the platform's own, qualified", ledger, "  ports:", "  outbound: {tcp: [{port: 20403, service: platform/ledger}]}\n  ports:", []string{"platform RF2003 platform/ledger.yaml:6:43"}, ""},
		{"the platform's own", ledger, "  ports:", "  outbound: {tcp: [{port: 20403, service: ledger}]}\n  ports:", nil, ""},
		{"one twice", acmeTCP, "service: mail}", "service: db}", []string{"acme RF2018 tenants/acme/tcp.yaml:26:32"}, "has a port already"},
		{"neither port nor tcp", web, "outbound: {port: 20182}", "outbound: {}", []string{"acme RF1009 tenants/acme/web.yaml:8:13"}, "neither"},
		{"one port twice", acmeTCP, "{port: 20417,", "{port: 20416,", []string{"acme RF2015 tenants/acme/tcp.yaml:26:16"}, "outbound port to db"},
		{"the port of the HTTP proxy", acmeTCP, "{port: 20417,", "{port: 20415,", []string{"acme RF2015 tenants/acme/tcp.yaml:26:16"}, "outbound port of"},
		{"no port", acmeTCP, "{port: 20417,", "{port: 0,", []string{"acme RF2012 tenants/acme/tcp.yaml:26:16"}, ""},
		{
			"one port of two on a workload", acmeTCP, "[{address: 127.0.0.1, port: 20414}]", "[{address: 10.0.0.1, port: 20412}]",
			[]string{"acme RF2015 tenants/acme/tcp.yaml:15:41"},
			"told apart by their port",
		},
		{
			"one port of two on loopback is said once", acmeTCP, "[{address: 127.0.0.1, port: 20414}]", "[{address: 127.0.0.2, port: 20412}]",
			[]string{"acme RF2015 tenants/acme/tcp.yaml:15:42"},
			"endpoint of service db",
		},
	} {
		files := tenancytest.TCPFiles(t)
		if !strings.Contains(files[tc.file], tc.old) {
			t.Fatalf("%s: %s does not hold %q", tc.name, tc.file, tc.old)
		}
		files[tc.file] = strings.Replace(files[tc.file], tc.old, tc.replacement, 1)
		_, problems := tenancy.Build(input(t, files))
		if diff := cmp.Diff(tc.want, kept(problems)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if len(problems) > 0 && !strings.Contains(problems[0].Render(), tc.says) {
			t.Errorf("%s: %s", tc.name, problems[0].Render())
		}
	}
}

// A loopback port to a shared service is never an error: a Grant that ends must not hold up the tenant's documents. What is
// not there, not granted and no TCP gets one warning.
func TestIdleLoopbackPorts(t *testing.T) {
	t.Parallel()
	files := tenancytest.TCPFiles(t)
	files[acmeTCP] = strings.Replace(files[acmeTCP], "service: platform/ledger}", "service: platform/ledger}\n      - {port: 20419, service: platform/none}\n      - {port: 20429, service: platform/billing}", 1)
	m := tenancytest.Model(t, files)
	want := []string{"acme RF2505 tenants/acme/tcp.yaml:28:32", "acme RF2505 tenants/acme/tcp.yaml:29:32", "globex RF2505 tenants/globex/tcp.yaml:22:71"}
	if diff := cmp.Diff(want, kept(m.Warnings())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	texts := map[string]bool{}
	for _, p := range m.Warnings() {
		text := strings.NewReplacer("ledger", "X", "none", "X", "billing", "X", "20419", "N", "20428", "N", "20429", "N").Replace(p.Text)
		texts[text] = true
	}
	if len(texts) != 1 {
		t.Errorf("warnings tell what is there: %v", texts)
	}
}

// The handle says what the documents say.
func TestTCPServices(t *testing.T) {
	t.Parallel()
	acme := tenancytest.Tenant(t, tenancytest.Model(t, tenancytest.TCPFiles(t)), "acme")
	for name, first := range map[string]bool{"db": false, "mail": true} {
		s, _ := acme.Service(name)
		if port, ok := s.Port(); !ok || port.Protocol != tenancy.TCP || port.ServerFirst != first || port.Protocol.String() != "TCP" {
			t.Errorf("%s: %+v", name, port)
		}
	}
	reports, _ := acme.Service("reports")
	want := []tenancy.OutboundTCP{{Port: 20416, Service: "db"}, {Port: 20417, Service: "mail"}, {Port: 20418, Shared: true, Service: "ledger"}}
	if got := reports.OutboundTCP(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	rules := acme.Rules("db")
	if len(rules) != 1 || rules[0].Methods != nil || rules[0].Paths != nil || len(rules[0].From) != 1 {
		t.Errorf("%+v", rules)
	}
}

// A class that demands a token cannot be a TCP service's; one that demands none can, and a class with problems is the
// Mesh's affair.
func TestSensitivityOfTCP(t *testing.T) {
	t.Parallel()
	for class, want := range map[string][]string{
		"plain":   nil,
		"secret":  {"acme RF2030 tenants/acme/tcp.yaml:6:16"},
		"strange": {"platform RF2040 mesh.yaml:16:14"},
		"none":    {"acme RF2007 tenants/acme/tcp.yaml:6:16"},
	} {
		files := tenancytest.TCPFiles(t)
		files[mesh] = strings.TrimRight(files[mesh], "\n") + "\n  sensitivity:\n    plain: {}\n    secret: {token: required}\n"
		if class == "strange" {
			files[mesh] += "    strange: {acr: [mfa]}\n"
		}
		files[acmeTCP] = strings.Replace(files[acmeTCP], "  ports:", "  sensitivity: "+class+"\n  ports:", 1)
		_, problems := tenancy.Build(input(t, files))
		if diff := cmp.Diff(want, kept(problems)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", class, diff)
		}
	}
}
