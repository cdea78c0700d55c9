package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

var errNoCertificate = errors.New("no client certificate")

// ErrRevoked says that a revocation holds of the caller or of its certificate.
var ErrRevoked = errors.New("revoked")

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
	if s.revoked(p) {
		return identity.Peer{}, fmt.Errorf("client %s: %w", p.ID(), ErrRevoked)
	}
	return p, nil
}

func (s *Server) revoked(p identity.Peer) bool { return s.config.Revoked != nil && s.config.Revoked(p) }

// Admit lets a call begin that is no stream, until end is called once for what it gives: the caller is held to the limits,
// and then proved. The error is the answer's. What it counts by is what the connection was opened with, so that who is over
// its limits costs no more than who calls what is not there, and can make no more lines of the log.
func (s *Server) Admit(ctx context.Context, l *limit.Limiter, what string) (p identity.Peer, end func(), err error) {
	who := ""
	if chain := chainOf(ctx); len(chain) > 0 {
		who, _ = identity.URISAN(chain[0]) // it was proved at the handshake, so it has one
	}
	running, ok := l.Begin(who, s.config.Clock())
	if !ok {
		return identity.Peer{}, nil, status.Error(codes.ResourceExhausted, "too many calls, try again in a second")
	}
	if p, err = s.Caller(ctx); err != nil {
		running.End()
		s.config.Log.Info(what+" refused", zap.Error(err))
		return identity.Peer{}, nil, status.Error(codes.Unauthenticated, "the client's certificate proves nobody, or no longer")
	}
	return p, running.End, nil
}

// Caller proves the other end of a stream or call from its connection, and from nothing that it says. The proof is made
// again each time: a connection may outlive the certificate that it was opened with.
func (s *Server) Caller(ctx context.Context) (identity.Peer, error) {
	return s.prove(chainOf(ctx))
}

// chainOf are the certificates of the connection's other end, the leaf first.
func chainOf(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	return info.State.PeerCertificates
}
