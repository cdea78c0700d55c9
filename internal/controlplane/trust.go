package controlplane

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// LookEvery is how soon a changed file beside the documents is noticed.
const LookEvery = 2 * time.Second

// TrustDir is a directory of trust bundles: <trust domain>.pem.
type TrustDir string

const bundleSuffix = ".pem"

func (d TrustDir) file(td identity.TrustDomain) string {
	return filepath.Join(string(d), td.String()+bundleSuffix)
}

// Bundles reads the bundles of these trust domains. Those that can be had are returned beside the error.
func (d TrustDir) Bundles(domains ...identity.TrustDomain) (identity.Bundles, error) {
	var (
		all  []identity.Bundle
		errs []error
	)
	for _, td := range domains {
		data, err := os.ReadFile(d.file(td))
		if err != nil {
			errs = append(errs, fmt.Errorf("trust bundle: %w", err))
			continue
		}
		b, err := identity.ParseBundlePEM(td, data)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, b)
	}
	bundles, err := identity.NewBundles(all...)
	return bundles, errors.Join(append(errs, err)...)
}

// state changes when a bundle does.
func (d TrustDir) state() [sha256.Size]byte {
	h := sha256.New()
	for _, name := range d.files() {
		data, err := os.ReadFile(name)
		fmt.Fprintf(h, "%s %d %v %s", name, len(data), err, data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (d TrustDir) files() []string {
	files, _ := filepath.Glob(filepath.Join(string(d), "*"+bundleSuffix)) // the pattern is well-formed
	return files
}

// Beside is the source, which then also tells when a bundle in the directory changes.
func (d TrustDir) Beside(s pipeline.Source) pipeline.Source {
	return watched{Source: s, state: d.state}
}

// watched is a source that also tells when what lies beside the documents changes.
type watched struct {
	pipeline.Source

	state func() [sha256.Size]byte
}

// Watch tells of changes of the documents and of what lies beside them.
func (w watched) Watch(ctx context.Context) <-chan struct{} {
	documents := w.Source.Watch(ctx)
	last := w.state()
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		tick := time.NewTicker(LookEvery)
		defer tick.Stop()
		for {
			select {
			case _, ok := <-documents:
				if !ok {
					return
				}
			case <-tick.C:
				now := w.state()
				if now == last {
					continue
				}
				last = now
			}
			select {
			case out <- struct{}{}:
			default: // a notice is waiting already
			}
		}
	}()
	return out
}

// externalTrust are the trust domains whose roots are somebody else's: those that have, or once had since this process began, a
// file in the directory. So a file that is away for a moment hands nobody to the issuer. The zero value knows none.
type externalTrust struct {
	dir TrustDir
	log *zap.Logger

	mu   sync.Mutex
	seen map[identity.TrustDomain]bool
}

func openExternalTrust(dir string, log *zap.Logger) (*externalTrust, error) {
	if dir != "" {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, fmt.Errorf("external trust bundles: %w", err)
		}
	}
	return &externalTrust{dir: TrustDir(dir), log: log, seen: map[identity.TrustDomain]bool{}}, nil
}

// has reports whether that trust domain is such a one.
func (e *externalTrust) has(td identity.TrustDomain) bool {
	if e.dir == "" {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.seen[td] {
		_, err := os.Lstat(e.dir.file(td))
		e.seen[td] = !errors.Is(err, fs.ErrNotExist)
	}
	return e.seen[td]
}

// beside is the source, which then also tells of changed bundles.
func (e *externalTrust) beside(s pipeline.Source) pipeline.Source {
	if e.dir == "" {
		return s
	}
	return e.dir.Beside(s)
}

var _ pipeline.Recorder = (*externalTrust)(nil)

// Reloaded says what an operator cannot have meant with a file.
func (e *externalTrust) Reloaded(event pipeline.Event) {
	if e.dir == "" || !event.Published {
		return
	}
	known := map[string]bool{}
	for _, id := range event.Generation.Model().Tenants() {
		known[id.TrustDomain().String()] = true
	}
	for _, name := range e.dir.files() {
		if td := strings.TrimSuffix(filepath.Base(name), bundleSuffix); !known[td] {
			e.log.Warn("a trust bundle of no tenant of the mesh is not used", zap.String("file", name))
		}
	}
	if err := e.platform(event.Generation); err != nil {
		e.log.Error("no agent can connect", zap.Error(err))
	}
}

var errExternalPlatform = errors.New("the platform's own roots cannot be external, the control plane's identity is its issuer's: remove the trust bundle, and start again")

// platform is an error where the platform's trust domain has external roots.
func (e *externalTrust) platform(g *pipeline.Generation) error {
	if td := g.Mapping().Platform(); !td.IsZero() && e.has(td) {
		return fmt.Errorf("%s: %w", e.dir.file(td), errExternalPlatform)
	}
	return nil
}

// bundles are the roots of these trust domains: external ones from their files, the others from the issuer. Those that can be had
// are returned beside the error; where a file is broken, the pipeline goes on with what it had.
func (cp *ControlPlane) bundles(domains ...identity.TrustDomain) (identity.Bundles, error) {
	var issued, external []identity.TrustDomain
	for _, td := range domains {
		if cp.external.has(td) {
			external = append(external, td)
		} else {
			issued = append(issued, td)
		}
	}
	own, errOwn := cp.issuer.Bundles(cp.clock(), issued...)
	others, errOthers := cp.external.dir.Bundles(external...)
	all, err := identity.NewBundles(append(own.All(), others.All()...)...)
	return all, errors.Join(errOwn, errOthers, err)
}
