package extauthz

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Asker says whose proxy asks. Who is not known gets no answer, because answers tell who may call whom.
type Asker interface {
	Asker(ctx context.Context) (Asking, error)
}

// Fixed is the Asker of a socket that only one workload's proxy can open.
func Fixed(w identity.WorkloadID) Asker { return fixed{w} }

type fixed struct{ w identity.WorkloadID }

func (f fixed) Asker(context.Context) (Asking, error) { return Own(f.w), nil }

// FixedKey is the Asker of the socket of an asker that the Mesh names.
func FixedKey(key tenancy.AskerKey) Asker { return fixedKey{key} }

type fixedKey struct{ key tenancy.AskerKey }

func (f fixedKey) Asker(context.Context) (Asking, error) { return Named(f.key), nil }

// First is the Asker that believes the first of several that knows who asks.
func First(askers ...Asker) Asker { return first(askers) }

type first []Asker

func (f first) Asker(ctx context.Context) (Asking, error) {
	var errs []error
	for _, a := range f {
		who, err := a.Asker(ctx)
		if err == nil && !who.IsZero() {
			return who, nil
		}
		errs = append(errs, err)
	}
	return Asking{}, errors.Join(errs...)
}

// Unrevoked is an Asker that knows nobody of whom revoked is told true: a SPIFFE ID, empty for an asker that has none, and the
// serial number of the certificate that the connection was made with, in lower-case hex, empty for a socket. It is asked about
// each check, so a connection that is open is worth nothing once its certificate or workload is revoked.
func Unrevoked(a Asker, revoked func(id, serial string) bool) Asker { return unrevoked{a, revoked} }

type unrevoked struct {
	asker   Asker
	revoked func(id, serial string) bool
}

var errRevoked = errors.New("the asker is revoked")

func (u unrevoked) Asker(ctx context.Context) (Asking, error) {
	who, err := u.asker.Asker(ctx)
	if err != nil {
		return Asking{}, err
	}
	id, serial := who.workload.String(), ""
	if who.named() {
		id = who.key.ID().String()
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			const hex = 16
			serial = info.State.PeerCertificates[0].SerialNumber.Text(hex)
		}
	}
	if u.revoked(id, serial) {
		return Asking{}, errRevoked
	}
	return who, nil
}

// maxAskers is how many proxies' certificates are remembered, at most twice as many.
const maxAskers = 1024

// Verifiers gives the verifier in force, and a text that changes with it.
type Verifiers func() (v identity.Verifier, version string)

// FromTLS is the Asker of a listener with mutual TLS: the SVID of the connection's other end, verified against the roots of
// its own trust domain.
func FromTLS(verifier Verifiers, clock func() time.Time) Asker {
	prove := func(v identity.Verifier, leaf []byte, intermediates [][]byte, now time.Time) (Asking, time.Time, error) {
		p, err := v.VerifyLeaf(leaf, intermediates, now)
		return Own(p.ID()), p.NotAfter(), err
	}
	return &fromTLS{verifier: verifier, prove: prove, clock: clock, known: cache[digest, Asking]{limit: maxAskers}}
}

var errTooMany = errors.New("the asker holds too many connections")

var errNotNamed = errors.New("the Mesh names no such asker")

// NamedFromTLS is the Asker of the same listener for askers that the Mesh names, whose certificates may be of any trust
// domain that the verifier has roots of.
func NamedFromTLS(verifier Verifiers, names func(tenancy.AskerKey) bool, clock func() time.Time) Asker {
	prove := func(v identity.Verifier, leaf []byte, intermediates [][]byte, now time.Time) (Asking, time.Time, error) {
		id, until, err := v.VerifyID(leaf, intermediates, now)
		return Named(tenancy.KeyOfID(id)), until, err
	}
	return &fromTLS{verifier: verifier, prove: prove, names: names, clock: clock, known: cache[digest, Asking]{limit: maxAskers}}
}

type fromTLS struct {
	verifier Verifiers
	prove    func(v identity.Verifier, leaf []byte, intermediates [][]byte, now time.Time) (Asking, time.Time, error)
	names    func(tenancy.AskerKey) bool // nil: everybody who is proved may ask
	clock    func() time.Time
	known    cache[digest, Asking]
}

var errNoCertificate = errors.New("the connection has no client certificate")

func (f *fromTLS) Asker(ctx context.Context) (Asking, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Asking{}, errNoCertificate
	}
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	chain := info.State.PeerCertificates
	if len(chain) == 0 {
		return Asking{}, errNoCertificate
	}
	if f.names != nil && !f.named(chain[0]) {
		return Asking{}, errNotNamed
	}
	v, version := f.verifier()
	fields := [][]byte{[]byte(version)}
	for _, c := range chain {
		fields = append(fields, c.Raw)
	}
	now := f.clock()
	k := key(fields...)
	who, known := f.known.get(k, now)
	if !known {
		var (
			until time.Time
			err   error
		)
		if who, until, err = f.prove(v, fields[1], fields[2:], now); err != nil {
			return Asking{}, err
		}
		f.known.put(k, who, time.Time{}, until)
	}
	return who, nil
}

// named reports whether the certificate, which is not verified yet, would be one of an asker.
func (f *fromTLS) named(leaf *x509.Certificate) bool {
	uri, err := identity.URISAN(leaf)
	if err != nil {
		return false
	}
	id, err := identity.ParseSPIFFEID(uri)
	return err == nil && f.names(tenancy.KeyOfID(id))
}
