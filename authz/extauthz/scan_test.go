package extauthz

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/ringfence-mesh/ringfence/internal/protomutate"
)

// read is what the fields of a request mean, in a form that can be compared.
type read struct {
	principal, certificate, servedAs, method, path, service, port string
	authorization, xfcc                                           line
	http, context                                                 bool
	servedAt                                                      uint16 // of where Envoy was called, by TCP
}

type line struct {
	value  string
	count  int // two stands for more
	merged bool
}

func lineOf(h header) line {
	if h.count > 1 {
		return line{count: 2, merged: h.merged}
	}
	return line{h.value, h.count, h.merged}
}

func readOf(r request) read {
	at, _ := r.servedAt.tcpPort()
	return read{
		r.principal, r.certificate, r.servedAs, r.method, r.path, r.service, r.port, lineOf(r.authorization), lineOf(r.xfcc),
		r.http, r.context, at,
	}
}

// unmarshalled is the dumb twin of scan.
func unmarshalled(req *authv3.CheckRequest) read {
	a := req.GetAttributes()
	http := a.GetRequest().GetHttp()
	return read{
		principal: a.GetSource().GetPrincipal(), certificate: a.GetSource().GetCertificate(), servedAs: a.GetDestination().GetPrincipal(),
		method: http.GetMethod(), path: http.GetPath(),
		service: a.GetContextExtensions()[contextService], port: a.GetContextExtensions()[contextPort],
		http: http != nil, context: len(a.GetContextExtensions()) > 0, servedAt: tcpPortIn(a.GetDestination().GetAddress().GetSocketAddress()),
		authorization: lineIn(http, "authorization"), xfcc: lineIn(http, "x-forwarded-client-cert"),
	}
}

func tcpPortIn(s *corev3.SocketAddress) uint16 {
	if s.GetProtocol() != corev3.SocketAddress_TCP || s.GetPortValue() > 1<<16-1 {
		return 0
	}
	return uint16(s.GetPortValue()) //nolint:gosec // within its bounds
}

func lineIn(h *authv3.AttributeContext_HttpRequest, name string) line {
	var l line
	for _, f := range h.GetHeaderMap().GetHeaders() {
		if strings.EqualFold(f.GetKey(), name) {
			l.count++
			if l.value = string(f.GetRawValue()); l.value == "" {
				l.value = f.GetValue()
			}
		}
	}
	for key, value := range h.GetHeaders() {
		if strings.EqualFold(key, name) {
			l = line{value, l.count + 1, true}
		}
	}
	if l.count > 1 {
		return line{count: 2, merged: l.merged}
	}
	return l
}

// narrow is CheckRequest's descriptor with nothing but the fields that scan reads, so that proto.Unmarshal skips what scan
// skips: both must then find the same bytes unreadable.
func narrow(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{Syntax: new("proto3"), Name: new("narrow.proto"), Package: new("narrow")}
	for _, m := range []struct {
		of     proto.Message
		fields []protoreflect.Name
	}{
		{&authv3.CheckRequest{}, []protoreflect.Name{"attributes"}},
		{&authv3.AttributeContext{}, []protoreflect.Name{"source", "destination", "request", "context_extensions"}},
		{&authv3.AttributeContext_Peer{}, []protoreflect.Name{"principal", "certificate"}},
		{&authv3.AttributeContext_Request{}, []protoreflect.Name{"http"}},
		{&authv3.AttributeContext_HttpRequest{}, []protoreflect.Name{"method", "path", "headers", "header_map"}},
		{&corev3.HeaderMap{}, []protoreflect.Name{"headers"}},
		{&corev3.HeaderValue{}, []protoreflect.Name{"key", "value", "raw_value"}},
	} {
		full := m.of.ProtoReflect().Descriptor()
		out := &descriptorpb.DescriptorProto{Name: new(string(full.Name()))}
		for _, name := range m.fields {
			f := full.Fields().ByName(name)
			field := protodesc.ToFieldDescriptorProto(f)
			field.JsonName, field.Options, field.OneofIndex = nil, nil, nil
			if f.Message() != nil {
				field.TypeName = new(".narrow." + string(f.Message().Name()))
			}
			if f.IsMap() {
				entry := protodesc.ToDescriptorProto(f.Message()) // on the wire a map is a list of its entries
				entry.Options = nil
				field.TypeName = new(".narrow." + string(full.Name()) + "." + entry.GetName())
				out.NestedType = append(out.NestedType, entry)
			}
			out.Field = append(out.Field, field)
		}
		file.MessageType = append(file.MessageType, out)
	}
	fd, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fd.Messages().ByName("CheckRequest")
}

