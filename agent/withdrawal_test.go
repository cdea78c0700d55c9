package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ringfence-mesh/ringfence/agent"
	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// compromise withdraws acme's roots at once and publishes that.
func (p *plane) compromise() {
	p.t.Helper()
	if _, err := p.issuer.Compromised(identity.MustTrustDomain("acme.demo.test"), time.Now()); err != nil {
		p.t.Fatal(err)
	}
	p.publish()
}

// launch runs an agent and gives how it ends.
func launch(t *testing.T, c agent.Config) (a *agent.Agent, ended <-chan error, stop func()) {
	t.Helper()
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	end, done := make(chan error, 1), make(chan struct{})
	go func() { defer close(done); end <- a.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return a, end, stop
}

func withdrawn(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, agent.ErrWithdrawn) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on with the identity of a withdrawn root")
	}
}

// An agent whose root is withdrawn ends, with its Envoy, and leaves nothing that another start could take up: whether it is told on
// its stream, or finds out when it comes back to a control plane that was away, or only at its next start. With a new token it joins.
func TestAnAgentEndsWithItsRoot(t *testing.T) {
	t.Parallel()
	for name, withdraw := range map[string]func(t *testing.T, p *plane, c agent.Config, ended <-chan error, stop func()) <-chan error{
		"on the stream": func(_ *testing.T, p *plane, _ agent.Config, ended <-chan error, _ func()) <-chan error {
			p.compromise()
			return ended
		},
		"while the control plane is away": func(_ *testing.T, p *plane, _ agent.Config, ended <-chan error, _ func()) <-chan error {
			p.stop()
			p.compromise()
			p.restart()
			return ended
		},
		"while the agent is away": func(t *testing.T, p *plane, c agent.Config, _ <-chan error, stop func()) <-chan error {
			stop()
			p.compromise()
			c.JoinToken = ""
			_, ended, _ := launch(t, c)
			return ended
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			dir := filepath.Join(realenvoy.Dir(t), "a")
			c := p.config(dir, true)
			a, ended, stop := launch(t, c)
			eventually(t, "the agent is ready", func() bool { return a.Ready() == nil })
			key, pid := file(t, dir, "key.pem"), a.Status().EnvoyPID

			withdrawn(t, withdraw(t, p, c, ended, stop))
			if alive(pid) {
				t.Error("its Envoy goes on")
			}
			if err := a.Ready(); err == nil {
				t.Error("it says that it is ready")
			}
			for _, left := range []string{"svid.pem", "next.pem", "bundle.pem", "identity.json", "state"} {
				if _, err := os.Stat(filepath.Join(dir, left)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is left: %v", left, err)
				}
			}
			again := start(t, p.config(dir, true))
			again.ready()
			if string(file(t, dir, "key.pem")) == string(key) {
				t.Error("it goes on with the key that it had")
			}
		})
	}
}

// An agent that is started with the identity of a withdrawn root and a new token needs no second start.
func TestAnAgentJoinsAgainWithATokenAtHand(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	old := string(file(t, dir, "bundle.pem"))
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	p.compromise()
	a = start(t, p.config(dir, true))
	eventually(t, "it has joined with the new root", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
		return err == nil && string(data) != old && a.Ready() == nil
	})
}

// liar says of every root that it is withdrawn, with a certificate of roots that the agent does not trust.
type liar struct {
	agentv1alpha1.UnimplementedIssuerServer

	asked chan struct{}
}

func (l liar) Withdrawn(context.Context, *agentv1alpha1.WithdrawnRequest) (*agentv1alpha1.WithdrawnResponse, error) {
	close(l.asked)
	return &agentv1alpha1.WithdrawnResponse{Withdrawn: true}, nil
}

// Nobody but the control plane can end an agent: not who has taken its issuer's address.
func TestAnAgentIsNotEndedByAStranger(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	c := p.config(filepath.Join(realenvoy.Dir(t), "a"), true)
	a := start(t, c)
	a.ready()
	p.stop()
	cert := testca.Constrained(t, "platform.demo.test").SVID(controlPlane).TLS()
	connected := make(chan struct{}, 100)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})))
	lies := liar{asked: make(chan struct{})}
	agentv1alpha1.RegisterIssuerServer(s, lies)
	go func() { _ = s.Serve(counted{p.listen(p.issuerAddr), connected}) }()
	t.Cleanup(s.Stop)
	for range 3 { // it asks, and hangs up
		select {
		case <-connected:
		case <-time.After(30 * time.Second):
			t.Fatal("the agent does not ask")
		}
	}
	select {
	case <-lies.asked:
		t.Error("the agent asks whoever is there")
	default:
	}
	if err := a.Ready(); err != nil {
		t.Errorf("it has ended: %v", err)
	}
}

// counted tells of each connection.
type counted struct {
	net.Listener

	connected chan<- struct{}
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	select {
	case c.connected <- struct{}{}:
	default:
	}
	return conn, err
}
