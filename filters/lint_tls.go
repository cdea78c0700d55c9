package filters

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringfence-mesh/ringfence/tenancy"
)

const spiffeScheme = "spiffe://"

// downstreamTLS judges how a chain verifies its callers: by a bundle, or where secret is not empty by that secret, which
// holds the callers of a TCP service too.
func (l *linter) downstreamTLS(socket *corev3.TransportSocket, secret, path string) {
	var c tlsv3.DownstreamTlsContext
	if !l.need(socket != nil, setChainTLS, path, "the chain takes plaintext") {
		return
	}
	l.need(socket.GetName() == tlsSocketName, setExtName, path, "%q", clip(socket.GetName()))
	if !l.unpack(socket.GetTypedConfig(), &c, path) {
		return
	}
	l.need(c.GetRequireClientCertificate().GetValue(), setClientCert, path, "callers may come without a certificate")
	l.need(c.GetDisableStatelessSessionResumption(), setStateless, path, "session tickets are on")
	l.need(c.GetDisableStatefulSessionResumption(), setStateful, path, "the session cache is on")
	validation := l.commonTLS(c.GetCommonTlsContext(), secret != "", path)
	name := peersSecret(c.GetCommonTlsContext()).GetName()
	l.need(secret == "" || name == secret, setBundle, path, "verified by %q, not by the chain's own secret", clip(name))
	l.need(secret != "" || isBundle(name), setBundle, path, "%q is no bundle of a trust domain", clip(name))
	l.need(validation.GetSuppressClientCaList(), setClientCAList, path, "the names of the trusted roots are told")
	l.need(len(validation.GetMatchTypedSubjectAltNames()) == 0, setDownstreamSANs, path, "callers are pinned in the chain")
}

func (l *linter) upstreamTLS(socket *corev3.TransportSocket, tcp bool, path string) {
	var c tlsv3.UpstreamTlsContext
	l.need(socket.GetName() == tlsSocketName, setExtName, path, "%q", clip(socket.GetName()))
	if !l.unpack(socket.GetTypedConfig(), &c, path) {
		return
	}
	l.need(hostName(c.GetSni()), setUpstreamSNI, path, "the SNI label is %q", clip(c.GetSni()))
	none := c.GetMaxSessionKeys() != nil && c.GetMaxSessionKeys().GetValue() == 0
	l.need(none, setUpstreamSession, path, "sessions are kept for resumption")
	validation := l.commonTLS(c.GetCommonTlsContext(), tcp, path)
	name := peersSecret(c.GetCommonTlsContext()).GetName()
	l.need(isBundle(name), setBundle, path, "%q is no bundle of a trust domain", clip(name))
	l.need(!validation.GetSuppressClientCaList(), setClientCAList, path, "set where it means nothing")
	sans := validation.GetMatchTypedSubjectAltNames()
	l.need(len(sans) > 0, setUpstreamSANs, path, "no identity is pinned: every server would do")
	l.exactURIs(sans, path)
}

// exactURIs accepts a list of which each entry is one identity, and the list of the one entry that nobody is.
func (l *linter) exactURIs(sans []*tlsv3.SubjectAltNameMatcher, path string) {
	if len(sans) == 1 && sans[0].GetSanType() == tlsv3.SubjectAltNameMatcher_URI && sans[0].GetMatcher().GetExact() == "ringfence:nobody" {
		return
	}
	for _, san := range sans {
		l.exactURI(san, path)
	}
}

// commonTLS judges what both sides share and returns the inline half of the validation context.
func (l *linter) commonTLS(c *tlsv3.CommonTlsContext, tcp bool, path string) *tlsv3.CertificateValidationContext {
	demand(l, c.GetTlsParams().GetTlsMinimumProtocolVersion(), tlsv3.TlsParameters_TLSv1_3, setTLSVersion, path)
	demand(l, c.GetTlsParams().GetTlsMaximumProtocolVersion(), tlsv3.TlsParameters_TLSv1_3, setTLSVersion, path)
	alpn := c.GetAlpnProtocols()
	l.need(tcp && len(alpn) == 0 || !tcp && len(alpn) == 1 && alpn[0] == "h2", setALPN, path, "%q", alpn)
	own := c.GetTlsCertificateSdsSecretConfigs()
	if l.need(len(own) == 1, setOwnCertificate, path, "%d certificates", len(own)) {
		l.ownCertificate(own[0], path)
	}
	if bundle := peersSecret(c); l.need(bundle != nil, setBundle, path, "no bundle: any certificate would do") {
		l.sds(bundle, path)
	}
	inline := c.GetCombinedValidationContext().GetDefaultValidationContext()
	l.need(inline.GetTrustedCa() == nil, setBundle, path, "roots beside the bundle")
	return inline
}