// compare holds scan against proto.Unmarshal.
func compare(t testing.TB, shape protoreflect.MessageDescriptor, wire []byte) {
	t.Helper()
	req, ok := scan(wire)
	var full authv3.CheckRequest
	fullErr, narrowErr := proto.Unmarshal(wire, &full), proto.Unmarshal(wire, dynamicpb.NewMessage(shape))
	switch {
	case ok != (narrowErr == nil):
		t.Fatalf("readable: %v; proto.Unmarshal: %v\n%x", ok, narrowErr, wire)
	case !ok && fullErr == nil:
		t.Fatalf("unreadable, and not for proto.Unmarshal\n%x", wire)
	case !ok && req != request{}:
		t.Fatalf("unreadable, but %+v", req)
	case fullErr == nil && req.servedAt.count <= 1 && readOf(req) != unmarshalled(&full):
		t.Fatalf("%+v\n%+v\n%x", readOf(req), unmarshalled(&full), wire)
	}
}

// full is a request in which everything that is read, and something of all that is not, is said.
func full() *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Principal: "spiffe://acme.demo.test/ns/acme/sa/web", Certificate: "-----BEGIN%20CERTIFICATE-----", Labels: map[string]string{"a": "b"},
			Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/x"}}},
		},
		Destination: &authv3.AttributeContext_Peer{Principal: "spiffe://acme.demo.test/ns/acme/sa/orders", Service: "s"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: "GET", Path: "/orders?x=1", Host: "orders", Scheme: "https", Size: -1, Protocol: "HTTP/2", RawBody: []byte{0xff},
			Headers: map[string]string{"x-a": "b", "authorization": "Bearer x", "X-Forwarded-Client-Cert": "URI=a"},
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: ":path", RawValue: []byte("/orders")},
				{Key: "Authorization", RawValue: []byte("Bearer \xff")},
				{Key: "x-forwarded-client-cert", Value: "URI=b"},
			}},
		}},
		ContextExtensions: map[string]string{"service": "acme/orders", "port": "http", "x": "y"},
		TlsSession:        &authv3.AttributeContext_TLSSession{Sni: "orders"},
	}}
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hostile are encodings that no library writes, made of good ones.
func hostile(t testing.TB) [][]byte {
	t.Helper()
	good := encoded(t, full())
	one := func(change func(*authv3.AttributeContext)) []byte {
		r := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}
		change(r.GetAttributes())
		return encoded(t, r)
	}
	second := one(func(a *authv3.AttributeContext) {
		a.Source = &authv3.AttributeContext_Peer{Principal: "spiffe://globex.demo.test/ns/globex/sa/web"}
		a.Request = &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Path: "/other", Headers: map[string]string{"authorization": "Bearer y", "Authorization": "Bearer z"},
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer w")}}},
		}}
		a.ContextExtensions = map[string]string{"service": "globex/orders"}
	})
	field := func(number protowire.Number, inner []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), inner)
	}
	attributes := func(inner []byte) []byte { return field(requestAttributes, inner) }
	http := func(inner []byte) []byte { return attributes(field(attributeRequest, field(requestHTTP, inner))) }
	entry := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	text := func(number protowire.Number, s string) []byte { return field(number, []byte(s)) }
	group := protowire.AppendTag(protowire.AppendTag(nil, 99, protowire.StartGroupType), 99, protowire.EndGroupType)
	return [][]byte{
		{},
		{0x0a, 0xff},
		{0x0a},
		{0x00},
		{0x0c},
		{0x0f},
		group, group[:len(group)-2],
		slices.Concat(good, second), slices.Concat(second, good), slices.Concat(good, good),
		attributes([]byte{0x80}), attributes(text(attributeContext, "\x0a\x07service\x12\x01x")),
		attributes(field(attributeContext, entry(text(1, "service"), text(2, "a/b"), text(2, "c/d")))),
		attributes(field(attributeContext, entry(text(2, "a/b"), text(1, "x"), text(1, "service")))),
		attributes(field(attributeContext, entry(text(1, "service")))), attributes(field(attributeContext, entry(text(2, "nameless")))),
		attributes(field(attributeContext, entry(text(1, "service"), []byte{0x10, 0x01}))), // a number instead of the value
		attributes(field(attributeContext, entry(text(1, "\xff")))),
		attributes(protowire.AppendVarint(protowire.AppendTag(nil, attributeSource, protowire.VarintType), 7)),
		attributes(field(attributeSource, text(peerPrincipal, "\xff"))), attributes(field(attributeSource, text(1, "\xff"))),
		attributes(field(attributeDestination, text(peerCertificate, "\xff"))),
		http(text(httpMethod, "\xc3\x28")), http(entry(text(httpPath, "/a"), text(httpPath, "/b"))), http(text(5, "\xff")),
		http(entry(
			field(httpHeaders, entry(text(1, "authorization"), text(2, "a"))), field(httpHeaders, entry(text(1, "authorization"), text(2, "b"))),
		)),
		http(entry(
			field(httpHeaders, entry(text(1, "authorization"), text(2, "a"))), field(httpHeaders, entry(text(1, "AUTHORIZATION"), text(2, "b"))),
		)),
		http(field(httpHeaderMap, field(headerMapHeaders, entry(text(headerKey, "x"), text(headerKey, "authorization"), text(headerValue, "v"))))),
		http(field(httpHeaderMap, field(headerMapHeaders, entry(text(headerKey, "authorization"), text(headerRawValue, "\xff"), text(headerRawValue, ""), text(headerValue, "v"))))),
		http(field(httpHeaderMap, field(headerMapHeaders, entry(text(headerKey, "authorization"), []byte{0x10, 0x01})))),
		protowire.AppendVarint(protowire.AppendTag(nil, 1<<29-1, protowire.VarintType), 1),
		protowire.AppendVarint(protowire.AppendVarint(nil, 1<<29<<3), 1), // a number above all valid ones
		{0x8a, 0x80, 0x00, 0x00}, // a tag that is longer than it need be
	}
}

