// Package sourcetest holds what every source of documents must do, whatever it keeps them in.
package sourcetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

// Source is what is tested.
type Source interface {
	Load(ctx context.Context) (files []v1alpha1.File, problems []v1alpha1.Problem, revision string, err error)
	Watch(ctx context.Context) <-chan struct{}
}

// Fixture is an empty source with the means to fill it.
type Fixture struct {
	Source Source
	Put    func(path, data string)
	Remove func(path string)
}

// patience is how long a notice may take; a source that only polls has to fit in.
const patience = 10 * time.Second

// Run runs the suite; open makes a new, empty fixture for each test.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	t.Helper()
	for name, test := range map[string]func(t *testing.T, f Fixture){
		"gives what is there, sorted":        sorted,
		"the revision follows the content":   revision,
		"the owner's wrong path is given on": misplaced,
		"a large file is cut":                large,
		"every change is told":               told,
		"a watch ends with its context":      ends,
		"a load ends with its context":       canceled,
		"bytes are the caller's own":         owned,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func load(t *testing.T, s Source) (files map[string]string, revision string) {
	t.Helper()
	list, problems, revision, err := s.Load(t.Context())
	if err != nil || len(problems) > 0 {
		t.Fatalf("load: %v, %v", problems, err)
	}
	files = map[string]string{}
	last := ""
	for _, f := range list {
		if f.Path <= last {
			t.Errorf("%q comes behind %q", f.Path, last)
		}
		last = f.Path
		files[f.Path] = string(f.Data)
	}
	return files, revision
}

func sorted(t *testing.T, f Fixture) {
	want := map[string]string{
		"mesh.yaml":                   "mesh",
		"platform/a.yaml":             "a",
		"platform/acme-jwks.json":     "{}",
		"tenants/acme/orders.yaml":    "orders",
		"tenants/acme/web.yaml":       "web",
		"tenants/globex/orders.yaml":  "globex",
		"tenants/globex/deep/er.yaml": "deep",
		"tenants/acme/tests/own.yaml": "own",
		"tests/orders.yaml":           "test",
	}
	for path, data := range want {
		f.Put(path, data)
	}
	got, _ := load(t, f.Source)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func revision(t *testing.T, f Fixture) {
	f.Put("mesh.yaml", "one")
	_, one := load(t, f.Source)
	_, again := load(t, f.Source)
	f.Put("mesh.yaml", "two")
	_, two := load(t, f.Source)
	f.Put("tenants/acme/a.yaml", "")
	_, three := load(t, f.Source)
	f.Remove("tenants/acme/a.yaml")
	f.Put("mesh.yaml", "one")
	_, back := load(t, f.Source)
	if one == "" || one != again || one == two || two == three || one != back {
		t.Errorf("revisions %q, %q, %q, %q, %q", one, again, two, three, back)
	}
}

func misplaced(t *testing.T, f Fixture) {
	f.Put("tenants/stray.yaml", "s")
	f.Put("stray.yaml", "s")
	f.Put("tenant/acme/typo.yaml", "s")
	f.Put("tenants/platform/x.yaml", "s")
	got, _ := load(t, f.Source)
	if len(got) != 4 {
		t.Errorf("got %v: decoding cannot refuse what it never sees", got)
	}
}

func large(t *testing.T, f Fixture) {
	f.Put("tenants/acme/big.yaml", strings.Repeat("x", 5<<20))
	f.Put("tenants/globex/small.yaml", "x")
	got, _ := load(t, f.Source)
	if len(got["tenants/acme/big.yaml"]) != v1alpha1.MaxFileSize+1 || got["tenants/globex/small.yaml"] != "x" {
		t.Errorf("%d bytes of the large file, %q", len(got["tenants/acme/big.yaml"]), got["tenants/globex/small.yaml"])
	}
}

func told(t *testing.T, f Fixture) {
	changed := f.Source.Watch(t.Context())
	_, last := load(t, f.Source)
	for _, change := range []func(){
		func() { f.Put("mesh.yaml", "one") },
		func() { f.Put("mesh.yaml", "two") },
		func() { f.Put("tenants/acme/a.yaml", "a") },
		func() { f.Put("tenants/acme/b.yaml", "b") },
		func() { f.Put("tenants/globex/deep/er.yaml", "b") },
		func() { f.Remove("tenants/acme/a.yaml") },
	} {
		change()
		last = waitForAnother(t, f.Source, changed, last)
	}
}

// waitForAnother loads at each notice until the revision is another one.
func waitForAnother(t *testing.T, s Source, changed <-chan struct{}, last string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				t.Fatal("the watch ended")
			}
			if _, now := load(t, s); now != last {
				return now
			}
		case <-deadline:
			t.Fatal("no notice of a change")
		}
	}
}

func ends(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	changed := f.Source.Watch(ctx)
	cancel()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel is still open")
		}
	}
}

func canceled(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := f.Source.Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func owned(t *testing.T, f Fixture) {
	f.Put("mesh.yaml", "mesh")
	files, _, _, err := f.Source.Load(t.Context())
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	files[0].Data[0] = 'X'
	if got, _ := load(t, f.Source); got["mesh.yaml"] != "mesh" {
		t.Errorf("a caller changed the source: %v", got)
	}
}
