package issuer_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// What a process that a test starts finds in its environment: a state directory, a token, the key to join with, and the step
// at which it is to die.
const (
	childState = "RINGFENCE_TEST_ISSUER"
	childKey   = "RINGFENCE_TEST_KEY"
	childToken = "RINGFENCE_TEST_TOKEN"
	childStep  = "RINGFENCE_TEST_STEP"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childState); dir != "" {
		os.Exit(child(dir, os.Getenv(childToken), os.Getenv(childStep)))
	}
	if dir := os.Getenv(childFull); dir != "" {
		if err := issueOnAFullDisk(dir); err != nil {
			fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is an issuer in a process of its own. It issues for the token, prints what it gave, and goes on renewing that; at
// the step it kills itself, as a machine that loses its power would.
func child(dir, token, step string) int {
	t := &testing.T{}
	i, err := issuer.Open(dir, issuer.Options{TTL: 24 * time.Hour})
	if err != nil {
		return 2
	}
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
		return 3
	}
	i.OnStep(func(at string) {
		if at == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	der, err := base64.StdEncoding.DecodeString(os.Getenv(childKey))
	if err != nil {
		return 7
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return 8
	}
	svid, err := i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now)
	if err != nil {
		return 4
	}
	for n := 1; ; n++ {
		fmt.Fprintln(os.Stdout, base64.StdEncoding.EncodeToString(svid.Chain[0]))
		if step != "" {
			return 5 // the step never came
		}
		// Minutes apart, so that the limit per workload is not what stops it, and not past anybody's end.
		if svid, err = renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now.Add(time.Duration(n)*time.Minute)); err != nil {
			return 6
		}
	}
}

func startChild(t *testing.T, dir, token, step string, key *ecdsa.PrivateKey) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childState+"="+dir, childToken+"="+token, childStep+"="+step,
		childKey+"="+base64.StdEncoding.EncodeToString(der))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func killed(err error) bool {
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // as Wait gives it
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Tests that start processes run one after the other, and before all others: a process that is being started holds every
// lock of a directory that is open at that moment.

// The process is killed between any two steps of issuing. The workload then gets an SVID for its token all the same, and one
// only, with its own key; whoever else has the token gets one only where the workload had not got so far.
func TestATokenIsUsedOnceWhereverTheProcessDies(t *testing.T) { //nolint:paralleltest // see above
	for step, free := range map[string]bool{"found": true, "signed": true, "spent": false, "recorded": false} { //nolint:paralleltest // see above
		for _, first := range []string{"the workload", "somebody else"} {
			t.Run(step+", then "+first, func(t *testing.T) {
				dir, key := filepath.Join(t.TempDir(), "state"), p256(t)
				i := open(t, dir)
				token := newToken(t, i, acmeWeb)
				if err := i.Close(); err != nil {
					t.Fatal(err)
				}
				cmd, out := startChild(t, dir, token, step, key)
				given := 0
				for out.Scan() {
					given++
				}
				if err := cmd.Wait(); !killed(err) {
					t.Fatalf("the process was not killed: %v", err)
				}
				if given != 0 {
					t.Fatalf("killed at %q, and yet it gave %d SVIDs", step, given)
				}
				i = open(t, dir)
				ask := func(key *ecdsa.PrivateKey) (issuer.SVID, error) {
					return i.Issue(request(t, key, []string{acmeWeb}), token, everyone(t), now)
				}
				workloads := true
				if first == "somebody else" {
					_, err := ask(p256(t))
					if usable := err == nil; usable != free {
						t.Errorf("after a death at %q: %v", step, err)
					}
					workloads = err != nil
				}
				svid, err := ask(key)
				if got := err == nil; got != workloads {
					t.Fatalf("the workload: %v", err)
				}
				if _, err := ask(p256(t)); !errors.Is(err, issuer.ErrRefused) {
					t.Errorf("a second key: %v", err)
				}
				if err := i.Close(); err != nil {
					t.Fatal(err)
				}
				i = open(t, dir)
				if again, err := ask(key); workloads && (err != nil || !bytes.Equal(again.Chain[0], svid.Chain[0])) {
					t.Errorf("asked again: another SVID, or none: %v", err)
				}
				if n := i.Given(identity.MustTrustDomain("acme.demo.test")); n != 1 {
					t.Errorf("the ledger has %d SVIDs of one token", n)
				}
			})
		}
	}
}

// A process that is killed while it issues has in its ledger whatever it had given.
func TestTheLedgerHasWhatWasGivenWhereverTheProcessDies(t *testing.T) { //nolint:paralleltest // see above
	for n := range 8 { //nolint:paralleltest // see above
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			i := open(t, dir)
			token := newToken(t, i, acmeWeb)
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			cmd, out := startChild(t, dir, token, "", p256(t))
			var given [][]byte
			for out.Scan() {
				if der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(out.Text())); err == nil {
					given = append(given, der)
				}
				if len(given) == 3+5*n {
					_ = cmd.Process.Kill()
				}
			}
			if err := cmd.Wait(); !killed(err) {
				t.Fatalf("the process was not killed: %v", err)
			}
			i = open(t, dir)
			td := identity.MustTrustDomain("acme.demo.test")
			for at, der := range given {
				leaf, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				var serial [20]byte
				leaf.SerialNumber.FillBytes(serial[:])
				workload, superseded, ok := i.Recorded(td, serial)
				if !ok || workload != acmeWeb || (at < len(given)-1 && !superseded) {
					t.Errorf("SVID %d of %d: %q, superseded %v, recorded %v", at, len(given), workload, superseded, ok)
				}
			}
		})
	}
}
