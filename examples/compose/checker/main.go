// Command checker is what the compose stack needs beside Ringfence itself: the sample applications, a stand-in for the
// tenants' identity providers, and the checker, which sends the calls of the demo's matrix through the running mesh, attacks
// it from within an application, and exits with 1 unless all ended as expected.
//
//	checker app TENANT/SERVICE RELAY [HOST:PORT]    a sample application, and the socket by which the checker acts from it
//	checker keys CONFIG PUBLIC PRIVATE              keys of the token issuers, made once
//	checker probe ADDRESS...                        exit 0 if somebody listens on every HOST:PORT and unix:PATH
//	checker svid SOCKET                             who this process is, by the Workload API of its agent
//	checker run CONFIG PRIVATE ROOT                 the matrix and the attacks
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

var (
	errUsage  = errors.New("usage: checker app|keys|probe|svid|run ARGUMENTS; see the package's text")
	errFailed = errors.New("not all ended as expected")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "checker:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch name, args := args[0], args[1:]; {
	case name == "app" && len(args) == 2:
		return demo.ServeApp(ctx, args[0], "", args[1])
	case name == "app" && len(args) == 3:
		return demo.ServeApp(ctx, args[0], args[2], args[1])
	case name == "keys" && len(args) == 3:
		return demo.WriteKeys(ctx, args[0], args[1], args[2])
	case name == "probe" && len(args) > 0:
		return probe(ctx, args)
	case name == "svid" && len(args) == 1:
		return whoAmI(ctx, args[0], os.Stdout)
	case name == "run" && len(args) == 3:
		return judge(ctx, demo.RemoteConfig{Dir: args[0], Keys: args[1], Root: args[2], Metrics: "http://%s-agent:7480/metrics"}, os.Stdout)
	default:
		return errUsage
	}
}

func probe(ctx context.Context, addresses []string) error {
	const patience = 2 * time.Second
	for _, a := range addresses {
		network := "tcp"
		if path, ok := strings.CutPrefix(a, "unix:"); ok {
			network, a = "unix", path
		}
		conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, network, a)
		if err != nil {
			return err
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

// whoAmI does what an application with a SPIFFE library does: it gets its SVID and verifies it by the bundle that came along.
func whoAmI(ctx context.Context, socket string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	x, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		return err
	}
	id, _, err := x509svid.Verify(x.DefaultSVID().Certificates, x.Bundles)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, id)
	return err
}

// judge prints the matrix and the attacks.
func judge(ctx context.Context, c demo.RemoteConfig, out io.Writer) error {
	m, err := demo.Connect(ctx, c)
	if err != nil {
		return err
	}
	wrong, total := 0, 0
	for _, part := range []struct {
		title string
		calls []demo.Call
	}{
		{"Calls through the sidecars, and past them:", demo.Matrix()},
		{"From within acme/web, with every key that acme's workloads have:", stolen()},
	} {
		fmt.Fprintln(out, part.title)
		bad, err := send(ctx, m, part.calls, out)
		if err != nil {
			return err
		}
		wrong, total = wrong+bad, total+len(part.calls)
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out, "From within acme/web, every other door:")
	bad, tried, err := tryDoors(ctx, m, out)
	if err != nil {
		return err
	}
	wrong, total = wrong+bad, total+tried
	fmt.Fprintln(out)
	if wrong > 0 {
		return fmt.Errorf("%w: %d of %d", errFailed, wrong, total)
	}
	fmt.Fprintf(out, "all %d calls and attacks ended as expected.\n", total)
	return nil
}

// send makes the calls and counts what did not end as expected: a call, or an application that was reached by another.
func send(ctx context.Context, m *demo.Remote, calls []demo.Call, out io.Writer) (wrong int, err error) {
	before, err := m.Hits(ctx)
	if err != nil {
		return 0, err
	}
	rows, err := m.RunMatrix(ctx, calls, out)
	if err != nil {
		return 0, err
	}
	var allowed int64
	for _, r := range rows {
		if !r.OK() {
			wrong++
		}
		if r.Call.Want.Status == http.StatusOK {
			allowed++
		}
	}
	after, err := m.Hits(ctx)
	if err != nil {
		return 0, err
	}
	if reached := after - before; reached != allowed {
		wrong++
		fmt.Fprintf(out, "✗ applications were reached %d times, not %d\n", reached, allowed)
	}
	return wrong, nil
}
