package tenancy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

// Tenant is a handle on one tenant of a Model. It reaches that tenant's own things, what is granted to it, and for the
// platform the callers of its shared services; there is no way from it to another tenant. The zero value reaches nothing:
// every accessor returns its zero value.
//
// Slices are copies, which the caller may keep and change.
type Tenant struct{ t *tenant }

// tenant is what a handle can reach. Build fills it, nothing changes it afterwards.
type tenant struct {
	id        identity.TenantID
	mapping   identity.Mapping
	bundle    identity.Bundle
	services  []Service // by name
	workloads []Workload
	imports   []Import
	callers   map[string][]Caller
	rules     map[string][]Rule
	issuers   []identity.TokenIssuer
	askers    []Asker
	life      time.Duration // of connections
	rootLife  time.Duration // 0: without end
	digest    [32]byte

	revocations []Revocation
}

// get spares every accessor its own test for the zero value.
func (t Tenant) get() *tenant {
	if t.t == nil {
		return &tenant{}
	}
	return t.t
}

// ID is who the tenant is.
func (t Tenant) ID() identity.TenantID { return t.get().id }

// IsZero reports whether the handle reaches nothing.
func (t Tenant) IsZero() bool { return t.t == nil }

// Digest covers everything that the handle can reach and nothing else: two handles with the same digest give the same
// answers.
func (t Tenant) Digest() [32]byte { return t.get().digest }

// Mapping reads SPIFFE IDs as the Mesh says.
func (t Tenant) Mapping() identity.Mapping { return t.get().mapping }

// Bundle holds the roots that vouch for the tenant's own workloads.
func (t Tenant) Bundle() identity.Bundle { return t.get().bundle }

// ConnectionLife is how long a sidecar uses a connection to another one. The other side looks at the SVID when the connection
// is made and refuses calls once that one has expired, however often it has been renewed since: so a connection must end
// before the SVID that it was made with, which is renewed at half of its life.
func (t Tenant) ConnectionLife() time.Duration { return t.get().life }

// RootLife is the age at which the tenant's root is to be replaced by another one; 0: never.
func (t Tenant) RootLife() time.Duration { return t.get().rootLife }

// Services are the tenant's own, by name.
func (t Tenant) Services() []Service { return slices.Clone(t.get().services) }

// Service is the tenant's own service of that name.
func (t Tenant) Service(name string) (Service, bool) {
	i, ok := slices.BinarySearchFunc(t.get().services, name, func(s Service, n string) int { return compareText(s.Name(), n) })
	if !ok {
		return Service{}, false
	}
	return t.t.services[i], true
}

// Workloads are the tenant's own accounts that a service names, by SPIFFE ID.
func (t Tenant) Workloads() []Workload { return slices.Clone(t.get().workloads) }

// Imports are the shared services that are granted to the tenant, by name. The platform has none: its own are Services.
func (t Tenant) Imports() []Import { return slices.Clone(t.get().imports) }

// Callers are the tenants whose workloads may be let into the tenant's own service of that name: first the tenant itself,
// then, for a shared service, each tenant that has a Grant, by name. There are none for a service without a port.
func (t Tenant) Callers(service string) []Caller { return slices.Clone(t.get().callers[service]) }

// Rules are the rules of the access policies of the tenant's own service of that name, in the order of their files.
func (t Tenant) Rules(service string) []Rule {
	rules := slices.Clone(t.get().rules[service])
	for i, r := range rules {
		rules[i].From, rules[i].Roles = slices.Clone(r.From), slices.Clone(r.Roles)
		rules[i].Askers = slices.Clone(r.Askers)
		rules[i].Methods, rules[i].Paths = slices.Clone(r.Methods), slices.Clone(r.Paths)
	}
	return rules
}

// Issuers are the token issuers that may assert this tenant, by name, each narrowed to this tenant.
func (t Tenant) Issuers() []identity.TokenIssuer { return slices.Clone(t.get().issuers) }

// Askers are the proxies that may ask about services of the tenant without running them, in the order of the Mesh.
func (t Tenant) Askers() []Asker { return slices.Clone(t.get().askers) }

// TokenMode says what a service does with bearer tokens. The zero value is TokenNone.
type TokenMode uint8

// The modes of tokens.
const (
	// TokenNone: the Authorization header is neither read nor touched.
	TokenNone TokenMode = iota
	// TokenOptional: a token that is there must verify.
	TokenOptional
	// TokenRequired: there must be a token, and it must verify.
	TokenRequired
)

// String is the mode as documents write it.
func (m TokenMode) String() string {
	switch m {
	case TokenNone:
		return "none"
	case TokenOptional:
		return "optional"
	case TokenRequired:
		return "required"
	default:
		return "unknown"
	}
}

