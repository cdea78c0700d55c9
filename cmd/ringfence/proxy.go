package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func newProxy(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Say which sidecars are connected, what they have and what they refused",
		Args:  subcommand,
		RunE:  help,
	}
	cmd.AddCommand(newProxyList(p), newProxyConfig(p))
	return cmd
}

// whoSees is what both commands say of what they can see.
const whoSees = `The control plane of this machine is asked through its admin socket, which sees every tenant. With --control-plane it is
asked over mutual TLS, as the workload of --svid: that sees its own sidecar, and those of the tenants that the Mesh lets it
look at (operators). What it may not see looks as if it were not there.`

func newProxyList(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Say where the sidecar of every workload stands",
		Long: `A sidecar is in sync when its Envoy has acknowledged everything that the present generation holds for it. Exit code 1: one
is behind, refuses something, or is not connected.

` + whoSees,
		Example: `  ringfence proxy list
  ringfence proxy list --tenant acme -o json
  ringfence proxy list --control-plane mesh.example:7443 --platform-root platform.demo.test.pem \
    --control-plane-id spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane \
    --svid /var/lib/acme-oncall/svid.pem --key /var/lib/acme-oncall/key.pem`,
		Args: cobra.NoArgs,
	}
	plane := addPlane(cmd, p)
	tenant := cmd.Flags().String("tenant", "", "only the sidecars of this tenant")
	format := addOutput(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var answer *agentv1alpha1.ListProxiesResponse
		err := plane(cmd.Context(), "", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			answer, err = agentv1alpha1.NewProxiesClient(conn).List(ctx, &agentv1alpha1.ListProxiesRequest{Tenant: *tenant})
			return err
		})
		if err != nil {
			return err
		}
		list := newProxyTable(answer, time.Now())
		if *format == outputJSON {
			err = printJSON(p.out, list)
		} else {
			err = list.print(p)
		}
		if err == nil && !list.inSync() {
			return found()
		}
		return err
	}
	return cmd
}

// The states of a sidecar.
const (
	stateSynced       = "in sync"
	stateBehind       = "behind"
	stateRefused      = "refused"
	stateDisconnected = "not connected"
)

// proxyList is what `proxy list` prints.
type proxyList struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Generation is that of the whole mesh; 0 for who may not see the whole mesh.
	Generation uint64     `json:"generation"`
	Proxies    []proxyRow `json:"proxies"`
}

type proxyRow struct {
	Workload  string `json:"workload"`
	Tenant    string `json:"tenant"`
	State     string `json:"state"`
	Connected string `json:"connected,omitempty"`
	// Generation counts the states of the tenant's configuration since the control plane started.
	Generation uint64         `json:"generation"`
	Target     string         `json:"target"`
	Acked      string         `json:"acknowledged,omitempty"`
	Refused    []proxyRefusal `json:"refused,omitempty"`
}

type proxyRefusal struct {
	Type string `json:"type"`
	Name string `json:"name"`
	Text string `json:"text"`
}

func newProxyTable(answer *agentv1alpha1.ListProxiesResponse, now time.Time) proxyList {
	list := proxyList{APIVersion: v1alpha1.APIVersion, Kind: "ProxyList", Generation: answer.GetGeneration(), Proxies: []proxyRow{}}
	for _, proxy := range answer.GetProxies() {
		list.Proxies = append(list.Proxies, newProxyRow(proxy, now))
	}
	return list
}

func newProxyRow(proxy *agentv1alpha1.Proxy, now time.Time) proxyRow {
	row := proxyRow{
		Workload: proxy.GetWorkload(), Tenant: proxy.GetTenant(), Target: proxy.GetTarget(), Acked: proxy.GetAcknowledged(),
		State: stateOf(proxy), Generation: proxy.GetGeneration(),
	}
	if since := proxy.GetConnectedUnix(); since > 0 {
		row.Connected = now.Sub(time.Unix(since, 0)).Round(time.Second).String()
	}
	for _, r := range proxy.GetRefused() {
		row.Refused = append(row.Refused, proxyRefusal{
			Type: shortType(r.GetTypeUrl()), Name: printable(r.GetName()), Text: printable(r.GetText()),
		})
	}
	return row
}

func stateOf(proxy *agentv1alpha1.Proxy) string {
	switch {
	case proxy.GetConnectedUnix() == 0:
		return stateDisconnected
	case len(proxy.GetRefused()) > 0:
		return stateRefused
	case proxy.GetAcknowledged() != proxy.GetTarget():
		return stateBehind
	default:
		return stateSynced
	}
}

