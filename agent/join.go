package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

const (
	joinTimeout = 10 * time.Second
	maxAnswer   = 1 << 20
)

var errNoToken = errors.New("the state directory holds no valid SVID, and no join token was given")

// identify gives the workload's SVID: the one on disk while it is valid, else a new one from the Workload API or against the join
// token.
func (a *Agent) identify(ctx context.Context) (svid, error) {
	own, ok, err := loadSVID(a.dir, a.config.ID, a.config.Clock())
	switch {
	case ok:
		return own, nil
	case errors.Is(err, errStateDir):
		return svid{}, err // somebody else's
	case a.config.WorkloadAPI != "":
		if err != nil {
			a.log.Warn("the SVID on disk cannot be used", zap.Error(err))
		}
		return a.identifyByAPI(ctx)
	case a.config.JoinToken == "":
		return svid{}, errors.Join(errNoToken, err)
	case err != nil:
		a.log.Warn("the SVID on disk cannot be used, joining anew", zap.Error(err))
	}
	// The key is on the disk before anybody is asked: should this process end before it has the answer, the next one asks again
	// with the same token and the same key, and gets the same SVID.
	key, err := loadKey(a.dir, a.config.Key)
	if errors.Is(err, errKey) {
		aside, moved := a.setAside(keyFile)
		a.log.Error("the key on disk cannot be used; it is set aside and a new one is made",
			zap.Error(err), zap.String("aside", aside), zap.NamedError("rename", moved))
		key, err = loadKey(a.dir, a.config.Key)
	}
	if err != nil {
		return svid{}, err
	}
	wait := newBackoff(backoffMost)
	for {
		own, err := a.join(ctx, key)
		if err == nil {
			return own, own.save(a.dir)
		}
		if !temporary(err) {
			return svid{}, fmt.Errorf("joining: %w", err)
		}
		a.log.Warn("cannot join yet", zap.Error(err))
		if err := wait.sleep(ctx); err != nil {
			return svid{}, err
		}
	}
}

// temporary reports whether asking again may help: the control plane is away or has nothing published yet. A token that
// was refused stays refused.
func temporary(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.FailedPrecondition:
		return true
	default:
		return false
	}
}

// request is a certificate request for the workload's one name and nothing else: the issuer takes no other.
func (a *Agent) request(key *ecdsa.PrivateKey) ([]byte, error) {
	uri, err := url.Parse(a.config.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return csr, nil
}

// ask makes a connection to one of the control plane's listeners for one question. own is the client certificate, nil for
// none.
func (a *Agent) ask(address string, own *tls.Certificate) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(a.anchor.tls(always(own)))),
		grpc.WithNoProxy(), withoutDNSConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	return conn, nil
}

// join asks the issuer once. The key stays here: the request carries its public half.
func (a *Agent) join(ctx context.Context, key *ecdsa.PrivateKey) (svid, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	csr, err := a.request(key)
	if err != nil {
		return svid{}, err
	}
	conn, err := a.ask(a.config.Issuer, nil)
	if err != nil {
		return svid{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way any more
	resp, err := agentv1alpha1.NewIssuerClient(conn).Issue(ctx, &agentv1alpha1.IssueRequest{Csr: csr, JoinToken: a.config.JoinToken})
	if err != nil {
		return svid{}, err
	}
	stored, err := a.storedIdentity(resp)
	if err != nil {
		return svid{}, err
	}
	return newSVID(a.config.ID, key, resp.GetChain(), resp.GetBundle(), stored, a.config.Clock())
}

// storedIdentity is what the control plane says of how the mesh reads SPIFFE IDs.
func (a *Agent) storedIdentity(said interface {
	GetPlatformTrustDomain() string
	GetMapping() []*agentv1alpha1.MappingRule
},
) (storedIdentity, error) {
	stored := storedIdentity{Workload: a.config.ID, PlatformTrustDomain: said.GetPlatformTrustDomain()}
	for _, r := range said.GetMapping() {
		stored.Mapping = append(stored.Mapping, storedRule{TrustDomain: r.GetTrustDomain(), Path: r.GetPath()})
	}
	if stored.PlatformTrustDomain != a.anchor.bundle.TrustDomain().String() {
		return storedIdentity{}, fmt.Errorf("%w: it speaks for platform %q", errNotControlPlane, stored.PlatformTrustDomain)
	}
	return stored, nil
}
