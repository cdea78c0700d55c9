package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// reader does what a page says, in a directory of its own and on ports that are free here.
type reader struct {
	t     *testing.T
	dir   string
	ports map[string]string // of the page, to those that are used
	// coverage is where the commands write theirs, where it is measured: else each would say that it has no place for it.
	coverage string
}

var (
	portText   = regexp.MustCompile(`(?::|[pP]ort: |port_value: )([1-9][0-9]{3,4})\b`)
	numberText = regexp.MustCompile(`\b[1-9][0-9]{3,4}\b`)
)

func newReader(t *testing.T, page string) *reader {
	t.Helper()
	coverage, err := os.MkdirTemp("", "rfcover") //nolint:usetesting // removed as far as it can be: commands that end late write into it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(coverage) })
	r := &reader{t: t, dir: copyOf(t), ports: map[string]string{}, coverage: coverage}
	for _, m := range portText.FindAllStringSubmatch(prelude+page, -1) {
		if r.ports[m[1]] == "" {
			_, r.ports[m[1]], _ = strings.Cut(freePort(t), ":")
		}
	}
	return r
}

// here is a text of the page with the ports that are used here.
func (r *reader) here(text string) string {
	return numberText.ReplaceAllStringFunc(text, func(number string) string { return cmp.Or(r.ports[number], number) })
}

// asWritten is a text of here with the ports of the page.
func (r *reader) asWritten(text string) string {
	back := map[string]string{}
	for page, used := range r.ports {
		back[used] = page
	}
	return numberText.ReplaceAllStringFunc(text, func(number string) string { return cmp.Or(back[number], number) })
}

// prelude moves the ports that are not written because they are the default.
const prelude = `ringfence() {
  case "${1-}" in
  serve) RINGFENCE_XDS_LISTEN=127.0.0.1:7443 RINGFENCE_ISSUER_LISTEN=127.0.0.1:7444 RINGFENCE_HTTP_LISTEN=127.0.0.1:7480 command ringfence "$@" ;;
  authz) RINGFENCE_HTTP_LISTEN=127.0.0.1:7482 command ringfence "$@" ;;
  *) command ringfence "$@" ;;
  esac
}
`

// script runs a script until its last command has ended. What it leaves in the background runs until the page ends.
func (r *reader) script(text string) (out string, code int) {
	r.t.Helper()
	text = r.here(prelude + text)
	log, err := os.CreateTemp(r.dir, ".out")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the script has its own
	ended, end, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = ended.Close() }() // only read
	// Bash stays until what it started has ended, which it is told by a signal to the whole group.
	cmd := exec.Command("bash", "-c", `trap 'printf "%d." $? >&3; trap "" TERM; wait' EXIT`+"\n"+text)
	cmd.Dir, cmd.Env = r.dir, []string{"PATH=" + r.path(), "HOME=" + r.dir, "LANG=C.UTF-8", "GOCOVERDIR=" + r.coverage}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{end}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	_ = end.Close() // the script has it
	r.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // there may be none left
		force := time.AfterFunc(patience, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer force.Stop()
		_ = cmd.Wait() // the exit code is known already
	})
	if err := ended.SetReadDeadline(time.Now().Add(3 * patience)); err != nil {
		r.t.Fatal(err)
	}
	_, scanned := fmt.Fscanf(ended, "%d.", &code)
	said, err := os.ReadFile(log.Name())
	if scanned != nil || err != nil {
		r.t.Fatalf("no end (what runs on stands in the background, with &): %v, %v\n%s\n%.2000s", scanned, err, text, said)
	}
	return r.asWritten(string(said)), code
}

// path is where commands are found: those of this test's binary, and the Envoy that the tests use.
func (r *reader) path() string {
	r.t.Helper()
	bin := filepath.Join(r.dir, ".bin")
	if _, err := os.Stat(bin); err != nil {
		if err := os.Mkdir(bin, 0o700); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Symlink(realenvoy.Path(r.t), filepath.Join(bin, "envoy")); err != nil {
			r.t.Fatal(err)
		}
	}
	return bin + ":" + os.Getenv("PATH")
}
