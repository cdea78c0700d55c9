package workloadapi

import (
	"bytes"
	"context"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// Every request carries this header, so that nobody makes an application ask by a forged URL (section 4 of the standard).
	securityHeader = "workload.spiffe.io"
	securityValue  = "true"

	maxStreams = 64
	maxRequest = 16 << 10
)

// Identity is what a workload is and trusts. It does not change; the zero value is no identity.
type Identity struct {
	// ID is the SPIFFE ID.
	ID string
	// Chain is the SVID: DER certificates, the leaf first.
	Chain [][]byte
	// Key is the leaf's private key, PKCS #8 DER.
	Key []byte
	// Bundles are the DER roots of each trust domain that the workload may meet, its own among them, by trust domain ID
	// ("spiffe://acme.demo.test").
	Bundles map[string][][]byte
	// TrustDomain is the ID of the workload's own trust domain, a key of Bundles.
	TrustDomain string
	// JWKS are the keys that verify JWT-SVIDs of the workload's own trust domain, a JSON Web Key Set; empty: not known yet.
	JWKS []byte
	// NoJWT says that the workload gets no JWT-SVIDs, and verifies none.
	NoJWT bool
}

// IsZero reports whether i is no identity.
func (i Identity) IsZero() bool { return i.ID == "" }

// Source says what to serve. It is used by many goroutines.
type Source interface {
	// Identity is the workload's identity now; zero while there is none that is valid.
	Identity() Identity
	// Changed returns a channel that is closed once Identity may have changed since this call.
	Changed() <-chan struct{}
}

// ServerOptions are the options of a gRPC server for applications: bounded, because they are not trusted.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(maxRequest)}
}

// Register adds the Workload API to a gRPC server.
func Register(s grpc.ServiceRegistrar, source Source, tokens Tokens) {
	workload.RegisterSpiffeWorkloadAPIServer(s, &server{source: source, tokens: tokens})
}

type server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	source Source
	tokens Tokens
}

// FetchX509SVID sends the SVID with its key, and again whenever it changes.
func (s *server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return follow(stream, s.source, func(i Identity) (*workload.X509SVIDResponse, bool) {
		federated := map[string][]byte{}
		for td, roots := range i.Bundles {
			if td != i.TrustDomain {
				federated[td] = joined(roots)
			}
		}
		return &workload.X509SVIDResponse{
			Svids: []*workload.X509SVID{{
				SpiffeId: i.ID, X509Svid: joined(i.Chain), X509SvidKey: slices.Clone(i.Key), Bundle: joined(i.Bundles[i.TrustDomain]),
			}},
			FederatedBundles: federated,
		}, true
	})
}

// FetchX509Bundles sends the roots, and again whenever they change.
func (s *server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return follow(stream, s.source, func(i Identity) (*workload.X509BundlesResponse, bool) {
		resp := &workload.X509BundlesResponse{Bundles: map[string][]byte{}}
		for td, roots := range i.Bundles {
			resp.Bundles[td] = joined(roots)
		}
		return resp, true
	})
}

// joined is several DER values one after another, as the standard wants them.
func joined(ders [][]byte) []byte { return bytes.Join(ders, nil) }

// ownRequest refuses what no application has sent on purpose.
func ownRequest(ctx context.Context) error {
	if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md.Get(securityHeader), []string{securityValue}) {
		return status.Errorf(codes.InvalidArgument, "the metadata %s: %s is missing", securityHeader, securityValue)
	}
	return nil
}

// follow sends what the identity comes to, until the caller goes. While there is nothing to say the caller waits: it will come.
func follow[M proto.Message](stream interface {
	Context() context.Context
	Send(m M) error
}, source Source, render func(Identity) (M, bool),
) error {
	ctx := stream.Context()
	if err := ownRequest(ctx); err != nil {
		return err
	}
	var last proto.Message
	for {
		changed := source.Changed() // first: what changes after this call is noticed
		if i := source.Identity(); !i.IsZero() {
			if next, ok := render(i); ok && (last == nil || !proto.Equal(last, next)) {
				if err := stream.Send(next); err != nil {
					return err
				}
				last = next
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}
