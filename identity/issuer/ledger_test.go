package issuer_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// The ledger on the disk says what the plain one in memory says, also after it was closed and opened.
func TestLedgersAgree(t *testing.T) {
	t.Parallel()
	tds := domains("acme.demo.test", "globex.demo.test")
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(tempDir(t), "ledger.db")
		disk, closed, _, err := issuer.OpenLedger(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = closed() }()
		plain, at := issuer.NewMemoryLedger(), now
		numbers := rapid.ByteRange(1, 6)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				td, n, renews := rapid.SampledFrom(tds).Draw(t, "td"), numbers.Draw(t, "n"), rapid.ByteRange(0, 6).Draw(t, "renews")
				if _, _, _, ok := plain.Find(td, n); ok || n == renews {
					t.Skip("a serial number is given once")
				}
				end, limit := at.Add(time.Duration(rapid.IntRange(1, 5).Draw(t, "life"))*time.Second), rapid.IntRange(0, 4).Draw(t, "limit")
				got, want := disk.Add(td, n, renews, end, limit, at), plain.Add(td, n, renews, end, limit, at)
				if !errors.Is(got, want) && !errors.Is(want, got) {
					t.Fatalf("add: %v, want %v", got, want)
				}
			},
			"retain": func(t *rapid.T) {
				td, root := rapid.SampledFrom(tds).Draw(t, "td"), rapid.ByteRange(0, 1).Draw(t, "root")
				disk.Retain(td, root)
				plain.Retain(td, root)
			},
			"pass": func(t *rapid.T) { at = at.Add(time.Duration(rapid.IntRange(1, 3).Draw(t, "seconds")) * time.Second) },
			"wait": func(t *rapid.T) { at = at.Add(time.Duration(rapid.IntRange(1, 24).Draw(t, "hours")) * time.Hour) },
			"jump": func(t *rapid.T) { at = at.Add(-time.Duration(rapid.IntRange(1, 3).Draw(t, "hours")) * time.Hour) },
			"open": func(t *rapid.T) {
				if err := closed(); err != nil {
					t.Fatal(err)
				}
				var fresh bool
				if disk, closed, fresh, err = issuer.OpenLedger(path); err != nil || fresh {
					t.Fatalf("fresh %v, %v", fresh, err)
				}
			},
			"": func(t *rapid.T) {
				for _, td := range tds {
					if got, want := disk.Outstanding(td, at), plain.Outstanding(td, at); got != want {
						t.Fatalf("%d outstanding, want %d", got, want)
					}
					for n := byte(1); n <= 6; n++ {
						end, renews, superseded, ok := disk.Find(td, n)
						wantEnd, wantRenews, wantSuperseded, wantOK := plain.Find(td, n)
						if !end.Equal(wantEnd) || renews != wantRenews || superseded != wantSuperseded || ok != wantOK {
							t.Fatalf("%d: %v %d %v %v, want %v %d %v %v", n, end, renews, superseded, ok, wantEnd, wantRenews, wantSuperseded, wantOK)
						}
					}
				}
			},
		})
	})
}

func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// filled is the file of a ledger with some entries.
func filled(t *testing.T, entries byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, closed, fresh, err := issuer.OpenLedger(path)
	if err != nil || !fresh {
		t.Fatalf("fresh %v, %v", fresh, err)
	}
	for n := byte(1); n <= entries; n++ {
		if err := l.Add(domains("acme.demo.test")[0], n, 0, now.Add(time.Hour), 1000, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := closed(); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is not the ledger that was written is refused, with the file's name and what to do; it is left as it is.
func TestADamagedLedgerIsRefused(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"empty":            func([]byte) []byte { return nil },
		"junk":             func([]byte) []byte { return []byte(strings.Repeat("junk", 5000)) },
		"cut off":          func(b []byte) []byte { return b[:len(b)/2] },
		"cut to its heads": func(b []byte) []byte { return b[:2*4096] },
		"zeroed":           func(b []byte) []byte { return append(b[:2*4096:2*4096], make([]byte, len(b)-2*4096)...) },
		"a changed name":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("demo.test/w"), []byte("demo.test/x")) },
		"another version":  func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("version1"), []byte("version2")) },
		"a lost bucket":    func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("entries"), []byte("entriez")) },
		"no trust domain":  func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("acme.demo.test"), []byte("acme demo.test")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filled(t, 100)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			broken := damage(bytes.Clone(whole))
			if bytes.Equal(broken, whole) {
				t.Fatal("nothing was damaged")
			}
			write(t, path, broken)
			_, _, _, err = issuer.OpenLedger(path)
			if !errors.Is(err, issuer.ErrLedger) {
				t.Fatalf("got %v, want ErrLedger", err)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("the error does not name the file and the way out: %v", err)
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, broken) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

// A state directory whose ledger is damaged is not served from, and one whose ledger was moved away is.
func TestTheWayOutOfADamagedLedger(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	svid := joined(t, i, p256(t), acmeWeb)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	ledger := filepath.Join(dir, "ledger.db")
	write(t, ledger, []byte("junk"))
	if _, err := issuer.Open(dir, issuer.Options{}); !errors.Is(err, issuer.ErrLedger) {
		t.Fatalf("got %v, want ErrLedger", err)
	}
	if err := os.Rename(ledger, ledger+".damaged"); err != nil {
		t.Fatal(err)
	}
	i = open(t, dir)
	if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); !errors.Is(err, issuer.ErrNotRenewable) {
		t.Errorf("renewed what the new ledger does not know: %v", err)
	}
	joined(t, i, p256(t), acmeWeb)
}