// shortType is the name of a message without its packages.
func shortType(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

func (l proxyList) inSync() bool {
	for _, row := range l.Proxies {
		if row.State != stateSynced {
			return false
		}
	}
	return l.Generation > 0 || len(l.Proxies) > 0
}

func (l proxyList) print(p process) error {
	if l.Generation == 0 && len(l.Proxies) == 0 {
		fmt.Fprintln(p.err, `There is no sidecar that you may see. With --control-plane a workload sees its own, an operator those of its
tenants. On the admin socket there is none before the first configuration is published: see the control plane's log.`)
		return nil
	}
	const padding = 2
	w := tabwriter.NewWriter(p.out, 0, 0, padding, ' ', 0)
	fmt.Fprintln(w, "WORKLOAD\tSTATE\tCONNECTED\tACKNOWLEDGED")
	for _, row := range l.Proxies {
		connected, acked := row.Connected, row.Acked
		if connected == "" {
			connected = "-"
		}
		if acked == "" {
			acked = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", row.Workload, row.State, connected, acked)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	for _, row := range l.Proxies {
		for _, r := range row.Refused {
			fmt.Fprintf(p.out, "\n%s refused %s %s:\n  %s\n", row.Workload, r.Type, r.Name, r.Text)
		}
	}
	if l.Generation > 0 {
		fmt.Fprintf(p.err, "generation %d, ", l.Generation)
	}
	fmt.Fprintf(p.err, "%d sidecars\n", len(l.Proxies))
	return nil
}

func newProxyConfig(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config SPIFFE-ID",
		Short: "Print what the present generation holds for one workload's sidecar",
		Long: `Prints the Envoy resources and the decision table of one workload as JSON: exactly what its agent gets. Bundles and key
sets in it are public; private keys are not there.

` + whoSees,
		Example: `  ringfence proxy config spiffe://acme.demo.test/ns/acme/sa/orders`,
		Args:    cobra.ExactArgs(1),
	}
	plane := addPlane(cmd, p)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var answer *agentv1alpha1.ProxyConfigResponse
		err := plane(cmd.Context(), args[0], func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			answer, err = agentv1alpha1.NewProxiesClient(conn).Config(ctx, &agentv1alpha1.ProxyConfigRequest{Workload: args[0]})
			return err
		})
		if err != nil {
			return err
		}
		config, err := newProxyConfiguration(answer, time.Now())
		if err != nil {
			return err
		}
		return printJSON(p.out, config)
	}
	return cmd
}

// proxyConfiguration is what `proxy config` prints.
type proxyConfiguration struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Proxy      proxyRow         `json:"proxy"`
	Resources  []configResource `json:"resources"`
	Table      json.RawMessage  `json:"table"`
}

type configResource struct {
	Type     string          `json:"type"`
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	Resource json.RawMessage `json:"resource"`
}

func newProxyConfiguration(answer *agentv1alpha1.ProxyConfigResponse, now time.Time) (proxyConfiguration, error) {
	config := proxyConfiguration{
		APIVersion: v1alpha1.APIVersion, Kind: "ProxyConfig", Proxy: newProxyRow(answer.GetProxy(), now), Resources: []configResource{},
	}
	for _, r := range answer.GetResources() {
		readable, err := newConfigResource(r.GetTypeUrl(), r.GetName(), r.GetVersion(), r.GetValue())
		if err != nil {
			return config, err
		}
		config.Resources = append(config.Resources, readable)
	}
	var err error
	config.Table, err = tableJSON(answer.GetTable())
	return config, err
}

// newConfigResource is a serialised resource as people read it.
func newConfigResource(typeURL, name, version string, value []byte) (configResource, error) {
	text, err := protojson.Marshal(&anypb.Any{TypeUrl: typeURL, Value: value})
	if err != nil {
		return configResource{}, fmt.Errorf("%s %s: %w", shortType(typeURL), name, err)
	}
	return configResource{Type: shortType(typeURL), Name: name, Version: version, Resource: text}, nil
}

func tableJSON(serialised []byte) (json.RawMessage, error) {
	table := &agentv1alpha1.Table{}
	if err := proto.Unmarshal(serialised, table); err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	text, err := protojson.Marshal(table)
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	return text, nil
}
