package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Memory keeps the accepted documents for the next process. Whose a file is says its path, as everywhere.
type Memory interface {
	// Accepted are the files of the last Keep, in its order: none if there was none. With an error nothing of them counts.
	Accepted() ([]v1alpha1.File, error)
	// Keep replaces what was kept. The files are sorted by path and must not be changed.
	Keep(files []v1alpha1.File) error
}

// recall is what a Pipeline knows of its Memory.
type recall struct {
	asked bool
	// kept is what the memory holds, as far as is known.
	kept []v1alpha1.File
	// build is made from what was remembered. It is never served: it stands in for the generation before the first.
	build build
}

// remember makes the accepted documents of an earlier process this one's, before the first generation.
//
// Nothing is published from memory alone, also where the source cannot be read: only the source knows which owners have
// removed their documents and which tenants the platform still declares, and agents go on with what they have.
func (p *Pipeline) remember() error {
	if p.config.Memory == nil || p.current.Load() != nil {
		return nil
	}
	var forgot error
	first := !p.recall.asked
	if first {
		p.recall.asked = true
		files, err := p.config.Memory.Accepted()
		if err != nil {
			return fmt.Errorf("starting without the accepted documents of before: %w", err)
		}
		p.recall.kept = files
		p.accepted, forgot = whole(files)
	}
	// Made again in each attempt until the first generation: a root that could not be read may be back.
	b := p.builder(p.recall.build)
	s, _ := b.settle(p.accepted, selection{})
	p.recall.build = s.build
	if first && forgot == nil {
		forgot = unusable(s.problems)
	}
	return forgot
}

// whole reads remembered files. An owner of whom something cannot be read, by this version, is left out as a whole.
func whole(files []v1alpha1.File) (selection, error) {
	owners, problems := decode(files, nil)
	for owner, o := range owners {
		if len(o.problems) > 0 {
			problems = append(problems, o.problems...)
			delete(owners, owner)
		}
	}
	return owners, unusable(v1alpha1.SortProblems(problems))
}

func unusable(problems []v1alpha1.Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("not all accepted documents of before can be used, those of %s: %s",
		strings.Join(ownersOf(problems), ", "), problems[0])
}

// before is what the next build follows.
func (p *Pipeline) before() build {
	if g := p.current.Load(); g != nil {
		return build{model: g.model, bundles: g.bundles, tenants: g.tenants}
	}
	return p.recall.build
}

// keep gives the memory what is accepted, if that is not what it has. Before the first generation nothing is: what an
// earlier process kept stays.
func (p *Pipeline) keep() error {
	if p.config.Memory == nil || p.current.Load() == nil {
		return nil
	}
	files := p.accepted.raw()
	if slices.EqualFunc(files, p.recall.kept, func(a, b v1alpha1.File) bool { return a.Path == b.Path && bytes.Equal(a.Data, b.Data) }) {
		return nil
	}
	if err := p.config.Memory.Keep(files); err != nil {
		p.recall.kept = nil
		return fmt.Errorf("keeping the accepted documents: %w", err)
	}
	p.recall.kept = files
	return nil
}

// raw are the files of all owners, sorted by path.
func (s selection) raw() []v1alpha1.File {
	var files []v1alpha1.File
	for _, o := range s {
		files = append(files, o.raw...)
	}
	slices.SortFunc(files, func(a, b v1alpha1.File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// waiting is what is accepted while trust bundles cannot all be had: a tenant that is dropped meanwhile is not forgotten,
// because nothing says that its documents are why.
func (s settled) waiting(newest, accepted selection) selection {
	all := maps.Clone(s.used)
	for _, owner := range s.dropped {
		if old := accepted[owner]; old != nil && newest[owner] != nil {
			all[owner] = old
		}
	}
	return all
}
