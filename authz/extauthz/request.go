package extauthz

import (
	"encoding/pem"
	"net/url"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
)

// The keys of context_extensions, which the filters of the asking Envoy write and no client can.
const (
	contextService = "service"
	contextPort    = "port"
)

// destination is the service that the call is for: one that the asker runs, at its port. Where Envoy says under which
// identity it was called, that is the asker's.
func destination(t *authz.Table, asker identity.WorkloadID, attrs *authv3.AttributeContext) authz.ServiceRef {
	context := attrs.GetContextExtensions()
	owner, name, _ := strings.Cut(context[contextService], "/")
	service, found := t.Service(owner, name)
	principal := attrs.GetDestination().GetPrincipal()
	if !found || !service.RunBy(asker) || service.Port() != context[contextPort] || (principal != "" && principal != asker.String()) {
		return authz.ServiceRef{}
	}
	return service
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
	const header = "authorization"
	var (
		value  string
		count  int
		merged bool
	)
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

// schemeRune reports whether r may stand in the name of an authentication scheme (RFC 9110, token).
func schemeRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
