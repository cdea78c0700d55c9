package pipeline

import (
	"maps"
	"path"
	"slices"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// owned is what one owner wrote.
type owned struct {
	docs  []v1alpha1.Document
	files map[string][]byte
	// raw are the files that all this was read from.
	raw []v1alpha1.File
	// problems are those of reading it: with any of them nothing of it is accepted.
	problems []v1alpha1.Problem
}

// decode sorts files by owner and reads them. stray are the problems of files that belong to nobody: they are told, and
// hold up nobody. What lies in the places of policy tests is left out, whatever it is.
func decode(files []v1alpha1.File, found []v1alpha1.Problem) (owners selection, stray []v1alpha1.Problem) {
	owners = selection{}
	of := func(owner string) *owned {
		o, ok := owners[owner]
		if !ok {
			o = &owned{files: map[string][]byte{}}
			owners[owner] = o
		}
		return o
	}
	for _, f := range files {
		if v1alpha1.IsTest(f.Path) {
			continue
		}
		owner := v1alpha1.Owner(f.Path)
		if path.Ext(f.Path) == ".json" {
			if owner != "" {
				o := of(owner)
				o.files[f.Path] = f.Data
				o.raw = append(o.raw, f)
			}
			continue
		}
		docs, problems := v1alpha1.Decode(f)
		found = append(slices.Clip(found), problems...)
		if owner != "" {
			o := of(owner)
			o.docs = append(o.docs, docs...)
			o.raw = append(o.raw, f)
		}
	}
	for _, p := range found {
		switch {
		case v1alpha1.IsTest(p.File):
		case p.Owner == "":
			stray = append(stray, p)
		default:
			o := of(p.Owner)
			o.problems = append(o.problems, p)
		}
	}
	return owners, stray
}

// decodeTests reads the policy tests, which decode leaves out. Tests with problems are not among them.
func decodeTests(files []v1alpha1.File, found []v1alpha1.Problem) (tests []*v1alpha1.AccessTest, problems []v1alpha1.Problem) {
	for _, p := range found {
		if v1alpha1.IsTest(p.File) {
			problems = append(problems, p)
		}
	}
	for _, f := range files {
		if !v1alpha1.IsTest(f.Path) || path.Ext(f.Path) == ".json" {
			continue
		}
		docs, more := v1alpha1.Decode(f)
		problems = append(problems, more...)
		for _, d := range docs {
			if t, ok := d.(*v1alpha1.AccessTest); ok && len(t.Problems()) == 0 {
				tests = append(tests, t)
			}
		}
	}
	return tests, problems
}

// selection is which version of each owner's documents counts.
type selection map[string]*owned

// input puts the selected documents together, in the order of owners.
func (s selection) input() (docs []v1alpha1.Document, files map[string][]byte) {
	files = map[string][]byte{}
	for _, owner := range slices.Sorted(maps.Keys(s)) {
		docs = append(docs, s[owner].docs...)
		maps.Copy(files, s[owner].files)
	}
	return docs, files
}
