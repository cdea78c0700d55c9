package v1alpha1

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of what is given to the YAML library, whose time grows with the square of each: no document comes near them.
const (
	maxLine  = 4096 // bytes
	maxBlank = 200  // blank lines in a row
	maxKeys  = 200  // keys of one mapping
	maxDepth = 32   // nested lists and mappings
	maxEmpty = 100  // keys and entries without a value
)

// readText makes sure that people, the YAML library and every other reader see the same characters.
func readText(f File) (*source, *Problem) {
	data := bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf"))
	if i := badByte(data); i >= 0 {
		src := newSource(f.Path, string(data[:i])+"\uFFFD")
		last := len(src.lines)
		p := src.at(last, len(src.lines[last-1])).Problem(CodeBadText, "", "%s", badText(data[i:]))
		return nil, &p
	}
	src := newSource(f.Path, string(data))
	blank := 0
	for i, line := range src.lines {
		blank++
		if len(line) > 0 {
			blank = 0
		}
		switch {
		case len(string(line)) > maxLine:
			p := src.at(i+1, 1).Problem(CodeTooComplex, "", "the line has more than %d bytes", maxLine)
			return nil, &p
		case blank > maxBlank:
			p := src.at(i+1, 1).Problem(CodeTooComplex, "", "there are more than %d blank lines in a row", maxBlank)
			return nil, &p
		}
	}
	return src, nil
}

// badByte is the index of the first byte that no document may hold, or -1.
func badByte(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if (r == utf8.RuneError && size <= 1) || badRune(r) || (r == '\r' && (i+1 == len(data) || data[i+1] != '\n')) {
			return i
		}
		i += size
	}
	return -1
}

// badRune reports the characters that are no text: controls, tabs, line breaks that only some readers take for one, marks
// that change the direction of text, and what Unicode will never assign.
func badRune(r rune) bool {
	switch {
	case r == '\n' || r == '\r':
		return false
	case r < 0x20, r >= 0x7f && r <= 0x9f, r == '\u2028', r == '\u2029', r == '\ufeff':
		return true
	case r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\u200e', r == '\u200f', r == '\u061c':
		return true
	default:
		return r >= 0xfffe && r&0xfffe == 0xfffe
	}
}

func badText(data []byte) string {
	r, size := utf8.DecodeRune(data)
	switch {
	case r == utf8.RuneError && size <= 1:
		return fmt.Sprintf("byte 0x%02X is not UTF-8", data[0])
	case r == '\t':
		return "a tab: YAML readers differ on tabs, so use spaces"
	case r == '\r':
		return "a carriage return without a line feed"
	default:
		return fmt.Sprintf("character %U is not allowed", r)
	}
}

// part is one document's text.
type part struct {
	text   string
	before int // lines before it
}

// split cuts the source at the lines ---. The YAML library would do it too, but it loses a document after one that holds
// comments alone.
func (d *decoder) split() []part {
	var parts []part
	start := 0
	cut := func(end int) {
		lines := d.src.lines[start:end]
		text, empty := make([]string, len(lines)), true
		for i, l := range lines {
			text[i] = string(l)
			first := strings.TrimLeft(text[i], " ")
			empty = empty && (first == "" || first[0] == '#')
		}
		if !empty {
			parts = append(parts, part{text: strings.Join(text, "\n") + "\n", before: start})
		}
		start = end + 1
	}
	for i, l := range d.src.lines {
		marker, rest := marker(string(l))
		switch {
		case marker == "":
		case marker == "...":
			d.reportAt(d.src.at(i+1, 1), CodeRefusedYAML, "write --- between documents", "ends of documents (...) are not taken")
			return nil
		case rest != "" && rest[0] != '#':
			d.reportAt(d.src.at(i+1, len(marker)+2), CodeRefusedYAML, "begin the document in the next line", "text behind --- is not taken")
			return nil
		default:
			cut(i)
		}
	}
	cut(len(d.src.lines))
	return parts
}

// marker cuts a line that begins with --- or ... as a word of its own.
func marker(line string) (marker, rest string) {
	for _, m := range []string{"---", "..."} {
		if r, ok := strings.CutPrefix(line, m); ok && (r == "" || r[0] == ' ') {
			return m, strings.TrimLeft(r, " ")
		}
	}
	return "", ""
}
