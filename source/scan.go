package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Bounds of one owner's part, far above what people write, so that one owner cannot fill the memory of all.
const (
	maxFiles = 1000
	maxBytes = 32 << 20
	maxDepth = 6
	maxParts = 20_000
)

// tests is the directory of policy tests, at the top and in each tenant's.
const tests = "tests"

var (
	errNotRegular = errors.New("it is not a regular file")
	errTooDeep    = fmt.Errorf("directories nest deeper than %d", maxDepth)
	errTooMany    = fmt.Errorf("its owner has more than %d files", maxFiles)
)

// listing is what lies in the directory, without contents.
type listing struct {
	parts    []part
	problems []v1alpha1.Problem
	// dirs are all directories that were looked into, for watching.
	dirs []entry
}

// part is what one owner put into one directory; links may not leave it.
type part struct {
	owner string
	dir   string
	files []entry
	// loose marks the part of what lies in no owner's directory: mesh.yaml, and what somebody put into the wrong place,
	// which is listed so that decoding can say so. Its file names are relative to the directory as a whole.
	loose bool
}

// entry is a file or directory.
type entry struct {
	name  string
	stamp string // changes whenever the content does
}

// path is the path of one of the part's files, relative to the configuration directory.
func (p part) path(name string) string {
	if p.loose {
		return name
	}
	return path.Join(p.dir, name)
}

// problem says what is wrong with a file or directory of the part.
func (p part) problem(file string, err error) v1alpha1.Problem {
	made := v1alpha1.FileProblem(file, v1alpha1.CodeUnreadable, hint(err), "cannot be read: %v", err)
	if !p.loose {
		made.Owner = p.owner // the path of a directory does not say it
	}
	return made
}

func hint(err error) string {
	if strings.Contains(err.Error(), "escapes") {
		return "a link must stay within its owner's directory"
	}
	return ""
}

// plain keeps the reason of a file error and drops the path, which the problem names in its own way.
func plain(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// fingerprint differs wherever a listing differs.
func (l *listing) fingerprint() [sha256.Size]byte {
	h := sha256.New()
	for _, p := range l.parts {
		writeField(h, []byte(p.dir))
		for _, f := range p.files {
			writeField(h, []byte(f.name))
			writeField(h, []byte(f.stamp))
		}
		writeField(h, nil)
	}
	for _, d := range l.dirs {
		writeField(h, []byte(d.name))
		writeField(h, []byte(d.stamp))
	}
	writeField(h, nil)
	for _, p := range l.problems {
		writeField(h, []byte(p.String()))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// scan lists the directory.
func scan(dir string) (*listing, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("configuration directory: %w", err)
	}
	defer func() { _ = root.Close() }() // only read
	top, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("configuration directory: %w", err)
	}
	l := &listing{}
	l.visit(root, ".", ".")
	loose := part{dir: ".", loose: true}
	w := walker{root: root, part: &loose, listing: l}
	for _, e := range top {
		switch name := e.Name(); {
		case hidden(name):
		case name == "platform" && mayBeDir(root, e, name):
			l.add(root, part{owner: v1alpha1.PlatformOwner, dir: name})
		case name == tests && mayBeDir(root, e, name):
			l.add(root, part{owner: v1alpha1.PlatformOwner, dir: name})
		case name == "tenants" && mayBeDir(root, e, name):
			// Without it every tenant would seem to have removed its documents: that is no problem of one owner.
			if err := l.tenants(root, &w); err != nil {
				return nil, err
			}
		case isDir(root, name):
			w.dir(name, 1)
		case isDocument(name):
			w.file(name)
		}
	}
	l.parts = append(l.parts, loose)
	return l, nil
}

// tenants lists tenants/: each directory is a part of its own.
func (l *listing) tenants(root *os.Root, loose *walker) error {
	l.visit(root, "tenants", "tenants")
	entries, err := fs.ReadDir(root.FS(), "tenants")
	if err != nil {
		return fmt.Errorf("configuration directory: %w", err)
	}
	if len(entries) > maxParts {
		return fmt.Errorf("configuration directory: tenants/ holds more than %d entries", maxParts)
	}
	for _, e := range entries {
		name := "tenants/" + e.Name()
		switch {
		case hidden(e.Name()):
		case isDocument(name) && !isDir(root, name):
			loose.file(name)
		case mayBeDir(root, e, name):
			l.add(root, part{owner: v1alpha1.Owner(name + "/x"), dir: name})
		}
	}
	return nil
}

// visit remembers a directory for watching. name is how root reaches it, path how the configuration directory does.
func (l *listing) visit(root *os.Root, name, path string) {
	e := entry{name: path}
	if info, err := root.Stat(name); err == nil {
		// Its time changes with every temporary file of an editor: only a replaced directory counts.
		e.stamp = inode(info)
	}
	l.dirs = append(l.dirs, e)
}

// add lists one owner's directory through a root of its own, so that nothing outside it can be reached.
func (l *listing) add(root *os.Root, p part) {
	own, err := root.OpenRoot(p.dir)
	if err != nil {
		l.problems = append(l.problems, p.problem(p.dir, plain(err)))
		return
	}
	defer func() { _ = own.Close() }() // only read
	w := walker{root: own, part: &p, listing: l}
	w.dir(".", 0)
	l.parts = append(l.parts, p)
}

// walker lists the files of one part.
type walker struct {
	root    *os.Root
	part    *part
	listing *listing
	full    bool
}

func (w *walker) report(name string, err error) {
	w.listing.problems = append(w.listing.problems, w.part.problem(w.part.path(name), plain(err)))
}

func (w *walker) dir(name string, depth int) {
	if depth > maxDepth {
		w.report(name, errTooDeep)
		return
	}
	w.listing.visit(w.root, name, w.part.path(name))
	entries, err := fs.ReadDir(w.root.FS(), name)
	if err != nil {
		w.report(name, err)
		return
	}
	if depth == 0 {
		// What reaches a bound first is kept: never a test before a document that is served.
		slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return order(a) - order(b) })
	}
	for _, e := range entries {
		child := path.Join(name, e.Name())
		switch {
		case w.full:
			return
		case hidden(e.Name()):
		case isDir(w.root, child):
			w.dir(child, depth+1)
		case isDocument(e.Name()):
			w.file(child)
		}
	}
}

func order(e fs.DirEntry) int {
	if e.Name() == tests {
		return 1
	}
	return 0
}

func (w *walker) file(name string) {
	if len(w.part.files) >= maxFiles {
		w.full = true
		w.report(name, errTooMany)
		return
	}
	info, err := w.root.Stat(name)
	if err != nil {
		w.report(name, err)
		return
	}
	w.part.files = append(w.part.files, entry{name: name, stamp: stamp(info)})
}

// stamp changes when a file is written or replaced: the inode tells a file that was renamed over another one, even if both
// have the same size and time.
func stamp(info fs.FileInfo) string {
	return fmt.Sprintf("%d %d %v %s", info.Size(), info.ModTime().UnixNano(), info.Mode(), inode(info))
}

func inode(info fs.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isDocument(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	default:
		return false
	}
}

func isDir(root *os.Root, name string) bool {
	info, err := root.Stat(name)
	return err == nil && info.IsDir()
}

// mayBeDir is also true for a link that leads nowhere allowed, so that somebody is told.
func mayBeDir(root *os.Root, e fs.DirEntry, name string) bool {
	return e.IsDir() || e.Type()&fs.ModeSymlink != 0 || isDir(root, name)
}
