package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/ringfence-mesh/ringfence"
	root   = "../.." // of the module, seen from here
)

// pkg is one package of the module: what it imports, and its code without tests, parsed and type-checked.
type pkg struct {
	path    string // below the module, such as xds/server
	imports []string
	files   []*ast.File
	types   *types.Package
	info    *types.Info
}

// tree is the module as the compiler sees it.
type tree struct {
	fset     *token.FileSet
	pkgs     []*pkg
	importer types.Importer
	deps     map[string][]string // of every package, the standard library's too: what it imports
}

// theTree is loaded once for all tests, which only read it.
var theTree = sync.OnceValues(load)

func loaded(t *testing.T) *tree {
	t.Helper()
	tr, err := theTree()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// find is the package with that path below the module.
func (tr *tree) find(t *testing.T, path string) *pkg {
	t.Helper()
	for _, p := range tr.pkgs {
		if p.path == path {
			return p
		}
	}
	t.Fatalf("there is no package %s", path)
	return nil
}

// at says where a node stands, for people.
func (tr *tree) at(n ast.Node) string {
	pos := tr.fset.Position(n.Pos())
	if rel, err := filepath.Rel(absRoot(), pos.Filename); err == nil {
		pos.Filename = rel
	}
	return pos.String()
}

// listed is what `go list` tells; encoding/json does not mind its capitals.
type listed struct {
	ImportPath string   `json:"importPath"`
	Dir        string   `json:"dir"`
	Export     string   `json:"export"`
	GoFiles    []string `json:"goFiles"`
	Imports    []string `json:"imports"`
}

// load asks the go command for the export data of everything, so that only the module's own code is checked from source.
func load() (*tree, error) {
	all, err := list("-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles,Imports", "./...")
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string, len(all))
	tr := &tree{fset: token.NewFileSet(), deps: make(map[string][]string, len(all))}
	for _, l := range all {
		exports[l.ImportPath] = l.Export
		tr.deps[l.ImportPath] = l.Imports
	}
	tr.importer = importer.ForCompiler(tr.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})
	for _, l := range all {
		if path, ok := strings.CutPrefix(l.ImportPath, module+"/"); ok {
			p, err := tr.check(path, l)
			if err != nil {
				return nil, err
			}
			tr.pkgs = append(tr.pkgs, p)
		}
	}
	return tr, nil
}

func (tr *tree) check(path string, l listed) (*pkg, error) {
	p := &pkg{path: path, info: newInfo()}
	for _, name := range l.GoFiles {
		f, err := parser.ParseFile(tr.fset, filepath.Join(l.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	for _, i := range l.Imports {
		if own, ok := strings.CutPrefix(i, module+"/"); ok {
			p.imports = append(p.imports, own)
		}
	}
	if len(p.files) == 0 {
		return p, nil // a folder of tests
	}
	conf := types.Config{Importer: tr.importer}
	var err error
	p.types, err = conf.Check(l.ImportPath, tr.fset, p.files, p.info)
	return p, err
}

func newInfo() *types.Info {
	return &types.Info{
		Types:     make(map[ast.Expr]types.TypeAndValue),
		Defs:      make(map[*ast.Ident]types.Object),
		Uses:      make(map[*ast.Ident]types.Object),
		Instances: make(map[*ast.Ident]types.Instance),
	}
}

// list runs `go list` in the module.
func list(args ...string) ([]listed, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
}

func absRoot() string {
	abs, err := filepath.Abs(root)
	if err != nil {
		panic(err) // there is no working directory
	}
	return abs
}
