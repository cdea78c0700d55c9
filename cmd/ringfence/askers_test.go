package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/examples"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"

// What the documents show is accepted, with the warning that they speak of.
func TestDocumentedAskers(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	_, block, _ := strings.Cut(read("../../docs/any-envoy.md"), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	gatewayAskers := "  " + strings.ReplaceAll(strings.TrimSpace(read("../../examples/envoy-gateway/askers.yaml")), "\n", "\n  ")
	for name, mesh := range map[string]string{
		"docs/any-envoy.md":      block,
		"examples/envoy-gateway": strings.TrimRight(read("../../examples/two-tenants/mesh.yaml"), "\n") + "\n" + gatewayAskers + "\n",
		"examples/istio":         "",
	} {
		dir := "../../examples/istio/ringfence"
		if mesh != "" {
			dir = t.TempDir()
			if err := os.CopyFS(dir, examples.TwoTenants()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(mesh), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		code := run(t.Context(), []string{"validate", dir}, process{out: &out, err: &out, lookupEnv: func(string) (string, bool) { return "", false }})
		warnings := 1
		if strings.Contains(out.String(), "RF2580") && name == "examples/istio" { // all of Istio's tenants are of one trust domain
			warnings++
		}
		if code != exitDone || strings.Count(out.String(), "RF") != warnings || !strings.Contains(out.String(), "RF2501") {
			t.Errorf("%s: exit code %d:\n%s", name, code, out.String())
		}
	}
}

// principal asks, as an Envoy that sends no certificate, whether globex's web may read an order of that service.
func (d *decisionPoint) principal(c authv3.AuthorizationClient, service string) (int32, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
	defer cancel()
	req := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Principal: globexWeb},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/orders"}},
	}}
	if service != "" {
		req.Attributes.ContextExtensions = map[string]string{"service": service, "port": "http"}
	}
	answer, err := c.Check(ctx, req)
	return int32(answer.GetDeniedResponse().GetStatus().GetCode()), err
}

// The Mesh names askers while the decision point runs: their roots, sockets and services follow, and when it drops them,
// they are nobody.
func TestAuthzFollowsAskers(t *testing.T) {
	t.Parallel()
	d := startAuthz(t)
	d.until(d.overSocket(), "GET", allowed)
	mesh := testca.Constrained(t, "cluster.local")
	istio := d.overTLS(mesh.SVID(gateway))
	if _, err := d.principal(istio, "globex/orders"); err == nil {
		t.Fatal("an asker is answered that nobody names")
	}
	file := d.path("config/mesh.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	socket := d.path("gateway.sock")
	named := strings.TrimRight(string(before), "\n") + `
  askers:
    - {name: istio, spiffeIDs: ["` + gateway + `"], identityFrom: principal, services: [globex/orders]}
    - {name: local, socket: "` + socket + `", identityFrom: principal, services: [globex/orders]}
`
	d.write("config/mesh.yaml", []byte(named))
	d.write("trust/cluster.local.pem", mesh.Bundle("cluster.local").PEM())
	wait := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s", what, d.log)
			}
		}
	}
	answers := func(c authv3.AuthorizationClient, service string, want int32) func() bool {
		return func() bool { got, err := d.principal(c, service); return err == nil && got == want }
	}
	local := d.client("unix:"+socket, insecure.NewCredentials())
	wait("the gateway asks over TLS", answers(istio, "globex/orders", allowed))
	wait("the gateway asks through its socket", answers(local, "globex/orders", allowed))
	wait("without a context", answers(istio, "", allowed))
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for service, c := range map[string]authv3.AuthorizationClient{"acme/orders": istio, "platform/billing": local} {
		if got, err := d.principal(c, service); err != nil || got != 403 {
			t.Errorf("%s: %d, %v", service, got, err)
		}
	}
	for name, c := range map[string]authv3.AuthorizationClient{
		"another account of the trust domain": d.overTLS(mesh.SVID(gateway + "2")),
		"the same name by another root":       d.overTLS(testca.Unconstrained(t, "cluster.local").SVID(gateway)),
		"no certificate":                      d.overTLS(nil),
	} {
		if got, err := d.principal(c, "globex/orders"); err == nil {
			t.Errorf("%s is answered: %d", name, got)
		}
	}
	// The workloads' own proxies are no askers: a principal without a certificate is nobody.
	for _, c := range []authv3.AuthorizationClient{d.overSocket(), d.overTLS(d.asker)} {
		if got, err := d.principal(c, "globex/orders"); err != nil || got != 403 {
			t.Errorf("a workload's own proxy: %d, %v", got, err)
		}
	}
	d.write("config/mesh.yaml", before)
	wait("nobody is an asker any more", func() bool {
		_, err := d.principal(istio, "globex/orders")
		return status.Code(err) == codes.PermissionDenied
	})
	wait("the socket is gone", func() bool { _, err := os.Stat(socket); return os.IsNotExist(err) })
	d.until(d.overSocket(), "GET", allowed)
}
