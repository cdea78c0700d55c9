package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
)

// openSocketMode lets any user connect; who is served then is a matter of the connection's credentials.
const openSocketMode = 0o666

// workloadSource is what the applications on the workload's own socket are told.
type workloadSource struct {
	platform identity.Bundle
	clock    func() time.Time
	noJWT    func(identity.WorkloadID) bool

	mu       sync.Mutex
	notAfter time.Time
	now      workloadapi.Identity
	changed  chan struct{}
}

var _ workloadapi.Source = (*workloadSource)(nil)

func newWorkloadSource(platform identity.Bundle, c Config) *workloadSource {
	return &workloadSource{platform: platform, clock: c.Clock, noJWT: c.noJWT, changed: make(chan struct{})}
}

// set tells of a new SVID.
func (s *workloadSource) set(own svid) error {
	key, err := x509.MarshalPKCS8PrivateKey(own.cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	domain := own.bundle.TrustDomain()
	next := workloadapi.Identity{
		ID: own.id.String(), Chain: own.cert.Certificate, Key: key, TrustDomain: domain.ID(),
		NoJWT:   s.noJWT(own.id),
		Bundles: map[string][][]byte{s.platform.TrustDomain().ID(): s.platform.DER(), domain.ID(): own.bundle.DER()},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next.JWKS = s.now.JWKS
	s.now, s.notAfter = next, own.notAfter
	s.tell()
	return nil
}

// setKeys tells of the keys that verify JWT-SVIDs.
func (s *workloadSource) setKeys(jwks []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.JWKS = jwks
	s.tell()
}

// keys are the keys that verify JWT-SVIDs; none: they are not known yet.
func (s *workloadSource) keys() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.JWKS
}

// tell is called with mu held.
func (s *workloadSource) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// end takes the identity away: the workload has none any more.
func (s *workloadSource) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = workloadapi.Identity{}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Identity implements workloadapi.Source: an SVID that has expired is none.
func (s *workloadSource) Identity() workloadapi.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clock().After(s.notAfter) {
		return workloadapi.Identity{}
	}
	return s.now
}

// Changed implements workloadapi.Source.
func (s *workloadSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// listenWorkload opens the socket of the workload's applications: for this user, and for those that the configuration names.
func listenWorkload(ctx context.Context, path string, users []int) (net.Listener, error) {
	l, err := listenUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	mode := os.FileMode(fileMode)
	if len(users) > 0 {
		mode = openSocketMode
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close() // nobody has connected
		return nil, fmt.Errorf("socket: %w", err)
	}
	return credentialed{l, append(slices.Clone(users), os.Geteuid())}, nil
}

// serveWorkload answers applications until ctx ends.
func serveWorkload(ctx context.Context, l net.Listener, source workloadapi.Source, tokens workloadapi.Tokens) error {
	server := grpc.NewServer(workloadapi.ServerOptions()...)
	workloadapi.Register(server, source, tokens)
	defer context.AfterFunc(ctx, server.Stop)() // its streams wait for changes, so there is nothing to wait for
	if err := server.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serving the Workload API: %w", err)
	}
	return nil
}
