package controlplane

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
)

func someFiles() []v1alpha1.File {
	return []v1alpha1.File{
		{Path: "mesh.yaml", Data: []byte("kind: Mesh\n")},
		{Path: "platform/keys.json", Data: []byte("{}")},
		{Path: "tenants/acme/empty.yaml", Data: []byte{}},
		{Path: "tenants/acme/web.yaml", Data: bytes.Repeat([]byte("x"), 300)},
	}
}

func TestAcceptedDocumentsAreKept(t *testing.T) {
	t.Parallel()
	a := memoryIn(t.TempDir()).(accepted)
	if files, err := a.Accepted(); err != nil || len(files) > 0 {
		t.Fatalf("before the first: %v, %v", files, err)
	}
	for _, want := range [][]v1alpha1.File{someFiles(), someFiles()[:1]} {
		if err := a.Keep(want); err != nil {
			t.Fatal(err)
		}
		got, err := a.Accepted()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v, (-kept +read):\n%s", err, diff)
		}
	}
	if info, err := os.Stat(a.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(a.path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if memoryIn("") != nil {
		t.Error("a memory without a directory")
	}
}

func TestUnusableAcceptedDocumentsAreSetAside(t *testing.T) {
	t.Parallel()
	good, err := encodeAccepted(someFiles())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	twice, err := encodeAccepted(append(someFiles()[:1], someFiles()[0]))
	if err != nil {
		t.Fatal(err)
	}
	nobodys, err := encodeAccepted([]v1alpha1.File{{Path: "../mesh.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		text string
	}{
		"empty":               {nil, "not a file of this version"},
		"another version":     {bytes.Replace(good, []byte("documents 1"), []byte("documents 2"), 1), "not a file of this version"},
		"no checksum":         {[]byte(acceptedHeader), "not a file of this version"},
		"a bit flipped":       {flipped, "checksum"},
		"cut off":             {good[:len(good)-7], "checksum"},
		"cut off and sealed":  {sealAccepted(good[len(acceptedHeader)+sha256.Size : len(good)-7]), "cut off"},
		"a length of its own": {sealAccepted([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), "cut off"},
		"the same file twice": {twice, "where none can be"},
		"a file of nobody":    {nobodys, "where none can be"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := memoryIn(t.TempDir()).(accepted)
			if err := os.WriteFile(a.path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			files, err := a.Accepted()
			if len(files) > 0 || err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), a.path+".bad") {
				t.Errorf("%d files, %v", len(files), err)
			}
			if aside, err := os.ReadFile(a.path + ".bad"); err != nil || !bytes.Equal(aside, c.data) {
				t.Errorf("set aside: %v", err)
			}
			if files, err := a.Accepted(); len(files) > 0 || err != nil {
				t.Errorf("again: %v, %v", files, err)
			}
		})
	}
}

func TestWhatIsNoFileIsSetAside(t *testing.T) {
	t.Parallel()
	a := memoryIn(t.TempDir()).(accepted)
	if err := os.Mkdir(a.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if files, err := a.Accepted(); len(files) > 0 || err == nil {
		t.Errorf("%v, %v", files, err)
	}
	if err := os.Symlink("/dev/zero", a.path); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.path + ".bad"); err != nil {
		t.Fatal(err)
	}
	if files, err := a.Accepted(); len(files) > 0 || err == nil {
		t.Errorf("%v, %v", files, err)
	}
	if err := a.Keep(someFiles()); err != nil {
		t.Error(err)
	}
}

// What was kept before must not come back after something newer was accepted.
func TestWhatCannotBeReplacedIsRemoved(t *testing.T) {
	t.Parallel()
	a := memoryIn(t.TempDir()).(accepted)
	if err := a.Keep(someFiles()); err != nil {
		t.Fatal(err)
	}
	if err := a.Keep([]v1alpha1.File{{Path: "mesh.yaml", Data: make([]byte, maxAccepted)}}); err == nil {
		t.Error("kept too much")
	}
	if _, err := os.Stat(a.path); !os.IsNotExist(err) {
		t.Errorf("the old is still there: %v", err)
	}
	if err := os.Mkdir(a.path+".new", 0o700); err != nil { // where the new one would be written
		t.Fatal(err)
	}
	if err := os.WriteFile(a.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.path+".new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Keep(someFiles()); err == nil {
		t.Error("kept nowhere")
	}
	if _, err := os.Stat(a.path); !os.IsNotExist(err) {
		t.Errorf("the old is still there: %v", err)
	}
}

// sealAccepted makes the checksum good.
func sealAccepted(rest []byte) []byte {
	sum := sha256.Sum256(rest)
	return append(append([]byte(acceptedHeader), sum[:]...), rest...)
}

// FuzzAccepted: whatever lies in the file: no panic, and what is taken is what would be written for it, each file once and
// somebody's.
func FuzzAccepted(f *testing.F) {
	for _, files := range [][]v1alpha1.File{nil, someFiles()[:1], someFiles()} {
		data, err := encodeAccepted(files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[len(acceptedHeader)+sha256.Size:])
	}
	f.Add([]byte{})
	f.Add([]byte(acceptedHeader))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range [][]byte{data, sealAccepted(data)} { // as it is, and as if somebody had made the checksum good
			files, err := decodeAccepted(file)
			if err != nil {
				continue
			}
			for i, got := range files {
				if v1alpha1.Owner(got.Path) == "" || i > 0 && files[i-1].Path >= got.Path {
					t.Fatalf("%q was taken", got.Path)
				}
			}
			again, err := encodeAccepted(files)
			if err != nil {
				t.Fatal(err)
			}
			back, err := decodeAccepted(again)
			if diff := cmp.Diff(files, back); diff != "" || err != nil {
				t.Fatalf("%v, (-first +again):\n%s", err, diff)
			}
		}
	})
}
