package v1alpha1

// Code is the stable name of a kind of problem, RF and four digits.
type Code string

// The problems of reading one file.
const (
	CodeFileTooLarge  Code = "RF1001"
	CodeBadText       Code = "RF1002"
	CodeSyntax        Code = "RF1003"
	CodeTooComplex    Code = "RF1004"
	CodeRefusedYAML   Code = "RF1005"
	CodeDuplicateKey  Code = "RF1006"
	CodeWrongType     Code = "RF1007"
	CodeUnknownField  Code = "RF1008"
	CodeMissingField  Code = "RF1009"
	CodeBadValue      Code = "RF1010"
	CodeAPIVersion    Code = "RF1011"
	CodeUnknownKind   Code = "RF1012"
	CodeNotYet        Code = "RF1013"
	CodeMisplacedFile Code = "RF1014"
	CodeMoreProblems  Code = "RF1015"
	CodeUnreadable    Code = "RF1016"
	CodeMisplacedTest Code = "RF1017"
)

// The problems of the documents together.
const (
	CodeNoMesh            Code = "RF2001"
	CodeDuplicateDocument Code = "RF2002"
	CodeBadName           Code = "RF2003"
	CodeReservedName      Code = "RF2004"
	CodeNotYours          Code = "RF2005"
	CodeUndeclaredTenant  Code = "RF2006"
	CodeUnknownReference  Code = "RF2007"
	CodeIdentityRule      Code = "RF2008"
	CodeIdentityClash     Code = "RF2009"
	CodeNamespaceClash    Code = "RF2010"
	CodeNoBundle          Code = "RF2011"
	CodePort              Code = "RF2012"
	CodeAddress           Code = "RF2013"
	CodeEndpointClaimed   Code = "RF2014"
	CodePortClash         Code = "RF2015"
	CodeIncompleteService Code = "RF2016"
	CodeNoEffect          Code = "RF2017"
	CodeRepeated          Code = "RF2018"
	CodeMethod            Code = "RF2019"
	CodePath              Code = "RF2020"
	CodeRolesWithoutToken Code = "RF2021"
	CodeNoPorts           Code = "RF2022"
	CodeIssuerURL         Code = "RF2023"
	CodeIssuerClash       Code = "RF2024"
	CodeKeySet            Code = "RF2025"
	CodeClaim             Code = "RF2026"
	CodeAsker             Code = "RF2027"
	CodeAskerClash        Code = "RF2028"
	CodeTooMuch           Code = "RF2029"
	CodeNotOfTCP          Code = "RF2030"
	CodeNotTCP            Code = "RF2031"
	CodeSensitivity       Code = "RF2040"
	CodeOperator          Code = "RF2050"
	CodeRevocation        Code = "RF2060"
	CodeStreams           Code = "RF2061"
	CodeTwoProxies        Code = "RF2080"
)

// What is accepted and weaker or emptier than it looks: ringfence validate says it, and nothing is refused for it.
const (
	CodeWeakAsker Code = "RF2501"
	CodeIdleAsker Code = "RF2502"
	CodeNoCaller  Code = "RF2503"
	CodeIdleRule  Code = "RF2504"
	CodeIdlePort  Code = "RF2505"

	CodeLongStreams Code = "RF2506"
	CodeSharedRoot  Code = "RF2580"
)

// CodeInternal is a fault of Ringfence itself: documents that were accepted cannot be compiled.
const CodeInternal Code = "RF3001"

// CodeInfo explains a Code.
type CodeInfo struct {
	Code Code
	// Title is the problem in a few words, Meaning says why it is one, Fix what to do.
	Title, Meaning, Fix string
}