func ledgerEntry(f testing.TB, key [20]byte, change func(*agentv1alpha1.LedgerEntry)) []byte {
	f.Helper()
	m := &agentv1alpha1.LedgerEntry{
		Workload: acmeWeb, Key: make([]byte, 32), Root: make([]byte, 32), NotBeforeUnix: 1, NotAfterUnix: 2,
		Attestation: agentv1alpha1.Attestation_ATTESTATION_RENEWAL, Renews: bytes.Repeat([]byte{7}, 20),
	}
	change(m)
	payload, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	sum := issuer.Sum(key, payload)
	return append(sum[:], payload...)
}

func TestLedgerEntriesAreWhole(t *testing.T) {
	t.Parallel()
	key := [20]byte{19: 1}
	good := ledgerEntry(t, key, func(*agentv1alpha1.LedgerEntry) {})
	if _, ok := issuer.RoundTrip(key[:], good); !ok {
		t.Fatal("a good entry is refused")
	}
	zero := [20]byte{}
	for name, c := range map[string]struct{ key, value []byte }{
		"short key":      {key[1:], good},
		"zero key":       {zero[:], ledgerEntry(t, zero, func(*agentv1alpha1.LedgerEntry) {})},
		"short value":    {key[:], good[:31]},
		"no workload":    {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Workload = "" })},
		"short hash":     {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Key = m.GetKey()[1:] })},
		"no root":        {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Root = nil })},
		"ends first":     {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.NotAfterUnix = 0 })},
		"no attestation": {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Attestation = 0 })},
		"unknown one":    {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Attestation = 9 })},
		"renews nobody":  {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Renews = make([]byte, 20) })},
		"renews a bit":   {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) { m.Renews = []byte{1} })},
		"unknown field": {key[:], ledgerEntry(t, key, func(m *agentv1alpha1.LedgerEntry) {
			m.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1})
		})},
	} {
		if _, ok := issuer.RoundTrip(c.key, c.value); ok {
			t.Errorf("%s: accepted %s", name, hex.EncodeToString(c.value))
		}
	}
}

// FuzzLedger: an entry is read as it would be written, or not at all.
func FuzzLedger(f *testing.F) {
	key := [20]byte{19: 1}
	f.Add(key[:], ledgerEntry(f, key, func(*agentv1alpha1.LedgerEntry) {})[32:])
	f.Add(key[:], ledgerEntry(f, key, func(m *agentv1alpha1.LedgerEntry) { m.Superseded, m.Renews = true, nil })[32:])
	f.Add([]byte{1}, []byte("x"))
	f.Fuzz(func(t *testing.T, key, payload []byte) {
		if len(key) != 20 {
			if _, ok := issuer.RoundTrip(key, payload); ok {
				t.Error("a key that is no serial number")
			}
			return
		}
		sum := issuer.Sum([20]byte(key), payload) // a hash that fits is what a fuzzer would not find
		value := append(sum[:], payload...)
		again, ok := issuer.RoundTrip(key, value)
		if !ok {
			return
		}
		if third, ok := issuer.RoundTrip(key, again); !ok || !bytes.Equal(third, again) {
			t.Error("what is written is not read again")
		}
		value[len(value)-1] ^= 1
		if _, ok := issuer.RoundTrip(key, value); ok {
			t.Error("a hash that does not fit")
		}
	})
}

// While the clock is ahead everything seems to have ended, and things are issued and renewed; set back again, everybody still
// renews. What has ended for long is dropped.
func TestAClockThatWasAheadForgetsNobody(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"an hour": time.Hour, "a time zone": 14 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := open(t, filepath.Join(t.TempDir(), "state"))
			web, orders := joined(t, i, p256(t), acmeWeb), joined(t, i, p256(t), acmeOrders)
			token, _, err := i.CreateToken(workload(t, acmeWeb), 26*time.Hour, now)
			if err != nil {
				t.Fatal(err)
			}
			csr := request(t, p256(t), []string{acmeWeb})
			early, err := i.Issue(csr, token, everyone(t), now.Add(ahead))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := renew(t, i, csr, orders.Chain[0], now.Add(ahead)); !errors.Is(err, issuer.ErrNotRenewable) {
				t.Errorf("renewed what has expired: %v", err)
			}
			for _, one := range []struct {
				uri  string
				leaf []byte
			}{{acmeWeb, web.Chain[0]}, {acmeOrders, orders.Chain[0]}} {
				if _, err := renew(t, i, request(t, p256(t), []string{one.uri}), one.leaf, now.Add(10*time.Minute)); err != nil {
					t.Errorf("%s, after the clock was set back: %v", one.uri, err)
				}
			}
			if _, err := renew(t, i, csr, early.Chain[0], now.Add(20*time.Minute)); !errors.Is(err, issuer.ErrNotRenewable) {
				t.Errorf("renewed what is not valid yet: %v", err)
			}
			late := now.Add(ahead + 27*time.Hour)
			if token, _, err = i.CreateToken(workload(t, acmeWeb), time.Minute, late); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Issue(csr, token, everyone(t), late); err != nil {
				t.Fatal(err)
			}
			if n := i.Given(domains("acme.demo.test")[0]); n != 1 {
				t.Errorf("a day after everything ended the ledger has %d SVIDs", n)
			}
		})
	}
}
