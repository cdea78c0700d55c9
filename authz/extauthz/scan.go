package extauthz

import (
	"strings"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers of the fields that are read (envoy/service/auth/v3/external_auth.proto, attribute_context.proto,
// envoy/config/core/v3/base.proto).
const (
	requestAttributes    = 1
	attributeSource      = 1
	attributeDestination = 2
	attributeRequest     = 4
	attributeContext     = 10
	peerAddress          = 1
	peerPrincipal        = 4
	peerCertificate      = 5
	requestHTTP          = 2
	httpMethod           = 2
	httpHeaders          = 3
	httpPath             = 4
	httpHeaderMap        = 13
	headerMapHeaders     = 1
	headerKey            = 1
	headerValue          = 2
	headerRawValue       = 3
	entryKey             = 1
	entryValue           = 2
)

// scan reads the encoded CheckRequest. Unmarshalling one costs more than all that follows, and most of it is never looked
// at. What is read means what proto.Unmarshal would make of it: of a field that stands twice the later one counts, messages
// that stand twice are merged, an unknown field is skipped, and so is one of another wire type; bytes that are no protobuf,
// and a text that is not UTF-8, make all of it unreadable. Messages and texts that are not read are not looked into.
//
// The texts of the request are views of wire, which must not change while they are used. scan allocates nothing.
func scan(wire []byte) (req request, ok bool) {
	if len(wire) > maxCheck || !req.scan(wire) {
		return request{}, false
	}
	return req, true
}

func (r *request) scan(wire []byte) bool {
	m := message{rest: wire}
	for m.next() {
		if m.number == requestAttributes {
			m.must(r.attributes(m.value))
		}
	}
	return !m.malformed
}

func (r *request) attributes(wire []byte) bool {
	m := message{rest: wire}
	for m.next() {
		switch m.number {
		case attributeSource:
			var at address
			m.must(readPeer(m.value, &r.principal, &r.certificate, &at))
		case attributeDestination:
			var certificate string
			m.must(readPeer(m.value, &r.servedAs, &certificate, &r.servedAt))
		case attributeRequest:
			m.must(r.request(m.value))
		case attributeContext:
			key, value, ok := entry(m.value)
			m.must(ok)
			r.context = true
			switch key {
			case contextService:
				r.service = value
			case contextPort:
				r.port = value
			}
		}
	}
	return !m.malformed
}

// readPeer reads an AttributeContext.Peer.
func readPeer(wire []byte, principal, certificate *string, at *address) bool {
	m := message{rest: wire}
	for m.next() {
		switch m.number {
		case peerAddress:
			at.wire = view(m.value)
			at.count++
		case peerPrincipal:
			m.text(principal)
		case peerCertificate:
			m.text(certificate)
		}
	}
	return !m.malformed
}

func (r *request) request(wire []byte) bool {
	m := message{rest: wire}
	for m.next() {
		if m.number == requestHTTP {
			r.http = true
			m.must(r.httpRequest(m.value))
		}
	}
	return !m.malformed
}

func (r *request) httpRequest(wire []byte) bool {
	m := message{rest: wire}
	for m.next() {
		switch m.number {
		case httpMethod:
			m.text(&r.method)
		case httpPath:
			m.text(&r.path)
		case httpHeaders:
			key, value, ok := entry(m.value)
			m.must(ok)
			if h := r.header(key); h != nil {
				h.merge(key, value)
			}
		case httpHeaderMap:
			m.must(r.headerMap(m.value))
		}
	}
	return !m.malformed
}

func (r *request) headerMap(wire []byte) bool {
	m := message{rest: wire}
	for m.next() {
		if m.number == headerMapHeaders {
			m.must(r.headerLine(m.value))
		}
	}
	return !m.malformed
}

// headerLine reads a HeaderValue: one line of the request, whose raw value counts where there is one.
func (r *request) headerLine(wire []byte) bool {
	var key, value, raw string
	m := message{rest: wire}
	for m.next() {
		switch m.number {
		case headerKey:
			m.text(&key)
		case headerValue:
			m.text(&value)
		case headerRawValue:
			raw = view(m.value)
		}
	}
	if h := r.header(key); h != nil && !m.malformed {
		if raw == "" {
			raw = value
		}
		h.add(raw)
	}
	return !m.malformed
}

// header is where a header of that name is kept; nil for those that nobody reads.
func (r *request) header(name string) *header {
	switch {
	case strings.EqualFold(name, headerAuthorization):
		return &r.authorization
	case strings.EqualFold(name, headerXFCC):
		return &r.xfcc
	}
	return nil
}

// entry reads an entry of a map of texts.
func entry(wire []byte) (key, value string, ok bool) {
	m := message{rest: wire}
	for m.next() {
		switch m.number {
		case entryKey:
			m.text(&key)
		case entryValue:
			m.text(&value)
		}
	}
	return key, value, !m.malformed
}

// message goes through the length-delimited fields of an encoded message. All that is read here is of that wire type.
type message struct {
	rest      []byte
	number    int
	value     []byte
	malformed bool
}

// next goes on to the next field; false behind the last one, and where the message is malformed.
func (m *message) next() bool {
	for len(m.rest) > 0 && !m.malformed {
		number, wireType, n := protowire.ConsumeTag(m.rest)
		if n < 0 || !number.IsValid() {
			m.malformed = true
			return false
		}
		m.rest = m.rest[n:]
		if wireType == protowire.BytesType {
			m.number = int(number)
			m.value, n = protowire.ConsumeBytes(m.rest)
		} else {
			n = protowire.ConsumeFieldValue(number, wireType, m.rest)
		}
		if n < 0 {
			m.malformed = true
			return false
		}
		m.rest = m.rest[n:]
		if wireType == protowire.BytesType {
			return true
		}
	}
	return false
}

// must makes the message malformed where a part of it is.
func (m *message) must(ok bool) { m.malformed = m.malformed || !ok }

// text reads the field as a text.
func (m *message) text(to *string) {
	m.must(utf8.Valid(m.value))
	*to = view(m.value)
}

// view is the bytes as a text, without a copy.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // the one reason is speed; see request for what it asks of users
}

// bytesOf is the text as bytes that nobody may change, without a copy.
func bytesOf(text string) []byte {
	return unsafe.Slice(unsafe.StringData(text), len(text)) //nolint:gosec // as view
}
