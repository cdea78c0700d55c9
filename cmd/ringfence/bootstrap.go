package main

import (
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds"
)

// serverFlags are the flags that name one server.
type serverFlags struct{ address, id, root string }

func newBootstrap(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootstrap --workload SPIFFE-ID --spire SOCKET",
		Short: "Print the bootstrap of an Envoy that has SPIRE's agent beside it, and not Ringfence's",
		Long: `Prints, as JSON, what an Envoy of a Service with "proxy: Direct" starts with: SPIRE's agent gives it its SVID, it opens its
configuration stream straight to the control plane, and asks "ringfence authz" about each call. It holds no key and no
listener; nothing in it is secret. The same flags give the same bytes.

Both servers are known by their SPIFFE ID, byte for byte, and by roots: those of a file, which are copied into the bootstrap,
or without a file those that SPIRE's agent gives for the trust domain, its own or one that it federates with.

Run Envoy with --reject-unknown-dynamic-fields, and with a --drain-time-s that says how long what is open may outlive a change
that ends it.`,
		Example: `  ringfence bootstrap --workload spiffe://acme.demo.test/ns/acme/sa/web --spire /run/spire/agent.sock \
    --control-plane 10.0.0.2:7443 --control-plane-id spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane \
    --platform-root platform.demo.test.pem --authz 10.0.0.2:9001 --authz-id spiffe://acme.demo.test/ns/acme/sa/authz > envoy.json
  envoy -c envoy.json --disable-hot-restart --reject-unknown-dynamic-fields --drain-time-s 3 --drain-strategy immediate`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	var (
		c            xds.DirectConfig
		plane, authz serverFlags
	)
	workload := f.String("workload", "", "SPIFFE ID of the workload (required)")
	f.StringVar(&c.SPIRESocket, "spire", "", "Unix socket of SPIRE's agent (required)")
	f.StringVar(&plane.address, "control-plane", "", "HOST:PORT of the control plane's configuration streams (required)")
	f.StringVar(&plane.id, "control-plane-id", "", "SPIFFE ID of the control plane (required)")
	f.StringVar(&plane.root, "platform-root", "", "trust bundle by which the control plane is known, PEM; empty: SPIRE's agent gives it")
	f.StringVar(&authz.address, "authz", "", "HOST:PORT of ringfence authz (required)")
	f.StringVar(&authz.id, "authz-id", "", "SPIFFE ID that ringfence authz shows (required)")
	f.StringVar(&authz.root, "authz-root", "", "trust bundle by which ringfence authz is known, PEM; empty: SPIRE's agent gives it")
	f.BoolVar(&c.StateOfTheWorld, "sotw", false, "ask for the state of the world in place of changes (delta)")
	f.DurationVar(&c.SVIDTTL, "svid-ttl", time.Hour, "how long SPIRE's SVIDs live; connections to both servers are used for a quarter of it, at most 5m")
	f.StringVar(&c.AdminSocket, "admin", "", "Unix socket for Envoy's admin interface, mode 0600; empty: none")
	cmd.RunE = func(*cobra.Command, []string) error {
		for _, required := range []struct{ flag, value, what string }{
			{"--workload", *workload, "a SPIFFE ID, for example spiffe://acme.demo.test/ns/acme/sa/orders"},
			{"--spire", c.SPIRESocket, "the Unix socket of SPIRE's agent"},
			{"--control-plane", plane.address, "HOST:PORT of the control plane's configuration streams"},
			{"--control-plane-id", plane.id, "the SPIFFE ID of the control plane"},
			{"--authz", authz.address, "HOST:PORT of ringfence authz"},
			{"--authz-id", authz.id, "the SPIFFE ID of ringfence authz"},
		} {
			if required.value == "" {
				return usage("%s is missing: name %s", required.flag, required.what)
			}
		}
		var err error
		if c.Workload, err = identity.ParseSPIFFEID(*workload); err != nil {
			return usage("--workload: %w", err)
		}
		if c.ControlPlane, err = plane.server("--control-plane", "--control-plane-id", "--platform-root"); err != nil {
			return err
		}
		if c.Authz, err = authz.server("--authz", "--authz-id", "--authz-root"); err != nil {
			return err
		}
		text, err := xds.DirectBootstrap(c)
		if err != nil {
			return usage("%w", err)
		}
		_, err = p.out.Write(text)
		return err
	}
	return cmd
}

func (f serverFlags) server(flag, idFlag, rootFlag string) (xds.Server, error) {
	host, portText, err := net.SplitHostPort(f.address)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err != nil || portErr != nil || host == "" || port == 0 {
		return xds.Server{}, usage("%s: %q is not HOST:PORT", flag, f.address)
	}
	id, err := identity.ParseSPIFFEID(f.id)
	if err != nil {
		return xds.Server{}, usage("%s: %w", idFlag, err)
	}
	s := xds.Server{Host: host, Port: uint16(port), ID: id}
	if f.root == "" {
		return s, nil
	}
	pem, err := os.ReadFile(f.root)
	if err != nil {
		return xds.Server{}, usage("%s: %w", rootFlag, err)
	}
	if s.Roots, err = identity.ParseBundlePEM(id.TrustDomain(), pem); err != nil {
		return xds.Server{}, usage("%s: %s: %w", rootFlag, f.root, err)
	}
	return s, nil
}
