package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/ringfence-mesh/ringfence/identity"
)

// controlPlane is how an agent knows its control plane: by one SPIFFE ID, under the platform's root, both given at start.
type controlPlane struct {
	id     spiffeid.ID
	bundle identity.Bundle
	roots  *x509bundle.Bundle
	clock  func() time.Time
}

func newControlPlane(id string, rootPEM []byte, clock func() time.Time) (*controlPlane, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return nil, fmt.Errorf("control plane's ID: %w", err)
	}
	td, err := identity.ParseTrustDomain(parsed.TrustDomain().Name())
	if err != nil {
		return nil, fmt.Errorf("control plane's ID: %w", err)
	}
	bundle, err := identity.ParseBundlePEM(td, rootPEM)
	if err != nil {
		return nil, fmt.Errorf("platform's root: %w", err)
	}
	roots := x509bundle.New(parsed.TrustDomain())
	for _, der := range bundle.DER() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("platform's root: %w", err)
		}
		roots.AddX509Authority(root)
	}
	return &controlPlane{id: parsed, bundle: bundle, roots: roots, clock: clock}, nil
}

// tls is how a connection to the control plane is opened; own is the agent's SVID, nil where it has none yet.
func (p *controlPlane) tls(own *credentials) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The server is known by its SPIFFE ID and not by a host name: VerifyConnection below does what is skipped here.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   p.verify,
		NextProtos:         []string{"h2"},
	}
	if own != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.certificate(), nil }
	}
	return c
}

func (p *controlPlane) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the control plane shows no certificate")
	}
	id, _, err := x509svid.Verify(state.PeerCertificates, p.roots, x509svid.WithTime(p.clock()))
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	uri, err := identity.URISAN(state.PeerCertificates[0])
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	if id != p.id || uri != p.id.String() {
		return fmt.Errorf("the server is %s and not the control plane %s", id, p.id)
	}
	return nil
}
