package pipeline_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a source in memory.
type shelf struct {
	mu       sync.Mutex
	files    map[string]string
	problems []v1alpha1.Problem
	err      error
	changed  chan struct{}
}

var _ pipeline.Source = (*shelf)(nil)

func newShelf(files map[string]string) *shelf {
	return &shelf{files: maps.Clone(files), changed: make(chan struct{}, 1)}
}

func (s *shelf) Load(context.Context) ([]v1alpha1.File, []v1alpha1.Problem, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := sha256.New()
	var files []v1alpha1.File
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		files = append(files, v1alpha1.File{Path: path, Data: []byte(s.files[path])})
		h.Write([]byte(path + "\x00" + s.files[path] + "\x00"))
	}
	return files, s.problems, hex.EncodeToString(h.Sum(nil)), s.err
}

func (s *shelf) Watch(ctx context.Context) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.changed:
			}
			select {
			case <-ctx.Done():
				return
			case out <- struct{}{}:
			}
		}
	}()
	return out
}

// edit replaces text in a file; the test fails where it is not there.
func (s *shelf) edit(t testing.TB, path, from, to string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(s.files[path], from) {
		t.Fatalf("%s does not hold %q", path, from)
	}
	s.files[path] = strings.Replace(s.files[path], from, to, 1)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *shelf) put(path, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = data
}

func (s *shelf) remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// events is a recorder that keeps everything.
type events struct{ all chan pipeline.Event }

func newEvents() events { return events{make(chan pipeline.Event, 1000)} }

func (e events) Reloaded(ev pipeline.Event) { e.all <- ev }

// mesh is a pipeline over the example, loaded once.
type mesh struct {
	*pipeline.Pipeline

	t     testing.TB
	shelf *shelf
}

func bundles(t testing.TB) pipeline.Bundles {
	return func(domains ...identity.TrustDomain) (identity.Bundles, error) {
		return tenancytest.Bundles(t, domains...), nil
	}
}

func newMesh(t testing.TB, prover pipeline.Prover) mesh {
	t.Helper()
	s := newShelf(tenancytest.TwoTenantsFiles(t))
	p := pipeline.New(pipeline.Config{Source: s, Bundles: bundles(t), Recorder: newEvents(), Prover: prover})
	return mesh{Pipeline: p, t: t, shelf: s}
}

// started is a mesh whose example is published.
func started(t testing.TB) mesh {
	t.Helper()
	m := newMesh(t, nil)
	if e := m.Reload(t.Context()); !e.Published || len(e.Problems) > 0 || e.Err != nil {
		t.Fatalf("the example is not published: %v, %v", e.Problems, e.Err)
	}
	return m
}

func id(tenant, account string) string {
	return "spiffe://" + tenant + ".demo.test/ns/" + tenant + "/sa/" + account
}

// served is what a workload gets: the versions of its snapshot and its table, or nothing.
func (m mesh) served(tenant, account string) string {
	m.t.Helper()
	w, ok := m.Workload(id(tenant, account))
	if !ok {
		return ""
	}
	snapshot, table, ok := m.Snapshot(w)
	if !ok {
		m.t.Fatalf("%s is named and gets nothing", w)
	}
	sum := sha256.Sum256(table)
	return snapshot.Version() + " " + hex.EncodeToString(sum[:])
}

// everything is what all workloads of the example get.
func (m mesh) everything() map[string]string {
	m.t.Helper()
	all := map[string]string{}
	for _, w := range [][2]string{{"acme", "web"}, {"acme", "orders"}, {"globex", "web"}, {"globex", "orders"}, {"platform", "billing"}} {
		all[w[0]+"/"+w[1]] = m.served(w[0], w[1])
	}
	return all
}
