package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

// agentFlags are the flags of `ringfence agent`.
type agentFlags struct {
	id, state, envoyDir, plane, issuer, planeID, root, tokenFile, envoy, http, key string
	workloadSocket, workloadAPI                                                    string
	workloadUsers                                                                  []int
	concurrency                                                                    int
}

func newAgent(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Stand beside one Envoy: its identity, its configuration, its decisions",
		Long: `Gets the workload's SVID against a one-time join token and renews it at half of its life, with a new key, or takes it from
a SPIFFE Workload API, such as SPIRE's agent (--workload-api); holds the
configuration stream to the control plane, keeps what arrives in the state directory, answers Envoy's checks from there, and
starts Envoy and keeps it running. With the control plane away it goes on with what it has, also after a restart.

The join token is read from a file or from RINGFENCE_JOIN_TOKEN, never from a flag, and is needed only for the first start,
and after the SVID has expired.`,
		Example: `  ringfence token create spiffe://acme.demo.test/ns/acme/sa/web > token
  ringfence agent --id spiffe://acme.demo.test/ns/acme/sa/web --state /var/lib/acme-web \
    --control-plane mesh.example:7443 --issuer mesh.example:7444 \
    --control-plane-id spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane \
    --platform-root platform.demo.test.pem --join-token-file token --envoy /usr/bin/envoy`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	var o agentFlags
	f.StringVar(&o.id, "id", "", "SPIFFE ID of the workload (required)")
	f.StringVar(&o.state, "state", "", "the agent's own state directory, made 0700 where it is missing (required)")
	f.StringVar(&o.envoyDir, "envoy-dir", "",
		"directory that Envoy shares, for its bootstrap and the sockets; made and guarded as the state directory (default STATE)")
	f.StringVar(&o.workloadSocket, "workload-socket", "",
		"Unix socket where the workload's applications get its SVID (SPIFFE Workload API; default STATE/workload.sock)")
	f.IntSliceVar(&o.workloadUsers, "workload-user", nil, "uid that is served there, besides the agent's own (repeatable)")
	f.StringVar(&o.plane, "control-plane", "", "HOST:PORT of the control plane's configuration streams (required)")
	f.StringVar(&o.issuer, "issuer", "", "HOST:PORT of the control plane's issuer (required without --workload-api)")
	f.StringVar(&o.workloadAPI, "workload-api", "",
		"unix:///PATH of a SPIFFE Workload API that gives the workload its SVIDs, in place of --issuer and a join token")
	f.StringVar(&o.planeID, "control-plane-id", "", "SPIFFE ID of the control plane (required)")
	f.StringVar(&o.root, "platform-root", "", "trust bundle of the platform, PEM; the control plane keeps it in STATE/trust (required)")
	f.StringVar(&o.tokenFile, "join-token-file", "", "file with the join token")
	f.StringVar(&o.envoy, "envoy", "", "Envoy to start (default: somebody else starts it, with bootstrap.json in --envoy-dir)")
	f.IntVar(&o.concurrency, "envoy-concurrency", 2, "worker threads of Envoy")
	f.StringVar(&o.key, "svid-key", identity.ECDSAP256.String(), "kind of key that the workload gets: ecdsa-p256 or ecdsa-p384")
	f.StringVar(&o.http, "http-listen", "", "address of /healthz, /readyz, /status and /metrics (default: none)")
	level := addLogLevel(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log := newLog(p.err, *level)
		c, err := o.config(p, log)
		if err != nil {
			return err
		}
		return runAgent(cmd.Context(), c, o.http)
	}
	return cmd
}

// config is what the flags make of an agent.
func (o agentFlags) config(p process, log *zap.Logger) (agent.Config, error) {
	for _, required := range []struct{ flag, value, what string }{
		{"--id", o.id, "the SPIFFE ID of the workload"},
		{"--state", o.state, "a directory of the agent's own"},
		{"--control-plane", o.plane, "HOST:PORT of the control plane's configuration streams"},
		{"--issuer", o.issuer + o.workloadAPI, "HOST:PORT of the control plane's issuer, or a Workload API in its place (--workload-api)"},
		{"--control-plane-id", o.planeID, "the SPIFFE ID of the control plane"},
		{"--platform-root", o.root, "a file, for example the control plane's STATE/trust/<platform trust domain>.pem"},
	} {
		if required.value == "" {
			return agent.Config{}, usage("%s is missing: name %s", required.flag, required.what)
		}
	}
	for _, id := range []string{o.id, o.planeID} {
		if !strings.HasPrefix(id, "spiffe://") {
			return agent.Config{}, usage("%q is no SPIFFE ID", id)
		}
	}
	for _, address := range []string{o.plane, o.issuer} {
		if address == "" {
			continue // there is a Workload API
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return agent.Config{}, usage("%q is not HOST:PORT", address)
		}
	}
	if o.workloadAPI != "" && (o.issuer != "" || o.tokenFile != "") {
		return agent.Config{}, usage("--workload-api stands in for the issuer: leave out --issuer and --join-token-file")
	}
	if o.concurrency < 1 {
		return agent.Config{}, usage("--envoy-concurrency is at least 1")
	}
	key, err := identity.ParseKeyKind(o.key)
	if err = errors.Join(err, key.ForSVID()); err != nil {
		return agent.Config{}, usage("--svid-key: %w", err)
	}
	root, err := os.ReadFile(o.root)
	if err != nil {
		return agent.Config{}, usage("--platform-root: %w", err)
	}
	token, err := o.joinToken(p, log)
	if err != nil {
		return agent.Config{}, err
	}
	return agent.Config{
		ID: o.id, StateDir: o.state, EnvoyDir: o.envoyDir, ControlPlane: o.plane, Issuer: o.issuer, ControlPlaneID: o.planeID,
		PlatformRoot: root, JoinToken: token, WorkloadAPI: o.workloadAPI, Key: key,
		WorkloadSocket: o.workloadSocket, WorkloadUsers: o.workloadUsers,
		EnvoyPath: o.envoy, EnvoyArgs: []string{"--concurrency", strconv.Itoa(o.concurrency)},
		Log: log,
	}, nil
}

