package health

import (
	"crypto/x509"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// Facts are what was found out about a running mesh. What is nil or empty is not known.
type Facts struct {
	// Now is this machine's time half-way through the question that took Took.
	Now  time.Time
	Took time.Duration
	// Plane says which control plane was asked. PlaneCode and PlaneErr say why it did not answer: CodeUnreachable,
	// CodeNotPermitted or CodeNoAnswer.
	Plane     string
	PlaneCode Code
	PlaneErr  error
	// Local says that it was asked through its admin socket, so its clock is this machine's.
	Local bool
	// Own is the certificate that was shown to it.
	Own *x509.Certificate
	// Health and Proxies are its answers.
	Health  *agentv1alpha1.HealthResponse
	Proxies *agentv1alpha1.ListProxiesResponse
	// Issuer is what came of a connection to the issuer.
	Issuer Probe
	// Agents are the agents whose addresses are known.
	Agents []Agent
	// Workload is the SPIFFE ID of the only sidecar that is meant; empty: all.
	Workload string
}

// Probe is what came of a connection. The zero value is none.
type Probe struct {
	Address string
	// Unasked is why no connection was tried.
	Unasked string
	// Err is why nobody answered, Foreign why who answered is somebody else.
	Err, Foreign error
}

// Agent is what came of asking one agent.
type Agent struct {
	Address string
	Err     error
	Status  AgentStatus
}

// AgentStatus is what an agent says of itself at /status.
type AgentStatus struct {
	Workload string    `json:"workload"`
	Now      time.Time `json:"now"`
	// NotAfter is the end of its SVID; zero without one.
	NotAfter time.Time `json:"notAfter,omitzero"`
	// NotReady is what is missing for calls to pass.
	NotReady     string `json:"notReady,omitempty"`
	ControlPlane bool   `json:"controlPlane"`
	// WorkloadAPI is why the Workload API that the agent asks for SVIDs gave none last; empty: it did, or is not asked.
	WorkloadAPI  string `json:"workloadApi,omitempty"`
	EnvoyVersion string `json:"envoyVersion,omitempty"`
	// Missing are the secrets that Envoy shall have and does not hold.
	Missing []string `json:"missingSecrets,omitempty"`
}
