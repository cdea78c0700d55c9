package v1alpha1

import "slices"

// APIVersion is the one version of documents that this package reads. A document that names none is of this version.
const APIVersion = "ringfence.dev/v1alpha1"

// Kind is the kind of a document.
type Kind string

// The kinds that this release builds.
const (
	KindMesh         Kind = "Mesh"
	KindTenant       Kind = "Tenant"
	KindTokenIssuer  Kind = "TokenIssuer"
	KindService      Kind = "Service"
	KindGrant        Kind = "Grant"
	KindAccessPolicy Kind = "AccessPolicy"
	KindRevocation   Kind = "Revocation"
	KindAccessTest   Kind = "AccessTest"
)

// Document is one of *Mesh, *Tenant, *TokenIssuer, *Service, *Grant, *AccessPolicy, *Revocation and *AccessTest.
type Document interface {
	// Head is what every document has.
	Head() Header
	header() *Header
}

// Header is what every document has.
//
//nolint:recvcheck // only a pointer is a Document, and what Head returns is a copy that needs methods too
type Header struct {
	APIVersion String   `json:"apiVersion,omitempty" jsonschema:"enum=ringfence.dev/v1alpha1" jsonschema_description:"The version of this document; ringfence.dev/v1alpha1 where it is not written."`
	Kind       String   `json:"kind" jsonschema_description:"What this document describes."`
	Metadata   Metadata `json:"metadata"`
	Pos        Pos      `json:"-"`

	problems []Problem
}

// Metadata names a document.
type Metadata struct {
	Name String   `json:"name" jsonschema:"format=name" jsonschema_description:"The name, unique for its kind and owner: lower-case letters, digits and inner hyphens, at most 63."`
	_    struct{} `notyet:"namespace"`
	_    struct{} `notyet:"labels"`
	_    struct{} `notyet:"annotations"`
	Pos  Pos      `json:"-"`
}

// Head is what every document has.
func (h *Header) Head() Header { return *h }

func (h *Header) header() *Header { return h }

// Owner is the owner of the document, from the path of its file.
func (h Header) Owner() string { return h.Pos.Owner() }

// Name is the document's own name.
func (h Header) Name() String { return h.Metadata.Name }

// Problems are those that Decode found in this document. A document that has any is not whole: it says that something of
// that name was meant, so that references to it need not be reported as well, and nothing may be built from it.
func (h Header) Problems() []Problem { return slices.Clone(h.problems) }

// Mesh is the one document about the mesh as a whole: how SPIFFE IDs name tenants, and what classes of data demand.
type Mesh struct {
	Header
	Spec MeshSpec `json:"spec"`
}

// MeshSpec is what a Mesh says.
type MeshSpec struct {
	Identities          []IdentityRule `json:"identities" jsonschema_description:"How a SPIFFE ID names a tenant. The first rule that matches counts; no match: refused."`
	PlatformTrustDomain String         `json:"platformTrustDomain" jsonschema_description:"The trust domain of the platform's own identities."`
	Askers              []Asker        `json:"askers,omitempty" jsonschema_description:"Who may ask the ext_authz server, besides the proxies of the workloads themselves."`
	Operators           []Operator     `json:"operators,omitempty" jsonschema_description:"Who may look at the sidecars of tenants through the control plane. Everybody else sees its own sidecar only."`
	RootLife            Duration       `json:"rootLife,omitempty" jsonschema_description:"The age at which a tenant's root is replaced, by a rotation that begins by itself, where the Tenant says nothing; for example 90d. Never where it is not written."`
	// Sensitivity are the classes by name.
	Sensitivity map[string]Sensitivity `json:"sensitivity,omitempty" jsonschema_description:"Classes of data by name, and what each demands of a call. A Service names one of them."`
	Pos         Pos                    `json:"-"`
}

// Sensitivity is a class of data: what a call must bring to a Service that names it.
type Sensitivity struct {
	Name       String   `json:"-"` // the key that the class stands under
	Token      String   `json:"token,omitempty" jsonschema:"enum=optional,enum=required" jsonschema_description:"The least that a Service of this class says of bearer tokens; where the Service says nothing, this counts."`
	ACR        []String `json:"acr,omitempty" jsonschema_description:"Authentication context classes of which the token's acr must be one; the most preferred first."`
	AMR        []String `json:"amr,omitempty" jsonschema_description:"Authentication methods that the token's amr must all name."`
	MaxAuthAge Duration `json:"maxAuthAge,omitempty" jsonschema_description:"How long ago the user may have authenticated (the token's auth_time), in whole seconds."`
	Pos        Pos      `json:"-"`
}

// IdentityRule is one shape of SPIFFE ID.
type IdentityRule struct {
	TrustDomain String `json:"trustDomain" jsonschema_description:"The trust domain; one of its labels may be {tenant}."`
	Path        String `json:"path" jsonschema_description:"The path; whole segments may be {tenant}, {namespace} and {serviceAccount}."`
	Pos         Pos    `json:"-"`
}

