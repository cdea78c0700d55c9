package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"sort"
)

// switches is added to a package whose mutants are switched on by the environment: at most one of them is. What a run comes
// by, it notes in a file, if it is given one.
const switches = `package %s

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantOn, _ = strconv.Atoi(os.Getenv("MUTANT"))
	mutantNotes = os.Getenv("MUTANT_NOTES")
	mutantNoted [1 << 16]atomic.Bool // no allocation: there are tests that count them
)

func mutant(n int) bool {
	if mutantNotes != "" {
		mutantNote(n)
	}
	return n == mutantOn
}

func mutantNote(n int) {
	if mutantNoted[n].Load() || !mutantNoted[n].CompareAndSwap(false, true) {
		return
	}
	f, err := os.OpenFile(mutantNotes, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strconv.Itoa(n) + "\n"); err != nil {
		panic(err)
	}
}

func mutantError(n int, err error) error {
	if mutant(n) {
		return nil
	}
	return err
}
`

// The kinds of changes that gremlins does not have.
const (
	conditionFalse   = "CONDITION_FALSE"
	conditionTrue    = "CONDITION_TRUE"
	operandRemoved   = "OPERAND_REMOVED"
	loopSkipped      = "LOOP_SKIPPED"
	resultFalse      = "RESULT_FALSE"
	resultTrue       = "RESULT_TRUE"
	errorDropped     = "ERROR_DROPPED"
	statementRemoved = "STATEMENT_REMOVED"
)

// instrumented is a file with all its mutants that can be switched, and the list of all.
type instrumented struct {
	source  []byte
	mutants []mutant
}

// insertion is text to put into a file.
type insertion struct {
	at   int
	text string
}

type instrumenter struct {
	name    string
	src     []byte
	set     *token.FileSet
	changes map[place][]string
	nextID  int
	stack   []ast.Node // the nodes around, the innermost last

	mutants []mutant
	swaps   map[string]bool // what was done by swap; gremlins turns some tokens into one other under two names
	before  []insertion     // outer ones first
	after   []insertion     // inner ones first
	pending map[ast.Node][]insertion
}

// instrument finds the mutants of a file. Its name is that from the module's root; identifiers count from first.
func instrument(name string, src []byte, changes map[place][]string, first int) (instrumented, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
	if err != nil {
		return instrumented{}, err
	}
	in := &instrumenter{
		name: name, src: src, set: set, changes: changes, nextID: first,
		swaps: map[string]bool{}, pending: map[ast.Node][]insertion{},
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			last := len(in.stack) - 1
			in.after = append(in.after, in.pending[in.stack[last]]...)
			in.stack = in.stack[:last]
			return true
		}
		in.enter(n)
		in.stack = append(in.stack, n)
		return true
	})
	in.number()
	return instrumented{source: in.apply(), mutants: in.mutants}, nil
}

// apply is the source with all insertions. Where one node ends and another begins at the same place, the end comes first.
func (in *instrumenter) apply() []byte {
	all := slices.Concat(in.after, in.before)
	sort.SliceStable(all, func(i, j int) bool { return all[i].at < all[j].at })
	var out bytes.Buffer
	from := 0
	for _, i := range all {
		out.Write(in.src[from:i.at])
		out.WriteString(i.text)
		from = i.at
	}
	out.Write(in.src[from:])
	return out.Bytes()
}

// number tells mutants of one function apart that read the same.
func (in *instrumenter) number() {
	seen := map[string]int{}
	for i := range in.mutants {
		key := in.mutants[i].key()
		seen[key]++
		in.mutants[i].nth = seen[key]
	}
}

func (in *instrumenter) offset(p token.Pos) int { return in.set.Position(p).Offset }

func (in *instrumenter) text(n ast.Node) string {
	return string(in.src[in.offset(n.Pos()):in.offset(n.End())])
}

// wrap puts text before and behind a node.
func (in *instrumenter) wrap(n ast.Node, before, after string) {
	in.before = append(in.before, insertion{in.offset(n.Pos()), before})
	in.pending[n] = append([]insertion{{in.offset(n.End()), after}}, in.pending[n]...)
}

// prepend puts text before a node, or behind an opening brace.
func (in *instrumenter) prepend(at token.Pos, text string) {
	in.before = append(in.before, insertion{in.offset(at), text})
}

// add notes a mutant and returns its number.
func (in *instrumenter) add(kind, before, after string) int {
	m := mutant{id: in.nextID, file: in.name, function: in.function(), kind: kind, before: oneLine(before), after: oneLine(after)}
	in.nextID++
	in.mutants = append(in.mutants, m)
	return m.id
}