// Every small change of a request, and every cut and every changed byte of its encoding, is read as proto.Unmarshal reads it.
func TestScanAsUnmarshal(t *testing.T) {
	t.Parallel()
	shape, req := narrow(t), full()
	wire := encoded(t, req)
	if got, _ := scan(wire); readOf(got) != unmarshalled(req) || got.path != "/orders?x=1" || got.authorization.count != 2 || got.port != "http" {
		t.Fatalf("%+v", got)
	}
	changes := 0
	protomutate.Each(req, func(protomutate.Change) {
		changes++
		compare(t, shape, encoded(t, req))
	})
	if changes < 100 {
		t.Errorf("only %d changes", changes)
	}
	for n := range wire {
		compare(t, shape, wire[:n])
		was := wire[n]
		for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff, was ^ 1, was ^ 2, was ^ 4, was ^ 8, was + 1, was - 1} {
			wire[n] = b
			compare(t, shape, wire)
		}
		wire[n] = was
	}
	for _, h := range hostile(t) {
		compare(t, shape, h)
	}
	if _, ok := scan(make([]byte, maxCheck+1)); ok {
		t.Error("a request of any size is read")
	}
}

func TestScanAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts the allocations of the whole process
	wire := encoded(t, full())
	var req request
	if n := testing.AllocsPerRun(100, func() { req, _ = scan(wire) }); n != 0 || req.method != "GET" {
		t.Errorf("%v allocations", n)
	}
}

// Whatever bytes arrive are read as proto.Unmarshal reads them.
func FuzzScan(f *testing.F) {
	f.Add(encoded(f, full()))
	at := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 20412},
	}}}
	connection := encoded(f, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Principal: "spiffe://acme.demo.test/ns/acme/sa/reports"},
		Destination: &authv3.AttributeContext_Peer{Principal: "spiffe://acme.demo.test/ns/acme/sa/db", Address: at},
	}})
	f.Add(connection)
	f.Add(append(slices.Clone(connection), connection...)) // the address twice
	for _, h := range hostile(f) {
		f.Add(h)
	}
	shape := narrow(f)
	f.Fuzz(func(t *testing.T, wire []byte) { compare(t, shape, wire) })
}

// TestAPortThatIsSaidTwice: where Envoy took the connection is the destination, so what can be read in two ways is none.
func TestAPortThatIsSaidTwice(t *testing.T) {
	t.Parallel()
	at := func(port uint32) []byte {
		wire, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{Destination: &authv3.AttributeContext_Peer{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
			}}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	for name, tc := range map[string]struct {
		wire []byte
		want uint16
	}{"once": {at(5432), 5432}, "twice": {append(at(5432), at(25)...), 0}, "twice the same": {append(at(5432), at(5432)...), 0}} {
		req, ok := scan(tc.wire)
		if port, known := req.servedAt.tcpPort(); !ok || port != tc.want || known != (tc.want != 0) {
			t.Errorf("%s: %d, %v", name, port, known)
		}
	}
}