// The values of Asker.IdentityFrom.
const (
	IdentityFromCertificate = "certificate"
	IdentityFromPrincipal   = "principal"
	IdentityFromXFCC        = "xfcc"
	IdentityFromToken       = "token"
)

// Asker is a proxy that is no workload's own and may ask about some services: a gateway, or an Envoy of another mesh.
type Asker struct {
	Name         String   `json:"name" jsonschema:"format=name" jsonschema_description:"The name that records show."`
	SPIFFEIDs    []String `json:"spiffeIDs,omitempty" jsonschema_description:"The SPIFFE IDs of the client certificates that it asks with, of any trust domain."`
	Socket       String   `json:"socket,omitempty" jsonschema_description:"The absolute path of a Unix socket that it alone can open, instead of spiffeIDs."`
	IdentityFrom String   `json:"identityFrom,omitempty" jsonschema:"enum=certificate,enum=principal,enum=xfcc,enum=token" jsonschema_description:"What says who calls: the caller's certificate, verified here; or, weaker, what the asker says of it: principal is Envoy's source.principal, xfcc the header x-forwarded-client-cert; or the bearer token alone: token, for an ingress."`
	Services     []String `json:"services" jsonschema_description:"The services that it may ask about, as tenant/service."`
	Pos          Pos      `json:"-"`
}

// AllTenants in Operator.Tenants stands for every tenant, and for the platform.
const AllTenants = "*"

// Operator is somebody who may look at the sidecars of some tenants: what they were sent, acknowledged and refused.
type Operator struct {
	Name      String   `json:"name" jsonschema:"format=name" jsonschema_description:"The name that problems show."`
	SPIFFEIDs []String `json:"spiffeIDs" jsonschema_description:"The SPIFFE IDs of the client certificates that it shows, of this mesh."`
	Tenants   []String `json:"tenants" jsonschema_description:"The tenants that it may look at; platform is the platform, * everything."`
	Pos       Pos      `json:"-"`
}

// Tenant says that a tenant exists.
type Tenant struct {
	Header
	Spec TenantSpec `json:"spec"`
}

// TenantSpec is what a Tenant says.
type TenantSpec struct {
	Namespaces []String `json:"namespaces" jsonschema:"format=name" jsonschema_description:"The namespaces that are this tenant's alone."`
	State      String   `json:"state,omitempty" jsonschema:"enum=Active" notyet:"Quarantined,Draining" jsonschema_description:"Whether the tenant may call and be called."`
	RootLife   Duration `json:"rootLife,omitempty" jsonschema_description:"The age at which the tenant's root is replaced, by a rotation that begins by itself; 0s for never. What the Mesh says where it is not written."`
	_          struct{} `notyet:"hosts"`
	_          struct{} `notyet:"quota"`
	Pos        Pos      `json:"-"`
}

// TokenIssuer says whose bearer tokens are believed, and of which tenants they may speak.
type TokenIssuer struct {
	Header
	Spec TokenIssuerSpec `json:"spec"`
}

// FormatSVID is the format of a TokenIssuer of JWT-SVIDs.
const FormatSVID = "jwt-svid"

// TokenIssuerSpec is what a TokenIssuer says.
type TokenIssuerSpec struct {
	Format      String    `json:"format,omitempty" jsonschema:"enum=jwt,enum=jwt-svid" jsonschema_description:"What it signs: jwt (where it is not written), tokens of users; or jwt-svid, JWT-SVIDs of the workloads of one tenant."`
	Issuer      String    `json:"issuer,omitempty" jsonschema_description:"The iss claim of its tokens, an https URL; needed but for jwt-svid, which has none."`
	JWKS        JWKS      `json:"jwks" jsonschema_description:"Where its public keys are."`
	Audiences   []String  `json:"audiences" jsonschema_description:"The audiences of which a token must name one."`
	Tenants     []String  `json:"tenants" jsonschema:"format=name" jsonschema_description:"The only tenants that it may assert."`
	Claims      *ClaimMap `json:"claims,omitempty" jsonschema_description:"Which claims hold the tenant and the roles; not for jwt-svid, where the SPIFFE ID in sub says the tenant."`
	MaxLifetime Duration  `json:"maxLifetime,omitempty" jsonschema_description:"The longest life of a token; 15m where it is not written."`
	Pos         Pos       `json:"-"`
}

// JWKS says where an issuer's public keys are: in File or at URI.
type JWKS struct {
	File String `json:"file,omitempty" jsonschema_description:"A file beside this document that holds the JSON Web Key Set: public keys only."`
	URI  String `json:"uri,omitempty" jsonschema_description:"The https URL at which the issuer publishes its JSON Web Key Set; in place of file."`
	Pos  Pos    `json:"-"`
}

