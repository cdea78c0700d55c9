package issuer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// kinds are kinds of keys that one might want to use.
func kinds(t *testing.T) map[string]func() crypto.Signer {
	t.Helper()
	curve := func(c elliptic.Curve) func() crypto.Signer {
		return func() crypto.Signer {
			key, err := ecdsa.GenerateKey(c, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
	}
	return map[string]func() crypto.Signer{
		"P-256": curve(elliptic.P256()), "P-384": curve(elliptic.P384()),
		"Ed25519": func() crypto.Signer {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return key
		},
	}
}

// What identity.KindOf knows, and for SVIDs what KeyKind.ForSVID takes, is what the real Envoy serves and verifies, as server and as client: no less, so that
// nobody is refused for nothing, and no more, so that no workload gets an SVID that its Envoy cannot use.
func TestAcceptedKeysAreThoseThatEnvoyTakes(t *testing.T) { //nolint:paralleltest // see crash_test.go
	for rootName, rootKey := range kinds(t) { //nolint:paralleltest // the same
		for leafName, leafKey := range kinds(t) {
			t.Run(rootName+" signs "+leafName, func(t *testing.T) {
				root, leaf := rootKey(), leafKey()
				rootDER := certificate(t, root, nil, root, "spiffe://acme.demo.test")
				parent, err := x509.ParseCertificate(rootDER)
				if err != nil {
					t.Fatal(err)
				}
				leafDER := certificate(t, leaf, parent, root, acmeWeb)
				kind, ok := identity.KindOf(leaf.Public())
				_, known := identity.KindOf(root.Public())
				want := known && ok && kind.ForSVID() == nil
				if err := throughEnvoy(t, parent, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leaf}); (err == nil) != want {
					t.Errorf("through Envoy: %v; accepted: %v", err, want)
				}
			})
		}
	}
}

func certificate(t *testing.T, key crypto.Signer, parent *x509.Certificate, by crypto.Signer, uri string) []byte {
	t.Helper()
	parsed, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{parsed}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if parent == nil {
		template.IsCA, template.KeyUsage, parent = true, x509.KeyUsageCertSign, template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// throughEnvoy asks a server through an Envoy, with mutual TLS on both of its sides and one certificate for everybody.
func throughEnvoy(t *testing.T, root *x509.Certificate, cert tls.Certificate) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(root)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = config
	server.StartTLS()
	defer server.Close()
	port, err := new(freeport.Finder).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := bootstrapOf(t, int(port), server.Listener.Addr().(*net.TCPAddr).Port, root, cert)
	if err := realenvoy.Validation(t, bootstrap); err != nil {
		return err
	}
	envoy := realenvoy.Start(t, bootstrap)
	defer envoy.Stop()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // not read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func bootstrapOf(t *testing.T, listen, upstream int, root *x509.Certificate, cert tls.Certificate) []byte {
	t.Helper()
	type object = map[string]any
	type list = []any
	pkcs8, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	inline := func(kind string, der []byte) object {
		return object{"inline_string": string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))}
	}
	common := object{
		"tls_certificates":   list{object{"certificate_chain": inline("CERTIFICATE", cert.Certificate[0]), "private_key": inline("PRIVATE KEY", pkcs8)}},
		"validation_context": object{"trusted_ca": inline("CERTIFICATE", root.Raw)},
		"tls_params":         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
	}
	socket := func(kind string, more object) object {
		config := object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3." + kind, "common_tls_context": common}
		maps.Copy(config, more)
		return object{"name": "tls", "typed_config": config}
	}
	address := func(port int) object {
		return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
	}
	manager := object{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "in",
		"route_config": object{"virtual_hosts": list{object{
			"name": "all", "domains": list{"*"}, "routes": list{object{"match": object{"prefix": "/"}, "route": object{"cluster": "server"}}},
		}}},
		"http_filters": list{object{
			"name": "router", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
		}},
	}
	text, err := json.Marshal(object{"static_resources": object{
		"listeners": list{object{"name": "in", "address": address(listen), "filter_chains": list{object{
			"filters":          list{object{"name": "http", "typed_config": manager}},
			"transport_socket": socket("DownstreamTlsContext", object{"require_client_certificate": true}),
		}}}},
		"clusters": list{object{
			"name": "server", "type": "STATIC", "transport_socket": socket("UpstreamTlsContext", object{}),
			"load_assignment": object{"cluster_name": "server", "endpoints": list{object{
				"lb_endpoints": list{object{"endpoint": object{"address": address(upstream)}}},
			}}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
