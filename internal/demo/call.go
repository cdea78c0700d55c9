package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Call is one request into the mesh: who sends it, how, to whom, with what.
type Call struct {
	// From is "tenant/service": whose sidecar is used, or whose SVID was stolen.
	From string
	// To is the host asked of the own sidecar, or "tenant/service" where Raw goes past it.
	To string
	// Raw, if not nil, goes past the own sidecar: TLS straight to the destination's inbound port.
	Raw    *Raw
	Method string
	Path   string
	Token  Token
	// Header are further header fields, as an attacker would forge them.
	Header http.Header
	Want   Want
}

// Raw says how an attacker opens TLS by hand.
type Raw struct {
	// SNI is "tenant/service": the label that this caller would use to reach To. Empty: no SNI at all.
	SNI string
	// Anonymous sends no client certificate.
	Anonymous bool
	// Certificate, if not nil, is sent in place of From's genuine SVID.
	Certificate *tls.Certificate
	// Address, if not empty, is dialled in place of To's inbound port.
	Address string
	// Sessions, if not nil, keeps what the other side gives for resumption, and offers it.
	Sessions tls.ClientSessionCache
}

// Layer is what refused a call.
type Layer string

// The layers, in the order in which a call meets them.
const (
	LayerNone    Layer = "-"
	LayerSource  Layer = "own sidecar"
	LayerTLS     Layer = "TLS"
	LayerRBAC    Layer = "RBAC"
	LayerAuthz   Layer = "ext_authz"
	LayerUnknown Layer = "?"
)

// Want is the expected outcome. Status 0 is a connection that is refused before HTTP.
type Want struct {
	// Refused is met by every layer that refuses, with whatever status; the Reason counts where the layer tells one.
	Refused bool

	Status int
	Layer  Layer
	Reason string
}

// Result is what happened.
type Result struct {
	Status   int
	Layer    Layer
	Reason   string
	Decision string
	Seen     Seen
	Body     []byte
	Header   http.Header
	Took     time.Duration
	// Err is the transport's error where no answer came.
	Err error
}

// As reports whether the result is the expected one.
func (r Result) As(w Want) bool {
	if w.Refused {
		return r.Layer != LayerNone && r.Status < http.StatusInternalServerError && (r.Reason == "" || r.Reason == w.Reason)
	}
	return r.Status == w.Status && r.Layer == w.Layer && r.Reason == w.Reason
}

const callTimeout = 5 * time.Second

// Do sends one call on a connection of its own and says what became of it. Its error is a fault of the test bed, never a
// refusal.
func (m *Caller) Do(ctx context.Context, c Call) (Result, error) {
	s, err := m.Open(c)
	if err != nil {
		return Result{}, err
	}
	defer s.Close()
	return s.Do(ctx, c)
}

// Session keeps its connection open from call to call.
type Session struct {
	caller *Caller
	client *http.Client
	target string
}

// Open prepares a connection in the way that the call says; the first Do opens it.
func (m *Caller) Open(c Call) (*Session, error) {
	client, target, err := m.client(c)
	if err != nil {
		return nil, err
	}
	return &Session{caller: m, client: client, target: target}, nil
}

// Close closes the connection.
func (s *Session) Close() { s.client.CloseIdleConnections() }

// Stream sends a call and hands over the open response; the caller closes its body.
func (s *Session) Stream(ctx context.Context, c Call) (*http.Response, error) {
	request, err := s.caller.request(ctx, c, s.target)
	if err != nil {
		return nil, err
	}
	return s.client.Do(request)
}

// Do sends a call over the session's connection.
func (s *Session) Do(ctx context.Context, c Call) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, client, target := s.caller, s.client, s.target
	request, err := m.request(ctx, c, target)
	if err != nil {
		return Result{}, err
	}
	before, err := m.denials(ctx)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	response, err := client.Do(request)
	took := time.Since(start)
	if err != nil {
		return m.transportFailure(c, err, took)
	}
	defer response.Body.Close() //nolint:errcheck // only read
	const limit = 64 << 10
	body, err := io.ReadAll(io.LimitReader(response.Body, limit))
	if err != nil {
		return Result{}, fmt.Errorf("body: %w", err)
	}
	r := Result{Status: response.StatusCode, Header: response.Header, Body: body, Took: took, Layer: LayerNone}
	if r.Status == http.StatusOK {
		return r, json.Unmarshal(body, &r.Seen)
	}
	after, err := m.denials(ctx)
	if err != nil {
		return Result{}, err
	}
	r.Decision = response.Header.Get("x-ringfence-decision")
	switch {
	case r.Decision != "":
		r.Layer = LayerAuthz
		if r.Reason, err = m.reason(ctx, r.Decision); err != nil {
			return Result{}, err
		}
	case after > before:
		r.Layer = LayerRBAC
	case c.Raw == nil && r.Status == http.StatusForbidden:
		r.Layer = LayerSource
	default:
		r.Layer = LayerUnknown
	}
	return r, nil
}

