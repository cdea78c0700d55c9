package tenancy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Kind is what a resource name is the name of.
type Kind string

// The kinds of resources that are made for a tenant.
const (
	// KindInbound is the listener of a service; part: the service.
	KindInbound Kind = "inbound"
	// KindOutbound is a listener for an application's own calls; part: the service whose outbound port it is.
	KindOutbound Kind = "outbound"
	// KindTCP is a listener for an application's own connections to one TCP service; parts: the service whose port it is,
	// the destination's owner and the destination.
	KindTCP Kind = "tcp"
	// KindCallers is the route configuration of an inbound chain, and at a TCP service the secret that verifies its callers;
	// parts: the service and the caller's tenant.
	KindCallers Kind = "callers"
	// KindRoutes is the route configuration of an outbound listener; part: the service whose outbound port it is.
	KindRoutes Kind = "routes"
	// KindService is the cluster to a service of the tenant's own; part: the service.
	KindService Kind = "service"
	// KindImport is the cluster to a shared service; part: the service.
	KindImport Kind = "import"
	// KindApp is the cluster to the application on loopback; part: the service.
	KindApp Kind = "app"
)

// parts is how many parts a name of the kind has; 0 for an unknown kind.
func (k Kind) parts() int {
	switch k {
	case KindInbound, KindOutbound, KindRoutes, KindService, KindImport, KindApp:
		return 1
	case KindCallers:
		return 2
	case KindTCP:
		return 3
	default:
		return 0
	}
}

// ErrResourceName says that a text is no name that Tenant.ResourceName makes.
var ErrResourceName = errors.New("not a resource name")

// ResourceName is the name of one of the tenant's resources, kind/tenant/part…. Names are of identity.ValidName's
// grammar, which has no slash, so different things never share a name. For the zero Tenant, an unknown kind or parts that
// are no names it is empty, which nothing accepts as a name.
func (t Tenant) ResourceName(kind Kind, parts ...string) string {
	if t.t == nil || !validParts(kind, parts) {
		return ""
	}
	return strings.Join(append([]string{string(kind), t.t.id.Name()}, parts...), "/")
}

// ParseResourceName takes a name apart that ResourceName made; every other text is an error.
func ParseResourceName(s string) (kind Kind, tenant string, parts []string, err error) {
	f := strings.Split(s, "/")
	if len(f) < 3 || !identity.ValidName(f[1]) || !validParts(Kind(f[0]), f[2:]) {
		return "", "", nil, ErrResourceName
	}
	return Kind(f[0]), f[1], f[2:], nil
}

func validParts(kind Kind, parts []string) bool {
	if len(parts) == 0 || len(parts) != kind.parts() {
		return false
	}
	for _, p := range parts {
		if !identity.ValidName(p) {
			return false
		}
	}
	return true
}

const sniDomain = "mesh.internal"

// sniLabel is the server name by which a caller's sidecar chooses the chain of its tenant at a service. It is opaque, so
// that who listens on the wire learns no names, but no secret: the certificate decides who is let in.
func sniLabel(owner identity.TenantID, service string, caller identity.TenantID) string {
	if owner.IsZero() || caller.IsZero() {
		return ""
	}
	h := sha256.New()
	for _, s := range []string{"ringfence-sni/1", owner.Name(), service, caller.Name()} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return fmt.Sprintf("%s.%s", hex.EncodeToString(h.Sum(nil))[:32], sniDomain)
}
