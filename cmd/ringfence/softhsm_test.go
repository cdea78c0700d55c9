//go:build softhsm

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The command with a token comes up, and says where it listens.
func TestSoftHSMServes(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	p := process{out: &stderr, err: &stderr, lookupEnv: os.LookupEnv}
	args := []string{
		"serve", "--config", "../../examples/two-tenants", "--state", state, "--root-kms", os.Getenv("RINGFENCE_TEST_PKCS11"),
		"--xds-listen", "127.0.0.1:0", "--issuer-listen", "127.0.0.1:0", "--http-listen", "",
	}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, p) }()
	for {
		if _, err := os.Stat(filepath.Join(state, "trust", "acme.demo.test.pem")); err == nil {
			break
		}
		select {
		case code := <-ended:
			t.Fatalf("ended with %d:\n%s", code, stderr.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("ended with %d:\n%s", code, stderr.String())
	}
	if keys, err := filepath.Glob(filepath.Join(state, "ca", "*", "key*")); err != nil || len(keys) != 0 {
		t.Errorf("keys lie in files: %v, %v", keys, err)
	}
}
