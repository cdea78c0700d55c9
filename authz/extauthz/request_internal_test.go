package extauthz

import (
	"encoding/pem"
	"math"
	"net/url"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A connection's port is that of one address for TCP, and of no other.
func TestTCPPort(t *testing.T) {
	t.Parallel()
	socket := func(port uint32, protocol corev3.SocketAddress_Protocol) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", Protocol: protocol, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	pipe := &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/x"}}}
	for name, tt := range map[string]struct {
		address *corev3.Address
		count   int
		want    uint16
		ok      bool
	}{
		"one":            {socket(1, corev3.SocketAddress_TCP), 1, 1, true},
		"the largest":    {socket(math.MaxUint16, corev3.SocketAddress_TCP), 1, math.MaxUint16, true},
		"too large":      {socket(math.MaxUint16+1, corev3.SocketAddress_TCP), 1, 0, false},
		"far too large":  {socket(1<<16+80, corev3.SocketAddress_TCP), 1, 0, false},
		"none":           {socket(0, corev3.SocketAddress_TCP), 1, 0, false},
		"UDP":            {socket(80, corev3.SocketAddress_UDP), 1, 0, false},
		"a pipe":         {pipe, 1, 0, false},
		"no address":     {&corev3.Address{}, 1, 0, false},
		"not there":      {&corev3.Address{}, 0, 0, false},
		"one of several": {socket(80, corev3.SocketAddress_TCP), 2, 0, false},
	} {
		wire, err := proto.Marshal(tt.address)
		if err != nil {
			t.Fatal(err)
		}
		if port, ok := (address{string(wire), tt.count}).tcpPort(); port != tt.want || ok != tt.ok {
			t.Errorf("%s: %d, %v", name, port, ok)
		}
	}
	if _, ok := (address{"\x0a\x02\x18\x50\xff", 1}).tcpPort(); ok {
		t.Error("garbage has a port")
	}
}

// A leaf is one certificate as Envoy writes it, with nothing before, in or behind it.
func TestLeafDER(t *testing.T) {
	t.Parallel()
	block := func(of string, headers map[string]string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: of, Headers: headers, Bytes: []byte("der")}))
	}
	good := block("CERTIFICATE", nil)
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"as Envoy writes it":  {url.PathEscape(good), true},
		"not escaped":         {good, true},
		"empty":               {"", false},
		"a bad escape":        {url.PathEscape(good) + "%zz", false},
		"with headers":        {block("CERTIFICATE", map[string]string{"a": "b"}), false},
		"a key":               {block("PRIVATE KEY", nil), false},
		"text before":         {"x\n" + good, false},
		"text behind":         {good + "x", false},
		"a second":            {good + good, false},
		"only a space behind": {good + " \n", true},
		"cut":                 {good[:len(good)-10], false},
		"no end":              {"-----BEGIN CERTIFICATE-----\n", false},
		"another before it":   {block("TRUSTED CERTIFICATE", nil) + good, false},
	} {
		if der, ok := leafDER(tt.text); ok != tt.ok || ok && string(der) != "der" || !ok && der != nil {
			t.Errorf("%s: %q, %v", name, der, ok)
		}
	}
}

// A bearer token is that of one Authorization header with that scheme; whatever else stands there is the application's own.
func TestBearerHeader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", maxBearer)
	one := func(value string) header { return header{value: value, count: 1} }
	for name, tt := range map[string]struct {
		h           header
		token       string
		present, ok bool
	}{
		"none":                      {header{}, "", false, true},
		"empty":                     {one(""), "", false, true},
		"a token":                   {one("Bearer a.b.c"), "a.b.c", true, true},
		"another case, more spaces": {one("\t bEARER   a.b.c "), "a.b.c", true, true},
		"nothing behind the scheme": {one("Bearer"), "", true, true},
		"another scheme":            {one("Basic YTpi"), "", false, true},
		"a scheme with more in it":  {one("Bearers a"), "", false, true},
		"no scheme":                 {one("=Bearer a"), "", false, true},
		"a list of another scheme":  {one(`Digest a="b", c="d"`), "", false, true},
		"a list that may be lines":  {header{value: `Digest a="b", c="d"`, count: 1, merged: true}, "", true, false},
		"one line, merged":          {header{value: "Bearer a", count: 1, merged: true}, "a", true, true},
		"two lines":                 {header{value: "Bearer a", count: 2}, "", true, false},
		"as long as may be":         {one("Bearer " + long), long, true, true},
		"too long":                  {one("Bearer " + long + "a"), long + "a", true, false},
	} {
		if token, present, ok := bearer(tt.h); token != tt.token || present != tt.present || ok != tt.ok {
			t.Errorf("%s: %.20q, %v, %v", name, token, present, ok)
		}
	}
}