// Codes lists every Code in order, with its explanation; docs/problems.md is this table.
func Codes() []CodeInfo {
	return []CodeInfo{
		{CodeFileTooLarge, "file too large", "A file of documents is at most 1 MiB, so that one owner cannot keep the others waiting.", "Split it into several files."},
		{CodeBadText, "not plain text", "A file is UTF-8 without NUL, control characters, tabs, lone carriage returns and characters that change the direction of text: people and all programs must read the same.", "Remove the character that the position points at."},
		{CodeSyntax, "not YAML", "The text is not valid YAML, or YAML readers read it differently (texts over several lines, colons without a space, a value in another line than its key), so this document was not read.", "Correct the place that the position points at; often it is the line before. Quote texts, and keep each in one line."},
		{CodeTooComplex, "too deep or too long", "Nesting, line length, blank lines and the number of keys of one mapping are bounded, so that the time to read a file is.", "Write it flatter; no document needs that much."},
		{CodeRefusedYAML, "YAML feature that is not taken", "Anchors, aliases, merge keys, tags, directives, complex keys and blocks of text make a document say what cannot be seen in its place.", "Write the value out."},
		{CodeDuplicateKey, "key written twice", "YAML readers differ in which of two equal keys counts.", "Keep one of them."},
		{CodeWrongType, "wrong type", "A field holds another type of value than it takes. Words that YAML 1.1 and 1.2 read differently (yes, no, on, off) are no texts without quotes.", "Write the type that the text names; quote texts that look like numbers or truth values."},
		{CodeUnknownField, "unknown field", "No field of that name exists here. It is refused because an ignored field is a wish that nobody fulfils.", "Correct the name, or remove the field."},
		{CodeMissingField, "missing field", "A field that must be written is not.", "Add the field."},
		{CodeBadValue, "value not accepted", "The value is of the right type but not one that the field takes.", "Use one of the values that the text names."},
		{CodeAPIVersion, "unknown apiVersion", "Documents of another version are not read: they could mean something else.", "Write apiVersion: ringfence.dev/v1alpha1."},
		{CodeUnknownKind, "unknown kind", "No documents of that kind exist.", "Correct the kind."},
		{CodeNotYet, "not yet", "The interface knows this, but this release does not build it. It is refused because ignoring it would promise what nobody keeps.", "Remove it, or wait for the release that builds it."},
		{CodeMisplacedFile, "file belongs to nobody", "Documents lie in mesh.yaml, platform/ and tenants/<tenant>/, policy tests in tests/; the path says whose they are. tenants/platform is nobody's: the name is reserved.", "Move the file."},
		{CodeMoreProblems, "more problems", "The file has more problems than are listed.", "Correct the listed ones first."},
		{CodeUnreadable, "cannot be read", "A file is regular, within its owner's directory also where it is a link, and an owner has at most 1,000 files of 32 MiB together.", "See the text: mend the link, or remove or move what is too much."},
		{CodeMisplacedTest, "test out of its place", "AccessTest documents lie in tests/ (the platform's) and tenants/<tenant>/tests/ (that tenant's), and nothing else does: what lies there is never served, and never keeps anything from being served.", "Move the document."},

		{CodeNoMesh, "not one Mesh", "There is exactly one Mesh document: it says how SPIFFE IDs name tenants.", "Write it in mesh.yaml, and only there."},
		{CodeDuplicateDocument, "document written twice", "Two documents of one owner have the same kind and name.", "Rename or remove one of them."},
		{CodeBadName, "name outside the grammar", "Names are `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`: they become parts of identities, hosts and resource names.", "Use lower-case letters, digits and inner hyphens, at most 63 characters."},
		{CodeReservedName, "reserved name", "platform is the owner of the shared services and ringfence-system the namespace of the control plane; nobody else may bear these names.", "Choose another name."},
		{CodeNotYours, "not yours", "Documents below tenants/<tenant>/ can only speak of that tenant: its namespaces, its services, its identities. Mesh, Tenant, TokenIssuer and Grant are the platform's.", "Name something of your own, or ask the platform's team."},
		{CodeUndeclaredTenant, "directory of no tenant", "No Tenant document in platform/ declares the tenant of this directory, so nothing in it counts.", "Ask the platform's team for a Tenant document, or remove the directory."},
		{CodeUnknownReference, "no such thing", "The document names a service, tenant or file that is not there.", "Correct the name, or add what it names."},
		{CodeIdentityRule, "identity rule not accepted", "A rule of the Mesh cannot say without doubt which tenant a SPIFFE ID names.", "See the text; {tenant} and {serviceAccount} each stand once, the trust domain is in lower case."},
		{CodeIdentityClash, "one identity for two", "Two owners, or two service accounts, would bear the same SPIFFE ID, and nobody could tell them apart.", "Give the rules of the Mesh a {namespace}, or rename the account."},
		{CodeNamespaceClash, "namespace of two tenants", "A namespace belongs to one tenant.", "Remove it from one of them."},
		{CodeNoBundle, "no trust bundle", "There are no roots for a trust domain, so nobody in it could be believed.", "See why the issuer has no roots for the trust domain."},
		{CodePort, "not a port", "A port is 1 to 65535.", "Correct the number."},
		{CodeAddress, "address not accepted", "An endpoint is a plain unicast IP address: no name, no zone, not unspecified, multicast, broadcast or link-local (where clouds keep their metadata).", "Write the address that the sidecar is reached at."},
		{CodeEndpointClaimed, "address and port are claimed", "An address and port belongs to one Service of the whole mesh. The platform goes first; after that, who holds it keeps it, and of several newcomers none gets it.", "Choose another port."},
		{CodePortClash, "port used twice", "A sidecar and its application share loopback: what they listen on must differ. Sidecars of a service with several addresses listen on one port.", "Choose another port."},
		{CodeIncompleteService, "service not complete", "A service that is called has a port and endpoints.", "Add what the text names."},
		{CodeNoEffect, "without effect", "What is written here would change nothing, so it was meant otherwise.", "Remove it, or write what makes it count."},
		{CodeRepeated, "written twice", "The same entry stands in a list twice.", "Remove one of them."},
		{CodeMethod, "not a method", "A method is written as HTTP does: capital letters. CONNECT is never passed on.", "Write for example GET."},
		{CodePath, "not a path pattern", "A pattern starts with a slash; * is a whole segment, ** a whole last one. Empty and dot segments, %, ?, #, ;, backslashes and characters outside ASCII are refused, because proxies and applications read them differently.", "Write the path as the application sees it after decoding."},
		{CodeRolesWithoutToken, "roles or askers without a token", "A rule asks for roles, or names an asker whose callers are known by their tokens alone, but the service reads no tokens, so the rule would never match.", "Set token: optional or required on the Service, or remove the roles and askers."},
		{CodeNoPorts, "service takes no calls", "A policy or grant is about a service without ports, which nobody calls.", "Name another service, or give it a port."},
		{CodeIssuerURL, "issuer not accepted", "An issuer is an https URL without user, query and fragment, exactly as its tokens say it.", "Write the iss claim of the tokens."},
		{CodeIssuerClash, "two issuers of one name", "Two TokenIssuers with the same issuer, or both of JWT-SVIDs, speak of the same tenant, and a token would belong to both.", "Make it one TokenIssuer, or part their tenants."},
		{CodeKeySet, "key set not accepted", "A key set holds the public keys of asymmetric algorithms, in a file beside the document or at an https URL. A private or symmetric key in it is a secret that now is known. See docs/tokens.md.", "Say where the keys are, by file or by uri. Export the public keys only; replace a private key that stood here."},
		{CodeClaim, "claims or lifetime not accepted", "The names of claims are short ASCII texts that differ; a token lives between one second and 24 hours.", "Correct the value."},
		{CodeAsker, "asker not accepted", "An asker is a proxy that asks about services which are not its own. It is known by SPIFFE IDs or by a socket, not both, and may ask only about services of the tenant whose roots vouch for it, or of any tenant if it belongs to none.", "See the text; services are written tenant/service, a socket is an absolute path."},
		{CodeAskerClash, "one way to ask for two", "A SPIFFE ID or a socket says which proxy asks, so it belongs to one asker. A workload that runs services asks about them by its own certificate already: an entry for it would be a second, weaker way.", "Give the asker an identity or socket of its own."},
		{CodeTooMuch, "more than one owner may have", "An owner has at most 1,000 services, 2,000 service accounts (one counts for each service that names it), 1,000 revocations, rules that come to 32 MiB where each names each of its callers, and policy tests at 100 different times: what one owner writes must not stop the others.", "Let services share accounts, let rules name fewer callers, or make it several tenants."},
		{CodeNotOfTCP, "not seen on a TCP connection", "Of a TCP connection only the caller's certificate is known: it has no method, path, token or role, so nothing can be asked of them.", "Remove it; who may connect is said by from, and by Grants. Where it is needed, let the service speak HTTP or GRPC."},
		{CodeNotTCP, "only for TCP services", "The field means something for a port with protocol: TCP, and this one has another.", "Remove it; HTTP and GRPC services are called by name through the HTTP proxy at outbound.port."},
		{CodeSensitivity, "demands of a class not accepted", "A class of sensitivity demands what a token can show and a challenge can carry, and a Service of the class says at least as much of tokens.", "See the text; where token is left out of a Service, it is what the class demands."},
		{CodeOperator, "operator not accepted", "An operator shows the control plane a certificate of this mesh. One of the platform may look at any tenant; one of a tenant at that tenant only, because the tenant's root could sign its identity for anybody.", "Give the operator an identity of the platform, or of the one tenant that it looks at."},
		{CodeRevocation, "revocation not accepted", "A revocation is about one workload, one certificate, or the tokens with one jti, subject or session; and it says why.", "See the text; SPIFFE IDs, serials and claims are written as certificates and tokens say them."},
		{CodeStreams, "duration of streams not accepted", "A stream is one request to an HTTP or GRPC service that goes on. It ends at some time, so that none outlives what it was allowed by for ever.", "Write whole seconds, at most 12h; a service without ports, and one of TCP, has no streams."},
		{CodeTwoProxies, "two kinds of proxy for one account", "A service account has one Envoy, and that has Ringfence's agent beside it or has not. Services that run as the same account must say the same of it.", "Write the same proxy for both services, or give one of them an account of its own."},

		{CodeWeakAsker, "caller believed on the asker's word (warning)", "With identityFrom: principal or xfcc nobody verifies the caller's certificate again: whoever controls that proxy can name any caller of these services, an expired certificate is not noticed, and with principal one with two URI SANs counts as its first. With identityFrom: token there is no certificate at all: whoever holds a token is its subject until the token ends, and whoever controls the proxy sees the tokens.", "Let the proxy send the certificate (include_peer_certificate: true) and remove identityFrom, if it can. At an ingress, where callers have no certificates, keep tokens short-lived."},
		{CodeIdleAsker, "asker of a service that is not there (warning)", "The tenant has no such service that takes calls, or, with identityFrom: token, none that reads tokens, so the asker is refused when it asks about it. It is no error because a tenant's change must not hold up the platform's documents.", "Correct the name, or wait for the tenant's Service."},
		{CodeNoCaller, "test of a caller that is not there (warning)", "No Service names the account that the test lets call. A refusal of such a caller says nothing about the callers that there are.", "Correct the SPIFFE ID, unless the test is meant to show that a stranger is refused."},
		{CodeIdleRule, "rule names an asker by which nobody comes (warning)", "The Mesh has no asker of that name with identityFrom: token that may ask about the rule's service, so nobody is let in by that name. It is no error because a change of the Mesh must not hold up a tenant's documents.", "Correct the name, or ask the platform's team."},
		{CodeIdlePort, "loopback port to a service that is not there (warning)", "No shared TCP service of that name is granted to the tenant, so nothing listens at the port. It is no error because a change of the platform's must not hold up a tenant's documents.", "Correct the name, or ask the platform's team for a Grant."},
		{CodeLongStreams, "streams that may outlive an SVID (warning)", "Who calls is verified when a stream begins. With a maxStreamDuration of more than a quarter of an SVID's life, or 5m, a stream goes on after the SVID that it was opened with has ended, whether or not that was renewed: then a revocation of the caller ends it, or this time.", "Nothing, if the service needs such streams. Else remove maxStreamDuration, and let clients open streams again."},
		{CodeSharedRoot, "tenants under one root (warning)", "The Mesh puts several tenants into one trust domain, as an existing SPIRE, Istio or Consul does. Then the roots tell no tenant from another: of guard 1 only the exact SPIFFE IDs are left, in the proxy's RBAC or in a TCP service's handshake, and no name constraint binds whoever signs. Who steals that one root, or may register entries with its issuer, is every workload of every one of these tenants, for both guards.", "Give each tenant a trust domain and a root of its own ({tenant} in trustDomain), where that is possible; otherwise guard the issuer and who may register entries with it as you would guard every tenant."},

		{CodeInternal, "fault of Ringfence", "The documents were accepted and cannot be compiled. Their owner stays on the last accepted ones.", "Please report it, with the documents."},
	}
}
