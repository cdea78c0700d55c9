package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Directory is the configuration directory: mesh.yaml, platform/, tenants/<tenant>/, tests/. It reads *.yaml and *.yml, and *.json
// beside them (key sets, which documents name); names that begin with a dot are not looked at.
//
// Symbolic links are followed while they stay inside the part of their owner, so a directory that a ConfigMap or git-sync
// mounts works: its files are links to ..data/, which is renamed as a whole.
type Directory struct {
	path string
	log  *zap.Logger
}

// NewDirectory makes the source over a directory, which is opened anew for each Load.
func NewDirectory(path string, log *zap.Logger) *Directory { return &Directory{path: path, log: log} }

// reads is how often a directory is read again because it changed meanwhile.
const reads = 4

// Load reads all files, sorted by path, with what is wrong with single files and a hash over all of it as the revision.
// An error means that the directory as a whole cannot be read. A file longer than v1alpha1.MaxFileSize is cut one byte
// behind that, so decoding refuses it.
//
// A directory that changes while it is read is read again, so that a half-written state is rarely seen; Watch tells about
// the rest.
func (d *Directory) Load(ctx context.Context) (files []v1alpha1.File, problems []v1alpha1.Problem, revision string, err error) {
	for range reads {
		if err := ctx.Err(); err != nil {
			return nil, nil, "", fmt.Errorf("configuration directory: %w", err)
		}
		var before, after *listing
		if before, err = scan(d.path); err != nil {
			return nil, nil, "", err
		}
		files, problems, err = read(d.path, before)
		if err != nil {
			return nil, nil, "", err
		}
		if after, err = scan(d.path); err != nil {
			return nil, nil, "", err
		}
		if before.fingerprint() == after.fingerprint() {
			break
		}
	}
	problems = v1alpha1.SortProblems(problems)
	return files, problems, revisionOf(files, problems), nil
}

// read reads the files of a listing, each through its own part of the directory.
func read(path string, l *listing) (files []v1alpha1.File, problems []v1alpha1.Problem, err error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration directory: %w", err)
	}
	defer func() { _ = root.Close() }() // only read
	problems = slices.Clone(l.problems)
	for _, p := range l.parts {
		problems = append(problems, readPart(root, p, func(f v1alpha1.File) { files = append(files, f) })...)
	}
	slices.SortFunc(files, func(a, b v1alpha1.File) int { return strings.Compare(a.Path, b.Path) })
	return files, problems, nil
}

func readPart(root *os.Root, p part, add func(v1alpha1.File)) (problems []v1alpha1.Problem) {
	if len(p.files) == 0 {
		return nil
	}
	own, err := root.OpenRoot(p.dir)
	if err != nil {
		return []v1alpha1.Problem{p.problem(p.dir, err)}
	}
	defer func() { _ = own.Close() }() // only read
	total := 0
	for _, f := range p.files {
		data, err := readFile(own, f.name)
		if err != nil {
			problems = append(problems, p.problem(p.path(f.name), err))
			continue
		}
		if total += len(data); total > maxBytes {
			tooMuch := fmt.Errorf("its owner's files hold more than %d MiB together; this and the following are not read", maxBytes>>20)
			return append(problems, p.problem(p.path(f.name), tooMuch))
		}
		add(v1alpha1.File{Path: p.path(f.name), Data: data})
	}
	return problems
}

// readFile reads a regular file, up to one byte more than is ever decoded.
func readFile(root *os.Root, name string) ([]byte, error) {
	// Without O_NONBLOCK opening a pipe would wait for somebody to write into it.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	data, err := io.ReadAll(io.LimitReader(f, v1alpha1.MaxFileSize+1))
	if err != nil {
		return nil, plain(err)
	}
	return data, nil
}

// revisionOf hashes everything that Load gives, so equal revisions mean an equal input.
func revisionOf(files []v1alpha1.File, problems []v1alpha1.Problem) string {
	h := sha256.New()
	for _, f := range files {
		writeField(h, []byte(f.Path))
		writeField(h, f.Data)
	}
	writeField(h, nil)
	for _, p := range problems {
		writeField(h, []byte(p.Owner))
		writeField(h, []byte(p.String()))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func writeField(h hash.Hash, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}
