package jwks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

const (
	stateMode = 0o600
	maxState  = 64 << 20
	// saveAgain is how far the time of the last fetch in the file may lag behind; a set that comes from it ends that much
	// earlier.
	saveAgain = time.Hour
)

// state is the file. Public keys are no secret, but whoever writes them signs tokens: it lies in the control plane's own
// directory.
type state struct {
	Version int         `json:"version"`
	Sets    []storedSet `json:"sets"`
}

type storedSet struct {
	URI     string          `json:"uri"`
	Fetched int64           `json:"fetched"` // Unix seconds
	Keys    json.RawMessage `json:"keys"`
}

const stateVersion = 1

var errState = errors.New("kept key sets cannot be used, they are fetched anew")

// load takes the sets of the process before. What cannot be read is fetched anew.
func (f *Fetcher) load() {
	if f.config.State == "" {
		return
	}
	data, err := readState(f.config.State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var kept map[string]*set
	if err == nil {
		kept, err = decodeState(data, f.config.Clock())
	}
	if err != nil {
		f.config.Log.Warn("starting without key sets", zap.Error(err))
		return
	}
	f.sets = kept
}

func readState(path string) ([]byte, error) {
	// Without O_NONBLOCK opening a pipe would wait for somebody to write into it.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errState, err)
	}
	defer func() { _ = file.Close() }() // only read
	return io.ReadAll(io.LimitReader(file, maxState+1))
}

// decodeState reads the file, and believes it no more than a server: each set is parsed again. A time that is still to
// come counts as now.
func decodeState(data []byte, now time.Time) (map[string]*set, error) {
	if len(data) > maxState {
		return nil, fmt.Errorf("%w: more than %d MiB", errState, maxState>>20)
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, fmt.Errorf("%w: %w", errState, err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("%w: version %d", errState, st.Version)
	}
	sets := map[string]*set{}
	for _, stored := range st.Sets {
		keys, err := identity.ParseKeySet(stored.Keys)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errState, err)
		}
		s := newSet()
		if s.keys, s.at = keys, time.Unix(stored.Fetched, 0); s.at.After(now) {
			s.at = now
		}
		s.kept = s.at
		sets[stored.URI] = s
	}
	return sets, nil
}

// save writes all sets that are followed. Where it cannot, the old file is removed: it may hold a key that was withdrawn
// since.
func (f *Fetcher) save() {
	if f.config.State == "" {
		return
	}
	f.saving.Lock()
	defer f.saving.Unlock()
	data, err := json.Marshal(f.snapshot())
	if err == nil {
		err = durable.Replace(f.config.State, data, stateMode)
	}
	if err != nil {
		if gone := os.Remove(f.config.State); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		f.config.Log.Warn("key sets are not kept for the next start", zap.Error(err))
	}
}

func (f *Fetcher) snapshot() state {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := state{Version: stateVersion}
	for uri, s := range f.sets {
		if !s.keys.IsZero() {
			s.kept = s.at
			st.Sets = append(st.Sets, storedSet{URI: uri, Fetched: s.at.Unix(), Keys: s.keys.JSON()})
		}
	}
	return st
}
