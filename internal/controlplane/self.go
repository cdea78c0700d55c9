package controlplane

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

var errNotReady = errors.New("no configuration is published yet")

// self is the control plane's own SVID. It is renewed at half of its life by the handshake that finds it so old: no timer
// has to be right, and a control plane that nobody asks needs no SVID.
type self struct {
	issuer  *issuer.Issuer
	mapping func() identity.Mapping
	clock   func() time.Time

	mu   sync.Mutex
	id   identity.WorkloadID
	cert *tls.Certificate
}

// ID is who the control plane is; it follows from the Mesh, so it is known with the first generation.
func (s *self) ID() (identity.WorkloadID, error) {
	m := s.mapping()
	if m.IsZero() {
		return identity.WorkloadID{}, errNotReady
	}
	id, err := m.ControlPlaneID()
	if err != nil {
		return identity.WorkloadID{}, fmt.Errorf("control plane's own identity: %w", err)
	}
	return id, nil
}

// certificate is what the listeners show.
func (s *self) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	id, err := s.ID()
	if err != nil {
		return nil, err
	}
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	// One that was made while the clock was ahead is nobody's yet once it was set back.
	current := s.id.Same(id) && now.Before(s.cert.Leaf.NotAfter) && !now.Before(s.cert.Leaf.NotBefore)
	if current && now.Before(halfLife(s.cert)) {
		return s.cert, nil
	}
	cert, err := s.issuer.ControlPlane(id, now)
	if err != nil {
		if current {
			return s.cert, nil // it still holds; the next handshake tries again
		}
		return nil, err
	}
	s.id, s.cert = id, &cert
	return s.cert, nil
}

// expiry shows when the SVID ends.
func (s *self) expiry() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ringfence_svid_expiry_timestamp_seconds", Help: "When this process's own SVID ends; 0 without one.",
		ConstLabels: prometheus.Labels{"tenant": identity.PlatformName},
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cert == nil {
			return 0
		}
		return float64(s.cert.Leaf.NotAfter.Unix())
	})
}

func halfLife(c *tls.Certificate) time.Time {
	return c.Leaf.NotBefore.Add(c.Leaf.NotAfter.Sub(c.Leaf.NotBefore) / 2)
}
