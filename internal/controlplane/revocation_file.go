package controlplane

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/pipeline"
)

// RevocationFile is the file in which a control plane keeps the revocations of operators, as another process follows it. Where
// it is gone or broken, what was read last stays in force: nobody is let in again by a file that nobody can read.
type RevocationFile struct {
	path string
	log  *zap.Logger

	mu     sync.Mutex
	read   bool // there was a file
	failed string
	docs   []*v1alpha1.Revocation
}

// OpenRevocationFile reads the file. One that is not there yet holds none; one that cannot be read is an error.
func OpenRevocationFile(path string, log *zap.Logger) (*RevocationFile, error) {
	r, err := openRevocationFile(path)
	if err != nil {
		return nil, err
	}
	_, missing := os.Stat(path)
	return &RevocationFile{path: path, log: log, docs: r, read: missing == nil}, nil
}

// List is what is in force or would be; nobody changes it.
func (f *RevocationFile) List() []*v1alpha1.Revocation {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) && !f.read {
		return f.docs
	}
	var docs []*v1alpha1.Revocation
	if err == nil {
		docs, err = decodeRevocations(data)
	}
	if err != nil {
		if f.failed != err.Error() {
			f.failed = err.Error()
			f.log.Error("the revocations of operators cannot be read, those that were read last stay in force", zap.String("file", f.path), zap.Error(err))
		}
		return f.docs
	}
	f.read, f.failed, f.docs = true, "", docs
	return docs
}

// Beside is the source, which then also tells when the file changes.
func (f *RevocationFile) Beside(s pipeline.Source) pipeline.Source {
	return watched{Source: s, state: func() [sha256.Size]byte {
		data, err := os.ReadFile(f.path)
		return sha256.Sum256(fmt.Appendf(nil, "%v %s", err, data))
	}}
}