// Protocol is what is spoken on a port. The zero value is none.
type Protocol uint8

// The protocols.
const (
	// HTTP is HTTP/1.1 towards the application.
	HTTP Protocol = iota + 1
	// GRPC is HTTP/2 towards the application.
	GRPC
	// TCP is bytes that no proxy reads.
	TCP
)

// String is the protocol as documents write it.
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "HTTP"
	case GRPC:
		return "GRPC"
	case TCP:
		return "TCP"
	default:
		return "unknown"
	}
}

// Proxy says what stands between an Envoy and the control plane. The zero value is ProxyAgent.
type Proxy uint8

// The kinds of proxies.
const (
	// ProxyAgent is an Envoy beside Ringfence's agent, from which it has everything.
	ProxyAgent Proxy = iota
	// ProxyDirect is an Envoy without it: its SVID comes from SPIRE's agent, its configuration straight from the control plane,
	// and it asks `ringfence authz`.
	ProxyDirect
)

// String is the kind as documents write it.
func (p Proxy) String() string {
	switch p {
	case ProxyAgent:
		return "Agent"
	case ProxyDirect:
		return "Direct"
	default:
		return "unknown"
	}
}

// Port is what a service offers.
type Port struct {
	Name string
	// Number is the port that callers name, AppPort where the application listens on loopback.
	Number, AppPort uint16
	Protocol        Protocol
	// ServerFirst says, for TCP, that the application sends the first bytes.
	ServerFirst bool
}

// OutboundTCP is a loopback port of a sidecar that leads to one TCP service.
type OutboundTCP struct {
	Port uint16
	// Shared tells a shared service from one of the tenant's own; Service is its name.
	Shared  bool
	Service string
}

// Service is a service of the tenant that the handle reaches.
type Service struct{ s *service }

type service struct {
	name      string
	owner     identity.TenantID
	ids       []identity.WorkloadID
	port      Port // zero: none
	endpoints []netip.AddrPort
	outbound  uint16
	tcp       []OutboundTCP
	token     TokenMode
	forward   bool
	stream    time.Duration
	servers   []identity.WorkloadID
	epoch     string
	proxy     Proxy

	sensitivity Sensitivity
	routes      []Route
}

func (s Service) get() *service {
	if s.s == nil {
		return &service{}
	}
	return s.s
}

// Name is the service's name, unique within its owner.
func (s Service) Name() string { return s.get().name }

// Owner is the tenant that the service belongs to.
func (s Service) Owner() identity.TenantID { return s.get().owner }

// IDs are the accounts that the service runs as, by SPIFFE ID; never empty.
func (s Service) IDs() []identity.WorkloadID { return slices.Clone(s.get().ids) }

// Port is the port that the service is called at; a mere caller has none.
func (s Service) Port() (Port, bool) { return s.get().port, s.get().port.Number != 0 }

// Endpoints are where its sidecars listen, sorted. There is at least one where there is a port, and several have all the
// same port.
func (s Service) Endpoints() []netip.AddrPort { return slices.Clone(s.get().endpoints) }

// Outbound is the loopback port where its sidecar takes the application's own calls to HTTP and GRPC services.
func (s Service) Outbound() (uint16, bool) { return s.get().outbound, s.get().outbound != 0 }

// OutboundTCP are the loopback ports where its sidecar takes the application's own connections to TCP services, in the
// order of the document. One of the tenant's own exists and speaks TCP; a shared one does so only where the tenant has an
// Import of that name and protocol.
func (s Service) OutboundTCP() []OutboundTCP { return slices.Clone(s.get().tcp) }

// Token says whether a call must carry a bearer token.
func (s Service) Token() TokenMode { return s.get().token }

// Sensitivity is what the service's class of data demands, beyond the token.
func (s Service) Sensitivity() Sensitivity { return s.get().sensitivity.clone() }

// Routes are the parts of the service whose data is of a class of its own, in the order of the document. There are none
// where the service takes TCP connections.
func (s Service) Routes() []Route {
	routes := slices.Clone(s.get().routes)
	for i, r := range routes {
		routes[i] = r.clone()
	}
	return routes
}

// ForwardToken reports whether a shared service's application gets the caller's token.
func (s Service) ForwardToken() bool { return s.get().forward }

// MaxStreamDuration is how long one request may go on; see Tenant.ConnectionLife, which it is where the document says nothing:
// then a stream ends before the SVID that it was opened with, if that is renewed at half of its life, and at the latest so long
// after it.
func (s Service) MaxStreamDuration() time.Duration { return s.get().stream }

