package main

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

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
	if k.loaded != nil && time.Since(k.looked) < controlplane.LookEvery {
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
