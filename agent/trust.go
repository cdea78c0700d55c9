package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

var errNotControlPlane = errors.New("the server is not the control plane")

// anchor knows the control plane: by its exact SPIFFE ID, under the root that the agent was started with.
type anchor struct {
	id       string
	bundle   identity.Bundle
	verifier identity.Verifier
	clock    func() time.Time
}

// ControlPlaneTLS is the configuration of a connection on which both ends prove who they are: the other as the control
// plane of exactly that SPIFFE ID, under the platform's root (PEM), and this one by its SVID.
func ControlPlaneTLS(controlPlaneID string, platformRoot []byte, own tls.Certificate) (*tls.Config, error) {
	a, err := newAnchor(Config{ControlPlaneID: controlPlaneID, PlatformRoot: platformRoot, Clock: time.Now})
	if err != nil {
		return nil, err
	}
	return a.tls(always(&own)), nil
}

func newAnchor(c Config) (anchor, error) {
	td, err := trustDomainOf(c.ControlPlaneID)
	if err != nil {
		return anchor{}, fmt.Errorf("control plane's ID: %w", err)
	}
	bundle, err := identity.ParseBundlePEM(td, c.PlatformRoot)
	if err != nil {
		return anchor{}, fmt.Errorf("platform root: %w", err)
	}
	bundles, err := identity.NewBundles(bundle)
	if err != nil {
		return anchor{}, fmt.Errorf("platform root: %w", err)
	}
	// The platform's own identities have one form whatever the mesh maps, and no other can be meant here.
	mapping, err := identity.NewMapping(td, []identity.MappingRule{{TrustDomain: "{tenant}.invalid", Path: "/{serviceAccount}"}})
	if err != nil {
		return anchor{}, fmt.Errorf("platform trust domain: %w", err)
	}
	if _, err := mapping.Parse(c.ControlPlaneID); err != nil {
		return anchor{}, fmt.Errorf("control plane's ID: %w", err)
	}
	return anchor{id: c.ControlPlaneID, bundle: bundle, verifier: identity.NewVerifier(mapping, bundles), clock: c.Clock}, nil
}

// always is one certificate, or none where it is nil.
func always(own *tls.Certificate) func() *tls.Certificate {
	if own == nil {
		return nil
	}
	return func() *tls.Certificate { return own }
}

// tls is the configuration of a connection to the control plane. own is the client certificate of the moment, nil for none.
func (a anchor) tls(own func() *tls.Certificate) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Go compares host names; the control plane is known by its SPIFFE ID.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies
		VerifyConnection:   a.verify,
	}
	if own != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own(), nil }
	}
	return c
}

func (a anchor) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errNotControlPlane
	}
	var intermediates [][]byte
	for _, c := range state.PeerCertificates[1:] {
		intermediates = append(intermediates, c.Raw)
	}
	peer, err := a.verifier.VerifyLeaf(state.PeerCertificates[0].Raw, intermediates, a.clock())
	if err != nil {
		return fmt.Errorf("%w: %w", errNotControlPlane, err)
	}
	if peer.ID().String() != a.id {
		return fmt.Errorf("%w: it is %s", errNotControlPlane, peer.ID())
	}
	return nil
}
