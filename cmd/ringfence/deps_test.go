package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The binary for machines without Kubernetes holds no code of it; ringfence-kube is the other one.
func TestLinksNoKubernetes(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := strings.Fields(string(out))
	if len(packages) < 100 {
		t.Fatalf("only %d packages: the list is not whole", len(packages))
	}
	for _, p := range packages {
		if strings.HasPrefix(p, "k8s.io/") || strings.HasPrefix(p, "sigs.k8s.io/") {
			t.Errorf("links %s", p)
		}
	}
}
