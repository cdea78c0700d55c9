package main

import (
	"fmt"
	"go/token"
	"strings"
)

// mutant is one change of the code.
type mutant struct {
	id       int
	file     string // from the module's root, with slashes
	function string // the function or method it is in; empty outside of one
	kind     string
	before   string // what is changed, in one line
	after    string
	nth      int // which of several with the same text in this function, from 1

	// For a change that cannot be switched at run time: the file with it. Else nil.
	alone []byte
}

// key is what a mutant is called in the list: it stays when lines above it come and go.
func (m mutant) key() string {
	text := fmt.Sprintf("%s %s `%s` -> `%s`", m.file, m.function, m.before, m.after)
	if m.function == "" {
		text = fmt.Sprintf("%s - `%s` -> `%s`", m.file, m.before, m.after)
	}
	if m.nth > 1 {
		text += fmt.Sprintf(" #%d", m.nth)
	}
	return text
}

const maxTextRunes = 160

// oneLine is source text as the list shows it.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxTextRunes {
		return string(runes[:maxTextRunes]) + "…"
	}
	return text
}

// swapped is what gremlins puts in a token's place.
func swapped(kind string, t token.Token) (token.Token, bool) {
	tables := map[string]map[token.Token]token.Token{
		"ARITHMETIC_BASE": {
			token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
		},
		"CONDITIONALS_BOUNDARY": {token.GEQ: token.GTR, token.GTR: token.GEQ, token.LEQ: token.LSS, token.LSS: token.LEQ},
		"CONDITIONALS_NEGATION": {
			token.EQL: token.NEQ, token.NEQ: token.EQL,
			token.GEQ: token.LSS, token.LSS: token.GEQ, token.GTR: token.LEQ, token.LEQ: token.GTR,
		},
		"INCREMENT_DECREMENT": {token.INC: token.DEC, token.DEC: token.INC},
		"INVERT_ASSIGNMENTS": {
			token.ADD_ASSIGN: token.SUB_ASSIGN, token.SUB_ASSIGN: token.ADD_ASSIGN,
			token.MUL_ASSIGN: token.QUO_ASSIGN, token.QUO_ASSIGN: token.MUL_ASSIGN, token.REM_ASSIGN: token.MUL_ASSIGN,
		},
		"INVERT_BITWISE": {
			token.AND: token.OR, token.OR: token.AND, token.XOR: token.AND, token.AND_NOT: token.AND,
			token.SHL: token.SHR, token.SHR: token.SHL,
		},
		"INVERT_BWASSIGN": {
			token.AND_ASSIGN: token.OR_ASSIGN, token.OR_ASSIGN: token.AND_ASSIGN, token.XOR_ASSIGN: token.AND_ASSIGN,
			token.AND_NOT_ASSIGN: token.AND_ASSIGN, token.SHL_ASSIGN: token.SHR_ASSIGN, token.SHR_ASSIGN: token.SHL_ASSIGN,
		},
		"INVERT_LOGICAL":          {token.LAND: token.LOR, token.LOR: token.LAND},
		"INVERT_LOOPCTRL":         {token.BREAK: token.CONTINUE, token.CONTINUE: token.BREAK},
		"INVERT_NEGATIVES":        {token.SUB: token.ADD},
		"REMOVE_SELF_ASSIGNMENTS": {},
	}
	if kind == "REMOVE_SELF_ASSIGNMENTS" {
		return token.ASSIGN, true
	}
	to, ok := tables[kind][t]
	return to, ok
}
