package v1alpha1

// The values of Service.Spec.Token.
const (
	TokenNone     = "none"
	TokenOptional = "optional"
	TokenRequired = "required"
)

// The values of Port.Protocol.
const (
	ProtocolHTTP = "HTTP"
	ProtocolGRPC = "GRPC"
	ProtocolTCP  = "TCP"
)

// The values of Port.SpeaksFirst.
const (
	SpeaksFirstClient = "client"
	SpeaksFirstServer = "server"
)

// The values of Service.Spec.Proxy.
const (
	ProxyAgent  = "Agent"
	ProxyDirect = "Direct"
)

// Service is something that calls and is called. In platform/ it is a shared service.
type Service struct {
	Header
	Spec ServiceSpec `json:"spec"`
}

// ServiceSpec is what a Service says.
type ServiceSpec struct {
	Namespace       String   `json:"namespace" jsonschema:"format=name" jsonschema_description:"The namespace that its service accounts are in; one of the tenant's."`
	ServiceAccounts []String `json:"serviceAccounts" jsonschema:"format=name" jsonschema_description:"Who it is. An account may run several Services, a Service several accounts."`
	Token           String   `json:"token,omitempty" jsonschema:"enum=none,enum=optional,enum=required" jsonschema_description:"Whether a call must carry a bearer token, at least what the sensitivity demands. none: the Authorization header is neither read nor touched."`
	Sensitivity     String   `json:"sensitivity,omitempty" jsonschema:"format=name" jsonschema_description:"The class of its data, one that the Mesh names."`
	Routes          []Route  `json:"routes,omitempty" jsonschema_description:"Requests whose data is of a class of its own, which they meet beside the service's."`
	ForwardToken    Bool     `json:"forwardToken,omitempty" jsonschema_description:"Whether a shared service's application gets the caller's token."`
	// MaxStreamDuration bounds requests that go on, such as gRPC watches.
	MaxStreamDuration Duration   `json:"maxStreamDuration,omitempty" jsonschema_description:"How long one request of an HTTP or GRPC service may go on, in whole seconds, at most 12h. Where it is not written a quarter of an SVID's life, at most 5m; a longer stream may outlive the SVID that it was opened with, and then only a revocation ends it."`
	Ports             []Port     `json:"ports,omitempty" jsonschema:"maxItems=1" jsonschema_description:"Where it is called. A caller without ports is a Service too."`
	Endpoints         []Endpoint `json:"endpoints,omitempty" jsonschema_description:"Where its sidecars listen."`
	Outbound          *Outbound  `json:"outbound,omitempty" jsonschema_description:"Where its sidecar takes the application's own calls, on loopback."`
	Proxy             String     `json:"proxy,omitempty" jsonschema:"enum=Agent,enum=Direct" jsonschema_description:"What stands beside its Envoys. Agent: Ringfence's agent; this is so where it is not written. Direct: SPIRE's agent alone; the Envoy speaks to the control plane and to ringfence authz itself. Services that run as one account say the same."`
	Pos               Pos        `json:"-"`
}

// Route is a part of a service whose data is of a class of its own.
type Route struct {
	Methods     []String `json:"methods,omitempty" jsonschema_description:"HTTP methods, in capitals; every method where none is written."`
	Paths       []String `json:"paths" jsonschema_description:"Path patterns: * is one segment, ** (last) any number."`
	Sensitivity String   `json:"sensitivity" jsonschema:"format=name" jsonschema_description:"The class of its data, one that the Mesh names."`
	Pos         Pos      `json:"-"`
}

// Port is what a service offers.
type Port struct {
	Name        String `json:"name" jsonschema:"format=name"`
	Port        Int    `json:"port" jsonschema:"minimum=1,maximum=65535" jsonschema_description:"The port that callers name."`
	Protocol    String `json:"protocol" jsonschema:"enum=HTTP,enum=GRPC,enum=TCP" jsonschema_description:"What is spoken: HTTP towards the application is HTTP/1.1, GRPC is HTTP/2, TCP is bytes that nobody reads on the way."`
	SpeaksFirst String `json:"speaksFirst,omitempty" jsonschema:"enum=client,enum=server" jsonschema_description:"For TCP: who sends the first bytes; client where it is not written. With client the application sees no connection before the decision point has allowed it."`
	AppPort     Int    `json:"appPort" jsonschema:"minimum=1,maximum=65535" jsonschema_description:"Where the application listens, on loopback."`
	Pos         Pos    `json:"-"`
}

// Endpoint is an address that a sidecar of the service listens on.
type Endpoint struct {
	Address String `json:"address" jsonschema_description:"An IP address."`
	Port    Int    `json:"port" jsonschema:"minimum=1,maximum=65535"`
	Pos     Pos    `json:"-"`
}

// Outbound is where the sidecar takes the application's own calls.
type Outbound struct {
	Port Int           `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535" jsonschema_description:"A port on loopback: an HTTP proxy for calls to HTTP and GRPC services."`
	TCP  []OutboundTCP `json:"tcp,omitempty" jsonschema_description:"Ports on loopback that lead to TCP services, one for each."`
	Pos  Pos           `json:"-"`
}

// OutboundTCP is a loopback port that leads to one TCP service.
type OutboundTCP struct {
	Port    Int    `json:"port" jsonschema:"minimum=1,maximum=65535" jsonschema_description:"A port on loopback."`
	Service String `json:"service" jsonschema_description:"A TCP service of the same owner, or platform/SERVICE: a shared one that is granted to the tenant."`
	Pos     Pos    `json:"-"`
}
