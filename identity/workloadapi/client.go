package workloadapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	unixScheme = "unix://"
	maxAnswer  = 1 << 20
	maxRoots   = 100
	maxChain   = 10
)

// What may be wrong with an answer of a Workload API.
var (
	ErrAddress   = errors.New("the address of a Workload API is unix:// and an absolute path")
	ErrNoSVID    = errors.New("the Workload API gives no SVID of this workload")
	ErrAmbiguous = errors.New("the Workload API gives several SVIDs of this workload: leave one entry that matches it")
	ErrOther     = errors.New("the SVID that the Workload API gives as this workload's is of another SPIFFE ID")
	ErrMalformed = errors.New("malformed answer of the Workload API")
)

// Answer is the X.509-SVID that a Workload API gives, with what goes with it. It is taken apart, and nothing of it is verified.
type Answer struct {
	// Chain is the SVID: DER certificates, the leaf first; there is one.
	Chain [][]byte
	// Key is the leaf's private key, PKCS #8 DER.
	Key []byte
	// Roots are the DER roots of the SVID's own trust domain; there is one.
	Roots [][]byte
}

// Choose takes an answer apart, and of its SVIDs the only one of that SPIFFE ID. The errors are ErrNoSVID, ErrAmbiguous and
// ErrMalformed. It names no SPIFFE ID but that one: the others are somebody else's.
//
// Source: the SPIFFE Workload API standard, section 5.2.1.
func Choose(resp *workload.X509SVIDResponse, id string) (Answer, error) {
	var own []*workload.X509SVID
	for _, s := range resp.GetSvids() {
		if s.GetSpiffeId() == id {
			own = append(own, s)
		}
	}
	switch n := len(resp.GetSvids()); {
	case len(own) == 0:
		return Answer{}, fmt.Errorf("%w %s: it gives %d of others", ErrNoSVID, id, n)
	case len(own) > 1:
		return Answer{}, fmt.Errorf("%w (%s: %d)", ErrAmbiguous, id, len(own))
	}
	chain, err := apart(own[0].GetX509Svid(), maxChain)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: SVID: %w", ErrMalformed, err)
	}
	roots, err := apart(own[0].GetBundle(), maxRoots)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	return Answer{Chain: chain, Key: own[0].GetX509SvidKey(), Roots: roots}, nil
}

// Verify proves, by the roots beside it, that the SVID is of that SPIFFE ID and holds now. That its key is the certificate's it
// does not say, nor what the ID means to a mesh.
func (a Answer) Verify(id string, now time.Time) error {
	named, err := identity.ParseSPIFFEID(id)
	if err != nil {
		return err
	}
	bundle, err := identity.NewBundle(named.TrustDomain(), a.Roots...)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(a.Chain[0])
	if err != nil {
		return fmt.Errorf("%w: SVID: %w", ErrMalformed, err)
	}
	if uri, err := identity.URISAN(leaf); err != nil || uri != id {
		return errors.Join(ErrOther, err)
	}
	bundles, err := identity.NewBundles(bundle)
	if err != nil {
		return err
	}
	_, _, err = identity.NewVerifier(identity.Mapping{}, bundles).VerifyID(a.Chain[0], a.Chain[1:], now)
	return err
}

// apart is joined's inverse for certificates.
func apart(ders []byte, most int) ([][]byte, error) {
	certs, err := x509.ParseCertificates(ders)
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 || len(certs) > most {
		return nil, fmt.Errorf("%d certificates", len(certs))
	}
	var all [][]byte
	for _, c := range certs {
		all = append(all, c.Raw)
	}
	return all, nil
}

// Path is the path of the socket that an address names. A Workload API on a TCP port, where nothing guards it, is not taken.
func Path(address string) (string, error) {
	path, ok := strings.CutPrefix(address, unixScheme)
	if !ok || !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: %q", ErrAddress, address)
	}
	return filepath.Clean(path), nil
}

// Follow asks the Workload API at an address for the X.509-SVIDs of this process, and hands over each answer, until ctx ends, the
// other end does, or take fails. It never returns nil.
func Follow(ctx context.Context, address string, take func(*workload.X509SVIDResponse) error) (err error) {
	path, err := Path(address)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(unixScheme+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // who serves the socket is a matter of its path
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return fmt.Errorf("workload API: %w", err)
	}
	defer func() { _ = conn.Close() }() // the stream is over
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, securityHeader, securityValue))
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return fmt.Errorf("workload API: %w", err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("workload API: %w", err)
		}
		if err := take(resp); err != nil {
			return err
		}
	}
}