// The scheme ends where no character of a token (RFC 9110, section 5.6.2) stands.
func TestSchemeEndsCompletely(t *testing.T) {
	t.Parallel()
	const allowed = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for c := range rune(256) {
		goesOn := strings.ContainsRune(allowed, c)
		if _, present, ok := bearer(header{value: "Bearer" + string(c) + "x", count: 1}); present == goesOn || !ok {
			t.Errorf("%q behind the scheme: present %v, %v", c, present, ok)
		}
	}
}

// A check has at most a megabyte, and only its attributes are read of it.
func TestScanReadsTheAttributes(t *testing.T) {
	t.Parallel()
	principal := protowire.AppendString(protowire.AppendTag(nil, peerPrincipal, protowire.BytesType), "spiffe://a.test/x")
	source := protowire.AppendBytes(protowire.AppendTag(nil, attributeSource, protowire.BytesType), principal)
	as := func(number protowire.Number) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), source)
	}
	for name, tt := range map[string]struct {
		wire []byte
		want string
	}{
		"attributes":         {as(requestAttributes), "spiffe://a.test/x"},
		"another field":      {as(requestAttributes + 1), ""},
		"attributes, before": {append(as(requestAttributes), as(7)...), "spiffe://a.test/x"},
	} {
		if req, ok := scan(tt.wire); !ok || req.principal != tt.want {
			t.Errorf("%s: %q, %v", name, req.principal, ok)
		}
	}
	const head = 4 // of a field of nearly a megabyte
	for n, want := range map[int]bool{maxCheck: true, maxCheck + 1: false} {
		wire := protowire.AppendBytes(protowire.AppendTag(nil, 9, protowire.BytesType), make([]byte, n-head))
		if _, ok := scan(wire); len(wire) != n || ok != want {
			t.Errorf("%d bytes: %v", len(wire), ok)
		}
	}
}

// A field of another wire type is passed over: what stands before it does not count twice.
func TestScanPassesOverOtherWireTypes(t *testing.T) {
	t.Parallel()
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	line := field(headerMapHeaders, append(field(headerKey, []byte("authorization")), field(headerRawValue, []byte("Bearer a"))...))
	for name, other := range map[string][]byte{
		"nothing":  nil,
		"a number": protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7),
		"eight":    protowire.AppendFixed64(protowire.AppendTag(nil, 99, protowire.Fixed64Type), 7),
		"a group":  protowire.AppendTag(protowire.AppendTag(nil, 99, protowire.StartGroupType), 99, protowire.EndGroupType),
	} {
		lines := append(append([]byte{}, line...), other...)
		http := append(field(httpHeaderMap, lines), other...)
		request := append(field(requestHTTP, http), other...)
		wire := append(field(requestAttributes, append(field(attributeRequest, request), other...)), other...)
		req, ok := scan(wire)
		if !ok || req.authorization.count != 1 || req.authorization.value != "Bearer a" || !req.http {
			t.Errorf("%s: %+v, %v", name, req.authorization, ok)
		}
	}
	if _, ok := scan([]byte{0x08}); ok {
		t.Error("a number that is cut off is one")
	}
	if _, ok := scan([]byte{0x07}); ok {
		t.Error("a wire type that is none is one")
	}
}

// The header has at most 64 KiB.
func TestXFCCLength(t *testing.T) {
	t.Parallel()
	const uri = "spiffe://acme.demo.test/ns/acme/sa/web"
	head := `URI=` + uri + `;Subject="`
	for n, want := range map[int]bool{maxXFCC: true, maxXFCC + 1: false} {
		header := head + strings.Repeat("a", n-len(head)-1) + `"`
		if got, err := xfccURI(header); len(header) != n || (err == nil) != want || want && got != uri {
			t.Errorf("%d bytes: %q, %v", len(header), got, err)
		}
	}
}
