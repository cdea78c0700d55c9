package extauthz_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
)

// counter is the sum of the series of that name that have these labels.
func counter(t testing.TB, r prometheus.Gatherer, name string, labels map[string]string) float64 {
	t.Helper()
	sum := 0.0
	for _, m := range series(t, r, name) {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for k, v := range labels {
			matches = matches && have[k] == v
		}
		if matches {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

func series(t testing.TB, r prometheus.Gatherer, name string) []*dto.Metric {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	web, globex := m.acme.SVID(acmeWeb), m.globex.SVID(globexWeb)
	for _, req := range []*authv3.CheckRequest{
		call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk()),
		call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk()),
		call(web, acmeWeb, "acme/orders", "GET", "/orders"),
		call(globex, globexWeb, "acme/orders", "GET", "/orders"),
		call(web, acmeWeb, "evil/"+strings.Repeat("x", 100), "GET", "/orders"),
	} {
		p.check(t, req)
	}
	const name = "ringfence_authz_decisions_total"
	for _, tc := range []struct {
		service, decision, reason string
		want                      float64
	}{
		{"orders", "allow", "allowed", 2}, {
			"orders", "deny", "token_missing", 1,
		}, {"orders", "deny", "cross_tenant", 1}, {"", "deny", "unknown_destination", 1},
	} {
		if got := counter(
			t, p.registry, name,
			map[string]string{"tenant": "acme", "service": tc.service, "decision": tc.decision, "reason": tc.reason},
		); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	services := map[string]bool{}
	for _, s := range series(t, p.registry, name) {
		for _, l := range s.GetLabel() {
			switch l.GetName() {
			case "tenant":
				if l.GetValue() != "acme" {
					t.Errorf("a label of %q", l.GetValue())
				}
			case "service":
				services[l.GetValue()] = true
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"": true, "orders": true}, services); diff != "" {
		t.Error(diff)
	}
	if h := series(t, p.registry, "ringfence_authz_decision_duration_seconds"); h[0].GetHistogram().GetSampleCount() != 5 {
		t.Errorf("%v", h)
	}
	if _, err := extauthz.NewMetrics(p.registry); err == nil {
		t.Error("registered twice")
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	var out bytes.Buffer
	log := extauthz.Log(zap.New(zapcore.NewCore(
		zapcore.NewJSONEncoder(zapcore.EncoderConfig{
			MessageKey: "msg", LevelKey: "level", EncodeLevel: zapcore.LowercaseLevelEncoder,
			EncodeTime: zapcore.RFC3339TimeEncoder,
		}),
		zapcore.AddSync(&out), zap.DebugLevel,
	)))
	p := start(t, m, acmeOrders, m.agents(acmeOrders))
	secret := m.clerk()
	web := m.acme.SVID(acmeWeb)
	line := func(req *authv3.CheckRequest) map[string]any {
		t.Helper()
		p.check(t, req)
		out.Reset()
		log.Record(p.entries.last(t))
		text := out.String()
		if strings.Contains(text, secret) || strings.Contains(text, "globex") || strings.Contains(text, "s3cret") ||
			strings.Count(text, "\n") > 1 {
			t.Errorf("the log tells too much: %s", text)
		}
		if text == "" {
			return nil
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(text), &fields); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return fields
	}
	if got := line(call(web, acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+secret)); got != nil {
		t.Errorf("an allowed call is logged: %v", got)
	}
	for _, tc := range []struct {
		name string
		req  *authv3.CheckRequest
		want map[string]any
	}{
		{
			"own tenant", call(web, acmeWeb, "acme/orders", "DELETE", "/s3cret", "Bearer "+secret),
			map[string]any{"reason": "no_rule", "service": "acme/orders", "tenant": "acme", "caller": acmeWeb},
		},
		{
			"foreign tenant", call(m.globex.SVID(globexWeb), globexWeb, "acme/orders", "GET", "/orders"),
			map[string]any{"reason": "cross_tenant", "service": "acme/orders"},
		},
		{
			"foreign service", call(web, acmeWeb, "globex/orders", "GET", "/orders"),
			map[string]any{"reason": "unknown_destination", "service": "", "tenant": "acme", "caller": acmeWeb},
		},
		{
			"a service that is a line break", call(web, acmeWeb, "acme/\n{}", "GET", "/orders\n"),
			map[string]any{"reason": "unknown_destination", "service": "", "tenant": "acme", "caller": acmeWeb},
		},
	} {
		got := line(tc.req)
		e := p.entries.last(t)
		maps.Copy(tc.want, map[string]any{
			"level": "info", "msg": "call refused", "decision": e.ID, "time": m.now.Format(time.RFC3339),
			"asker": acmeOrders, "generation": e.Generation,
		})
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
	out.Reset()
	if log.Record(extauthz.Entry{ID: "1", Reason: authz.NotReady, Fault: "stack"}); !strings.Contains(out.String(), `"level":"error"`) ||
		!strings.Contains(out.String(), `"fault":"stack"`) {
		t.Errorf("%s", out.String())
	}
}

// vault is a second shared service that the platform's billing workload runs, granted to both tenants.
const vault = `
apiVersion: ringfence.dev/v1alpha1
kind: Service
metadata: {name: vault}
spec:
  namespace: platform
  serviceAccounts: [billing]
  token: optional
  ports: [{name: http, port: 8080, protocol: HTTP, appPort: 20382}]
  endpoints: [{address: 127.0.0.1, port: 20383}]
---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: globex-vault}
spec: {tenant: globex, service: vault, to: {methods: [GET], paths: [/x]}, notAfter: "2036-01-01T00:00:00Z"}
---
apiVersion: ringfence.dev/v1alpha1
kind: Grant
metadata: {name: acme-vault}
spec: {tenant: acme, service: vault, to: {methods: [GET], paths: [/x]}, notAfter: "2036-01-01T00:00:00Z"}
`

// Whom a shared service does not know it does not learn of, even where the same sidecar proves the same caller for another
// service. Whose the caller is, its certificate says, not its token.
func TestRecordsNameOnlyWhomTheServiceKnows(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.files["platform/vault.yaml"] = vault
	p := start(t, m, platformBill, m.agents(platformBill))
	acme, globex := m.acme.SVID(acmeWeb), m.globex.SVID(globexWeb)
	ofGlobex := "Bearer " + m.token(globexIDP, "globex", m.now.Add(5*time.Minute))
	for _, tt := range []struct {
		name           string
		req            *authv3.CheckRequest
		reason         string
		caller, tenant string
	}{
		{"granted", call(globex, globexWeb, "platform/vault", "GET", "/x"), "allowed", globexWeb, "globex"},
		{"not granted here", call(globex, globexWeb, "platform/billing", "GET", "/x"), "grant_missing", "", ""},
		{"another tenant's token", call(acme, acmeWeb, "platform/vault", "GET", "/x", ofGlobex), "token_tenant_mismatch", acmeWeb, "acme"},
		{"no such service", call(globex, globexWeb, "platform/none", "GET", "/x"), "unknown_destination", "", ""},
	} {
		resp := p.check(t, tt.req)
		e := p.entries.last(t)
		if got := resp.GetDynamicMetadata().GetFields()["tenant"].GetStringValue(); reason(resp) != tt.reason || got != tt.tenant {
			t.Errorf("%s: %s, metadata of tenant %q", tt.name, reason(resp), got)
		}
		if e.Caller.String() != tt.caller || e.Tenant.Name() != tt.tenant {
			t.Errorf("%s: recorded %s of %s", tt.name, e.Caller, e.Tenant)
		}
	}
}

// A line says which asker it was that the Mesh names, and that it was about a connection.
func TestLogOfNamedAskersAndConnections(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	core, logs := observer.New(zap.DebugLevel)
	log := extauthz.Log(zap.New(core))
	log.Record(extauthz.Entry{ID: "1", Named: "edge", Connection: true, Reason: authz.NoRule})
	log.Record(extauthz.Entry{ID: "2", Asker: m.id(acmeOrders), Reason: authz.NoRule})
	for i, want := range []map[string]any{{"asker": "edge", "connection": true}, {"asker": acmeOrders, "connection": nil}} {
		got := logs.All()[i].ContextMap()
		if got["asker"] != want["asker"] || got["connection"] != want["connection"] {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