// transportFailure tells a refusal by TLS from a test bed that does not answer at all.
func (m *Caller) transportFailure(c Call, err error, took time.Duration) (Result, error) {
	var dial *net.OpError
	if c.Raw == nil || errors.As(err, &dial) && dial.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
		return Result{}, fmt.Errorf("%s to %s: %w", c.From, c.To, err)
	}
	return Result{Layer: LayerTLS, Took: took, Err: err}, nil
}

// client makes an HTTP client for one call, and the base URL that it asks.
func (m *Caller) client(c Call) (*http.Client, string, error) {
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.Raw == nil {
		proxy, err := m.Outbound(c.From)
		if err != nil {
			return nil, "", err
		}
		through := &url.URL{Scheme: "http", Host: proxy.String()}
		transport := &http.Transport{Proxy: http.ProxyURL(through), DialContext: m.dialAs(c.From)}
		return &http.Client{Transport: transport, CheckRedirect: noRedirect}, "http://" + c.To, nil
	}
	address, config, err := m.rawTLS(c)
	if err != nil {
		return nil, "", err
	}
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.dialTLS(ctx, c.From, address, config)
		},
	}
	return &http.Client{Transport: transport, CheckRedirect: noRedirect}, "https://" + address, nil
}

// Connect opens TLS in the way that the call's Raw says, and hands over the connection.
func (m *Caller) Connect(ctx context.Context, c Call) (net.Conn, error) {
	address, config, err := m.rawTLS(c)
	if err != nil {
		return nil, err
	}
	return m.dialTLS(ctx, c.From, address, config)
}

func (m *Caller) dialTLS(ctx context.Context, from, address string, config *tls.Config) (net.Conn, error) {
	conn, err := m.dial(ctx, from, "tcp", address)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secure, nil
}

// rawTLS is where an attacker dials, and what it says in the handshake.
func (m *Caller) rawTLS(c Call) (string, *tls.Config, error) {
	address := c.Raw.Address
	if address == "" {
		inbound, err := m.Inbound(c.To)
		if err != nil {
			return "", nil, err
		}
		address = inbound.String()
	}
	config := &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // an attacker does not care who answers
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
	}
	config.ClientSessionCache = c.Raw.Sessions
	if c.Raw.SNI != "" {
		name, err := m.sni(c.Raw.SNI, c.To)
		if err != nil {
			return "", nil, err
		}
		config.ServerName = name
	}
	switch {
	case c.Raw.Anonymous:
	case c.Raw.Certificate != nil:
		config.GetClientCertificate = always(c.Raw.Certificate)
	default:
		svid, err := m.stolen(c.From)
		if err != nil {
			return "", nil, err
		}
		config.GetClientCertificate = always(svid)
	}
	return address, config, nil
}

// always sends the certificate whatever issuers the server names.
func always(c *tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
}

func (m *Caller) request(ctx context.Context, c Call, target string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, c.Method, target+c.Path, http.NoBody)
	if err != nil {
		return nil, err
	}
	for name, values := range c.Header {
		request.Header[name] = slices.Clone(values)
	}
	if !c.Token.IsZero() {
		token, err := m.mint(c.Token)
		if err != nil {
			return nil, err
		}
		request.Header.Set("authorization", "Bearer "+token)
	}
	return request, nil
}

// sni is the label by which the caller's own sidecar would ask for the service.
func (m *Caller) sni(caller, to string) (string, error) {
	service, _, err := m.service(to)
	if err != nil {
		return "", err
	}
	_, tenant, err := m.service(caller)
	if err != nil {
		return "", err
	}
	return service.SNI(tenant), nil
}
