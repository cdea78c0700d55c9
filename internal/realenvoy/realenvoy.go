// Package realenvoy gives tests the real Envoy: it finds the binary, asks it whether a bootstrap is valid, and runs it as
// a child that cannot outlive the test. It stands in for nothing: where there is no Envoy of the right version the test
// fails and says how to get one; it never skips.
package realenvoy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Version is the Envoy that the project pins and that `make envoy` puts into the project's folder.
const Version = "1.40.0"

// The oldest Envoy that is taken from PATH. Older ones resume TLS sessions across removed roots.
const minMajor, minMinor = 1, 40

const versionTimeout = 10 * time.Second

// ErrNotFound says that this machine has no Envoy that the tests may use.
var ErrNotFound = errors.New("no Envoy " + Version + " found: run `make envoy`, or set ENVOY to a binary")

// Path is the Envoy to test with; the test fails where there is none.
func Path(tb testing.TB) string {
	tb.Helper()
	path, err := Find()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Find looks for Envoy in $ENVOY, then in the project's folder, then on PATH (there only if it is new enough).
func Find() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("ENVOY=%s: %w", path, err)
		}
		return path, nil
	}
	if root, err := projectRoot(); err == nil {
		path := filepath.Join(root, ".cache", "envoy", Version, "envoy")
		if executable(path) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", ErrNotFound
	}
	if err := newEnough(path); err != nil {
		return "", fmt.Errorf("%w (%s on PATH: %w)", ErrNotFound, path, err)
	}
	return path, nil
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return errors.New("not an executable file")
	}
	return nil
}

// projectRoot is the folder of go.mod. The source file's own place is tried first, so that a test that changed its
// directory finds it too; -trimpath takes that away, and the working directory is what remains.
func projectRoot() (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if root := filepath.Join(filepath.Dir(file), "..", ".."); isRoot(root) {
			return root, nil
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if isRoot(dir) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}

func isRoot(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

var versionText = regexp.MustCompile(`version: [0-9a-f]*/([0-9]+)\.([0-9]+)\.[0-9]+`)

func newEnough(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return err
	}
	m := versionText.FindStringSubmatch(string(out))
	if m == nil {
		return fmt.Errorf("cannot read a version in %q", strings.TrimSpace(string(out)))
	}
	major, errMajor := strconv.Atoi(m[1])
	minor, errMinor := strconv.Atoi(m[2])
	if err := errors.Join(errMajor, errMinor); err != nil {
		return err
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return fmt.Errorf("is %d.%d, needed is %d.%d", major, minor, minMajor, minMinor)
	}
	return nil
}
