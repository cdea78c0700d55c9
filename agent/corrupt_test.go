package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// everyDamage calls with a file cut at every length, and with every bit of it flipped: one in seven where time is short.
func everyDamage(whole []byte, try func(damaged []byte)) {
	step := 7
	if os.Getenv("RINGFENCE_LONG") != "" {
		step = 1
	}
	for n := 0; n < len(whole); n += 1 + step/2 {
		try(whole[:n:n])
	}
	for n := 0; n < 8*len(whole); n += step {
		damaged := bytes.Clone(whole)
		damaged[n/8] ^= 1 << (n % 8)
		try(damaged)
	}
}

// joinedDir is a state directory as a join leaves it.
func joinedDir(t *testing.T, own svid) *stateDir {
	t.Helper()
	d, err := openStateDir(filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.close() })
	key, err := encodeKey(own.key())
	if err == nil {
		err = errors.Join(d.write(keyFile, key), own.save(d))
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// testSVID is an SVID of acme/orders, by one root.
func testSVID(t *testing.T, ca *testca.CA) svid {
	t.Helper()
	j := testJudge(t)
	s := ca.SVID(acmeOrders)
	own, err := newSVID(acmeOrders, s.Key, [][]byte{s.Cert.Raw}, [][]byte{ca.Cert.Raw}, svid{id: j.workload, mapping: j.mapping}.stored(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// However one of the files of an identity is damaged, it is refused, or what is read is what was written.
func TestADamagedIdentityIsNotBelieved(t *testing.T) {
	t.Parallel()
	own := testSVID(t, testca.Constrained(t, "acme.demo.test"))
	d, mapping := joinedDir(t, own), own.stored()
	for _, name := range []string{keyFile, svidFile, bundleFile, identityFile} {
		path := d.file(name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tried, refused := 0, 0
		everyDamage(whole, func(damaged []byte) {
			if err := os.WriteFile(path, damaged, fileMode); err != nil {
				t.Fatal(err)
			}
			tried++
			got, ok, err := loadSVID(d, acmeOrders, time.Now())
			if err != nil || !ok {
				refused++
				return
			}
			now := got.stored()
			same := got.key().Equal(own.key()) && bytes.Equal(got.cert.Certificate[0], own.cert.Certificate[0]) &&
				got.bundle.Digest() == own.bundle.Digest() && now.sum() == mapping.sum()
			if !same {
				t.Errorf("%s: something else than what was written is believed: %q", name, damaged)
			}
		})
		if refused == 0 {
			t.Errorf("%s: no damage was noticed", name)
		}
		t.Logf("%s: %d damages, %d refused", name, tried, refused)
		if err := os.WriteFile(path, whole, fileMode); err != nil {
			t.Fatal(err)
		}
	}
}

// However the third file of a renewal is damaged, what is read is the pair before it or the one in it.
func TestADamagedRenewalIsNotBelieved(t *testing.T) {
	t.Parallel()
	ca := testca.Constrained(t, "acme.demo.test")
	before, after := testSVID(t, ca), testSVID(t, ca)
	d := joinedDir(t, before)
	text, err := encodeKey(after.key())
	if err != nil {
		t.Fatal(err)
	}
	whole := slices.Concat(text, encodePEM(after.cert.Certificate))
	restored := func() {
		key, err := encodeKey(before.key())
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{
			keyFile: key, svidFile: encodePEM(before.cert.Certificate), bundleFile: before.bundle.PEM(),
		} {
			if err := os.WriteFile(d.file(name), data, fileMode); err != nil {
				t.Fatal(err)
			}
		}
	}
	taken := 0
	for n := 0; n <= len(whole); n++ { // cut only: each that is taken costs three writes that wait for the disk
		if err := os.WriteFile(d.file(nextFile), whole[:n], fileMode); err != nil {
			t.Fatal(err)
		}
		got, ok, err := loadSVID(d, acmeOrders, time.Now())
		if err != nil || !ok {
			t.Fatalf("cut at %d: %v %v", n, ok, err)
		}
		switch {
		case bytes.Equal(got.cert.Certificate[0], after.cert.Certificate[0]) && got.key().Equal(after.key()):
			taken++
			restored()
		case bytes.Equal(got.cert.Certificate[0], before.cert.Certificate[0]) && got.key().Equal(before.key()):
		default:
			t.Fatalf("cut at %d: a pair that nobody wrote", n)
		}
	}
	if taken == 0 {
		t.Error("the whole file was not taken")
	}
}

// However the configuration on disk is damaged, it is not used: every length, and every bit of its parts that are not covered by
// the checksum; the checksum's own share is tried with every 97th bit.
func TestADamagedConfigurationIsNotUsed(t *testing.T) {
	t.Parallel()
	j, v := testJudge(t), variants(t)
	whole := encoded(t, v[0].committed(t, j), v[0].committed(t, j).table)
	for n := range whole {
		if _, _, err := j.decodeState(whole[:n:n]); err == nil {
			t.Fatalf("cut at %d: used", n)
		}
	}
	head := 8 * (len(stateHeader) + 32)
	for n := range 8 * len(whole) {
		if n >= head && n%97 != 0 {
			continue
		}
		damaged := bytes.Clone(whole)
		damaged[n/8] ^= 1 << (n % 8)
		if _, _, err := j.decodeState(damaged); err == nil {
			t.Fatalf("bit %d flipped: used", n)
		}
	}
}
