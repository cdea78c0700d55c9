package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// lookEvery is how soon a changed trust bundle or SVID is noticed.
const lookEvery = 2 * time.Second

// trustDir is a directory of trust bundles: <trust domain>.pem.
type trustDir string

// bundles reads the bundles of these trust domains. Those that can be had are returned beside the error.
func (d trustDir) bundles(domains ...identity.TrustDomain) (identity.Bundles, error) {
	var (
		all  []identity.Bundle
		errs []error
	)
	for _, td := range domains {
		data, err := os.ReadFile(filepath.Join(string(d), td.String()+".pem"))
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
func (d trustDir) state() [sha256.Size]byte {
	h := sha256.New()
	files, _ := filepath.Glob(filepath.Join(string(d), "*.pem")) // the pattern is well-formed
	for _, name := range files {
		data, err := os.ReadFile(name)
		fmt.Fprintf(h, "%s %d %v %s", name, len(data), err, data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// withTrust is a source that also tells when a trust bundle changes.
type withTrust struct {
	pipeline.Source

	trust trustDir
}

// Watch tells of changes of the documents and of the bundles.
func (w withTrust) Watch(ctx context.Context) <-chan struct{} {
	documents := w.Source.Watch(ctx)
	last := w.trust.state()
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case _, ok := <-documents:
				if !ok {
					return
				}
			case <-tick.C:
				now := w.trust.state()
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

// keyPair is a certificate with its key in files, read again after they were replaced.
type keyPair struct {
	cert, key string

	mu     sync.Mutex
	looked time.Time
	loaded *tls.Certificate
}

// certificate is what a listener shows. A pair that cannot be read, as halfway through its replacement, leaves the last
// one in place.
func (k *keyPair) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded != nil && time.Since(k.looked) < lookEvery {
		return k.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(k.cert, k.key)
	switch {
	case err == nil:
		k.loaded = &pair
	case k.loaded == nil:
		return nil, fmt.Errorf("SVID: %w", err)
	}
	k.looked = time.Now()
	return k.loaded, nil
}
