package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
)

// Config is what an agent is started with.
type Config struct {
	// ID is the SPIFFE ID of the workload that the agent stands beside.
	ID string
	// StateDir holds key, SVID, configuration and sockets; it is made, mode 0700. Its path must leave room for
	// "/envoy.sock" within the 107 bytes of a Unix socket's path.
	StateDir string
	// EnvoyDir holds what Envoy needs to see: its bootstrap and the two sockets. Empty: StateDir. An Envoy in a container of
	// its own gets this directory alone, under the same path and as the same user, so that the key stays with the agent.
	EnvoyDir string
	// WorkloadSocket is the path of the socket where the workload's applications get its SVID by the SPIFFE Workload API.
	// Empty: workload.sock in StateDir. WorkloadUsers are the users, by uid, that are served there besides the agent's own.
	WorkloadSocket string
	WorkloadUsers  []int
	// ControlPlane and Issuer are the host:port of the control plane's two listeners.
	ControlPlane, Issuer string
	// ControlPlaneID is the control plane's SPIFFE ID, in the platform's trust domain.
	ControlPlaneID string
	// PlatformRoot is the root of the platform's trust domain, PEM.
	PlatformRoot []byte
	// JoinToken is needed where StateDir holds no SVID that is valid.
	JoinToken string
	// WorkloadAPI is the address, unix:///path, of a SPIFFE Workload API, such as SPIRE's agent, that gives the workload its SVIDs
	// in place of the issuer: then there is neither Issuer nor JoinToken. Empty: the issuer does.
	WorkloadAPI string
	// Key is the kind of key that the workload gets from the issuer, with each SVID a new one.
	Key identity.KeyKind
	// EnvoyPath is the Envoy to start; empty: somebody else starts it, with StateDir's bootstrap.json.
	EnvoyPath string
	// EnvoyArgs are appended to the flags that the agent starts Envoy with.
	EnvoyArgs []string
	Log       *zap.Logger

	// Recorder gets every decision; nil: refusals go to the log.
	Recorder extauthz.Recorder
	// Metrics count the decisions; nil: nobody reads them.
	Metrics *extauthz.Metrics
	// Clock is time.Now where it is nil.
	Clock func() time.Time
}

var errConfig = errors.New("agent configuration")

// complete fills in what is optional and checks the rest.
func (c *Config) complete() error {
	required := map[string]string{"ID": c.ID, "StateDir": c.StateDir, "ControlPlane": c.ControlPlane, "ControlPlaneID": c.ControlPlaneID}
	if c.WorkloadAPI == "" {
		required["Issuer"] = c.Issuer
	}
	for name, value := range required {
		if value == "" {
			return fmt.Errorf("%w: %s is missing", errConfig, name)
		}
	}
	if c.Log == nil {
		return fmt.Errorf("%w: Log is missing", errConfig)
	}
	if err := c.Key.ForSVID(); err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	if c.WorkloadSocket == "" {
		c.WorkloadSocket = filepath.Join(c.StateDir, workloadSocket)
	}
	path, err := filepath.Abs(c.WorkloadSocket)
	if err != nil {
		return fmt.Errorf("%w: WorkloadSocket: %w", errConfig, err)
	}
	if c.WorkloadSocket = path; len(path) > maxSocketPath {
		return fmt.Errorf("%w: the path of the workload's socket has %d bytes, at most %d are possible", errConfig, len(path), maxSocketPath)
	}
	if err := c.completeAPI(); err != nil {
		return err
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Recorder == nil {
		c.Recorder = extauthz.Log(c.Log)
	}
	if c.Metrics == nil {
		m, err := extauthz.NewMetrics(prometheus.NewRegistry())
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		c.Metrics = m
	}
	return nil
}

// completeAPI checks what the Workload API excludes.
func (c *Config) completeAPI() error {
	if c.WorkloadAPI == "" {
		return nil
	}
	if c.Issuer != "" || c.JoinToken != "" {
		return fmt.Errorf("%w: WorkloadAPI stands in for the issuer, so there is neither Issuer nor JoinToken", errConfig)
	}
	path, err := workloadapi.Path(c.WorkloadAPI)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	if path == c.WorkloadSocket {
		return fmt.Errorf("%w: WorkloadAPI is the agent's own WorkloadSocket", errConfig)
	}
	return nil
}

// trustDomainOf is the trust domain part of a SPIFFE ID.
func trustDomainOf(id string) (identity.TrustDomain, error) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return identity.TrustDomain{}, fmt.Errorf("%w: %q", identity.ErrInvalidID, id)
	}
	name, _, _ := strings.Cut(rest, "/")
	return identity.ParseTrustDomain(name)
}
