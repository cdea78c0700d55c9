package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// question is one encoded CheckRequest and what must be answered.
type question struct {
	wire    []byte
	tenant  int // whose proxy asks
	allowed bool
	broken  bool // no CheckRequest: gRPC answers with an error
}

// call is what a CheckRequest says.
type call struct {
	tenant                                                int
	principal, certificate, service, port, method, target string
	authorization                                         []string
}

// plainCall is a call that is allowed, to a service that reads no token; a header that the application reads itself has one.
func (m *mesh) plainCall(tenant int) call {
	t := m.tenants[tenant]
	return call{
		tenant: tenant, principal: id(t.name, caller(plainCaller)), certificate: t.plain, method: "GET", port: "http",
		service: t.name + "/s" + strconv.Itoa(plainCaller-rand.IntN(callers)), target: "/items/4711/lines/3?expand=prices", //nolint:gosec // any
		authorization: []string{"Bearer " + opaque},
	}
}

// tokenCall is a call that is allowed, to a service that demands a token.
func (m *mesh) tokenCall(tenant int, token string) call {
	t := m.tenants[tenant]
	c := m.plainCall(tenant)
	c.principal, c.certificate, c.authorization = id(t.name, caller(tokenCaller)), t.tokens, []string{"Bearer " + token}
	c.service = t.name + "/s" + strconv.Itoa(tokenCaller-rand.IntN(callers)) //nolint:gosec // any
	return c
}

// opaque has the size of a token.
var opaque = func() string {
	b := make([]byte, 0, 700)
	for i := range cap(b) {
		b = append(b, "abcdefghijklmnopqrstuvwxyz0123456789"[i*7%36])
	}
	return string(b)
}()

