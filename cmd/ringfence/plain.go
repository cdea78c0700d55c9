package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"
)

// plainWriter is what everything goes through that people or programs read: no command has colours, and what a terminal would act on
// comes from outside. Such characters are written as JSON writes them (\u001b), so JSON stays the same text. What is no UTF-8
// becomes U+FFFD.
type plainWriter struct {
	mu      sync.Mutex
	to      io.Writer
	pending []byte // the begin of a character whose rest comes with the next write
}

func newPlain(to io.Writer) *plainWriter { return &plainWriter{to: to} }

// Write implements io.Writer.
func (p *plainWriter) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := slices.Concat(p.pending, data)
	out := make([]byte, 0, len(in))
	for len(in) > 0 && utf8.FullRune(in) {
		r, size := utf8.DecodeRune(in)
		in = in[size:]
		if acts(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	p.pending = append([]byte(nil), in...)
	if _, err := p.to.Write(out); err != nil {
		return 0, err
	}
	return len(data), nil
}

// acts reports whether a terminal, or who reads a line, may take r for more than a character. All of them are below U+10000.
func acts(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}
