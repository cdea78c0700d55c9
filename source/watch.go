package source

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// settle is how long a directory must be quiet before a change is told: an editor writes a file in several steps.
	settle = 50 * time.Millisecond
	// patience bounds that for a directory that is never quiet.
	patience = 500 * time.Millisecond
	// pollEvery is how soon a change is seen where the kernel tells none: network mounts, exhausted inotify limits, a
	// swapped link above the directory.
	pollEvery = 5 * time.Second
)

// Watch tells, until ctx ends, that Load may give something new; then it closes the channel. Notices that nobody has taken
// yet become one.
func (d *Directory) Watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	w := &watcher{dir: d.path, log: d.log, changed: changed}
	// The present state is taken before Watch returns: whatever changes after that is told.
	w.last, w.dirs = w.look()
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		d.log.Warn("cannot watch the configuration directory, looking every few seconds instead", zap.Error(err))
	} else {
		w.notices = notices
		w.follow()
	}
	go w.run(ctx)
	return changed
}

type watcher struct {
	dir     string
	log     *zap.Logger
	notices *fsnotify.Watcher // nil: polling only
	changed chan struct{}
	last    look
	dirs    []entry
}

// look is what polling compares.
type look struct {
	fingerprint [32]byte
	readable    bool
}

func (w *watcher) look() (look, []entry) {
	l, err := scan(w.dir)
	if err != nil {
		return look{}, nil
	}
	return look{fingerprint: l.fingerprint(), readable: true}, l.dirs
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.changed)
	var (
		events <-chan fsnotify.Event
		errs   <-chan error
	)
	if w.notices != nil {
		defer func() { _ = w.notices.Close() }() // nothing is left to do with it
		events, errs = w.notices.Events, w.notices.Errors
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	quiet := time.NewTimer(settle) // whatever happened while the watches were set up
	defer quiet.Stop()
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < patience {
				quiet.Reset(settle)
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.log.Warn("watching the configuration directory", zap.Error(err))
			quiet.Reset(settle)
		case <-quiet.C:
			since = time.Time{}
			w.compare()
		case <-poll.C:
			w.compare()
		}
	}
}

// compare tells a change if there is one.
func (w *watcher) compare() {
	now, dirs := w.look()
	if now == w.last {
		return
	}
	w.dirs = dirs
	w.follow()
	// What changed between the look and the new watches is taken in here; what changes after it is seen by them.
	w.last, w.dirs = w.look()
	select {
	case w.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// follow watches every directory that was listed. A path may lead to another directory than before (a link was renamed
// over it), so all are set anew: a few system calls for each, and only after a change.
func (w *watcher) follow() {
	if w.notices == nil {
		return
	}
	for _, old := range w.notices.WatchList() {
		_ = w.notices.Remove(old) // it may be gone, which is why it is removed
	}
	if info, err := os.Lstat(w.dir); err != nil || info.Mode()&os.ModeSymlink != 0 {
		// The directory itself is swapped as a link, or is not there yet: that shows in its parent.
		w.add(filepath.Dir(filepath.Clean(w.dir)))
	}
	for _, d := range w.dirs {
		w.add(filepath.Join(w.dir, filepath.FromSlash(d.name)))
	}
}

func (w *watcher) add(path string) {
	if err := w.notices.Add(path); err != nil {
		w.log.Debug("cannot watch a directory, looking every few seconds instead", zap.String("directory", path), zap.Error(err))
	}
}
