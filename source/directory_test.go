package source_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/source"
	"github.com/ringfence-mesh/ringfence/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ sourcetest.Source = (*source.Directory)(nil)

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		t.Helper()
		dir := t.TempDir()
		return sourcetest.Fixture{
			Source: source.NewDirectory(dir, zap.NewNop()),
			Put:    func(path, data string) { put(t, filepath.Join(dir, path), data) },
			Remove: func(path string) { remove(t, filepath.Join(dir, path)) },
		}
	})
}

func put(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// swap puts a link in place of another one at once, as a kubelet or git-sync does.
func swap(t *testing.T, target, path string) {
	t.Helper()
	link(t, target, path+".tmp")
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, d *source.Directory) (files map[string]string, problems []v1alpha1.Problem) {
	t.Helper()
	list, problems, _, err := d.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for _, f := range list {
		files[f.Path] = string(f.Data)
	}
	return files, problems
}

func TestMountedDirectories(t *testing.T) {
	t.Parallel()
	want := map[string]string{"mesh.yaml": "mesh 1", "tenants/acme/orders.yaml": "orders 1"}
	next := map[string]string{"mesh.yaml": "mesh 2", "tenants/acme/orders.yaml": "orders 2"}
	for name, c := range map[string]struct {
		// mount fills dir as the tool would and gives back what brings the next state.
		mount func(t *testing.T, dir string) (path string, update func())
	}{
		"one ConfigMap with paths": {func(t *testing.T, dir string) (string, func()) {
			for _, v := range []string{"1", "2"} {
				put(t, filepath.Join(dir, "..v"+v, "mesh.yaml"), "mesh "+v)
				put(t, filepath.Join(dir, "..v"+v, "tenants/acme/orders.yaml"), "orders "+v)
			}
			link(t, "..v1", filepath.Join(dir, "..data"))
			link(t, "..data/mesh.yaml", filepath.Join(dir, "mesh.yaml"))
			link(t, "..data/tenants", filepath.Join(dir, "tenants"))
			return dir, func() { swap(t, "..v2", filepath.Join(dir, "..data")) }
		}},
		"a ConfigMap for each owner": {func(t *testing.T, dir string) (string, func()) {
			for _, v := range []string{"1", "2"} {
				put(t, filepath.Join(dir, "..v"+v, "mesh.yaml"), "mesh "+v)
				put(t, filepath.Join(dir, "tenants/acme/..v"+v, "orders.yaml"), "orders "+v)
			}
			link(t, "..v1", filepath.Join(dir, "..data"))
			link(t, "..data/mesh.yaml", filepath.Join(dir, "mesh.yaml"))
			link(t, "..v1", filepath.Join(dir, "tenants/acme/..data"))
			link(t, "..data/orders.yaml", filepath.Join(dir, "tenants/acme/orders.yaml"))
			return dir, func() {
				swap(t, "..v2", filepath.Join(dir, "..data"))
				swap(t, "..v2", filepath.Join(dir, "tenants/acme/..data"))
			}
		}},
		"a checkout behind a link": {func(t *testing.T, dir string) (string, func()) {
			for _, v := range []string{"1", "2"} {
				put(t, filepath.Join(dir, "work", v, "mesh.yaml"), "mesh "+v)
				put(t, filepath.Join(dir, "work", v, "tenants/acme/orders.yaml"), "orders "+v)
			}
			link(t, "work/1", filepath.Join(dir, "current"))
			return filepath.Join(dir, "current"), func() { swap(t, "work/2", filepath.Join(dir, "current")) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, update := c.mount(t, t.TempDir())
			d := source.NewDirectory(path, zap.NewNop())
			changed := d.Watch(t.Context())
			got, problems := load(t, d)
			if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
				t.Fatalf("%v, files (-want +got):\n%s", problems, diff)
			}
			update()
			deadline := time.After(10 * time.Second)
			for {
				select {
				case <-changed:
				case <-deadline:
					t.Fatalf("no notice; got %v", got)
				}
				if got, _ = load(t, d); cmp.Equal(next, got) {
					return
				}
			}
		})
	}
}

func TestOneOwnersTroubleIsItsOwn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		owner string
		file  string
		says  string
	}{
		"a link out of the directory": {func(t *testing.T, dir string) {
			link(t, "/etc/hostname", filepath.Join(dir, "tenants/acme/x.yaml"))
		}, "acme", "tenants/acme/x.yaml", "escapes"},
		"a link into another tenant's": {func(t *testing.T, dir string) {
			link(t, "../globex/g.yaml", filepath.Join(dir, "tenants/acme/x.yaml"))
		}, "acme", "tenants/acme/x.yaml", "escapes"},
		"a linked directory out of it": {func(t *testing.T, dir string) {
			link(t, "/etc", filepath.Join(dir, "tenants/initech"))
		}, "initech", "tenants/initech", "escapes"},
		"a link to nothing": {func(t *testing.T, dir string) {
			link(t, "gone.yaml", filepath.Join(dir, "tenants/acme/x.yaml"))
		}, "acme", "tenants/acme/x.yaml", "no such file"},
		"a link to itself": {func(t *testing.T, dir string) {
			link(t, "x.yaml", filepath.Join(dir, "tenants/acme/x.yaml"))
		}, "acme", "tenants/acme/x.yaml", "too many levels"},
		"a pipe": {func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "tenants/acme/x.yaml"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "acme", "tenants/acme/x.yaml", "not a regular file"},
		"too deep": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "tenants/acme/1/2/3/4/5/6/7/x.yaml"), "x")
		}, "acme", "tenants/acme/1/2/3/4/5/6/7", "deeper"},
		"a loop of directories": {func(t *testing.T, dir string) {
			link(t, ".", filepath.Join(dir, "tenants/acme/again"))
		}, "acme", "tenants/acme/again/again/again/again/again/again/again", "deeper"},
		"too many files": {func(t *testing.T, dir string) {
			for n := range 1001 {
				put(t, filepath.Join(dir, fmt.Sprintf("tenants/acme/%04d.yaml", n)), "")
			}
		}, "acme", "tenants/acme/1000.yaml", "more than 1000 files"},
		"too many bytes": {func(t *testing.T, dir string) {
			for n := range 33 {
				put(t, filepath.Join(dir, fmt.Sprintf("tenants/acme/x%02d.yaml", n)), strings.Repeat("x", 1<<20))
			}
		}, "acme", "tenants/acme/x31.yaml", "more than 32 MiB"},
		"the directory of tests": {func(t *testing.T, dir string) {
			link(t, "tenants/globex", filepath.Join(dir, "tests/deeper"))
			link(t, "../tenants/globex/g.yaml", filepath.Join(dir, "tests/x.yaml"))
		}, "platform", "tests/x.yaml", "escapes"},
		"the platform's link": {func(t *testing.T, dir string) {
			link(t, "/etc/hostname", filepath.Join(dir, "mesh.yaml"))
		}, "platform", "mesh.yaml", "escapes"},
		"the platform's directory": {func(t *testing.T, dir string) {
			link(t, "/etc", filepath.Join(dir, "platform"))
		}, "platform", "platform", "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, filepath.Join(dir, "tenants/acme/a.yaml"), "a")
			put(t, filepath.Join(dir, "tenants/globex/g.yaml"), "g")
			c.spoil(t, dir)
			files, problems := load(t, source.NewDirectory(dir, zap.NewNop()))
			if files["tenants/globex/g.yaml"] != "g" {
				t.Errorf("globex pays for it: %v", problems)
			}
			for path, data := range files {
				if strings.HasPrefix(path, "tenants/acme/") && data == "g" {
					t.Errorf("%s holds another tenant's bytes", path)
				}
			}
			if len(problems) == 0 {
				t.Fatal("nobody is told")
			}
			p := problems[0]
			if p.Owner != c.owner || p.File != c.file || !strings.Contains(p.Text, c.says) {
				t.Errorf("got owner %q, file %q, text %q", p.Owner, p.File, p.Text)
			}
			if strings.Contains(p.Text, dir) {
				t.Errorf("%q names a path of the machine", p.Text)
			}
		})
	}
}

