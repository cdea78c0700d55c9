package durable

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	lockMode     = 0o600
	lockPatience = time.Second
	lockPause    = 20 * time.Millisecond
)

// Lock opens the file, made 0600 where it is missing, and holds it for this process until it is closed: nobody else gets it
// meanwhile (flock(2)). An error that is syscall.EWOULDBLOCK says that somebody has it.
//
// A lock outlives its holder for a moment where another process was being started just then: until that one runs its own
// program it has the file open too. So the lock is asked for again for a second.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, lockMode)
	if err != nil {
		return nil, err
	}
	for left := lockPatience; ; left -= lockPause {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || left <= 0 {
			return nil, errors.Join(err, f.Close())
		}
		time.Sleep(lockPause)
	}
}
