package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ringfence-mesh/ringfence/agent"
	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/health"
)

// checkFlags are what `ringfence check` takes beside the control plane.
type checkFlags struct {
	pre                   bool
	tenant, proxy, issuer string
	agents                []string
	config, envoy         string
	workloadAPI, id       string
	listen                []string
}

func newCheck(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether a mesh is well, or whether everything is there to start one",
		Long: `Checks the control plane, certificates, clocks, the issuer, the documents, and every sidecar: whether it is connected and in
sync, what it refused, whether its Envoy holds its secrets, and which known vulnerabilities its Envoy has. Each failed check
(✗) has a code that stays the same, a cause, what to do, and its place in docs/checks.md. What cannot be known is said to be so
(?), and why; it is neither well nor failed. A warning (!) is no failure.

` + whoSees + ` An agent is asked too where
--agent names its --http-listen address.

With --pre nothing needs to run: Envoy, ports, the state directory, the documents and the clock are looked at, nothing is made.

Exit code 0: nothing failed. 1: something did. 3: the control plane is not reached. 4: it may not be asked.`,
		Example: `  ringfence check
  ringfence check --tenant acme --agent 127.0.0.1:9901 -o json
  ringfence check --pre --config examples/two-tenants`,
		Args: cobra.NoArgs,
	}
	plane := addPlane(cmd, p)
	var o checkFlags
	f := cmd.Flags()
	f.BoolVar(&o.pre, "pre", false, "look at what must be there before anything runs")
	f.StringVar(&o.tenant, "tenant", "", "only this tenant")
	f.StringVar(&o.proxy, "proxy", "", "only the sidecar of the workload with this SPIFFE ID")
	f.StringVar(&o.issuer, "issuer", "", "HOST:PORT of the issuer (default on the admin socket: where the control plane says it listens)")
	f.StringArrayVar(&o.agents, "agent", nil, "HOST:PORT of an agent's --http-listen; repeatable")
	f.StringVar(&o.config, "config", "", "with --pre: configuration directory")
	f.StringVar(&o.envoy, "envoy", "", "with --pre: path of Envoy, none for a machine without (default: $ENVOY, then envoy on PATH)")
	f.StringArrayVar(&o.listen, "listen", []string{":7443", ":7444", "127.0.0.1:7480"}, "with --pre: address that must be free; repeatable")
	f.StringVar(&o.workloadAPI, "workload-api", "", "with --pre: unix:///PATH of the Workload API that an agent of this user will ask")
	f.StringVar(&o.id, "id", "", "with --workload-api: SPIFFE ID of the workload")
	format := addOutput(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if o.pre {
			r := health.JudgeBefore(o.before(cmd.Context(), p, cmd.Flag("state").Value.String()))
			return o.print(p, *format, r, "")
		}
		facts, err := o.facts(cmd, plane)
		if err != nil {
			return err
		}
		return o.print(p, *format, health.Judge(facts), facts.PlaneCode)
	}
	return cmd
}

func (o checkFlags) check() error {
	if o.pre && (o.tenant != "" || o.proxy != "" || len(o.agents) > 0) {
		return usage("--tenant, --proxy and --agent are about a mesh that runs: leave them out, or --pre")
	}
	if (o.workloadAPI == "") != (o.id == "") || o.workloadAPI != "" && !o.pre {
		return usage("--workload-api and --id go together, with --pre")
	}
	for _, address := range append([]string{o.issuer}, o.agents...) {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return usage("%q is not HOST:PORT", address)
		}
	}
	return nil
}

// facts asks the control plane, the issuer and the agents.
func (o checkFlags) facts(cmd *cobra.Command, plane askPlane) (health.Facts, error) {
	flag := func(name string) string { return cmd.Flag(name).Value.String() }
	f := health.Facts{Now: time.Now(), Plane: flag("control-plane"), Workload: o.proxy}
	if f.Plane == "" && flag("svid") == "" && flag("key") == "" {
		if f.Local, f.Plane = true, flag("admin-socket"); f.Plane == "" {
			f.Plane = adminSocket(flag("state"))
		}
	}
	err := plane(cmd.Context(), "", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		start := time.Now()
		f.Health, err = agentv1alpha1.NewHealthClient(conn).Report(ctx, &agentv1alpha1.HealthRequest{Tenant: o.tenant})
		f.Took = time.Since(start)
		f.Now = start.Add(f.Took / 2)
		if err != nil {
			return err
		}
		f.Proxies, err = agentv1alpha1.NewProxiesClient(conn).List(ctx, &agentv1alpha1.ListProxiesRequest{Tenant: o.tenant})
		return err
	})
	var marked *exitError
	switch {
	case err == nil:
	case !errors.As(err, &marked) || marked.code == exitUsage:
		return f, err
	default:
		f.PlaneErr = err
		f.PlaneCode = map[int]health.Code{
			exitUnreachable: health.CodeUnreachable, exitNotPermitted: health.CodeNotPermitted,
		}[marked.code]
		f.Health, f.Proxies = nil, nil
	}
	if !f.Local {
		f.Own = leafOf(flag("svid"))
	}
	f.Issuer = o.askIssuer(cmd.Context(), f, flag("control-plane-id"), flag("platform-root"))
	for _, address := range o.agents {
		status, err := askStatus(cmd.Context(), address)
		f.Agents = append(f.Agents, health.Agent{Address: address, Status: status, Err: err})
	}
	return f, nil
}

