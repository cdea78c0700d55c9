package v1alpha1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPanicCostsTheFile is inside the package because no bytes are known that make the YAML library panic.
func TestPanicCostsTheFile(t *testing.T) {
	t.Parallel()
	d := &decoder{src: newSource("tenants/acme/x.yaml", "kind: Service")}
	docs := d.contain(func() []Document { panic("index out of range") })
	want := []Problem{{Code: CodeSyntax, Owner: "acme", File: "tenants/acme/x.yaml", Text: "the YAML reader failed on this file"}}
	if diff := cmp.Diff(want, d.problems); diff != "" || docs != nil {
		t.Errorf("documents %v, problems (-want +got):\n%s", docs, diff)
	}
}
