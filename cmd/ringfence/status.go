package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/internal/health"
)

// withStatus serves /status beside what there is: where the agent stands, for "ringfence check". It names the agent's own
// workload only.
func withStatus(rest http.Handler, a *agent.Agent) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = printJSON(w, statusOf(a)) // who asked is gone
	})
	return mux
}

func statusOf(a *agent.Agent) health.AgentStatus {
	s := a.Status()
	answer := health.AgentStatus{
		Now: time.Now(), NotAfter: s.NotAfter, ControlPlane: s.ControlPlane, EnvoyVersion: s.EnvoyVersion, Missing: s.Missing,
		WorkloadAPI: s.WorkloadAPI,
	}
	if !s.Workload.IsZero() {
		answer.Workload = s.Workload.String()
	}
	if err := a.Ready(); err != nil {
		answer.NotReady = err.Error()
	}
	return answer
}

var errStatus = errors.New("it does not say where it stands")

// askStatus asks the agent that was started with --http-listen ADDRESS.
func askStatus(ctx context.Context, address string) (health.AgentStatus, error) {
	var s health.AgentStatus
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/status", http.NoBody)
	if err != nil {
		return s, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return s, err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if response.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%w: %s; is it the --http-listen of an agent of this release?", errStatus, response.Status)
	}
	const most = 1 << 20
	if err := json.NewDecoder(io.LimitReader(response.Body, most)).Decode(&s); err != nil {
		return s, fmt.Errorf("%w: %w", errStatus, err)
	}
	return s, nil
}
