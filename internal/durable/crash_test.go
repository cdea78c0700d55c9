package durable_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/durable"
)

// What a process that a test starts finds in its environment: the file to replace again and again, or on a disk that is full.
const (
	childLoop = "RINGFENCE_TEST_LOOP"
	childFull = "RINGFENCE_TEST_FULL"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childLoop); path != "" {
		os.Exit(replaceForEver(path))
	}
	if path := os.Getenv(childFull); path != "" {
		os.Exit(replaceOnAFullDisk(path))
	}
	os.Exit(m.Run())
}

// content is a file that says its number and whether it is whole; each has another length.
func content(n uint64) []byte {
	body := binary.BigEndian.AppendUint64(nil, n)
	body = append(body, bytes.Repeat([]byte("x"), int(n*977%20_000))...)
	sum := sha256.Sum256(body)
	return append(sum[:], body...)
}

func numberOf(data []byte) (uint64, bool) {
	const head = sha256.Size + 8
	if len(data) < head {
		return 0, false
	}
	n := binary.BigEndian.Uint64(data[sha256.Size:])
	return n, bytes.Equal(data, content(n))
}

// replaceForEver says the number of each file that is in place.
func replaceForEver(path string) int {
	first, err := strconv.ParseUint(os.Getenv(childLoop+"_FROM"), 10, 64)
	if err != nil {
		return 2
	}
	for n := first; ; n++ {
		if err := durable.Replace(path, content(n), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintln(os.Stdout, n)
	}
}

// A process is killed at random moments in the middle of its writes: what lies there is whole, and is the last that was said to
// be in place, or the one that was being written. The next process goes on over what is left.
func TestReplaceIsWholeWhereverTheProcessDies(t *testing.T) {
	t.Parallel()
	deaths := 30
	if os.Getenv("RINGFENCE_LONG") != "" {
		deaths = 300
	}
	dir := t.TempDir()
	path, from, midway := filepath.Join(dir, "f"), uint64(1), 0
	for range deaths {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childLoop+"="+path, childLoop+"_FROM="+strconv.FormatUint(from, 10))
		var failure strings.Builder
		cmd.Stderr = &failure
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, said := bufio.NewScanner(out), uint64(0)
		for lines.Scan() {
			if said, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
			if said == from { // it runs: now at any moment
				time.AfterFunc(rand.N(20*time.Millisecond), func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait() // killed
		if failure.Len() > 0 || said == 0 {
			t.Fatalf("it ended by itself: %s", failure.String())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n, whole := numberOf(data)
		if !whole || n != said && n != said+1 {
			t.Fatalf("number %d was in place; there lies number %d, whole: %v", said, n, whole)
		}
		if _, err := os.Stat(path + ".new"); err == nil {
			midway++
		}
		from = n + 1
	}
	t.Logf("%d deaths, %d of them between the beginning of a file and its taking the other's place; %d files", deaths, midway, from-1)
}

// replaceOnAFullDisk tries with room for every number of bytes that is too small. The kernel then writes as many, as a disk does
// that gets full, and fails.
func replaceOnAFullDisk(path string) int {
	signal.Ignore(syscall.SIGXFSZ)
	old, now := []byte("old"), bytes.Repeat([]byte("new"), 100)
	for room := range uint64(len(now)) {
		if err := os.WriteFile(path, old, 0o600); err != nil {
			return 2
		}
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return 3
		}
		full := limit
		full.Cur = room
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			return 4
		}
		failed := durable.Replace(path, now, 0o600)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return 5
		}
		data, err := os.ReadFile(path)
		_, left := os.Stat(path + ".new")
		if failed == nil || err != nil || !bytes.Equal(data, old) || !errors.Is(left, fs.ErrNotExist) {
			fmt.Fprintf(os.Stdout, "room for %d: %v; there lies %q, %v; beside it %v\n", room, failed, data, err, left)
			return 1
		}
	}
	if err := durable.Replace(path, now, 0o600); err != nil {
		fmt.Fprintln(os.Stdout, "with room:", err)
		return 1
	}
	return 0
}

// Wherever in the new file the disk is full, the old one stays as it is, nothing is left of the new one, and the caller is told.
func TestReplaceOnAFullDisk(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFull+"="+filepath.Join(t.TempDir(), "f"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