// ClaimMap says which claims of a token are read.
type ClaimMap struct {
	Tenant String `json:"tenant,omitempty" jsonschema_description:"The claim that names the tenant; tenant where it is not written."`
	Roles  String `json:"roles,omitempty" jsonschema_description:"The claim that lists the roles; roles where it is not written."`
	Pos    Pos    `json:"-"`
}

// Grant is a tenant's claim on a shared service, until a time.
type Grant struct {
	Header
	Spec GrantSpec `json:"spec"`
}

// GrantSpec is what a Grant says.
type GrantSpec struct {
	Tenant   String `json:"tenant" jsonschema:"format=name" jsonschema_description:"The tenant that may call."`
	Service  String `json:"service" jsonschema:"format=name" jsonschema_description:"The shared service that it may call."`
	To       *To    `json:"to,omitempty" jsonschema_description:"What it may ask for; left out for a TCP service, and only there."`
	NotAfter Time   `json:"notAfter" jsonschema_description:"The moment from which on the grant is void."`
	Pos      Pos    `json:"-"`
}

// To says which requests are meant.
type To struct {
	Methods []String `json:"methods" jsonschema_description:"HTTP methods, in capitals. gRPC is POST."`
	Paths   []String `json:"paths" jsonschema_description:"Path patterns: * is one segment, ** (last) any number."`
	Pos     Pos      `json:"-"`
}

// AccessPolicy says who may call a service. Nothing is allowed that no rule allows.
type AccessPolicy struct {
	Header
	Spec AccessPolicySpec `json:"spec"`
}

// AccessPolicySpec is what an AccessPolicy says.
type AccessPolicySpec struct {
	Service String `json:"service" jsonschema:"format=name" jsonschema_description:"The service of the same owner that the rules are about."`
	Rules   []Rule `json:"rules" jsonschema_description:"The calls that are allowed."`
	Pos     Pos    `json:"-"`
}

// Rule allows some calls.
type Rule struct {
	Name String   `json:"name" jsonschema:"format=name" jsonschema_description:"The name that decisions and logs show."`
	From From     `json:"from" jsonschema_description:"Who may call. Without services and askers: every workload of the tenant."`
	To   *To      `json:"to,omitempty" jsonschema_description:"What may be asked for; left out for a TCP service, and only there."`
	_    struct{} `notyet:"when"`
	Pos  Pos      `json:"-"`
}

// From says which callers are meant.
type From struct {
	Services []String `json:"services,omitempty" jsonschema_description:"Services of the same owner; every workload of the owner where neither services nor askers are written."`
	Askers   []String `json:"askers,omitempty" jsonschema:"format=name" jsonschema_description:"Askers of the Mesh with identityFrom: token: whoever calls through one of them with a token of the owner's tenant."`
	Roles    []String `json:"roles,omitempty" jsonschema:"format=name" jsonschema_description:"Roles of which the caller's token must name one."`
	Pos      Pos      `json:"-"`
}

// Revocation refuses calls of one workload, certificate, token, subject or session, whatever else allows them.
type Revocation struct {
	Header
	Spec RevocationSpec `json:"spec"`
}

// RevocationSpec is what a Revocation says: one of Workload, Certificate and Token.
type RevocationSpec struct {
	Workload    String              `json:"workload,omitempty" jsonschema_description:"The SPIFFE ID of a workload: its calls, and JWT-SVIDs that name it."`
	Certificate *RevokedCertificate `json:"certificate,omitempty" jsonschema_description:"One certificate."`
	Token       *RevokedToken       `json:"token,omitempty" jsonschema_description:"One token, or all of a subject or session."`
	Tenant      String              `json:"tenant,omitempty" jsonschema_description:"In platform/, and with token: the tenant whose tokens are meant; every tenant's where it is not written."`
	Reason      String              `json:"reason" jsonschema_description:"Why, for people."`
	NotAfter    Time                `json:"notAfter" jsonschema_description:"The moment from which on it no longer holds."`
	Pos         Pos                 `json:"-"`
}

// RevokedCertificate names a certificate.
type RevokedCertificate struct {
	TrustDomain String `json:"trustDomain" jsonschema_description:"The trust domain of the certificate's SPIFFE ID."`
	Serial      String `json:"serial" jsonschema_description:"Its serial number in hex, with or without colons, in quotes."`
	Pos         Pos    `json:"-"`
}

// RevokedToken names tokens by one of their claims: one of JTI, Subject and Session.
type RevokedToken struct {
	Issuer  String `json:"issuer,omitempty" jsonschema_description:"The iss of the tokens; any issuer of the tenant where it is not written."`
	JTI     String `json:"jti,omitempty" jsonschema_description:"The jti of one token."`
	Subject String `json:"subject,omitempty" jsonschema_description:"The sub of all tokens of one user."`
	Session String `json:"session,omitempty" jsonschema_description:"The sid of all tokens of one session."`
	Pos     Pos    `json:"-"`
}
