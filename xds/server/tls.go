package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/ringfence-mesh/ringfence/identity"
)

var errNoCertificate = errors.New("no client certificate")

// tlsConfig demands a client certificate and proves it by the roots of the leaf's own trust domain. Go's own verification
// would ask one pool for all: any tenant's root would vouch for everybody.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         s.config.Certificate,
		ClientAuth:             tls.RequireAnyClientCert, // verified below
		SessionTicketsDisabled: true,                     // a resumed session would keep an old proof
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.prove(state.PeerCertificates)
			return err
		},
	}
}

// prove says who holds the certificate, by the roots of this moment.
func (s *Server) prove(chain []*x509.Certificate) (identity.Peer, error) {
	if len(chain) == 0 {
		return identity.Peer{}, errNoCertificate
	}
	var intermediates [][]byte
	for _, c := range chain[1:] {
		intermediates = append(intermediates, c.Raw)
	}
	p, err := s.config.Verifier().VerifyLeaf(chain[0].Raw, intermediates, s.config.Clock())
	if err != nil {
		return identity.Peer{}, fmt.Errorf("client: %w", err)
	}
	return p, nil
}

// Caller proves the other end of a stream or call from its connection, and from nothing that it says. The proof is made
// again each time: a connection may outlive the certificate that it was opened with.
func (s *Server) Caller(ctx context.Context) (identity.Peer, error) {
	p, _, err := s.caller(ctx)
	return p, err
}

func (s *Server) caller(ctx context.Context) (identity.Peer, *x509.Certificate, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Peer{}, nil, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Peer{}, nil, errNoCertificate
	}
	proved, err := s.prove(info.State.PeerCertificates)
	if err != nil {
		return identity.Peer{}, nil, err
	}
	return proved, info.State.PeerCertificates[0], nil
}
