package tenancy

import (
	"path"
	"slices"

	"github.com/ringfence-mesh/ringfence/identity"
)

// IdentityFrom says what names the caller of a call that an asker asks about. The zero value is the strong one.
type IdentityFrom uint8

// What names the caller.
const (
	// FromCertificate: the caller's certificate, verified by who decides.
	FromCertificate IdentityFrom = iota
	// FromPrincipal: the SPIFFE ID that the asking Envoy read from a certificate which it verified itself.
	FromPrincipal
	// FromXFCC: the x-forwarded-client-cert header, which the asking Envoy has made.
	FromXFCC
	// FromToken: the bearer token alone, verified by who decides. Such a caller is no workload.
	FromToken
)

// AskerKey is how an asker is known: the identity of its client certificate, or the path of its own socket. It is
// comparable, and the zero value is nobody's.
type AskerKey struct {
	id     identity.SPIFFEID
	socket string
}

// KeyOfID is the key of who asks with a client certificate.
func KeyOfID(id identity.SPIFFEID) AskerKey { return AskerKey{id: id} }

// KeyOfSocket is the key of who asks through the socket of that path.
func KeyOfSocket(socket string) AskerKey { return AskerKey{socket: socket} }

// ID is the identity of the client certificate, zero for a socket.
func (k AskerKey) ID() identity.SPIFFEID { return k.id }

// Socket is the path of the socket, empty for a certificate.
func (k AskerKey) Socket() string { return k.socket }

// String is the one or the other.
func (k AskerKey) String() string {
	if k.socket != "" {
		return k.socket
	}
	return k.id.String()
}

// IsZero reports whether it is nobody's.
func (k AskerKey) IsZero() bool { return k.id.IsZero() && k.socket == "" }

// Asker is a proxy that is no workload's own and may ask about services, as one tenant sees it: Services are that
// tenant's.
type Asker struct{ a *asker }

type asker struct {
	name     string
	keys     []AskerKey
	from     IdentityFrom
	services []string
}

func (a Asker) get() *asker {
	if a.a == nil {
		return &asker{}
	}
	return a.a
}

// Name is the asker's name, which records show.
func (a Asker) Name() string { return a.get().name }

// Keys are the ways in which it is known: several identities, or one socket.
func (a Asker) Keys() []AskerKey { return slices.Clone(a.get().keys) }

// IdentityFrom says what names the caller when this asker asks.
func (a Asker) IdentityFrom() IdentityFrom { return a.get().from }

// Services are the names of the services that it may ask about: those of the tenant whose handle it came from, and none
// where it came from the Model.
func (a Asker) Services() []string { return slices.Clone(a.get().services) }

// maxSocket leaves room for the directory that a socket is made in before it is put in place.
const maxSocket = 90

// validSocket reports whether everybody reads the path as the same absolute one.
func validSocket(p string) bool {
	for i := range len(p) {
		if p[i] <= ' ' || p[i] > '~' {
			return false
		}
	}
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && len(p) <= maxSocket
}
