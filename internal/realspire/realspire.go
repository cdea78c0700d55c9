// Package realspire gives tests a real SPIRE: a server for one trust domain and an agent beside it, run as children that
// cannot outlive the test. It stands in for nothing: where SPIRE is not built the test fails and says how to build it.
package realspire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/child"
	"github.com/ringfence-mesh/ringfence/internal/freeport"
)

const (
	startTimeout = 30 * time.Second
	pollInterval = 50 * time.Millisecond
	openSocket   = 0o777 // SPIRE tells callers apart by their uid, so any may connect
)

var errNotBuilt = errors.New("no SPIRE: set SPIRE to the folder that scripts/spire.sh prints, as `make test-spire` does")

// Server is a running SPIRE server.
type Server struct {
	tb          testing.TB
	bin         string
	dir         string
	trustDomain string
	port        string
	node        string // SPIFFE ID of the one agent
	agent       *child.Process
}

// Start runs a SPIRE server for a trust domain. SVIDs live for ttl where their entry says nothing else.
func Start(tb testing.TB, trustDomain string, ttl time.Duration) *Server {
	tb.Helper()
	bin := os.Getenv("SPIRE")
	if bin == "" {
		tb.Fatal(errNotBuilt)
	}
	dir, err := os.MkdirTemp("", "sp") //nolint:usetesting // a short name: it holds Unix sockets
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // other users reach the agent's socket
		tb.Fatal(err)
	}
	port, err := new(freeport.Finder).Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{
		tb: tb, bin: bin, dir: dir, trustDomain: trustDomain, port: strconv.Itoa(int(port)),
		node: "spiffe://" + trustDomain + "/node",
	}
	s.write("server.conf", fmt.Sprintf(`server {
  bind_address = "127.0.0.1"
  bind_port = %q
  socket_path = %q
  trust_domain = %q
  data_dir = %q
  log_level = "WARN"
  default_x509_svid_ttl = %q
  agent_ttl = "1h"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`, s.port, s.path("api.sock"), trustDomain, s.path("server"), ttl.String(), s.path("datastore.sqlite3")))
	s.run("spire-server", "server.conf", func() bool {
		return exec.CommandContext(tb.Context(), s.program("spire-server"), "healthcheck", "-socketPath", s.path("api.sock")).Run() == nil
	})
	return s
}

// Agent runs the server's agent and returns the path of its socket: Workload API and SDS.
func (s *Server) Agent() string {
	s.tb.Helper()
	s.write("bundle.pem", string(s.Bundle()))
	var token struct {
		Value string `json:"value"`
	}
	if err := json.Unmarshal(s.ask("token", "generate", "-spiffeID", s.node, "-output", "json"), &token); err != nil || token.Value == "" {
		s.tb.Fatalf("SPIRE gave no join token: %v", err)
	}
	socket := s.path("agent.sock")
	s.write("agent.conf", fmt.Sprintf(`agent {
  data_dir = %q
  server_address = "127.0.0.1"
  server_port = %q
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = %q
  join_token = %q
  log_level = "WARN"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = %q } }
  WorkloadAttestor "unix" { plugin_data {} }
}
`, s.path("agent"), s.port, socket, s.path("bundle.pem"), s.trustDomain, token.Value, s.dir))
	s.StartAgent()
	return socket
}

// StartAgent runs the agent again, which knows itself by the key that it keeps on the disk.
func (s *Server) StartAgent() {
	s.tb.Helper()
	socket := s.path("agent.sock")
	s.agent = s.run("spire-agent", "agent.conf", func() bool {
		conn, err := net.Dial("unix", socket) //nolint:noctx // a local socket
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	if err := os.Chmod(socket, openSocket); err != nil {
		s.tb.Fatal(err)
	}
}

// StopAgent kills the agent.
func (s *Server) StopAgent() { s.agent.Stop() }

// Entry registers a workload: what runs as that user is it. The agent learns of it within some seconds.
func (s *Server) Entry(id string, uid int, flags ...string) {
	s.tb.Helper()
	selector := "unix:uid:" + strconv.Itoa(uid)
	s.ask(append([]string{"entry", "create", "-parentID", s.node, "-spiffeID", id, "-selector", selector}, flags...)...)
}

// Reissue makes SPIRE give a workload a new SVID, which lives for ttl: its entry is another one then. The agent learns of it
// within some seconds.
func (s *Server) Reissue(id string, ttl time.Duration) {
	s.tb.Helper()
	var shown struct {
		Entries []struct {
			ID        string `json:"id"`
			Selectors []struct {
				Type  string `json:"type"`
				Value string `json:"value"`
			} `json:"selectors"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(s.ask("entry", "show", "-spiffeID", id, "-output", "json"), &shown); err != nil || len(shown.Entries) == 0 {
		s.tb.Fatalf("SPIRE has no entry of %s: %v", id, err)
	}
	for _, e := range shown.Entries {
		update := []string{
			"entry", "update", "-entryID", e.ID, "-parentID", s.node, "-spiffeID", id, "-x509SVIDTTL", strconv.Itoa(int(ttl.Seconds())),
		}
		for _, selector := range e.Selectors {
			update = append(update, "-selector", selector.Type+":"+selector.Value)
		}
		s.ask(update...)
	}
}

// Bundle is the trust domain's root, PEM.
func (s *Server) Bundle() []byte {
	s.tb.Helper()
	return s.ask("bundle", "show")
}

// PrepareRoot makes SPIRE publish a new root beside the one that signs, and returns what ActivateRoot takes.
func (s *Server) PrepareRoot() (authority string) {
	s.tb.Helper()
	var prepared struct {
		Authority struct {
			ID string `json:"authority_id"` //nolint:tagliatelle // SPIRE's own
		} `json:"prepared_authority"` //nolint:tagliatelle // SPIRE's own
	}
	if err := json.Unmarshal(s.ask("localauthority", "x509", "prepare", "-output", "json"), &prepared); err != nil || prepared.Authority.ID == "" {
		s.tb.Fatalf("SPIRE prepared no root: %v", err)
	}
	return prepared.Authority.ID
}

// ActivateRoot makes SPIRE sign with the root that it has prepared.
func (s *Server) ActivateRoot(authority string) {
	s.tb.Helper()
	s.ask("localauthority", "x509", "activate", "-authorityID", authority)
}

// ask runs one of the server's commands and returns what it says.
func (s *Server) ask(command ...string) []byte {
	s.tb.Helper()
	args := append(slices.Clone(command), "-socketPath", s.path("api.sock"))
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(s.tb.Context(), s.program("spire-server"), args...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		s.tb.Fatalf("spire-server %v: %v\n%s%s", command, err, out.String(), problem.String())
	}
	return out.Bytes()
}

// run starts one of the two programs and waits until it is ready.
func (s *Server) run(program, config string, ready func() bool) *child.Process {
	s.tb.Helper()
	p, err := child.Start(s.program(program), "run", "-config", s.path(config))
	if err != nil {
		s.tb.Fatalf("starting %s: %v", program, err)
	}
	s.tb.Cleanup(func() {
		p.Stop()
		if s.tb.Failed() {
			s.tb.Logf("log of %s:\n%s", program, p.Log())
		}
	})
	deadline := time.Now().Add(startTimeout)
	for !ready() {
		select {
		case <-p.Done():
			s.tb.Fatalf("%s ended while starting:\n%s", program, p.Log())
		case <-time.After(pollInterval):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("%s is not ready in time:\n%s", program, p.Log())
		}
	}
	return p
}

func (s *Server) write(name, text string) {
	s.tb.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) program(name string) string { return filepath.Join(s.bin, name) }
