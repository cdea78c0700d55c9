package pipeline_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestWhatIsRecorded(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&lines), zapcore.InfoLevel))
	registry := prometheus.NewPedanticRegistry()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	p := pipeline.New(pipeline.Config{
		Source: s, Bundles: bundles(t), Recorder: pipeline.Recorders{pipeline.NewLog(log), pipeline.NewMetrics(registry)},
	})
	m := mesh{Pipeline: p, t: t, shelf: s}
	said := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if !strings.Contains(lines.String(), text) {
				t.Errorf("the log does not say %q:\n%s", text, lines.String())
			}
		}
		lines.Reset()
	}

	m.shelf.remove("mesh.yaml")
	p.Reload(t.Context())
	said("no configuration is served", `"file":"mesh.yaml"`)
	m.shelf.put("mesh.yaml", tenancytest.TwoTenantsFiles(t)["mesh.yaml"])
	p.Reload(t.Context())
	said(`"published"`, `"generation":1`, `"tenants":3`)
	spoil(t, m, acmeOrders)
	m.shelf.put("tenants/No Name/x.yaml", "kind: Service")
	p.Reload(t.Context())
	said(`"owner":"acme"`, `"file":"tenants/acme/orders.yaml"`, `"code":"RF1008"`)
	m.shelf.fail(errors.New("disk on fire"))
	p.Reload(t.Context())
	said("disk on fire", "cannot bring everything")

	want := `
# HELP ringfence_config_stale 1 where an owner's newest documents are not served.
# TYPE ringfence_config_stale gauge
ringfence_config_stale{tenant="(other)"} 1
ringfence_config_stale{tenant="acme"} 1
# HELP ringfence_generation Number of the configuration generation that is served; 0 before the first.
# TYPE ringfence_generation gauge
ringfence_generation 1
# HELP ringfence_reloads_total Attempts to bring a new configuration.
# TYPE ringfence_reloads_total counter
ringfence_reloads_total{result="error"} 1
ringfence_reloads_total{result="problems"} 2
ringfence_reloads_total{result="published"} 1
`
	compared := []string{"ringfence_config_stale", "ringfence_generation", "ringfence_reloads_total"}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), compared...); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "ringfence_proof_duration_seconds", "ringfence_config_problems"); err != nil || n != 3 {
		t.Errorf("%d series, %v", n, err)
	}
}
