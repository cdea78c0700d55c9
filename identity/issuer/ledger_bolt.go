package issuer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/durable"
)

// The file has a bucket for each trust domain, with the entries by serial number and again by their end.
//
//	version = "1"
//	<trust domain>/entries/<serial>      = entry
//	<trust domain>/ends/<end><serial>    = nothing
const ledgerVersion = "1"

var (
	bucketMeta    = []byte("\x00meta") // no trust domain begins so
	bucketEntries = []byte("entries")
	bucketEnds    = []byte("ends")
	keyVersion    = []byte("version")
)

const (
	endSize     = 8
	openTimeout = time.Second
)

// boltLedger is the ledger on the disk. A change is there after a crash once its method has returned, and is there as a
// whole or not at all.
type boltLedger struct {
	db *bbolt.DB
	// broken: the file was found damaged while it was in use. The library may then hold its own locks, so it is asked nothing more.
	broken atomic.Bool
}

var _ ledger = (*boltLedger)(nil)

// openLedger opens the file and reads all of it; one that is damaged anywhere is refused. fresh says that there was none.
func openLedger(path string) (l *boltLedger, fresh bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createLedger(path); err != nil {
			return nil, false, fmt.Errorf("%w: %s: %w", ErrLedger, path, err)
		}
		fresh = true
	}
	if info != nil && info.Size() == 0 { // the library would begin a new one in it
		err = fmt.Errorf("%w: it is empty", errDamaged)
	} else if l, err = openChecked(path); err == nil {
		return l, fresh, nil
	}
	return nil, false, fmt.Errorf("%w: %s cannot be used: %w. Restore it, or move it away and start again: "+
		"nothing that was issued before can then be renewed, and every workload needs a new join token before its SVID ends",
		ErrLedger, path, err)
}

func openChecked(path string) (*boltLedger, error) {
	if err := checkHeads(path); err != nil {
		return nil, err
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	l := &boltLedger{db: db}
	if err := l.check(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return l, nil
}

// createLedger makes an empty file under another name first, so that a crash leaves none or a whole one.
func createLedger(path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBolt(temp)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		return b.Put(keyVersion, []byte(ledgerVersion))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

var errDamaged = errors.New("it is damaged")

// checkHeads reads the file's two heads, one for the last change and one for that before. Where one is damaged the library takes
// the other without a word, and the last SVID that was given may then be one that nobody gave. A head is a page's header of 16
// bytes, a magic number, the version of the format, the size of a page, 44 bytes of no matter here, and an FNV-1a of all that is behind
// the page's header.
func checkHeads(path string) error {
	const header, size, sum = 16, 64, 56
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	page := int64(0)                 // where the second head is; the first one says it
	for n := range int64(2) {
		head := make([]byte, size)
		if _, err := f.ReadAt(head, n*page+header); err != nil {
			return fmt.Errorf("%w: it is cut off", errDamaged)
		}
		hash := fnv.New64a()
		_, _ = hash.Write(head[:sum]) // never fails
		if binary.NativeEndian.Uint64(head[sum:]) != hash.Sum64() {
			return fmt.Errorf("%w: head %d of 2 is not what was written", errDamaged, n+1)
		}
		page = int64(binary.NativeEndian.Uint32(head[8:]))
	}
	return nil
}

// mended makes an error of what the library panics on, and of reading where a damaged length leads: the file is in memory,
// and beyond its end the process would be ended.
func mended(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return read()
}

func openBolt(path string) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := mended(func() (err error) {
		db, err = bbolt.Open(path, fileMode, &bbolt.Options{Timeout: openTimeout})
		return err
	})
	return db, err
}

// check reads everything: every entry, then the structure of the file, which the library checks in a goroutine of its own,
// where nothing could be mended.
func (l *boltLedger) check() error {
	info, err := os.Stat(l.db.Path())
	if err != nil {
		return err
	}
	return l.db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: it is cut off", errDamaged)
		}
		if err := mended(func() error { return l.checkContent(tx) }); err != nil {
			return err
		}
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = fmt.Errorf("%w: %w", errDamaged, err)
			}
		}
		return first
	})
}

