package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/controlplane"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// namedTables answers each asker of the Mesh by the rules of the tenant whose service it asks about.
type namedTables struct{ *pipeline.Pipeline }

// TableFor is the tenant's Table in force, if it names the asker.
func (t namedTables) TableFor(asker tenancy.AskerKey, tenant string) *authz.Table {
	return t.Current().TableFor(asker, tenant)
}

// Names reports whether the Mesh names the asker now.
func (t namedTables) Names(asker tenancy.AskerKey) bool { return t.Current().Names(asker) }

// askerRoots has the roots of the askers' trust domains, which need be no tenant's. They vouch for askers and nobody else.
type askerRoots struct {
	trust    controlplane.TrustDir
	pipeline *pipeline.Pipeline
	log      *zap.Logger

	mu         sync.Mutex
	looked     time.Time
	generation *pipeline.Generation
	held       identity.Verifier
	version    string
}

// verifier follows the Mesh at once, and the files of the trust directory soon. Without roots nobody is an asker.
func (r *askerRoots) verifier() (v identity.Verifier, version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.pipeline.Current()
	if g == r.generation && time.Since(r.looked) < controlplane.LookEvery {
		return r.held, r.version
	}
	r.generation, r.looked = g, time.Now()
	domains, seen := []identity.TrustDomain{}, map[identity.TrustDomain]bool{}
	for _, a := range g.Askers() {
		for _, key := range a.Keys() {
			if td := key.ID().TrustDomain(); !td.IsZero() && !seen[td] {
				seen[td] = true
				domains = append(domains, td)
			}
		}
	}
	bundles, err := r.trust.Bundles(domains...)
	h := sha256.New()
	for _, b := range bundles.All() {
		sum := b.Digest()
		h.Write(sum[:])
	}
	version = hex.EncodeToString(h.Sum(nil))
	if err != nil && version != r.version {
		r.log.Warn("askers without roots are refused", zap.Error(err))
	}
	r.held, r.version = identity.NewVerifier(g.Mapping(), bundles), version
	return r.held, r.version
}

// names reports whether the certificate is proved and an asker's.
func (r *askerRoots) names(chain [][]byte) bool {
	if len(chain) == 0 {
		return false
	}
	v, _ := r.verifier()
	id, _, err := v.VerifyID(chain[0], chain[1:], time.Now())
	return err == nil && r.pipeline.Current().Names(tenancy.KeyOfID(id))
}

// askerSockets are the open sockets of the askers that the Mesh names by one.
type askerSockets struct {
	pipeline  *pipeline.Pipeline
	decisions decisions
	log       *zap.Logger
	open      map[string]*grpc.Server
	served    sync.WaitGroup
}

func newAskerSockets(p *pipeline.Pipeline, d decisions, log *zap.Logger) *askerSockets {
	return &askerSockets{pipeline: p, decisions: d, log: log, open: map[string]*grpc.Server{}}
}

// run opens and closes sockets as the Mesh says, until ctx ends. A socket that cannot be opened is tried again.
func (s *askerSockets) run(ctx context.Context) error {
	changed, stop := s.pipeline.Subscribe()
	defer stop()
	retry := time.NewTicker(controlplane.LookEvery)
	defer retry.Stop()
	failed := map[string]bool{}
	for {
		s.follow(ctx, failed)
		select {
		case <-ctx.Done():
			for _, server := range s.open {
				server.Stop()
			}
			s.served.Wait()
			return nil
		case <-changed:
		case <-retry.C:
		}
	}
}

// follow makes the open sockets those that the Mesh names; what fails is told once.
func (s *askerSockets) follow(ctx context.Context, failed map[string]bool) {
	wanted := map[string]tenancy.AskerKey{}
	for _, a := range s.pipeline.Current().Askers() {
		for _, key := range a.Keys() {
			if key.Socket() != "" {
				wanted[key.Socket()] = key
			}
		}
	}
	for path, server := range s.open {
		if _, ok := wanted[path]; !ok {
			server.Stop()
			delete(s.open, path)
			s.log.Info("closed an asker's socket", zap.String("socket", path))
		}
	}
	for path, key := range wanted {
		if s.open[path] != nil {
			continue
		}
		listener, err := controlplane.ListenUnix(ctx, path)
		if err != nil {
			if !failed[path] {
				s.log.Error("an asker's socket cannot be opened", zap.String("socket", path), zap.Error(err))
			}
			failed[path] = true
			continue
		}
		delete(failed, path)
		server := s.decisions.server(s.pipeline, extauthz.FixedKey(key))
		s.open[path] = server
		s.log.Info("listening for an asker", zap.String("socket", path))
		s.served.Go(func() {
			if err := server.Serve(listener); err != nil {
				s.log.Error("an asker's socket failed", zap.String("socket", path), zap.Error(err))
			}
		})
	}
}