// Proxy is what its Envoys have beside them.
func (s Service) Proxy() Proxy { return s.get().proxy }

// Shared reports whether the service is the platform's, so that other tenants may have Grants for it.
func (s Service) Shared() bool { return s.get().owner.IsPlatform() }

// SNI is the server name that sidecars of that tenant send to choose their chain at this service.
func (s Service) SNI(caller identity.TenantID) string {
	return sniLabel(s.get().owner, s.get().name, caller)
}

// Workload is an account of the tenant and what it runs.
type Workload struct {
	id       identity.WorkloadID
	services []Service
}

// ID is the account's SPIFFE ID.
func (w Workload) ID() identity.WorkloadID { return w.id }

// Services are those that name the account, by name; never empty.
func (w Workload) Services() []Service { return slices.Clone(w.services) }

// Proxy is what the account's Envoy has beside it: all its services say the same.
func (w Workload) Proxy() Proxy {
	if len(w.services) == 0 {
		return ProxyAgent
	}
	return w.services[0].Proxy()
}

// Import is a shared service as a tenant that may call it sees it.
type Import struct{ i *imported }

type imported struct {
	name      string
	ids       []identity.WorkloadID
	endpoints []netip.AddrPort
	protocol  Protocol
	bundle    identity.Bundle
	sni       string
	servers   []identity.WorkloadID
	epoch     string
}

func (i Import) get() *imported {
	if i.i == nil {
		return &imported{}
	}
	return i.i
}

// Name is the shared service's name.
func (i Import) Name() string { return i.get().name }

// IDs are the accounts that the service runs as; Servers are those of them that a caller may meet.
func (i Import) IDs() []identity.WorkloadID { return slices.Clone(i.get().ids) }

// Endpoints are where its sidecars listen, sorted.
func (i Import) Endpoints() []netip.AddrPort { return slices.Clone(i.get().endpoints) }

// Protocol is what the service speaks.
func (i Import) Protocol() Protocol { return i.get().protocol }

// Bundle holds the roots that vouch for the service: the platform's.
func (i Import) Bundle() identity.Bundle { return i.get().bundle }

// SNI is the server name by which this tenant's sidecars choose their chain.
func (i Import) SNI() string { return i.get().sni }

// Caller is a tenant whose workloads may be let into a service.
type Caller struct{ c *caller }

type caller struct {
	id      identity.TenantID
	ids     []identity.WorkloadID
	bundle  identity.Bundle
	sni     string
	grants  []Grant
	issuers []identity.TokenIssuer

	revocations []Revocation
	epoch       string
}

func (c Caller) get() *caller {
	if c.c == nil {
		return &caller{}
	}
	return c.c
}

// Tenant is who calls.
func (c Caller) Tenant() identity.TenantID { return c.get().id }

// IDs are the workloads that any rule or Grant can let in, by SPIFFE ID. None means nobody.
func (c Caller) IDs() []identity.WorkloadID { return slices.Clone(c.get().ids) }

// Bundle holds the roots that vouch for the caller's workloads.
func (c Caller) Bundle() identity.Bundle { return c.get().bundle }

// SNI is the server name by which the caller's sidecars choose their chain.
func (c Caller) SNI() string { return c.get().sni }

// Grants are the caller's Grants on the service, by name; none for the own tenant.
func (c Caller) Grants() []Grant {
	grants := slices.Clone(c.get().grants)
	for i, g := range grants {
		grants[i].Methods, grants[i].Paths = slices.Clone(g.Methods), slices.Clone(g.Paths)
	}
	return grants
}

// Issuers are the token issuers that may assert the caller's tenant, by name, each narrowed to it.
func (c Caller) Issuers() []identity.TokenIssuer { return slices.Clone(c.get().issuers) }

// Grant lets a tenant call a shared service until a time.
type Grant struct {
	Name string
	// Methods and Paths say what may be asked for; both are empty for a TCP service, and only there.
	Methods, Paths []string
	// NotAfter is the moment from which on the grant is void.
	NotAfter time.Time
}

// Rule allows calls from within the tenant.
type Rule struct {
	Name, Policy string
	// From are exactly the workloads that may call, by SPIFFE ID.
	From []identity.WorkloadID
	// Askers are the names of the askers through which whoever holds a token of the tenant may call.
	Askers []string
	// Roles are those of which the token must name one; none: no token is asked for by this rule.
	Roles []string
	// Methods and Paths say what may be asked for; both are empty for a TCP service, and only there.
	Methods, Paths []string
	// Pos is where the rule stands: file:line:col.
	Pos string
}