func (*boltLedger) checkContent(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return fmt.Errorf("%w: it does not say its version", errDamaged)
	}
	if v := meta.Get(keyVersion); string(v) != ledgerVersion {
		return fmt.Errorf("it is of version %.20q, and this program reads version %s", v, ledgerVersion)
	}
	return tx.ForEach(func(name []byte, of *bbolt.Bucket) error {
		if string(name) == string(bucketMeta) {
			return nil
		}
		td, err := identity.ParseTrustDomain(string(name))
		if err != nil {
			return fmt.Errorf("%w: it names something else than a trust domain", errDamaged)
		}
		entries, ends := of.Bucket(bucketEntries), of.Bucket(bucketEnds)
		if entries == nil || ends == nil {
			return fmt.Errorf("%w: %s is incomplete", errDamaged, td)
		}
		count := 0
		err = entries.ForEach(func(key, value []byte) error {
			e, err := decodeEntry(key, value)
			if err != nil {
				return fmt.Errorf("%w: entry %.20x of %s: %w", errDamaged, key, td, err)
			}
			if ends.Get(endKey(e)) == nil {
				return fmt.Errorf("%w: entry %x of %s: its end is not noted", errDamaged, key, td)
			}
			count++
			return nil
		})
		if err != nil {
			return err
		}
		if n := ends.Stats().KeyN; n != count {
			return fmt.Errorf("%w: %s has %d entries and %d ends", errDamaged, td, count, n)
		}
		return nil
	})
}

// guarded makes an error of damage that shows while the file is in use; nothing more is then read or written.
func (l *boltLedger) guarded(run func(func(*bbolt.Tx) error) error, do func(*bbolt.Tx) error) error {
	if l.broken.Load() {
		return fmt.Errorf("%w, restart to see how: %s", errDamaged, l.db.Path())
	}
	err := mended(func() error { return run(do) })
	if errors.Is(err, errDamaged) || errors.Is(err, errEntry) {
		l.broken.Store(true)
		return fmt.Errorf("%s: %w", l.db.Path(), err)
	}
	return err
}

func endKey(e entry) []byte {
	key := make([]byte, endSize, endSize+serialSize)
	binary.BigEndian.PutUint64(key, uint64(max(0, e.notAfter.Unix())))
	return append(key, e.serial[:]...)
}

func (l *boltLedger) add(td identity.TrustDomain, e entry, limit int, now time.Time) error {
	err := l.guarded(l.db.Update, func(tx *bbolt.Tx) error {
		of, err := tx.CreateBucketIfNotExists([]byte(td.String()))
		if err != nil {
			return err
		}
		entries, err := of.CreateBucketIfNotExists(bucketEntries)
		if err != nil {
			return err
		}
		ends, err := of.CreateBucketIfNotExists(bucketEnds)
		if err != nil {
			return err
		}
		if err := prune(entries, ends, now); err != nil {
			return err
		}
		free, err := supersede(entries, e.renews, now)
		if err != nil {
			return err
		}
		if !free {
			count, err := countOutstanding(entries, ends, now)
			if err != nil {
				return err
			}
			if count >= limit {
				return errOutstanding
			}
		}
		return put(entries, ends, e)
	})
	if err != nil && !errors.Is(err, ErrLimited) {
		return fmt.Errorf("%w: %w", ErrLedger, err)
	}
	return err
}

// prune drops what is over.
func prune(entries, ends *bbolt.Bucket, now time.Time) error {
	var gone [][]byte
	c := ends.Cursor()
	for key, _ := c.First(); key != nil; key, _ = c.Next() {
		if len(key) != endSize+serialSize {
			return errEntry
		}
		if int64(binary.BigEndian.Uint64(key)) > now.Add(-keptIfSuperseded).Unix() { //nolint:gosec // written from a positive int64
			break
		}
		e, err := decodeEntry(key[endSize:], entries.Get(key[endSize:]))
		if err != nil {
			return err
		}
		if e.over(now) {
			gone = append(gone, bytes.Clone(key))
		}
	}
	for _, key := range gone {
		if err := errors.Join(ends.Delete(key), entries.Delete(key[endSize:])); err != nil {
			return err
		}
	}
	return nil
}

