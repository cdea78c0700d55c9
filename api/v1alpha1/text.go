package v1alpha1

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// Bounds of what is given to the YAML library, whose time grows with the square of each: no document comes near them.
const (
	maxLine  = 4096 // bytes
	maxBlank = 200  // blank lines in a row
	maxKeys  = 200  // keys of one mapping
	maxDepth = 32   // nested lists and mappings
)

// checkText makes sure that people, the YAML library and every other reader see the same characters.
func checkText(f File) (string, *source, *Problem) {
	data := bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf"))
	if i := badByte(data); i >= 0 {
		src := newSource(f.Path, strings.ToValidUTF8(string(data[:i]), "\uFFFD"))
		last := len(src.lines)
		r, size := utf8.DecodeRune(data[i:])
		what := "is not UTF-8"
		if r != utf8.RuneError || size > 1 {
			what = "is not allowed in a document"
		}
		p := src.at(last, utf8.RuneCountInString(src.lines[last-1])+1).Problem(CodeBadText, "", "%s %s", byteName(r, data[i]), what)
		return "", nil, &p
	}
	src := newSource(f.Path, string(data))
	blank := 0
	for i, line := range src.lines {
		if len(line) > maxLine {
			p := src.at(i+1, 1).Problem(CodeTooComplex, "", "the line has more than %d bytes", maxLine)
			return "", nil, &p
		}
		if strings.TrimSpace(line) != "" {
			blank = 0
			continue
		}
		if blank++; blank > maxBlank {
			p := src.at(i+1, 1).Problem(CodeTooComplex, "", "there are more than %d blank lines in a row", maxBlank)
			return "", nil, &p
		}
	}
	return string(data), src, nil
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

func badRune(r rune) bool {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return false
	case r < 0x20, r >= 0x7f && r <= 0x9f, r == '\u2028', r == '\u2029', r == '\ufeff':
		return true
	case r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\u200e', r == '\u200f', r == '\u061c':
		return true
	case r >= 0xfffe && r&0xfffe == 0xfffe:
		return true
	default:
		return false
	}
}

func byteName(r rune, b byte) string {
	const hex = "0123456789ABCDEF"
	if r == utf8.RuneError {
		return "byte 0x" + string([]byte{hex[b>>4], hex[b&15]})
	}
	return "character " + strings.ToUpper(strings.Trim(quoteRune(r), "'"))
}

// checkTokens refuses what no document needs and what the parser would take too long for. It reports whether the parser
// may go on.
func (d *decoder) checkTokens(tokens token.Tokens) bool {
	ok := true
	var s shape
	for _, t := range tokens {
		if t == nil {
			continue
		}
		if what := refused(t.Type); what != "" {
			d.reportAt(d.tokenPos(t), CodeRefusedYAML, "write the value out, or quote a text that starts with this character", "%s are not taken", what)
			ok = false
		}
		switch s.add(t); {
		case s.depth() > maxDepth:
			d.reportAt(d.tokenPos(t), CodeTooComplex, "", "more than %d lists and mappings lie in each other", maxDepth)
			return false
		case s.keys() > maxKeys:
			d.reportAt(d.tokenPos(t), CodeTooComplex, "", "the mapping has more than %d keys", maxKeys)
			return false
		}
	}
	return ok
}

func refused(t token.Type) string {
	switch t {
	case token.AnchorType:
		return "anchors (&)"
	case token.AliasType:
		return "aliases (*)"
	case token.TagType:
		return "tags (!)"
	case token.MergeKeyType:
		return "merge keys (<<)"
	case token.DirectiveType:
		return "directives (%)"
	case token.MappingKeyType:
		return "complex keys (?)"
	default:
		return ""
	}
}

// shape follows the nesting of a stream of tokens, by brackets and, outside of them, by columns.
type shape struct {
	flow  int
	block []level
}

type level struct {
	col  int
	list bool
	keys int
}

func (s *shape) depth() int { return s.flow + len(s.block) }

func (s *shape) keys() int {
	if len(s.block) == 0 {
		return 0
	}
	return s.block[len(s.block)-1].keys
}

func (s *shape) add(t *token.Token) {
	switch t.Type {
	case token.DocumentHeaderType, token.DocumentEndType:
		*s = shape{}
	case token.SequenceStartType, token.MappingStartType:
		s.flow++
	case token.SequenceEndType, token.MappingEndType:
		s.flow--
	case token.SequenceEntryType:
		if s.flow <= 0 {
			s.enter(t, true)
		}
	case token.MappingValueType:
		if s.flow <= 0 && t.Prev != nil {
			s.enter(t.Prev, false)
		}
	default:
	}
}

// enter is at an entry of a list or a key of a mapping that starts at t.
func (s *shape) enter(t *token.Token, list bool) {
	if t.Position == nil {
		return
	}
	col := t.Position.Column
	for n := len(s.block); n > 0; n = len(s.block) {
		top := s.block[n-1]
		// The entries of a list may stand in the column of the key that it belongs to.
		if top.col < col || (top.col == col && (top.list == list || list)) {
			break
		}
		s.block = s.block[:n-1]
	}
	if n := len(s.block); n == 0 || s.block[n-1].col < col || s.block[n-1].list != list {
		s.block = append(s.block, level{col: col, list: list})
	}
	if !list {
		s.block[len(s.block)-1].keys++
	}
}
