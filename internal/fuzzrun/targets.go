package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// target is one fuzz function.
type target struct {
	folder string // the package's folder in the module, slashes
	name   string
}

// listed is what `go list` tells of a package; encoding/json does not mind its capitals.
type listed struct {
	Dir          string   `json:"dir"`
	TestGoFiles  []string `json:"testGoFiles"`
	XTestGoFiles []string `json:"xTestGoFiles"`
	Module       struct {
		Dir string `json:"dir"`
	} `json:"module"`
}

// findTargets reads the test files of every package below dir. It reads rather than runs `go test -list`, which would
// link every test binary of the module first.
func findTargets(ctx context.Context, dir string) ([]target, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=Dir,TestGoFiles,XTestGoFiles,Module", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	var found []target
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		folder, err := filepath.Rel(p.Module.Dir, p.Dir)
		if err != nil {
			return nil, err
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			names, err := fuzzFunctions(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				found = append(found, target{folder: filepath.ToSlash(folder), name: name})
			}
		}
	}
}

// fuzzFunctions are the names of the file's functions that `go test` would take for fuzz targets.
func fuzzFunctions(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") && takesTestingF(f.Type.Params.List) {
			names = append(names, f.Name.Name)
		}
	}
	return names, nil
}

func takesTestingF(params []*ast.Field) bool {
	if len(params) != 1 || len(params[0].Names) > 1 {
		return false
	}
	star, ok := params[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "F"
}