// function is the name of the declared function that the stack is in.
func (in *instrumenter) function() string {
	for _, n := range in.stack {
		if f, ok := n.(*ast.FuncDecl); ok {
			if f.Recv != nil && len(f.Recv.List) == 1 {
				return receiver(f.Recv.List[0].Type) + "." + f.Name.Name
			}
			return f.Name.Name
		}
	}
	return ""
}

func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	default:
		return "?"
	}
}

func (in *instrumenter) enter(n ast.Node) {
	in.statement(n)
	switch n := n.(type) {
	case *ast.BinaryExpr:
		in.binary(n)
		in.operands(n)
	case *ast.UnaryExpr:
		for _, kind := range in.at(n.OpPos) {
			in.swap(kind, n, n.OpPos, n.Op)
		}
	case *ast.IncDecStmt:
		in.assignment(n, n.TokPos, n.Tok)
	case *ast.AssignStmt:
		in.assignment(n, n.TokPos, n.Tok)
	case *ast.BranchStmt:
		in.branch(n)
	case *ast.IfStmt:
		in.condition(n.Cond)
	case *ast.CaseClause:
		if s, ok := in.around(2).(*ast.SwitchStmt); ok && s.Tag == nil {
			for _, e := range n.List {
				in.condition(e)
			}
		}
	case *ast.ForStmt:
		if n.Cond != nil {
			in.loop(n, n.Body)
		}
	case *ast.RangeStmt:
		in.loop(n, n.Body)
	case *ast.ReturnStmt:
		in.results(n)
	}
}

// around is the nth node around the one that is entered; 1 is its parent.
func (in *instrumenter) around(n int) ast.Node {
	if len(in.stack) < n {
		return nil
	}
	return in.stack[len(in.stack)-n]
}

// at is how gremlins changes the token there.
func (in *instrumenter) at(p token.Pos) []string {
	at := in.set.Position(p)
	return in.changes[place{at.Line, at.Column}]
}

// altered is the text of a node with another token in it.
func (in *instrumenter) altered(n ast.Node, at token.Pos, from, to token.Token) string {
	start, end, tok := in.offset(n.Pos()), in.offset(n.End()), in.offset(at)
	return string(in.src[start:tok]) + to.String() + string(in.src[tok+len(from.String()):end])
}

// binary changes an operator: one whose result is a truth value at run time, another one in a build of its own.
func (in *instrumenter) binary(n *ast.BinaryExpr) {
	for _, kind := range in.at(n.OpPos) {
		switch kind {
		case "CONDITIONALS_NEGATION", "CONDITIONALS_BOUNDARY", "INVERT_LOGICAL":
			to, ok := swapped(kind, n.Op)
			if !ok {
				continue
			}
			altered := in.altered(n, n.OpPos, n.Op, to)
			id := in.add(kind, in.text(n), altered)
			in.wrap(n, fmt.Sprintf("(mutant(%d) && (%s) || !mutant(%d) && (", id, altered, id), "))")
		default:
			in.swap(kind, n, n.OpPos, n.Op)
		}
	}
}

// swap makes a mutant that needs a build of its own: whether it compiles depends on types.
func (in *instrumenter) swap(kind string, n ast.Node, at token.Pos, from token.Token) {
	to, ok := swapped(kind, from)
	if !ok {
		return
	}
	tok := in.offset(at)
	key := fmt.Sprint(tok, to)
	if in.swaps[key] {
		return
	}
	in.swaps[key] = true
	id := in.add(kind, in.text(n), in.altered(n, at, from, to))
	in.mutants[len(in.mutants)-1].alone = slices.Concat(in.src[:tok], []byte(to.String()), in.src[tok+len(from.String()):])
	for _, outer := range in.stack { // which tests come by it, the function's begin says
		if f, ok := outer.(*ast.FuncDecl); ok {
			in.prepend(f.Body.Lbrace+1, fmt.Sprintf(" mutant(%d); ", id))
		}
	}
}

// operands takes away each operand of && and ||.
func (in *instrumenter) operands(n *ast.BinaryExpr) {
	if n.Op != token.LAND && n.Op != token.LOR {
		return
	}
	for _, operand := range []ast.Expr{n.X, n.Y} {
		if b, ok := operand.(*ast.BinaryExpr); ok && b.Op == n.Op {
			continue // its own operands are taken away one by one
		}
		rest := n.Y
		if operand == n.Y {
			rest = n.X
		}
		id := in.add(operandRemoved, in.text(n), in.text(rest))
		if n.Op == token.LAND {
			in.wrap(operand, "((", fmt.Sprintf(") || mutant(%d))", id))
		} else {
			in.wrap(operand, "((", fmt.Sprintf(") && !mutant(%d))", id))
		}
	}
}

