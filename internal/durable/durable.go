// Package durable keeps files that must survive a crash, in directories that no other user reaches.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const dirMode = 0o700

// ErrOpen says that other users can reach a directory that is in use already.
var ErrOpen = errors.New("directory is open to other users")

// PrivateDir makes a directory that only this user reaches. One that is there already and open to others is narrowed while
// it is empty; with something in it, it may be somebody else's, and is refused with ErrOpen.
func PrivateDir(path string) error {
	if err := os.MkdirAll(path, dirMode); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to another user", ErrOpen, path)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: chmod 700 %s if it is the right one", ErrOpen, path)
	}
	return os.Chmod(path, dirMode)
}

// Replace puts a file in place so that a crash leaves the old one or the new one, and the new one once it returned. It
// writes path+".new" first; one writer at a time is the caller's to see to.
func Replace(path string, data []byte, mode os.FileMode) error {
	temp := path + ".new"
	if err := Write(temp, data, mode); err != nil {
		_ = os.Remove(temp) // what is left of it is of no use
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Write writes a file and waits until it is on the disk. It follows no link.
func Write(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// SyncDir makes renames and removals in a directory last.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
