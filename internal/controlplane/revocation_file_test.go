package controlplane_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringfence-mesh/ringfence/internal/controlplane"
)

const oneRevocation = `---
kind: Revocation
metadata: {name: lost}
spec: {workload: "spiffe://acme.demo.test/ns/acme/sa/web", reason: lost, notAfter: "2036-01-01T00:00:00Z"}
`

// Who follows the control plane's revocations lets nobody in again because the file is broken or gone, and says so once.
func TestRevocationFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revocations.yaml")
	core, logs := observer.New(zap.ErrorLevel)
	f, err := controlplane.OpenRevocationFile(path, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, revocations, errors int) {
		t.Helper()
		for range 2 {
			if got := len(f.List()); got != revocations || logs.Len() != errors {
				t.Errorf("%s: %d revocations and %d errors, want %d and %d", when, got, logs.Len(), revocations, errors)
			}
		}
	}
	expect("before there is a file", 0, 0)
	put(t, path, []byte(oneRevocation))
	expect("the first", 1, 0)
	put(t, path, []byte(oneRevocation+"kind: Nothing\n"))
	expect("broken", 1, 1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("gone", 1, 2)
	put(t, path, nil)
	expect("undone", 0, 2)

	put(t, path, []byte("no documents"))
	if _, err := controlplane.OpenRevocationFile(path, zap.NewNop()); err == nil {
		t.Error("a broken file is taken at the start")
	}
}