// leafOf is the first certificate of a PEM file that was loaded already; nil where it cannot be read.
func leafOf(path string) *x509.Certificate {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	leaf, _ := firstCertificate(data)
	return leaf
}

// askIssuer opens a connection to the issuer and lets it prove that it is the control plane.
func (o checkFlags) askIssuer(ctx context.Context, f health.Facts, id, rootFile string) health.Probe {
	probe := health.Probe{Address: o.issuer}
	var root []byte
	switch {
	case f.Local && f.Health == nil:
		probe.Unasked = "the control plane, which says who its issuer is, did not answer"
		return probe
	case f.Local:
		if probe.Address == "" {
			probe.Address = onLoopback(f.Health.GetIssuerListen())
		}
		id, root = planeOf(f.Health)
		if id == "" {
			probe.Unasked = "the control plane has no SVID by which its issuer would be known"
			return probe
		}
	case probe.Address == "":
		probe.Unasked = "--issuer names no address"
		return probe
	default:
		var err error
		if root, err = os.ReadFile(rootFile); err != nil {
			probe.Unasked = err.Error()
			return probe
		}
	}
	config, err := agent.ControlPlaneTLS(id, root, tls.Certificate{})
	if err != nil {
		probe.Unasked = err.Error()
		return probe
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", probe.Address)
	if err != nil {
		probe.Err = err
		return probe
	}
	defer func() { _ = conn.Close() }() // nothing was said
	config.NextProtos = []string{"h2"}
	probe.Foreign = tls.Client(conn, config).HandshakeContext(ctx)
	return probe
}

// planeOf is who the control plane is, and the root of its trust domain, as it says on its admin socket.
func planeOf(h *agentv1alpha1.HealthResponse) (id string, root []byte) {
	leaf, err := x509.ParseCertificate(h.GetSvid())
	if err != nil || len(leaf.URIs) != 1 {
		return "", nil
	}
	for _, b := range h.GetBundles() {
		td, err := identity.ParseTrustDomain(b.GetTrustDomain())
		if err != nil || b.GetTrustDomain() != leaf.URIs[0].Host {
			continue
		}
		if bundle, err := identity.NewBundle(td, b.GetRoots()...); err == nil {
			return leaf.URIs[0].String(), bundle.PEM()
		}
	}
	return "", nil
}

// onLoopback is how an address that something listens on is reached from this machine.
func onLoopback(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return listen
}

func (checkFlags) print(p process, format output, r health.Report, away health.Code) error {
	if format == outputJSON {
		if err := printJSON(p.out, r); err != nil {
			return err
		}
	} else {
		printChecks(p, r)
	}
	switch {
	case away == health.CodeUnreachable:
		return &exitError{code: exitUnreachable}
	case away == health.CodeNotPermitted:
		return &exitError{code: exitNotPermitted}
	case !r.Healthy:
		return found()
	}
	return nil
}

func printChecks(p process, r health.Report) {
	group, failed := "", 0
	for _, c := range r.Checks {
		if c.Group != group {
			group = c.Group
			fmt.Fprintln(p.out, group)
		}
		switch c.Status {
		case health.OK:
			fmt.Fprintf(p.out, "  ✓ %s\n", c.Check)
		case health.NotKnown:
			fmt.Fprintf(p.out, "  ? %s: not known, because %s\n", c.Check, c.Cause)
		case health.Warning:
			fmt.Fprintf(p.out, "  ! %s: %s: %s\n      %s\n      %s\n", c.Code, c.Check, c.Cause, c.Fix, c.Docs)
		case health.Failed:
			failed++
			fmt.Fprintf(p.out, "  ✗ %s: %s: %s\n      %s\n      %s\n", c.Code, c.Check, c.Cause, c.Fix, c.Docs)
		}
	}
	fmt.Fprintf(p.err, "%s, %d failed, %d not known\n", count(len(r.Checks), "check"), failed, r.NotKnown)
}
