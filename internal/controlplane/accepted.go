package controlplane

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/internal/durable"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// The file of accepted documents is a header, the SHA-256 of the rest, and the rest: for each file its path and its
// content, both behind their length, sorted by path. The checksum tells a damaged disk; who may write here has the keys
// of all tenants anyway.
const (
	acceptedFile   = "accepted"
	acceptedHeader = "ringfence accepted documents 1\n"
	acceptedMode   = 0o600
	maxAccepted    = 256 << 20
)

var errAccepted = errors.New("accepted documents")

// accepted keeps documents in a file of the state directory, which is this process's alone.
type accepted struct{ path string }

var _ pipeline.Memory = accepted{}

// memoryIn keeps documents in a state directory; where there is none, nowhere.
func memoryIn(state string) pipeline.Memory {
	if state == "" {
		return nil
	}
	return accepted{path: filepath.Join(state, acceptedFile)}
}

// Accepted reads what was kept. What cannot be used is set aside, for somebody to look at.
func (a accepted) Accepted() ([]v1alpha1.File, error) {
	data, err := readAccepted(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var files []v1alpha1.File
	if err == nil {
		files, err = decodeAccepted(data)
	}
	if err == nil {
		return files, nil
	}
	aside := a.path + ".bad"
	if moved := os.Rename(a.path, aside); moved != nil {
		return nil, errors.Join(err, moved)
	}
	return nil, fmt.Errorf("%w; the file is now %s", err, aside)
}

// Keep replaces what was kept, whole or not at all. Where it cannot, the old is removed: a tenant that falls back to
// nothing is told so, but one that falls back to rules which were withdrawn since would be open where it was closed.
func (a accepted) Keep(files []v1alpha1.File) error {
	err := a.write(files)
	if err == nil {
		return nil
	}
	if gone := os.Remove(a.path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func (a accepted) write(files []v1alpha1.File) error {
	data, err := encodeAccepted(files)
	if err != nil {
		return err
	}
	if err := durable.Replace(a.path, data, acceptedMode); err != nil {
		return fmt.Errorf("%w: %w", errAccepted, err)
	}
	return nil
}

func readAccepted(path string) ([]byte, error) {
	// Without O_NONBLOCK opening a pipe would wait for somebody to write into it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAccepted, err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxAccepted+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAccepted, err)
	}
	return data, nil
}

func encodeAccepted(files []v1alpha1.File) ([]byte, error) {
	size := len(acceptedHeader) + sha256.Size
	for _, f := range files {
		size += 2*binary.MaxVarintLen64 + len(f.Path) + len(f.Data)
	}
	if size > maxAccepted {
		return nil, fmt.Errorf("%w: together they have more than %d MiB", errAccepted, maxAccepted>>20)
	}
	data := make([]byte, len(acceptedHeader)+sha256.Size, size)
	copy(data, acceptedHeader)
	for _, f := range files {
		data = append(binary.AppendUvarint(data, uint64(len(f.Path))), f.Path...)
		data = append(binary.AppendUvarint(data, uint64(len(f.Data))), f.Data...)
	}
	sum := sha256.Sum256(data[len(acceptedHeader)+sha256.Size:])
	copy(data[len(acceptedHeader):], sum[:])
	return data, nil
}

// decodeAccepted takes all of it or nothing. The files share data's memory.
func decodeAccepted(data []byte) ([]v1alpha1.File, error) {
	body, ok := bytes.CutPrefix(data, []byte(acceptedHeader))
	if !ok || len(data) > maxAccepted || len(body) < sha256.Size {
		return nil, fmt.Errorf("%w: not a file of this version", errAccepted)
	}
	sum, rest := body[:sha256.Size], body[sha256.Size:]
	if have := sha256.Sum256(rest); !bytes.Equal(have[:], sum) {
		return nil, fmt.Errorf("%w: the checksum is wrong", errAccepted)
	}
	var files []v1alpha1.File
	for len(rest) > 0 {
		var path, content []byte
		if path, rest, ok = field(rest); ok {
			content, rest, ok = field(rest)
		}
		if !ok {
			return nil, fmt.Errorf("%w: a file is cut off", errAccepted)
		}
		f := v1alpha1.File{Path: string(path), Data: content}
		if v1alpha1.Owner(f.Path) == "" || len(files) > 0 && files[len(files)-1].Path >= f.Path {
			return nil, fmt.Errorf("%w: a file is where none can be: %.100q", errAccepted, f.Path)
		}
		files = append(files, f)
	}
	return files, nil
}

// field takes what stands behind its length.
func field(data []byte) (value, rest []byte, ok bool) {
	length, n := binary.Uvarint(data)
	if n <= 0 || length > uint64(len(data)-n) { //nolint:gosec // where n counts, it is no more than len(data)
		return nil, nil, false
	}
	end := n + int(length) //nolint:gosec // it is no more than len(data)
	return data[n:end:end], data[end:], true
}