// TestTestsTakeNoPlace fills an owner's bounds with policy tests: what is served is read all the same, also where its name
// comes later.
func TestTestsTakeNoPlace(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(t *testing.T, dir string){
		"by number": func(t *testing.T, dir string) {
			for n := range 1001 {
				put(t, filepath.Join(dir, fmt.Sprintf("%04d.yaml", n)), "")
			}
		},
		"by size": func(t *testing.T, dir string) {
			for n := range 33 {
				put(t, filepath.Join(dir, fmt.Sprintf("x%02d.yaml", n)), strings.Repeat("x", 1<<20))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, owner := range []string{"", "tenants/acme"} {
				fill(t, filepath.Join(dir, owner, "tests"))
			}
			want := []string{"mesh.yaml", "platform/zz.yaml", "tenants/acme/zz.yaml", "tenants/acme/zz/zz.yaml"}
			for _, path := range want {
				put(t, filepath.Join(dir, path), "z")
			}
			files, problems := load(t, source.NewDirectory(dir, zap.NewNop()))
			for _, path := range want {
				if files[path] != "z" {
					t.Errorf("%s is not read", path)
				}
			}
			for _, p := range problems {
				if !v1alpha1.IsTest(p.File) {
					t.Errorf("%s", p)
				}
			}
			if len(problems) != 2 {
				t.Errorf("%d problems", len(problems))
			}
		})
	}
}

func TestWhatIsNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{
		"README.md", ".git/config.yaml", "tenants/.x/a.yaml",
		"tenants/acme/.orders.yaml.swp", "tenants/acme/.hidden.yaml", "tenants/acme/orders.yaml~",
	} {
		put(t, filepath.Join(dir, path), "x")
	}
	files, problems := load(t, source.NewDirectory(dir, zap.NewNop()))
	if len(files) > 0 || len(problems) > 0 {
		t.Errorf("got %v, %v", files, problems)
	}
}

func TestADirectoryThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "file"), "x")
	outside := t.TempDir()
	link(t, outside, filepath.Join(dir, "linked", "tenants"))
	for name, path := range map[string]string{
		"missing":                      filepath.Join(dir, "missing"),
		"a file":                       filepath.Join(dir, "file"),
		"all tenants are out of reach": filepath.Join(dir, "linked"),
	} {
		if files, _, _, err := source.NewDirectory(path, zap.NewNop()).Load(t.Context()); err == nil {
			t.Errorf("%s: got %v", name, files)
		}
	}
}

func TestADirectoryThatAppearsLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "config")
	d := source.NewDirectory(dir, zap.NewNop())
	changed := d.Watch(t.Context())
	put(t, filepath.Join(dir, "mesh.yaml"), "mesh")
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("no notice")
	}
	if files, _ := load(t, d); files["mesh.yaml"] != "mesh" {
		t.Errorf("got %v", files)
	}
}
