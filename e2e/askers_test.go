package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/goccy/go-yaml"

	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

const acmeIDP = "https://idp.acme.example.com"

// foreign is an Envoy that Ringfence does not configure, as somebody else's control plane configures it.
type foreign struct {
	name, config string            // the directory in examples, and its documents
	askers       string            // added to the Mesh, with a line break before it
	gateway      string            // the identity that it asks with
	web, orders  string            // workloads of acme
	other        string            // a workload of globex
	cannot       map[string]string // see door
}

func istio() foreign {
	return foreign{
		name: "istio", config: "../examples/istio/ringfence",
		gateway: "spiffe://cluster.local/ns/istio-system/sa/gateway",
		web:     "spiffe://cluster.local/ns/acme/sa/web", orders: "spiffe://cluster.local/ns/acme/sa/orders", other: "spiffe://cluster.local/ns/globex/sa/web",
		cannot: map[string]string{
			"two identities, the caller's first": "by source.principal Envoy tells the first, and nobody sees the second: docs/any-envoy.md",
		},
	}
}

func envoyGateway() foreign {
	return foreign{
		name: "envoy-gateway", config: "../examples/two-tenants", askers: "../examples/envoy-gateway/askers.yaml",
		gateway: "spiffe://cluster.local/ns/envoy-gateway-system/sa/envoy", web: acmeWeb, orders: acmeOrders, other: globexWeb,
	}
}

// TestForeignEnvoys attacks the configurations of examples/istio and examples/envoy-gateway as they stand there, ports and
// paths apart, beside `ringfence authz`. TestDoors calls them rightly and wrongly.
func TestForeignEnvoys(t *testing.T) {
	for _, f := range []foreign{istio(), envoyGateway()} {
		t.Run(f.name, func(t *testing.T) {
			s := f.start(t)
			certs := map[string]*tls.Certificate{}
			for name, svid := range map[string]*testca.SVID{"web": s.acme.SVID(f.web), "other": s.globex.SVID(f.other)} {
				c := svid.TLS()
				certs[name] = &c
			}
			f.attack(t, s, certs)
		})
	}
}

// attack is what nobody must get through with, whatever configures the Envoy.
func (f foreign) attack(t *testing.T, s *static, certs map[string]*tls.Certificate) {
	t.Helper()
	clerk := s.sign(t, acmeIDP, "acme", time.Now(), "clerk")
	before := s.hits.Load()
	if status, _ := s.call(t, nil, "GET", "/orders/7", clerk); status != 0 {
		t.Errorf("no certificate: %d", status)
	}
	stranger := testca.Unconstrained(t, "cluster.local").SVID(f.web).TLS()
	if status, _ := s.call(t, &stranger, "GET", "/orders/7", clerk); status != 0 {
		t.Errorf("a certificate of an unknown root: %d", status)
	}
	for name, svid := range map[string]*testca.SVID{
		"globex's and acme's URI":       s.globex.SVID("", testca.RawURIs(f.other, f.web)),
		"a DNS name and no URI":         s.acme.SVID("", testca.RawURIs()),
		"an ID of no tenant":            s.acme.SVID(strings.Replace(f.web, "/sa/", "/x/", 1)),
		"a comma and another's element": s.globex.SVID("", testca.RawURIs(f.other+",URI="+f.web)),
		"a semicolon and another's URI": s.globex.SVID("", testca.RawURIs(f.other+";URI="+f.web)),
	} {
		c := svid.TLS()
		if status, _ := s.call(t, &c, "GET", "/orders/7", clerk); status == 200 {
			t.Errorf("a certificate with %s: %d", name, status)
		}
	}
	for name, value := range map[string]string{
		"x-forwarded-client-cert": "URI=" + f.web, "x-ringfence-caller": f.web, "x-ringfence-tenant": "acme",
	} {
		s.header = [2]string{name, value}
		if status, _ := s.call(t, certs["other"], "GET", "/orders/7", clerk); status != 403 {
			t.Errorf("another tenant with %s: %d", name, status)
		}
	}
	s.header = [2]string{}
	if s.hits.Load() != before {
		t.Error("the application was reached")
	}
	s.authz.stop(t, os.Interrupt)
	if status, _ := s.call(t, certs["web"], "GET", "/orders/7", clerk); status == 200 || s.hits.Load() != before {
		t.Errorf("without a decision point: %d", status)
	}
}

func (f foreign) start(t *testing.T) *static {
	t.Helper()
	mesh := testca.Constrained(t, "cluster.local")
	s := &static{acme: mesh, globex: mesh, port: freePort(t)}
	if f.web == acmeWeb {
		s.acme, s.globex = testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "globex.demo.test")
	}
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { s.hits.Add(1) }))
	t.Cleanup(app.Close)
	work := shortDir(t)
	config, trust, certs := filepath.Join(work, "config"), filepath.Join(work, "trust"), filepath.Join(work, "certs")
	if err := os.CopyFS(config, os.DirFS(f.config)); err != nil {
		t.Fatal(err)
	}
	if f.askers != "" {
		file := filepath.Join(config, "mesh.yaml")
		write(t, file, string(readFile(t, file))+indent(string(readFile(t, f.askers))))
	}
	for _, dir := range []string{trust, certs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.key = issue(t, filepath.Join(config, "platform/acme-jwks.json"))
	platform := "platform.demo.test"
	if f.web != acmeWeb {
		platform = "platform.example.com"
	}
	for td, ca := range map[string]*testca.CA{
		"acme.demo.test": s.acme, "globex.demo.test": s.globex, "cluster.local": mesh, platform: testca.Constrained(t, platform),
	} {
		write(t, filepath.Join(trust, td+".pem"), string(ca.Bundle(td).PEM()))
	}
	own, server := mesh.SVID(f.gateway), mesh.SVID("spiffe://cluster.local/ns/ringfence/sa/authz")
	for name, data := range map[string][]byte{
		"svid.pem": own.CertPEM(), "key.pem": own.KeyPEM(), "authz.pem": server.CertPEM(), "authz-key.pem": server.KeyPEM(),
		"authz-bundle.pem": mesh.Bundle("cluster.local").PEM(),
		"bundle.pem":       append(s.acme.Bundle("acme.demo.test").PEM(), s.globex.Bundle("globex.demo.test").PEM()...),
	} {
		write(t, filepath.Join(certs, name), string(data))
	}
	port, health := freePort(t), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s.authz = startProcess(t, nil, "authz", "--config", config, "--trust", trust, "--listen", fmt.Sprintf("127.0.0.1:%d", port),
		"--svid", filepath.Join(certs, "authz.pem"), "--key", filepath.Join(certs, "authz-key.pem"), "--http-listen", health)
	eventually(t, 15*time.Second, "the decision point is ready", func(ctx context.Context) bool { return ready(ctx, health) })
	text := strings.NewReplacer(
		"certs/", certs+"/", "path: admin.sock", "path: "+filepath.Join(work, "admin.sock"),
		"port_value: 20081", fmt.Sprintf("port_value: %d", s.port), "port_value: 9001", fmt.Sprintf("port_value: %d", port),
		"port_value: 20281", fmt.Sprintf("port_value: %d", app.Listener.Addr().(*net.TCPAddr).Port),
	).Replace(string(readFile(t, filepath.Join("../examples", f.name, "envoy.yaml"))))
	bootstrap, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	realenvoy.Start(t, bootstrap)
	return s
}

// issue makes the key of a token issuer, and its key set.
func issue(t *testing.T, jwks string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "test", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, jwks, string(set))
	return key
}

// indent moves a part of a document below its spec.
func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	return strings.Join(lines, "\n") + "\n"
}