// condition makes a condition hold always, and never.
func (in *instrumenter) condition(e ast.Expr) {
	never := in.add(conditionFalse, in.text(e), "false")
	always := in.add(conditionTrue, in.text(e), "true")
	in.wrap(e, "((", fmt.Sprintf(") && !mutant(%d) || mutant(%d))", never, always))
}

// loop leaves a loop before its first turn.
func (in *instrumenter) loop(n ast.Node, body *ast.BlockStmt) {
	head := string(in.src[in.offset(n.Pos()):in.offset(body.Lbrace)])
	id := in.add(loopSkipped, head, "no loop")
	in.prepend(body.Lbrace+1, fmt.Sprintf(" if mutant(%d) { break }; ", id))
}

// assignment changes what is done to a variable.
func (in *instrumenter) assignment(n ast.Stmt, at token.Pos, tok token.Token) {
	for _, kind := range in.at(at) {
		to, ok := swapped(kind, tok)
		if !ok {
			continue
		}
		if !in.inList() {
			in.swap(kind, n, at, tok)
			continue
		}
		altered := in.altered(n, at, tok, to)
		id := in.add(kind, in.text(n), altered)
		in.wrap(n, fmt.Sprintf("if mutant(%d) { %s } else { ", id, altered), " }")
	}
}

// branch turns break into continue and the other way round.
func (in *instrumenter) branch(n *ast.BranchStmt) {
	for _, kind := range in.at(n.TokPos) {
		to, ok := swapped(kind, n.Tok)
		if !ok || !in.inList() || !in.inLoop() {
			continue
		}
		altered := in.altered(n, n.TokPos, n.Tok, to)
		id := in.add(kind, in.text(n), altered)
		in.prepend(n.Pos(), fmt.Sprintf("if mutant(%d) { %s }; ", id, altered))
	}
}

// inList says whether the node that is entered stands in a list of statements.
func (in *instrumenter) inList() bool {
	switch in.around(1).(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
		return true
	default:
		return false
	}
}

// inLoop says whether there is a loop around, in the same function.
func (in *instrumenter) inLoop() bool {
	for _, n := range slices.Backward(in.stack) {
		switch n.(type) {
		case *ast.ForStmt, *ast.RangeStmt:
			return true
		case *ast.FuncDecl, *ast.FuncLit:
			return false
		}
	}
	return false
}

// results makes a function return another truth value, or no error.
func (in *instrumenter) results(n *ast.ReturnStmt) {
	types := in.resultTypes()
	if len(types) != len(n.Results) {
		return // none, or those of one call
	}
	for i, e := range n.Results {
		text := in.text(e)
		switch {
		case types[i] == "error" && text != "nil":
			id := in.add(errorDropped, in.text(n), "return no error")
			in.wrap(e, fmt.Sprintf("mutantError(%d, ", id), ")")
		case types[i] == "bool" && text == "false":
			id := in.add(resultTrue, in.text(n), "return true")
			in.wrap(e, "(", fmt.Sprintf(" || mutant(%d))", id))
		case types[i] == "bool" && text == "true":
			id := in.add(resultFalse, in.text(n), "return false")
			in.wrap(e, "(", fmt.Sprintf(" && !mutant(%d))", id))
		case types[i] == "bool":
			never, always := in.add(resultFalse, in.text(n), "return false"), in.add(resultTrue, in.text(n), "return true")
			in.wrap(e, "((", fmt.Sprintf(") && !mutant(%d) || mutant(%d))", never, always))
		}
	}
}

// resultTypes are the types of the results of the innermost function, as they are written.
func (in *instrumenter) resultTypes() []string {
	var f *ast.FuncType
	for _, n := range in.stack {
		switch n := n.(type) {
		case *ast.FuncDecl:
			f = n.Type
		case *ast.FuncLit:
			f = n.Type
		}
	}
	if f == nil || f.Results == nil {
		return nil
	}
	var types []string
	for _, field := range f.Results.List {
		for range max(1, len(field.Names)) {
			types = append(types, in.text(field.Type))
		}
	}
	return types
}

// statement takes a statement away that only has effects.
func (in *instrumenter) statement(n ast.Node) {
	if !in.inList() {
		return
	}
	switch n := n.(type) {
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "panic" {
				return // the compiler knows that nothing comes after it
			}
		}
	case *ast.AssignStmt:
		if n.Tok == token.DEFINE || in.text(n.Lhs[0]) == "_" {
			return
		}
	case *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt:
	default:
		return
	}
	text := in.text(n)
	id := in.add(statementRemoved, text, "")
	in.wrap(n, fmt.Sprintf("if !mutant(%d) { ", id), " }")
}