// maxToken is more than any join token has.
const maxToken = 1 << 10

// joinToken is the token in the file, else the one in the environment, else none. A file that is gone is no error: a
// token is good once, and who cleans up after that must still be able to restart.
func (o agentFlags) joinToken(p process, log *zap.Logger) (string, error) {
	if o.tokenFile == "" {
		token, _ := p.lookupEnv("RINGFENCE_JOIN_TOKEN")
		return strings.TrimSpace(token), nil
	}
	f, err := os.Open(o.tokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		log.Info("there is no join token file, going on without", zap.String("file", o.tokenFile))
		return "", nil
	}
	if err != nil {
		return "", usage("--join-token-file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", usage("--join-token-file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func runAgent(ctx context.Context, c agent.Config, http string) error {
	registry := newRegistry()
	var err error
	if c.Metrics, err = extauthz.NewMetrics(registry); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	var tasks controlplane.Tasks
	defer func() { _ = tasks.Close() }() // whatever did not come to run
	var listener net.Listener
	if http != "" {
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", http); err != nil {
			return fmt.Errorf("health and metrics: %w", err)
		}
	}
	a, err := agent.New(c)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	registry.MustRegister(agentMetrics(a)...)
	if c.WorkloadAPI != "" {
		registry.MustRegister(workloadAPIMetrics(a)...)
	}
	if listener != nil {
		server := controlplane.HealthServer(a.Ready, registry)
		server.Handler = withStatus(server.Handler, a)
		tasks.ServeHTTP(server, listener)
		c.Log.Info("listening", zap.Stringer("http", listener.Addr()))
	}
	tasks.Add(func(ctx context.Context) error {
		if err := a.Run(ctx); err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		return nil
	})
	return tasks.Run(ctx)
}

// agentMetrics show where an agent stands.
func agentMetrics(a *agent.Agent) []prometheus.Collector {
	gauge := func(name, help string, value func(agent.Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(a.Status()) })
	}
	return []prometheus.Collector{
		svidExpiry{a},
		gauge("ringfence_agent_control_plane_connected", "1 while the stream to the control plane is open.",
			func(s agent.Status) float64 { return truth(s.ControlPlane) }),
		gauge("ringfence_agent_configuration_current", "1 where Envoy has acknowledged all of the configuration.",
			func(s agent.Status) float64 { return truth(s.Current) }),
		gauge("ringfence_agent_refused_resources", "Resources that Envoy refused and has not got over.",
			func(s agent.Status) float64 { return float64(len(s.Refused)) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringfence_agent_envoy_restarts_total", Help: "How often Envoy ended by itself.",
		}, func() float64 { return float64(a.Status().Restarts) }),
	}
}

// workloadAPIMetrics show whether the Workload API gives the workload its SVIDs.
func workloadAPIMetrics(a *agent.Agent) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ringfence_agent_workload_api_up", Help: "1 while the Workload API gives the workload its SVID.",
		}, func() float64 { s := a.Status(); return truth(!s.Workload.IsZero() && s.WorkloadAPI == "") }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringfence_agent_workload_api_failures_total", Help: "How often the Workload API was asked and gave none.",
		}, func() float64 { return float64(a.Status().Failures) }),
	}
}

// svidExpiry shows when the SVID ends, once there is one: the tenant is known from then on.
type svidExpiry struct{ agent *agent.Agent }

var _ prometheus.Collector = svidExpiry{}

func (svidExpiry) desc() *prometheus.Desc {
	return prometheus.NewDesc("ringfence_svid_expiry_timestamp_seconds", "When this process's own SVID ends.", []string{"tenant"}, nil)
}

// Describe sends the one description.
func (s svidExpiry) Describe(to chan<- *prometheus.Desc) { to <- s.desc() }

// Collect sends the one value.
func (s svidExpiry) Collect(to chan<- prometheus.Metric) {
	status := s.agent.Status()
	if status.Workload.IsZero() {
		return
	}
	to <- prometheus.MustNewConstMetric(s.desc(), prometheus.GaugeValue, float64(status.NotAfter.Unix()), status.Workload.Tenant().Name())
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
