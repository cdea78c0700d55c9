package v1alpha1

import (
	"errors"
	"reflect"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// MaxFileSize is the size of the largest file that is read.
	MaxFileSize = 1 << 20
	// maxProblems bounds what one file can say about itself.
	maxProblems = 100
)

// File is a file as a source found it. Path is relative to the configuration directory, with slashes.
type File struct {
	Path string
	Data []byte
}

// Decode reads the documents of a file. A document with problems is among the documents, so that references to it are
// not reported as well; it carries its problems (Header.Problems), and nothing can be built from it.
func Decode(f File) ([]Document, []Problem) {
	if Owner(f.Path) == "" || Owner(f.Path) == "tenants/"+PlatformOwner {
		return nil, []Problem{FileProblem(f.Path, CodeMisplacedFile,
			"documents lie in mesh.yaml, platform/, tenants/<tenant>/ and tests/", "the path says no owner of the documents in this file")}
	}
	if len(f.Data) > MaxFileSize {
		return nil, []Problem{FileProblem(f.Path, CodeFileTooLarge, "split it into several files",
			"the file has more than %d bytes", MaxFileSize)}
	}
	src, problem := readText(f)
	if problem != nil {
		return nil, []Problem{*problem}
	}
	d := &decoder{src: src}
	docs := d.file()
	return docs, SortProblems(d.problems)
}

// decoder collects the problems of one file.
type decoder struct {
	src      *source
	problems []Problem
	before   int     // lines before the document that is being read
	doc      *Header // of the document that is being read, once its kind is known
}

func (d *decoder) report(p Problem) {
	if len(d.problems) >= maxProblems {
		p = FileProblem(d.src.file, CodeMoreProblems, "", "there are more problems than the first %d", maxProblems)
	}
	if len(d.problems) <= maxProblems {
		d.problems = append(d.problems, p)
	}
	// Also where the file's list is full: a document with a problem must never pass for a whole one.
	if d.doc != nil && len(d.doc.problems) <= maxProblems {
		d.doc.problems = append(d.doc.problems, p)
	}
}

// full reports whether the list is at its bound, so that looking for more is in vain.
func (d *decoder) full() bool { return len(d.problems) > maxProblems }

func (d *decoder) reportAt(p Pos, code Code, hint, format string, args ...any) {
	d.report(p.Problem(code, hint, format, args...))
}

// file reads all documents of the source.
func (d *decoder) file() []Document {
	return d.contain(func() (docs []Document) {
		for _, p := range d.split() {
			if d.full() {
				break
			}
			d.before = p.before
			if doc := d.part(p.text); doc != nil {
				docs = append(docs, doc)
			}
		}
		return docs
	})
}

// contain keeps a panic of the YAML library inside: it takes bytes apart that nobody has vouched for, and a panic in it
// must cost this file, not the process that serves every tenant.
func (d *decoder) contain(read func() []Document) (docs []Document) {
	defer func() {
		if r := recover(); r != nil {
			docs = nil
			d.doc = nil
			d.report(FileProblem(d.src.file, CodeSyntax, "", "the YAML reader failed on this file"))
		}
	}()
	return read()
}

// part reads one document. It is nil where not even its kind is known.
func (d *decoder) part(text string) Document {
	tokens := lexer.Tokenize(text)
	if !d.checkTokens(tokens) {
		return nil
	}
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil
	}
	if len(parsed.Docs) != 1 || parsed.Docs[0].Body == nil {
		d.reportAt(d.src.at(d.before+1, 1), CodeSyntax, "", "not valid YAML: this is not one document")
		return nil
	}
	body := parsed.Docs[0].Body
	if !d.complete(tokens, body) {
		return nil
	}
	return d.document(body)
}

