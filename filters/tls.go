package filters

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringfence-mesh/ringfence/identity"
)

var (
	errNobody    = errors.New("an identity that names nobody cannot be pinned")
	errNoSNI     = errors.New("a destination without an SNI label")
	errNoDomain  = errors.New("a TLS context without a trust domain")
	errNoBundle  = errors.New("a bundle that vouches for nobody")
	errNoCaller  = errors.New("a chain without a caller's SNI label")
	errNoRoutes  = errors.New("a connection manager without the name of its routes")
	errEndless   = errors.New("a route configuration without an end of streams")
	errNoService = errors.New("a route configuration without the service it is for")
)

// sidecarProtocol is what sidecars speak with each other, inside TLS.
const sidecarProtocol = "h2"

// DownstreamTLS is the server's side of mutual TLS between sidecars: the caller must present a certificate that the
// bundle of this trust domain vouches for. Sessions are never resumed: a resumed one would keep an old trust decision,
// and it fails mtls_authenticated.
func DownstreamTLS(s Sidecar, callers identity.TrustDomain) (*corev3.TransportSocket, error) {
	if callers.IsZero() {
		return nil, errNoDomain
	}
	return downstreamTLS(s, callers.ID(), sidecarProtocol)
}

// downstreamTLS verifies the caller by the secret of that name.
func downstreamTLS(s Sidecar, secret string, alpn ...string) (*corev3.TransportSocket, error) {
	common := commonTLS(s, secret, &tlsv3.CertificateValidationContext{SuppressClientCaList: true}, alpn)
	config, err := pack(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:                 common,
		RequireClientCertificate:         yes(),
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType: &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{
			DisableStatelessSessionResumption: true,
		},
	})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: tlsSocketName, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}, nil
}

// UpstreamTLS is the client's side: the server must be one of these identities, by the bundle of their trust domain, and
// is told by an SNI label which tenant calls. Without identities no server is accepted. To a TCP service no protocol is
// negotiated.
func UpstreamTLS(
	s Sidecar, server identity.TrustDomain, ids []identity.WorkloadID, sni string, tcp bool,
) (*corev3.TransportSocket, error) {
	if server.IsZero() {
		return nil, errNoDomain
	}
	if sni == "" {
		return nil, errNoSNI
	}
	sans, err := exactURIs(ids)
	if err != nil {
		return nil, err
	}
	pinned := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans}
	alpn := []string{sidecarProtocol}
	if tcp {
		alpn = nil
	}
	common := commonTLS(s, server.ID(), pinned, alpn)
	config, err := pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: sni, MaxSessionKeys: number(0)})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: tlsSocketName, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}, nil
}

// commonTLS is what both sides share: TLS 1.3, the workload's own SVID, the secret that verifies the peer. Curves stay at
// Envoy's default, which is hybrid post-quantum.
func commonTLS(s Sidecar, secret string, validation *tlsv3.CertificateValidationContext, alpn []string) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{s.svid()},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         validation,
				ValidationContextSdsSecretConfig: secretRef(secret),
			},
		},
		AlpnProtocols: alpn,
	}
}

// secretRef names a secret that comes by SDS. Envoy waits for it as long as it takes: a listener that went live without
// its secret would reset every connection.
func secretRef(name string) *tlsv3.SdsSecretConfig {
	source := ADS()
	source.InitialFetchTimeout = &durationpb.Duration{}
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: source}
}

// ADS is the source of everything dynamic: the one stream of the bootstrap.
func ADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// BundleSecret is the SDS secret with the roots of one trust domain, named as SPIRE names it.
func BundleSecret(b identity.Bundle) (*tlsv3.Secret, error) {
	if b.IsZero() {
		return nil, errNoBundle
	}
	return &tlsv3.Secret{
		Name: b.TrustDomain().ID(),
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: trusted(b)},
	}, nil
}

func trusted(b identity.Bundle) *tlsv3.CertificateValidationContext {
	return &tlsv3.CertificateValidationContext{
		TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b.PEM()}},
	}
}

// nobody is a name that no certificate of a mesh bears: it is no SPIFFE ID, and has no host that the name constraints of a
// root could permit. An empty list would accept everybody whom the roots vouch for.
const nobody = "ringfence:nobody"

// exactURIs match these SPIFFE IDs; without any, nobody.
func exactURIs(ids []identity.WorkloadID) ([]*tlsv3.SubjectAltNameMatcher, error) {
	if len(ids) == 0 {
		return []*tlsv3.SubjectAltNameMatcher{uriMatcher(nobody)}, nil
	}
	sans := make([]*tlsv3.SubjectAltNameMatcher, 0, len(ids))
	for _, id := range ids {
		san, err := exactURI(id)
		if err != nil {
			return nil, err
		}
		sans = append(sans, san)
	}
	return sans, nil
}

// exactURI matches one SPIFFE ID, whole and byte for byte.
func exactURI(id identity.WorkloadID) (*tlsv3.SubjectAltNameMatcher, error) {
	if id.IsZero() {
		return nil, errNobody
	}
	return uriMatcher(id.String()), nil
}

func uriMatcher(uri string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{
		SanType: tlsv3.SubjectAltNameMatcher_URI,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: uri}},
	}
}
