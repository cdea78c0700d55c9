package extauthz

import (
	"encoding/pem"
	"math"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// The keys of context_extensions, which the filters of the asking Envoy write and no client can.
const (
	contextService = "service"
	contextPort    = "port"
)

// isConnection tells the check of a TCP connection from that of a request, which always has the HTTP attributes. Each is
// only ever answered about a service of its own kind.
func isConnection(attrs *authv3.AttributeContext) bool { return attrs.GetRequest().GetHttp() == nil }

// destination is the service that the call is for: one that the asker runs, at its port. Where Envoy says under which
// identity it was called, that is the asker's.
func destination(t *authz.Table, asker identity.WorkloadID, attrs *authv3.AttributeContext) authz.ServiceRef {
	if isConnection(attrs) {
		return connected(t, asker, attrs)
	}
	context := attrs.GetContextExtensions()
	owner, name, _ := strings.Cut(context[contextService], "/")
	service, found := t.Service(owner, name)
	principal := attrs.GetDestination().GetPrincipal()
	switch {
	case !found, service.TCP(), !service.RunBy(asker), service.Port() != context[contextPort]:
	case principal != "" && principal != asker.String():
	default:
		return service
	}
	return authz.ServiceRef{}
}

// connected is the service that a TCP connection is for. The filter that asks cannot write a context, and says where Envoy
// took the connection and under which identity: the asker's own, and the port of one of its services.
func connected(t *authz.Table, asker identity.WorkloadID, attrs *authv3.AttributeContext) authz.ServiceRef {
	to := attrs.GetDestination()
	address := to.GetAddress().GetSocketAddress()
	port := address.GetPortValue()
	switch {
	case len(attrs.GetContextExtensions()) > 0, to.GetPrincipal() != asker.String():
		return authz.ServiceRef{}
	case address.GetProtocol() != corev3.SocketAddress_TCP, port > math.MaxUint16:
		return authz.ServiceRef{}
	}
	service, found := t.TCPService(asker, uint16(port))
	if !found || !service.RunBy(asker) {
		return authz.ServiceRef{}
	}
	return service
}

// namedDestination is the service that a named asker asks about: one that its entry names, as the context says. An Envoy
// that cannot write a context (Istio's and Envoy Gateway's filters, and every filter of TCP connections) may ask about one
// service only, and that is it.
func namedDestination(t *authz.Table, asker authz.AskerRef, attrs *authv3.AttributeContext) authz.ServiceRef {
	context := attrs.GetContextExtensions()
	text, port := context[contextService], context[contextPort]
	owner, name, _ := strings.Cut(text, "/")
	service, found := t.Service(owner, name)
	if text == "" && port == "" {
		if service, found = asker.Only(); found {
			port = service.Port()
		}
	}
	switch {
	case !found, service.TCP() != isConnection(attrs), !asker.MayAsk(service), service.Port() != port:
	case !asker.Agrees(service, attrs.GetDestination().GetPrincipal()):
	default:
		return service
	}
	return authz.ServiceRef{}
}

// assertedCaller is whom an asker that is believed says to call.
func assertedCaller(asker authz.AskerRef, attrs *authv3.AttributeContext) authz.Caller {
	switch asker.IdentityFrom() {
	case tenancy.FromPrincipal:
		return asker.Caller(attrs.GetSource().GetPrincipal())
	case tenancy.FromXFCC:
		header, count, _ := lines(attrs.GetRequest().GetHttp(), "x-forwarded-client-cert")
		if count == 0 {
			return authz.Caller{}
		}
		uri, err := xfccURI(header)
		if count > 1 || err != nil {
			return authz.InvalidCaller()
		}
		return asker.Caller(uri)
	default:
		return authz.InvalidCaller()
	}
}

// maxCertificate bounds the text of a leaf certificate; Envoy's own is under 4 KiB.
const maxCertificate = 32 << 10

// leafDER reads the certificate as Envoy writes it: PEM, URL-encoded, exactly one block.
func leafDER(text string) ([]byte, bool) {
	if len(text) > maxCertificate {
		return nil, false
	}
	decoded, err := url.PathUnescape(text)
	if err != nil {
		return nil, false
	}
	block, rest := pem.Decode([]byte(decoded))
	if block == nil || !strings.HasPrefix(decoded, "-----BEGIN CERTIFICATE-----") || len(block.Headers) > 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, false
	}
	return block.Bytes, true
}

// bearer finds the bearer token of a request. present is false where there is none, also where Authorization holds another
// scheme; ok is false where the header stands more than once, so that nobody can tell which one the application will read.
func bearer(h *authv3.AttributeContext_HttpRequest) (token string, present, ok bool) {
	value, count, merged := lines(h, "authorization")
	switch {
	case count == 0:
		return "", false, true
	case count > 1, merged && strings.Contains(value, ","):
		return "", true, false
	}
	value = strings.Trim(value, " \t")
	end := strings.IndexFunc(value, func(r rune) bool { return !schemeRune(r) })
	if end < 0 {
		end = len(value)
	}
	if !strings.EqualFold(value[:end], "bearer") {
		return "", false, true
	}
	return strings.TrimLeft(value[end:], " "), true, true
}

// lines is the value of a header, on how many lines it stands, and whether Envoy may have joined several into one.
func lines(h *authv3.AttributeContext_HttpRequest, header string) (value string, count int, merged bool) {
	for _, f := range h.GetHeaderMap().GetHeaders() { // raw headers: one entry for each line of the request
		if strings.EqualFold(f.GetKey(), header) {
			count++
			if value = string(f.GetRawValue()); value == "" {
				value = f.GetValue()
			}
		}
	}
	for name, v := range h.GetHeaders() { // an Envoy without encode_raw_headers: lines of one name are joined by commas
		if strings.EqualFold(name, header) {
			count++
			value, merged = v, true
		}
	}
	return value, count, merged
}

// schemeRune reports whether r may stand in the name of an authentication scheme (RFC 9110, token).
func schemeRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