// encode writes the call as an Envoy asks about it: 2 to 3 KB.
func (c call) encode(m *mesh) ([]byte, error) {
	own := m.tenants[c.tenant].name
	address := func(host string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	headers := &corev3.HeaderMap{}
	add := func(name, value string) {
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	for _, h := range [][2]string{
		{":authority", "s1." + own + ".internal:8080"},
		{":path", c.target},
		{":method", c.method},
		{":scheme", "https"},
		{"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		{"accept", "application/json, text/plain, */*"},
		{"accept-language", "en-GB,en;q=0.7,de;q=0.3"},
		{"accept-encoding", "gzip, deflate, br, zstd"},
		{"content-type", "application/json"},
		{"cache-control", "no-cache"},
		{"cookie", "session=5b2f1f0c8a4e4d0d9c7c2b1a; theme=dark"},
		{"origin", "https://shop.example.com"},
		{"referer", "https://shop.example.com/orders/4711"},
		{"x-forwarded-proto", "https"},
		{"x-forwarded-for", "203.0.113.7, 10.2.3.4"},
		{"x-request-id", "6f0c8d9e-3f1b-4f0a-9a57-2f6b0c1d2e3f"},
		{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{"tracestate", "vendor=00f067aa0ba902b7"},
		{"x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"},
		{"x-envoy-attempt-count", "1"},
		{"x-envoy-expected-rq-timeout-ms", "15000"},
		{"x-forwarded-client-cert", "By=" + id(own, "proxy") + ";Hash=" + strings.Repeat("0a", 32) + ";URI=" + c.principal},
	} {
		add(h[0], h[1])
	}
	for _, a := range c.authorization {
		add("authorization", a)
	}
	return proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Address: address("10.2.3.4", 45678), Principal: c.principal, Certificate: c.certificate,
		},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.2.3.5", 8080), Principal: id(own, "proxy")},
		Request: &authv3.AttributeContext_Request{Time: timestamppb.New(m.now), Http: &authv3.AttributeContext_HttpRequest{
			Id: "1234567890123456789", Method: c.method, Path: c.target, Host: "s1." + own + ".internal:8080", Scheme: "https",
			Protocol: "HTTP/2", HeaderMap: headers,
		}},
		ContextExtensions: map[string]string{"service": c.service, "port": c.port, "generation": "v1"},
		TlsSession:        &authv3.AttributeContext_TLSSession{Sni: "0123456789abcdef." + own},
	}})
}

// shares say what a mix of questions holds, in hundredths; the rest are calls of another tenant and of nobody known.
type shares struct{ allowed, foreign int }

// usual is what is asked where the mix is not what is measured.
func usual() shares { return shares{allowed: 90, foreign: 9} }

// pool are questions about the first tenants of the mesh, each tenant equally often.
func (m *mesh) pool(tenants, size int, s shares, of func(tenant, number int) (call, error)) ([]question, error) {
	rogue, err := m.certificate("other.test", nil, "")
	if err != nil {
		return nil, err
	}
	const unknown = "spiffe://other.test/nobody"
	stranger, err := m.certText(rogue, unknown)
	if err != nil {
		return nil, err
	}
	all := []question{}
	for n := range size {
		tenant := n % tenants
		c, err := of(tenant, n)
		if err != nil {
			return nil, err
		}
		kind := (n/tenants*37 + n) % 100
		switch {
		case kind < s.allowed:
		case kind < s.allowed+s.foreign:
			other := m.tenants[(tenant+1)%len(m.tenants)]
			c.principal, c.certificate = id(other.name, caller(plainCaller)), other.plain
		default:
			c.principal, c.certificate = unknown, stranger
		}
		wire, err := c.encode(m)
		if err != nil {
			return nil, err
		}
		all = append(all, question{wire: wire, tenant: tenant, allowed: kind < s.allowed})
	}
	return all, nil
}

// plain makes calls without tokens.
func (m *mesh) plain(tenant, _ int) (call, error) { return m.plainCall(tenant), nil }

// attacks are what a server must answer rightly before it is timed.
func (m *mesh) attacks() ([]question, error) {
	expires := m.now.Add(time.Hour / 2)
	good, err := m.token(m.tenants[0].name, 0, expires)
	if err != nil {
		return nil, err
	}
	old, err := m.token(m.tenants[0].name, 0, m.now.Add(-time.Minute))
	if err != nil {
		return nil, err
	}
	others, err := m.token(m.tenants[1].name, 0, expires)
	if err != nil {
		return nil, err
	}
	other := m.tenants[1]
	stolen, err := m.certText(other.ca, id(m.tenants[0].name, caller(plainCaller))) // minted by another tenant's root
	if err != nil {
		return nil, err
	}
	var all []question
	add := func(allowed bool, c call, change func(*call)) {
		change(&c)
		var wire []byte
		if wire, err = c.encode(m); err == nil {
			all = append(all, question{wire: wire, tenant: c.tenant, allowed: allowed})
		}
	}
	plain, token := m.plainCall(0), m.tokenCall(0, good)
	same := func(*call) {}
	add(true, plain, same)
	add(true, token, same)
	add(true, token, same)
	add(true, m.plainCall(1), same)
	for _, change := range []func(*call){
		func(c *call) { c.certificate = "" },
		func(c *call) { c.certificate = stolen },
		func(c *call) { c.certificate = c.certificate[:len(c.certificate)/2] },
		func(c *call) { c.principal = "" },
		func(c *call) { c.principal = id(other.name, caller(plainCaller)) },
		func(c *call) { c.principal, c.certificate = id(other.name, caller(plainCaller)), other.plain },
		func(c *call) { c.service = other.name + "/s7" },
		func(c *call) { c.service = "" },
		func(c *call) { c.service = m.tenants[0].name + "/s9" }, // not a caller of this one
		func(c *call) { c.port = "admin" },
		func(c *call) { c.method = "DELETE" },
		func(c *call) { c.target = "/items/../admin" },
		func(c *call) { c.target = "/items/%2e%2e/lines/3" },
		func(c *call) { c.target = "/secret" },
		func(c *call) { c.tenant = 1 },
	} {
		add(false, plain, change)
	}
	for _, change := range []func(*call){
		func(c *call) { c.authorization = nil },
		func(c *call) { c.authorization = []string{"Bearer " + old} },
		func(c *call) { c.authorization = []string{"Bearer " + others} },
		func(c *call) { c.authorization = []string{"Bearer " + good, "Bearer " + good} },
		func(c *call) { c.authorization = []string{"Bearer " + good[:len(good)-8] + "AAAAAAAA"} },
		func(c *call) { c.authorization = []string{"Bearer " + opaque} },
	} {
		add(false, token, change)
	}
	if err != nil {
		return nil, fmt.Errorf("attacks: %w", err)
	}
	half := all[0].wire[:len(all[0].wire)/2]
	return append(all, question{wire: half, broken: true}, question{wire: []byte{0x0a, 0xff}, broken: true}), nil
}
