package extauthz

import (
	"encoding/pem"
	"math"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

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

	http     bool    // request.http is there: it is a request; else a TCP connection. Neither is ever taken for the other
	context  bool    // context_extensions hold anything at all
	servedAt address // destination.address: where Envoy was called

	authorization header
	xfcc          header // x-forwarded-client-cert
}

// The keys of context_extensions, which the filters of the asking Envoy write and no client can.
const (
	contextService = "service"
	contextPort    = "port"
)

// address is an encoded core.v3.Address, which only the check of a connection needs.
type address struct {
	wire  string
	count int // how often it stands; merging several would be a guess about which one is meant
}

// tcpPort is the port of an address for TCP.
func (a address) tcpPort() (uint16, bool) {
	var m corev3.Address
	if a.count != 1 || proto.Unmarshal(bytesOf(a.wire), &m) != nil {
		return 0, false
	}
	s := m.GetSocketAddress()
	port := s.GetPortValue()
	if s == nil || s.GetProtocol() != corev3.SocketAddress_TCP || port == 0 || port > math.MaxUint16 {
		return 0, false
	}
	return uint16(port), true
}

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
	if h.name != name {
		h.count++
	}
	h.value, h.name, h.merged = value, name, true
}

// destination is the service that the call is for: one that the asker runs, at its port. Where Envoy says under which
// identity it was called, that is the asker's.
func destination(t *authz.Table, asker identity.WorkloadID, req *request) authz.ServiceRef {
	if !req.http {
		return connected(t, asker, req)
	}
	owner, name, _ := strings.Cut(req.service, "/")
	service, found := t.Service(owner, name)
	switch {
	case !found, service.TCP(), !service.RunBy(asker), service.Port() != req.port:
	case req.servedAs != "" && req.servedAs != asker.String():
	default:
		return service
	}
	return authz.ServiceRef{}
}

// connected is the service that a TCP connection is for. The filter that asks cannot write a context, and says where Envoy
// took the connection and under which identity: the asker's own, and the port of one of its services.
func connected(t *authz.Table, asker identity.WorkloadID, req *request) authz.ServiceRef {
	port, ok := req.servedAt.tcpPort()
	if !ok || req.context || req.servedAs != asker.String() {
		return authz.ServiceRef{}
	}
	service, found := t.TCPService(asker, port)
	if !found || !service.RunBy(asker) {
		return authz.ServiceRef{}
	}
	return service
}

// namedDestination is the service that a named asker asks about: one that its entry names, as the context says. An Envoy
// that cannot write a context (Istio's and Envoy Gateway's filters, and every filter of TCP connections) may ask about one
// service only, and that is it.
func namedDestination(t *authz.Table, asker authz.AskerRef, req *request) authz.ServiceRef {
	port := req.port
	owner, name, _ := strings.Cut(req.service, "/")
	service, found := t.Service(owner, name)
	if req.service == "" && port == "" {
		if service, found = asker.Only(); found {
			port = service.Port()
		}
	}
	switch {
	case !found, service.TCP() == req.http, !asker.MayAsk(service), service.Port() != port:
	case !asker.Agrees(service, req.servedAs):
	default:
		return service
	}
	return authz.ServiceRef{}
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
	if h.count > 1 || h.merged && strings.Contains(h.value, ",") {
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
