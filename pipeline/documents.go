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
// hold up nobody.
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
		if p.Owner == "" {
			stray = append(stray, p)
			continue
		}
		o := of(p.Owner)
		o.problems = append(o.problems, p)
	}
	return owners, stray
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
