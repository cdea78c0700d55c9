package issuer_test

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// A ledger of which the disk loses a part while it is in use ends neither the process nor the answers: nothing is given and
// nothing renewed any more, everybody is told, and the next start refuses the file.
func TestALedgerThatIsDamagedInUse(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string) error{
		"cut to its heads": func(path string) error { return os.Truncate(path, 2*4096) },
		"emptied":          func(path string) error { return os.Truncate(path, 0) },
		"zeroed": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			info, err := f.Stat()
			if err == nil {
				_, err = f.WriteAt(make([]byte, info.Size()), 0)
			}
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			i, err := issuer.Open(dir, issuer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
				t.Fatal(err)
			}
			svid, token := joined(t, i, p256(t), acmeWeb), newToken(t, i, acmeOrders)
			ledger := filepath.Join(dir, "ledger.db")
			if err := damage(ledger); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range 3 {
					if _, err := i.Issue(request(t, p256(t), []string{acmeOrders}), token, everyone(t), now); !errors.Is(err, issuer.ErrLedger) && !errors.Is(err, issuer.ErrRefused) {
						t.Errorf("issue: %v, want ErrLedger", err)
					}
					if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); !errors.Is(err, issuer.ErrLedger) {
						t.Errorf("renew: %v, want ErrLedger", err)
					} else if !strings.Contains(err.Error(), ledger) {
						t.Errorf("the error does not name the file: %v", err)
					}
				}
				if err := i.Close(); err != nil {
					t.Error(err)
				}
			}()
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Fatal("somebody waits for the ledger for ever")
			}
		})
	}
}

// However short the ledger is cut, and whichever bit of its first pages is flipped, it is refused, or nothing of it is lost.
func TestALedgerCutAnywhereIsRefused(t *testing.T) {
	t.Parallel()
	const entries = 10
	path, td := filled(t, entries), domains("acme.demo.test")[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "ledger.db")
	tried, refused := 0, 0
	try := func(what string, data []byte) {
		t.Helper()
		// Another file each time: on one that the library panics about it keeps its lock.
		if err := os.Remove(copied); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		write(t, copied, data)
		tried++
		l, closed, fresh, err := issuer.OpenLedger(copied)
		if err != nil {
			if refused++; !errors.Is(err, issuer.ErrLedger) || !strings.Contains(err.Error(), copied) {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		if fresh {
			t.Errorf("%s: a new ledger was begun without a word", what)
		}
		for n := byte(1); n <= entries; n++ {
			if end, _, superseded, ok := l.Find(td, n); !ok || superseded || !end.Equal(now.Add(time.Hour)) {
				t.Errorf("%s: entry %d is gone, or another one, without a word", what, n)
			}
		}
		if err := closed(); err != nil {
			t.Error(err)
		}
	}
	cut := 251
	if os.Getenv("RINGFENCE_LONG") != "" {
		cut = 7
	}
	for n := 0; n < len(whole); n += cut {
		try(fmt.Sprintf("cut at %d", n), whole[:n])
	}
	for bit := 0; bit < 8*len(whole); bit += 8*cut/4 + 1 {
		flipped := bytes.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d flipped", bit), flipped)
	}
	t.Logf("%d of %d refused", refused, tried)
}

// childFull is a state directory for an issuer whose disk gets full.
const childFull = "RINGFENCE_TEST_FULL"

// issueOnAFullDisk gives until the ledger cannot grow, and goes on when it can again.
func issueOnAFullDisk(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	t := &testing.T{}
	i, err := issuer.Open(dir, issuer.Options{TTL: 24 * time.Hour, Unlimited: true})
	if err != nil {
		return err
	}
	td := domains("acme.demo.test")[0]
	if _, err := i.Bundles(now, td); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	var room syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		return err
	}
	full := room
	full.Cur = uint64(info.Size()) //nolint:gosec // no file is shorter than nothing
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	give := func() (*ecdsa.PrivateKey, string, error) {
		key, token := p256(t), newToken(t, i, acmeWeb)
		_, err := i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now)
		return key, token, err
	}
	given := 0
	key, token, err := give()
	for ; err == nil; key, token, err = give() {
		if given++; given == 100 {
			return errors.New("the disk does not get full")
		}
	}
	for range 3 {
		if !errors.Is(err, issuer.ErrLedger) {
			return fmt.Errorf("on a full disk: %w", err)
		}
		_, err = i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now)
	}
	if n := i.Given(td); n != given {
		return fmt.Errorf("%d given, %d in the ledger of a full disk", given, n)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		return err
	}
	// The token that gave nothing, and others.
	if _, err := i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now); err != nil {
		return fmt.Errorf("when there is room again: %w", err)
	}
	if _, _, err := give(); err != nil {
		return fmt.Errorf("when there is room again, another: %w", err)
	}
	if err := i.Close(); err != nil {
		return err
	}
	if i, err = issuer.Open(dir, issuer.Options{TTL: 24 * time.Hour}); err != nil {
		return err
	}
	if n := i.Given(td); n != given+2 {
		return fmt.Errorf("%d given, %d in the ledger", given+2, n)
	}
	fmt.Fprintf(os.Stdout, "the disk was full after %d SVIDs", given)
	return i.Close()
}

// An issuer whose disk is full gives nothing and says so; its ledger stays whole, and when there is room again it goes on, also
// with the token that gave nothing meanwhile.
func TestTheIssuersDiskIsFull(t *testing.T) { //nolint:paralleltest // see crash_test.go
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childFull+"="+filepath.Join(t.TempDir(), "state"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