// supersede marks what is renewed. free says that it was not yet: the new one then takes its place.
func supersede(entries *bbolt.Bucket, s serial, now time.Time) (free bool, err error) {
	if s == (serial{}) {
		return false, nil
	}
	value := entries.Get(s[:])
	if value == nil {
		return false, nil
	}
	old, err := decodeEntry(s[:], value)
	if err != nil || old.superseded || old.expired(now) {
		return false, err
	}
	old.superseded = true
	text, err := old.encode()
	if err != nil {
		return false, err
	}
	return true, entries.Put(s[:], text)
}

func put(entries, ends *bbolt.Bucket, e entry) error {
	text, err := e.encode()
	if err != nil {
		return err
	}
	return errors.Join(entries.Put(e.serial[:], text), ends.Put(endKey(e), []byte{}))
}

// countOutstanding looks only at those that have not expired: what is kept after its end costs nothing here.
func countOutstanding(entries, ends *bbolt.Bucket, now time.Time) (int, error) {
	count := 0
	first := make([]byte, endSize)
	binary.BigEndian.PutUint64(first, uint64(max(0, now.Unix()+1)))
	c := ends.Cursor()
	for key, _ := c.Seek(first); key != nil; key, _ = c.Next() {
		if len(key) != endSize+serialSize {
			return 0, errEntry
		}
		e, err := decodeEntry(key[endSize:], entries.Get(key[endSize:]))
		if err != nil {
			return 0, err
		}
		if !e.superseded {
			count++
		}
	}
	return count, nil
}

func (l *boltLedger) find(td identity.TrustDomain, s serial) (e entry, ok bool, err error) {
	err = l.view(td, func(entries, _ *bbolt.Bucket) error {
		value := entries.Get(s[:])
		if value == nil {
			return nil
		}
		e, err = decodeEntry(s[:], value)
		ok = err == nil
		return err
	})
	return e, ok, err
}

func (l *boltLedger) outstanding(td identity.TrustDomain, now time.Time) (count int, err error) {
	err = l.view(td, func(entries, ends *bbolt.Bucket) error {
		count, err = countOutstanding(entries, ends, now)
		return err
	})
	return count, err
}

func (l *boltLedger) each(td identity.TrustDomain, f func(entry)) error {
	return l.view(td, func(entries, _ *bbolt.Bucket) error {
		return entries.ForEach(func(key, value []byte) error {
			e, err := decodeEntry(key, value)
			if err == nil {
				f(e)
			}
			return err
		})
	})
}

func (l *boltLedger) retain(td identity.TrustDomain, trusted func([sha256.Size]byte) bool) error {
	var gone []entry
	if err := l.each(td, func(e entry) {
		if !trusted(e.root) {
			gone = append(gone, e)
		}
	}); err != nil || len(gone) == 0 {
		return err
	}
	err := l.db.Update(func(tx *bbolt.Tx) error {
		of := tx.Bucket([]byte(td.String()))
		for _, e := range gone { // what has been pruned since then is deleted in vain
			if err := errors.Join(of.Bucket(bucketEnds).Delete(endKey(e)), of.Bucket(bucketEntries).Delete(e.serial[:])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLedger, err)
	}
	return nil
}

// view reads the entries of a trust domain, if it has any.
func (l *boltLedger) view(td identity.TrustDomain, read func(entries, ends *bbolt.Bucket) error) error {
	err := l.guarded(l.db.View, func(tx *bbolt.Tx) error {
		of := tx.Bucket([]byte(td.String()))
		if of == nil {
			return nil
		}
		return read(of.Bucket(bucketEntries), of.Bucket(bucketEnds))
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLedger, err)
	}
	return nil
}
