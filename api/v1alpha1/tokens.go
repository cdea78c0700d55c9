package v1alpha1

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// checkTokens refuses what no document needs, what the parser would take too long for, and what YAML readers read
// differently. It reports whether the parser may go on.
func (d *decoder) checkTokens(tokens token.Tokens) bool {
	var s shape
	ok := true
	for _, t := range tokens {
		if t.Type == token.CommentType || t.Type == token.InvalidType {
			continue // the parser reports what is invalid
		}
		if what := refused(t.Type); what != "" {
			d.reportAt(d.tokenPos(t), CodeRefusedYAML, "write the value out, or quote a text that starts with this character", "%s are not taken", what)
			ok = false
			if d.full() {
				return false
			}
			continue
		}
		problem := d.misread(t)
		if problem == "" {
			problem = s.add(t)
		}
		switch {
		case problem != "" && ok:
			d.reportAt(d.tokenPos(t), CodeSyntax, "", "%s", problem)
			return false
		case problem != "": // it may follow from what was refused before
			return false
		case s.depth() > maxDepth:
			d.reportAt(d.tokenPos(t), CodeTooComplex, "", "more than %d lists and mappings lie in each other", maxDepth)
			return false
		case s.empty > maxEmpty:
			d.reportAt(d.tokenPos(t), CodeTooComplex, "", "more than %d keys and entries have no value", maxEmpty)
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
	case token.LiteralType, token.FoldedType:
		return "blocks of text (| and >)"
	default:
		return ""
	}
}

// misread compares a token with the place in the source where it says it stands. What the lexer makes of a text that goes
// on in the next line, or of a colon without a space, is not what others make of it.
func (d *decoder) misread(t *token.Token) string {
	const lost = "this cannot be read without doubt; quote texts, and keep each in one line"
	at := d.tokenPos(t)
	here := d.src.lines[at.line-1][at.col-1:]
	switch t.Type {
	case token.SingleQuoteType, token.DoubleQuoteType:
		if len(here) == 0 || (here[0] != '"' && here[0] != '\'') || strings.Contains(strings.TrimSpace(t.Origin), "\n") {
			return lost
		}
	case token.MappingValueType:
		if len(here) == 0 || here[0] != ':' {
			return lost
		}
		if len(here) > 1 && here[1] != ' ' {
			return "there must be a space after the colon; quote a text that holds a colon"
		}
	default:
		value := []rune(t.Value)
		if len(here) < len(value) || !slices.Equal(here[:len(value)], value) {
			return lost
		}
		if content(t) && (!plain(t.Value) || !ends(here[len(value):])) {
			return lost
		}
	}
	return ""
}

// plain reports whether every reader takes a text without quotes for that text.
func plain(s string) bool {
	return s != "" && !strings.ContainsAny(s[:1], ":,[]{}#&*!|>'\"%@`") && !strings.HasSuffix(s, ":") &&
		!strings.Contains(s, ": ") && !strings.Contains(s, " #") && !strings.Contains(s, "?")
}

// ends reports whether a plain text may end before the rest of its line.
func ends(rest []rune) bool {
	return len(rest) == 0 || strings.ContainsRune(" ,:]}", rest[0])
}

// content reports whether a token is a value or a key.
func content(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.BoolType, token.NullType,
		token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType,
		token.FloatType, token.InfinityType, token.NanType:
		return true
	default:
		return false
	}
}

// complete reports whether every value and key of the text is in the tree: a parser that skips something must not go
// unnoticed.
func (d *decoder) complete(tokens token.Tokens, n ast.Node) bool {
	read := map[*token.Token]bool{}
	collect(n, read)
	for _, t := range tokens {
		if content(t) && !read[t] {
			d.reportAt(d.tokenPos(t), CodeSyntax, "", "not valid YAML: this belongs to nothing")
			return false
		}
	}
	return true
}

func collect(n ast.Node, read map[*token.Token]bool) {
	switch n := n.(type) {
	case nil:
	case *ast.MappingNode:
		for _, v := range n.Values {
			collect(v, read)
		}
	case *ast.MappingValueNode:
		collect(n.Key, read)
		collect(n.Value, read)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			collect(v, read)
		}
	default:
		read[n.GetToken()] = true
	}
}

// shape follows the nesting of a stream of tokens, by brackets and, outside of them, by columns.
type shape struct {
	flow  []bracket
	block []level
	empty int // entries and keys without a value, at least
}

type bracket struct {
	list  bool
	colon bool // the current entry has one
}

type level struct {
	col  int
	list bool
	keys int
}

func (s *shape) depth() int { return len(s.flow) + len(s.block) }

func (s *shape) keys() int {
	if len(s.block) == 0 {
		return 0
	}
	return s.block[len(s.block)-1].keys
}

// add takes the next token in, and says what about it is not taken.
func (s *shape) add(t *token.Token) string {
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		s.flow = append(s.flow, bracket{list: t.Type == token.SequenceStartType})
		return ""
	case token.MappingValueType:
		if t.Prev == nil || t.Prev.Position.Line != t.Position.Line {
			return "a colon stands in the line of its key"
		}
	default:
	}
	if len(s.flow) > 0 {
		return s.inside(t)
	}
	switch t.Type {
	case token.SequenceEntryType:
		s.enter(t.Position.Column, true)
		s.value(t, t.Position.Column)
	case token.MappingValueType:
		s.enter(t.Prev.Position.Column, false)
		s.value(t, t.Prev.Position.Column-1)
	default:
	}
	return ""
}

// value counts a dash or colon that no value follows in its line or, beyond the column, in a later one.
func (s *shape) value(t *token.Token, col int) {
	next := t.Next
	for next != nil && next.Type == token.CommentType {
		next = next.Next
	}
	if next == nil || (next.Position.Line > t.Position.Line && next.Position.Column <= col) {
		s.empty++
	}
}

// inside takes in a token that stands in brackets.
func (s *shape) inside(t *token.Token) string {
	top := &s.flow[len(s.flow)-1]
	switch t.Type {
	case token.SequenceEndType, token.MappingEndType:
		s.flow = s.flow[:len(s.flow)-1]
	case token.CollectEntryType:
		if !top.list && (!top.colon || t.PreviousType() == token.MappingValueType) {
			s.empty++
		}
		top.colon = false
		switch t.PreviousType() {
		case token.SequenceStartType, token.MappingStartType, token.CollectEntryType:
			return "a comma stands between two entries"
		default:
		}
	case token.MappingValueType:
		if top.list || top.colon {
			return "a colon cannot stand here: entries are parted by commas, and a mapping stands in {}"
		}
		top.colon = true
	case token.SequenceEntryType:
		return "a dash cannot stand here: entries are parted by commas"
	case token.StringType:
		if strings.ContainsAny(t.Value, "[]{},") {
			return "quote a text that holds brackets or commas"
		}
	default:
	}
	return ""
}

// enter is at an entry of a list or a key of a mapping that starts in a column.
func (s *shape) enter(col int, list bool) {
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