// ownCertificate judges where the sidecar's own SVID comes from: its agent, or SPIRE's, which knows it by its SPIFFE ID.
func (l *linter) ownCertificate(s *tlsv3.SdsSecretConfig, path string) {
	if l.scope.Direct.IsZero() {
		l.need(s.GetName() == "default", setOwnCertificate, path, "the certificate is %q", clip(s.GetName()))
		l.sds(s, path)
		return
	}
	l.need(s.GetName() == l.scope.Direct.String(), setOwnCertificate, path, "the certificate is %q", clip(s.GetName()))
	l.need(proto.Equal(s.GetSdsConfig(), spireSource()), setSPIRE, path, "the certificate does not come from SPIRE's agent alone")
}

// spireSource is the one form of that source.
func spireSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: "spire_agent",
				RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
					BaseInterval: durationpb.New(50 * time.Millisecond), MaxInterval: durationpb.New(500 * time.Millisecond),
				}},
			}}}},
		}},
	}
}

// peersSecret is what verifies the other end.
func peersSecret(c *tlsv3.CommonTlsContext) *tlsv3.SdsSecretConfig {
	return c.GetCombinedValidationContext().GetValidationContextSdsSecretConfig()
}

// sds judges where a secret comes from, and that Envoy waits for it.
func (l *linter) sds(s *tlsv3.SdsSecretConfig, path string) {
	source := s.GetSdsConfig()
	ok := source.GetAds() != nil && source.GetResourceApiVersion() == corev3.ApiVersion_V3
	l.need(ok, setADS, path, "secret %q does not come by the bootstrap's stream, in version 3", clip(s.GetName()))
	timeout := source.GetInitialFetchTimeout()
	never := timeout != nil && timeout.GetSeconds() == 0 && timeout.GetNanos() == 0
	l.need(never, setSDSTimeout, path, "secret %q is not waited for", clip(s.GetName()))
}

// exactURI judges a matcher of identities. That the identity is the right one is not known here; that it is one, whole, is.
func (l *linter) exactURI(m *tlsv3.SubjectAltNameMatcher, path string) {
	exact, ok := m.GetMatcher().GetMatchPattern().(*matcherv3.StringMatcher_Exact)
	ok = ok && m.GetSanType() == tlsv3.SubjectAltNameMatcher_URI && wholeID(exact.Exact)
	l.need(ok, setExactIdentity, path, "not one whole SPIFFE ID in a URI SAN: %v", clip(m.String()))
}

// wholeID reports whether s has the form of a SPIFFE ID with a path. The mapping of the mesh says whose it is.
func wholeID(s string) bool {
	rest, ok := strings.CutPrefix(s, spiffeScheme)
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || !hasPath || path == "" || !hostName(domain) || len(s) > 2048 {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, segmentAlphabet) != "" {
			return false
		}
	}
	return true
}

const segmentAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"

// isBundle reports whether an SDS name is that of a trust domain's bundle.
func isBundle(name string) bool {
	domain, ok := strings.CutPrefix(name, spiffeScheme)
	return ok && hostName(domain)
}

// secret judges a secret that the control plane sends: roots, never a key or a certificate.
func (l *linter) secret(s *tlsv3.Secret) {
	l.need(s.GetName() == l.name, setInnerName, "name", "the name inside is %q", clip(s.GetName()))
	v := s.GetValidationContext()
	if !l.need(v != nil, setSecretKind, "", "not a bundle") {
		return
	}
	l.need(!v.GetSuppressClientCaList(), setSecretKind, "validation_context", "more than roots and callers")
	if isBundle(s.GetName()) {
		l.need(len(v.GetMatchTypedSubjectAltNames()) == 0, setSecretKind, "validation_context", "more than roots")
	} else if _, _, ok := l.ownName(s.GetName(), setName, "name", tenancy.KindCallers); ok {
		l.callersSecret(v)
	}
	roots := onlyRoots(v.GetTrustedCa().GetInlineBytes())
	l.need(roots, setSecretRoots, "validation_context.trusted_ca", "not CA certificates in PEM, inline, alone")
}

// onlyRoots reports whether data is at least one CA certificate in PEM, and nothing else.
func onlyRoots(data []byte) bool {
	rest, found := data, false
	for len(bytes.TrimSpace(rest)) > 0 {
		if !bytes.HasPrefix(bytes.TrimSpace(rest), []byte("-----BEGIN CERTIFICATE-----")) {
			return false
		}
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return false
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !cert.BasicConstraintsValid || !cert.IsCA {
			return false
		}
		found = true
	}
	return found
}