func (d *decoder) syntax(err error) {
	// The library's own text quotes the whole source at a cost that grows with its square: only the message is taken.
	if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok {
		d.reportAt(d.tokenPos(syntax.Token), CodeSyntax, "", "not valid YAML: %s", syntax.Message)
		return
	}
	d.report(FileProblem(d.src.file, CodeSyntax, "", "not valid YAML"))
}

func (d *decoder) tokenPos(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return d.src.at(d.before+1, 1)
	}
	return d.src.at(d.before+t.Position.Line, t.Position.Column)
}

func (d *decoder) pos(n ast.Node) Pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return d.pos(m.Values[0].Key)
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return d.pos(m.Key)
	}
	return d.tokenPos(n.GetToken())
}

func (d *decoder) document(n ast.Node) Document {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.reportAt(d.pos(n), CodeWrongType, "", "a document is a mapping with kind, metadata and spec; this is %s", describe(n))
		return nil
	}
	doc := d.newDocument(n, m)
	if doc == nil {
		return nil
	}
	d.doc = doc.header()
	defer func() { d.doc = nil }()
	d.structure(n, reflect.ValueOf(doc).Elem(), "")
	return doc
}

// newDocument makes the empty document of the kind that n names, or says why there is none.
func (d *decoder) newDocument(n ast.Node, m ast.MapNode) Document {
	var version, kind ast.Node
	for it := m.MapRange(); it.Next(); {
		switch name := keyText(it.Key()); {
		case name == "apiVersion" && version == nil:
			version = it.Value()
		case name == "kind" && kind == nil:
			kind = it.Value()
		}
	}
	if kind == nil {
		d.reportAt(d.pos(n), CodeMissingField, "write for example kind: Service", "the document has no kind")
		return nil
	}
	var v, k String
	if !d.scalar(kind, &k, "kind") || (version != nil && !d.scalar(version, &v, "apiVersion")) {
		return nil
	}
	known := Kind(k.Value)
	switch {
	case notYetKind(known, v.Value):
		d.reportAt(k.Pos, CodeNotYet, "", "kind %s is not built yet", known)
		return nil
	case v.IsSet() && v.Value != APIVersion:
		d.reportAt(v.Pos, CodeAPIVersion, "write apiVersion: "+APIVersion, "unknown apiVersion %s", Quote(v.Value))
		return nil
	}
	doc := newOf(known)
	switch test := IsTest(d.src.file); {
	case doc == nil:
		d.reportAt(k.Pos, CodeUnknownKind, Suggest(k.Value, kindNames()), "unknown kind %s", Quote(k.Value))
		return nil
	case test && known != KindAccessTest:
		d.reportAt(k.Pos, CodeMisplacedTest, "move it out of this directory", "only AccessTest documents lie in tests/: nothing here is served")
		return nil
	case !test && known == KindAccessTest:
		d.reportAt(k.Pos, CodeMisplacedTest, "", "AccessTest documents lie in tests/ or tenants/<tenant>/tests/")
		return nil
	}
	doc.header().Pos = d.pos(n)
	return doc
}

func notYetKind(k Kind, version string) bool {
	switch k {
	case "Egress":
		return version == "" || version == APIVersion
	case "HTTPRoute", "GRPCRoute":
		return true
	default:
		return false
	}
}

func newOf(k Kind) Document {
	switch k {
	case KindMesh:
		return &Mesh{}
	case KindTenant:
		return &Tenant{}
	case KindTokenIssuer:
		return &TokenIssuer{}
	case KindService:
		return &Service{}
	case KindGrant:
		return &Grant{}
	case KindAccessPolicy:
		return &AccessPolicy{}
	case KindRevocation:
		return &Revocation{}
	case KindAccessTest:
		return &AccessTest{}
	default:
		return nil
	}
}

func kindNames() []string {
	kinds := Kinds()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return names
}

// Kinds lists the kinds that this release builds.
func Kinds() []Kind {
	return []Kind{KindMesh, KindTenant, KindTokenIssuer, KindService, KindGrant, KindAccessPolicy, KindRevocation, KindAccessTest}
}
