package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

const (
	stateFile = "state"
	// stateHeader tells the file from any other, and its format from later ones.
	stateHeader = "ringfence-agent-state/1\n"
	maxState    = 64 << 20
)

// errCorrupt says that the cache is not what an agent wrote.
var errCorrupt = errors.New("the cached state is corrupt")

// encodeState is the cache file: a header, the SHA-256 of what follows, and the State.
func encodeState(s *agentv1alpha1.State) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	sum := sha256.Sum256(body)
	return append(append([]byte(stateHeader), sum[:]...), body...), nil
}

// decodeState is the inverse of encodeState. It says nothing of whether what it holds may be used.
func decodeState(data []byte) (*agentv1alpha1.State, error) {
	rest, ok := bytes.CutPrefix(data, []byte(stateHeader))
	if !ok || len(rest) < sha256.Size || len(data) > maxState {
		return nil, errCorrupt
	}
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(sum, got[:]) {
		return nil, errCorrupt
	}
	s := &agentv1alpha1.State{}
	if err := proto.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return s, nil
}

func saveState(dir string, s *agentv1alpha1.State) error {
	data, err := encodeState(s)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, stateFile), data)
}

// loadState reads the cache, nil where there is none. A corrupt one is set aside under a name of its own, so that somebody
// can look at it, and the error says which.
func loadState(dir string, now time.Time) (*agentv1alpha1.State, error) {
	path := filepath.Join(dir, stateFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no cache is a state of its own, and no error
	}
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	var s *agentv1alpha1.State
	if err = errCorrupt; info.Size() <= maxState {
		var data []byte
		if data, err = os.ReadFile(path); err == nil { //nolint:gosec // the agent's own directory
			s, err = decodeState(data)
		}
	}
	if err != nil {
		return nil, setAside(path, now, err)
	}
	return s, nil
}

func setAside(path string, now time.Time, why error) error {
	aside := path + ".corrupt-" + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("%w; it cannot be set aside: %w", why, err)
	}
	return fmt.Errorf("%w; it was set aside as %s", why, filepath.Base(aside))
}
