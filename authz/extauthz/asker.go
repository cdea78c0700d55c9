package extauthz

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Asker says which workload's proxy asks. Who is not known gets no answer, because answers tell who may call whom.
type Asker interface {
	Asker(ctx context.Context) (identity.WorkloadID, error)
}

// Fixed is the Asker of a socket that only one workload's proxy can open.
func Fixed(w identity.WorkloadID) Asker { return fixed{w} }

type fixed struct{ w identity.WorkloadID }

func (f fixed) Asker(context.Context) (identity.WorkloadID, error) { return f.w, nil }

// maxAskers is how many proxies' certificates are remembered, at most twice as many.
const maxAskers = 1024

// FromTLS is the Asker of a listener with mutual TLS: the SVID of the connection's other end, verified against the roots of
// its own trust domain. verifier gives the one in force and a text that changes with it.
func FromTLS(verifier func() (v identity.Verifier, version string), clock func() time.Time) Asker {
	return &fromTLS{verifier: verifier, clock: clock, peers: cache[identity.Peer]{limit: maxAskers}}
}

type fromTLS struct {
	verifier func() (identity.Verifier, string)
	clock    func() time.Time
	peers    cache[identity.Peer]
}

var errNoCertificate = errors.New("the connection has no client certificate")

func (f *fromTLS) Asker(ctx context.Context) (identity.WorkloadID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.WorkloadID{}, errNoCertificate
	}
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	chain := info.State.PeerCertificates
	if len(chain) == 0 {
		return identity.WorkloadID{}, errNoCertificate
	}
	v, version := f.verifier()
	fields := [][]byte{[]byte(version)}
	for _, c := range chain {
		fields = append(fields, c.Raw)
	}
	now := f.clock()
	k := key(fields...)
	proved, known := f.peers.get(k, now)
	if !known {
		var err error
		if proved, err = v.VerifyLeaf(fields[1], fields[2:], now); err != nil {
			return identity.WorkloadID{}, err
		}
		f.peers.put(k, proved, proved.NotAfter())
	}
	return proved.ID(), nil
}
