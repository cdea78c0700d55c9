package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// sidecar is an agent with its Envoy.
type sidecar struct {
	id     identity.WorkloadID
	dir    string
	tokens chan string // for an agent that is to join again
}

func (m *Mesh) startSidecar(ctx context.Context, w tenancy.Workload) error {
	id := w.ID()
	name := id.Tenant().Name() + "/" + id.ServiceAccount()
	s := &sidecar{id: id, dir: filepath.Join(m.config.State, id.Tenant().Name()+"-"+id.ServiceAccount()), tokens: make(chan string, 1)}
	c := agent.Config{
		ID: id.String(), StateDir: s.dir, ControlPlane: m.plane.XDSAddr().String(), WorkloadAPI: m.config.WorkloadAPI[id.String()],
		EnvoyPath: m.config.Envoy, EnvoyArgs: []string{"--concurrency", "1"},
		Recorder: recorder{reasons: &m.reasons, log: extauthz.Log(m.config.Log.Named(name))}, Log: m.config.Log.Named(name),
	}
	if c.WorkloadAPI == "" {
		var err error
		if c.JoinToken, err = m.plane.CreateToken(id.String()); err != nil {
			return fmt.Errorf("token of %s: %w", name, err)
		}
		c.Issuer = m.plane.IssuerAddr().String()
	}
	root, err := m.plane.PlatformRootPEM()
	if err != nil {
		return err
	}
	plane, err := m.plane.ControlPlaneID()
	if err != nil {
		return err
	}
	c.ControlPlaneID, c.PlatformRoot = plane.String(), root
	m.sidecars[name] = s
	m.run(ctx, "the agent of "+name, func(ctx context.Context) error {
		for {
			err := agent.Run(ctx, c)
			if !errors.Is(err, agent.ErrWithdrawn) {
				return err
			}
			// It is down, as its operator's agent would be, until somebody brings a token.
			select {
			case c.JoinToken = <-s.tokens:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return nil
}

// Rejoin starts the agent of "tenant/account" again, which has ended because its root was withdrawn, with a new join token.
func (m *Mesh) Rejoin(name, token string) error {
	s := m.sidecars[name]
	if s == nil {
		return fmt.Errorf("no workload %s", name)
	}
	s.tokens <- token
	return nil
}

// StateDir is the state directory of a workload's agent, by "tenant/account".
func (m *Mesh) StateDir(name string) string {
	if s := m.sidecars[name]; s != nil {
		return s.dir
	}
	return ""
}

// AdminSocket is the admin socket of a workload's Envoy.
func (m *Mesh) AdminSocket(name string) string { return filepath.Join(m.StateDir(name), "admin.sock") }

// rbacDenials is how many calls the RBAC filters of all sidecars have refused.
func (m *Mesh) rbacDenials(ctx context.Context) (int64, error) {
	var total int64
	for name := range m.sidecars {
		n, err := rbacDenials(ctx, m.AdminSocket(name))
		if err != nil {
			return 0, fmt.Errorf("statistics of %s: %w", name, err)
		}
		total += n
	}
	return total, nil
}

func rbacDenials(ctx context.Context, socket string) (int64, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, `http://envoy/stats?format=json&filter=\.rbac\.denied$`, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	var stats struct {
		Stats []struct {
			Value int64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &stats); err != nil {
		return 0, fmt.Errorf("statistics: %w", err)
	}
	var total int64
	for _, s := range stats.Stats {
		total += s.Value
	}
	return total, nil
}
