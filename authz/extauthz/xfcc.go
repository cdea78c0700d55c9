package extauthz

import (
	"errors"
	"slices"
	"strings"
)

// maxXFCC bounds x-forwarded-client-cert; with a whole chain in it Envoy writes some 10 KiB.
const maxXFCC = 64 << 10

var (
	errXFCCElements = errors.New("x-forwarded-client-cert: more than one element")
	errXFCC         = errors.New("x-forwarded-client-cert: not as Envoy writes it")
	errXFCCURI      = errors.New("x-forwarded-client-cert: not exactly one URI")
)

// xfccKeys are the keys that Envoy writes, and whether it may write one several times.
func xfccKeys(key string) (known, repeats bool) {
	switch key {
	case "By", "DNS":
		return true, true
	case "Hash", "Cert", "Chain", "Subject", "Issuer", "URI":
		return true, false
	}
	return false, false
}

// xfccURI is the one URI of the one element of an x-forwarded-client-cert header.
//
// An Envoy that replaces the header (SANITIZE_SET) writes one element, of its own client. Several mean that it appends to
// what the client sent, or that a certificate holds a comma where Envoy copies it without quotes; so they are refused, and
// nothing is guessed about which of them to believe. For the same reason a second URI, an unknown key, a key written in
// another way and everything outside printable ASCII are refused.
func xfccURI(header string) (string, error) {
	if header == "" || len(header) > maxXFCC {
		return "", errXFCC
	}
	var (
		uri  string
		seen []string
	)
	for rest, more := header, true; more; {
		key, value, tail, err := xfccPair(rest)
		if err != nil {
			return "", err
		}
		known, repeats := xfccKeys(key)
		switch {
		case !known:
			return "", errXFCC
		case key == "URI" && uri != "", key == "URI" && value == "":
			return "", errXFCCURI
		case !repeats && slices.Contains(seen, key):
			return "", errXFCC
		case key == "URI":
			uri = value
		}
		seen = append(seen, key)
		if more = tail != ""; more {
			rest = tail[1:] // behind the semicolon
		}
	}
	if uri == "" {
		return "", errXFCCURI
	}
	return uri, nil
}

// xfccPair takes the first key=value from the text; rest is empty, or begins with the semicolon before the next pair.
func xfccPair(text string) (key, value, rest string, err error) {
	key, text, found := strings.Cut(text, "=")
	if !found {
		return "", "", "", errXFCC
	}
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		value, rest, ok = unquote(quoted)
		if !ok {
			return "", "", "", errXFCC
		}
	} else {
		end := strings.IndexAny(text, ";,")
		if end < 0 {
			end = len(text)
		}
		value, rest = text[:end], text[end:]
		if strings.ContainsAny(value, `"=\ `) || !visible(value) {
			return "", "", "", errXFCC
		}
	}
	switch {
	case rest == "" || rest[0] == ';':
		return key, value, rest, nil
	case rest[0] == ',':
		return "", "", "", errXFCCElements
	}
	return "", "", "", errXFCC
}

// unquote reads up to the closing quote; only a quote and a backslash may be escaped.
func unquote(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), text[i+1:], true
		case c == '\\':
			if i++; i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", "", false
			}
			b.WriteByte(text[i])
		case c < ' ' || c > '~':
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// visible reports whether the text is printable ASCII.
func visible(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
