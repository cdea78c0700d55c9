package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/source"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// RemoteConfig says where a mesh is that runs elsewhere, each workload's parts under its name "<tenant>-<account>".
type RemoteConfig struct {
	// Dir is the configuration directory of the mesh.
	Dir string
	// Keys is the directory with the private keys that WriteKeys made.
	Keys string
	// Root holds, by workload, relay/relay.sock (its application's), envoy/admin.sock (its Envoy's) and, of those whose SVID
	// is to be stolen, state (its agent's state directory).
	Root string
	// Metrics is the URL of an agent's metrics, with a %s for the workload.
	Metrics string
}

// Remote is a mesh that runs elsewhere, reached through the relays of its applications.
type Remote struct {
	*Caller

	config    RemoteConfig
	workloads []string
	refused   map[string]float64 // by reason, when last looked at
}

// Connect reads the configuration and finds the mesh.
func Connect(ctx context.Context, c RemoteConfig) (*Remote, error) {
	from := source.NewDirectory(c.Dir, zap.NewNop())
	idps, err := newIDPs(ctx, from, func(file string) (*ecdsa.PrivateKey, error) { return readKey(c.Keys, file) })
	if err != nil {
		return nil, err
	}
	model, err := modelOf(ctx, from)
	if err != nil {
		return nil, err
	}
	r := &Remote{config: c}
	for _, id := range model.Tenants() {
		t, _ := model.Tenant(id)
		for _, w := range t.Workloads() {
			r.workloads = append(r.workloads, id.Name()+"-"+w.ID().ServiceAccount())
		}
	}
	r.Caller = &Caller{
		model: func() *tenancy.Model { return model },
		dial: func(ctx context.Context, from, network, address string) (net.Conn, error) {
			return dialRelay(ctx, r.relay(from), network, address)
		},
		mint: idps.mint, stolen: r.stolen, denials: r.rbacDenials, reason: r.reason,
	}
	if r.refused, err = r.refusals(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// modelOf builds the model of a configuration, with roots that are thrown away: it is asked for names and addresses only.
func modelOf(ctx context.Context, from pipeline.Source) (*tenancy.Model, error) {
	roots, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	p := pipeline.New(pipeline.Config{
		Source: from,
		Bundles: func(domains ...identity.TrustDomain) (identity.Bundles, error) {
			return roots.Bundles(time.Now(), domains...)
		},
		Recorder: pipeline.NewLog(zap.NewNop()),
		Clock:    time.Now,
	})
	changed, stop := p.Subscribe()
	defer stop()
	go p.Run(ctx)
	for p.Current() == nil {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: see \"ringfence validate\"", ErrConfig)
		}
	}
	return p.Current().Model(), nil
}

// of is a file of the workload that runs "tenant/service". In this mesh an account has the name of its service.
func (r *Remote) of(name string, file ...string) string {
	return filepath.Join(append([]string{r.config.Root, strings.ReplaceAll(name, "/", "-")}, file...)...)
}

func (r *Remote) relay(name string) string { return r.of(name, "relay", "relay.sock") }

func (r *Remote) stolen(name string) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(r.of(name, "state", "svid.pem"), r.of(name, "state", "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("SVID of %s: %w", name, err)
	}
	return &c, nil
}

func (r *Remote) rbacDenials(ctx context.Context) (int64, error) {
	var total int64
	for _, w := range r.workloads {
		n, err := rbacDenials(ctx, r.of(w, "envoy", "admin.sock"))
		if err != nil {
			return 0, fmt.Errorf("statistics of %s: %w", w, err)
		}
		total += n
	}
	return total, nil
}

// Hits is how often any application was reached.
func (r *Remote) Hits(ctx context.Context) (int64, error) {
	var total int64
	for _, w := range r.workloads {
		n, err := relayedHits(ctx, r.relay(w))
		if err != nil {
			return 0, fmt.Errorf("application of %s: %w", w, err)
		}
		total += n
	}
	return total, nil
}

// Dial opens a connection from within the application of "tenant/service".
func (r *Remote) Dial(ctx context.Context, from, network, address string) (net.Conn, error) {
	return r.dial(ctx, from, network, address)
}

// reason is the one reason that was counted since the last look: calls are made one after the other.
func (r *Remote) reason(ctx context.Context, _ string) (string, error) {
	now, err := r.refusals(ctx)
	if err != nil {
		return "", err
	}
	var grown []string
	for reason, n := range now {
		if n > r.refused[reason] {
			grown = append(grown, reason)
		}
	}
	r.refused = now
	if len(grown) != 1 {
		return "", fmt.Errorf("the agents count %d reasons for one refusal: is somebody else calling? %v", len(grown), grown)
	}
	return grown[0], nil
}

var refusedSeries = regexp.MustCompile(`(?m)^ringfence_authz_decisions_total\{decision="deny",reason="([a-z_]+)",[^}]*\} (\S+)$`)

func (r *Remote) refusals(ctx context.Context) (map[string]float64, error) {
	all := map[string]float64{}
	for _, w := range r.workloads {
		text, err := get(ctx, fmt.Sprintf(r.config.Metrics, w))
		if err != nil {
			return nil, fmt.Errorf("metrics of the agent of %s: %w", w, err)
		}
		for _, m := range refusedSeries.FindAllStringSubmatch(text, -1) {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return nil, fmt.Errorf("metrics of the agent of %s: %w", w, err)
			}
			all[m[1]] += n
		}
	}
	return maps.Clone(all), nil
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, response.Status)
	}
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// WriteKeys makes a key for every TokenIssuer of a configuration directory, once: the key set goes into the directory
// public under the name that the document gives, the private key into the directory private.
func WriteKeys(ctx context.Context, dir, public, private string) error {
	idps, err := newIDPs(ctx, source.NewDirectory(dir, zap.NewNop()), func(file string) (*ecdsa.PrivateKey, error) {
		key, err := readKey(private, file)
		if errors.Is(err, os.ErrNotExist) {
			return newKeyFile(private, file)
		}
		return key, err
	})
	if err != nil {
		return err
	}
	for file, jwks := range idps.jwks {
		if err := os.WriteFile(filepath.Join(public, path.Base(file)), jwks, 0o644); err != nil { //nolint:gosec // public keys
			return fmt.Errorf("key set: %w", err)
		}
	}
	return nil
}

func keyFile(dir, jwks string) string { return filepath.Join(dir, path.Base(jwks)+".key.pem") }

func newKeyFile(dir, jwks string) (*ecdsa.PrivateKey, error) {
	key, err := newIDPKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(keyFile(dir, jwks), block, 0o600); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return key, nil
}

func readKey(dir, jwks string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(keyFile(dir, jwks))
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", keyFile(dir, jwks))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile(dir, jwks), err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of type %T", keyFile(dir, jwks), parsed)
	}
	return key, nil
}
