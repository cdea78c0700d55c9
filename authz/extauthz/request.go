package extauthz

import (
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// request is all that is read of a CheckRequest; scan makes it, and from here on nobody sees anything else of the request.
// Its texts are views of bytes that are reused after the check: what is kept is cloned. The zero value is a call of which
// nothing is known, which is refused.
type request struct {
	principal   string // source.principal: who calls, as Envoy read it
	certificate string // source.certificate: the caller's leaf, as Envoy writes it
	servedAs    string // destination.principal: under which identity Envoy was called
	method      string // request.http.method
	path        string // request.http.path
	service     string // context_extensions["service"]
	port        string // context_extensions["port"]

	authorization header
	xfcc          header // x-forwarded-client-cert
}

// The keys of context_extensions, which the filters of the asking Envoy write and no client can.
const (
	contextService = "service"
	contextPort    = "port"
)

// header is what a request says under one name.
type header struct {
	value  string
	count  int    // on how many lines it stands; value means something where that is one
	merged bool   // Envoy may have joined several lines into one: one without encode_raw_headers does
	name   string // as it stands there, where merged
}

// add takes one line of the request.
func (h *header) add(value string) {
	h.value = value
	h.count++
}

// merge takes an entry of a map of names to values, in which a later entry of a name replaces the one before.
func (h *header) merge(name, value string) {
	if !h.merged || h.name != name {
		h.count++
	}
	h.value, h.name, h.merged = value, name, true
}

// destination is the service that the call is for: one that the asker runs, at its port. Where Envoy says under which
// identity it was called, that is the asker's.
func destination(t *authz.Table, asker identity.WorkloadID, req *request) authz.ServiceRef {
	owner, name, _ := strings.Cut(req.service, "/")
	service, found := t.Service(owner, name)
	if !found || !service.RunBy(asker) || service.Port() != req.port || (req.servedAs != "" && req.servedAs != asker.String()) {
		return authz.ServiceRef{}
	}
	return service
}

// namedDestination is the service that a named asker asks about: one that its entry names, as the context says. An Envoy
// that cannot write a context (Istio's and Envoy Gateway's filters) may ask about one service only, and that is it.
func namedDestination(t *authz.Table, asker authz.AskerRef, req *request) authz.ServiceRef {
	port := req.port
	owner, name, _ := strings.Cut(req.service, "/")
	service, found := t.Service(owner, name)
	if req.service == "" && port == "" {
		if service, found = asker.Only(); found {
			port = service.Port()
		}
	}
	if !found || !asker.MayAsk(service) || service.Port() != port || !asker.Agrees(service, req.servedAs) {
		return authz.ServiceRef{}
	}
	return service
}

// assertedCaller is whom an asker that is believed says to call.
func assertedCaller(asker authz.AskerRef, req *request) authz.Caller {
	switch asker.IdentityFrom() {
	case tenancy.FromPrincipal:
		return asker.Caller(strings.Clone(req.principal))
	case tenancy.FromXFCC:
		if req.xfcc.count == 0 {
			return authz.Caller{}
		}
		uri, err := xfccURI(req.xfcc.value)
		if req.xfcc.count > 1 || err != nil {
			return authz.InvalidCaller()
		}
		return asker.Caller(strings.Clone(uri))
	default:
		return authz.InvalidCaller()
	}
}

// maxCertificate bounds the text of a leaf certificate; Envoy's own is under 4 KiB.
const maxCertificate = 32 << 10

// leafDER reads the certificate as Envoy writes it: PEM, URL-encoded, exactly one block.
func leafDER(text string) ([]byte, bool) {
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

// maxBearer is more than any token that is accepted, so that nobody makes us hash a header of a megabyte.
const maxBearer = 16 << 10

// bearer finds the bearer token of a request. present is false where there is none, also where Authorization holds another
// scheme; ok is false where the header stands more than once, so that nobody can tell which one the application will read.
func bearer(h header) (token string, present, ok bool) {
	switch {
	case h.count == 0:
		return "", false, true
	case h.count > 1, h.merged && strings.Contains(h.value, ","):
		return "", true, false
	}
	value := strings.Trim(h.value, " \t")
	end := strings.IndexFunc(value, func(r rune) bool { return !schemeRune(r) })
	if end < 0 {
		end = len(value)
	}
	if !strings.EqualFold(value[:end], "bearer") {
		return "", false, true
	}
	token = strings.TrimLeft(value[end:], " ")
	return token, true, len(token) <= maxBearer
}

// schemeRune reports whether r may stand in the name of an authentication scheme (RFC 9110, token).
func schemeRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
