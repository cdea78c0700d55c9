package jwks

import (
	"context"
	"crypto/x509"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
)

// MaxAge is how long a key set counts that cannot be fetched again. Longer, and whoever cuts the issuer off keeps a
// withdrawn key alive; shorter, and an outage of the issuer becomes one of the mesh.
const MaxAge = 24 * time.Hour

// Config is what a Fetcher is made of.
type Config struct {
	// Allow are address ranges from which key sets may be fetched although they are not public.
	Allow []netip.Prefix
	// State is the file that keeps the sets for the next process; empty: they end with this one.
	State string
	Log   *zap.Logger

	// Roots verify the servers; nil: the system's.
	Roots *x509.CertPool
	// Resolver is the system's where it is nil.
	Resolver *net.Resolver
	// Clock is time.Now where it is nil.
	Clock func() time.Time
	// Refresh is how often a set is fetched (a minute where it is zero), Pause the least time between the ends of two
	// fetches of one set (10 seconds), Timeout how long one may take (10 seconds).
	Refresh, Pause, Timeout time.Duration
}

func (c *Config) complete() {
	const (
		refresh = time.Minute
		pause   = 10 * time.Second
		timeout = 10 * time.Second
	)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	for _, d := range []struct {
		of      *time.Duration
		without time.Duration
	}{{&c.Refresh, refresh}, {&c.Pause, pause}, {&c.Timeout, timeout}} {
		if *d.of == 0 {
			*d.of = d.without
		}
	}
}

// Fetcher knows the key sets that it follows. It is safe for concurrent use.
type Fetcher struct {
	config  Config
	client  *http.Client
	changed chan struct{}

	mu     sync.Mutex
	run    context.Context //nolint:containedctx // of the goroutines that Follow starts; nil while Run does not
	sets   map[string]*set // by URI
	names  map[string]string
	saving sync.Mutex
	wg     sync.WaitGroup
}

// set is what is known of one URI.
type set struct {
	keys    identity.KeySet
	at      time.Time // of the last good fetch
	kept    time.Time // the at that the state file holds
	expired bool      // it was told that the keys are too old
	soon    chan struct{}
	stop    context.CancelFunc // nil while nobody fetches it
}

// New makes a Fetcher with the sets of the process before it. Run fetches.
func New(c Config) *Fetcher {
	c.complete()
	f := &Fetcher{config: c, client: newClient(c), changed: make(chan struct{}, 1), sets: map[string]*set{}, names: map[string]string{}}
	f.load()
	return f
}

// Changed holds a notice whenever KeySet may say something new.
func (f *Fetcher) Changed() <-chan struct{} { return f.changed }

// KeySet is the last good key set of that URI; false where there is none, or none that is young enough.
func (f *Fetcher) KeySet(uri string) (identity.KeySet, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sets[uri]
	if s == nil || s.keys.IsZero() || f.tooOld(s) {
		return identity.KeySet{}, false
	}
	return s.keys, true
}

func (f *Fetcher) tooOld(s *set) bool { return f.config.Clock().Sub(s.at) > MaxAge }

// Follow says by the issuer's name where each set is that is wanted from now on. Others are forgotten.
func (f *Fetcher) Follow(uris map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = maps.Clone(uris)
	wanted := map[string]bool{}
	for _, uri := range uris {
		wanted[uri] = true
		if f.sets[uri] == nil {
			f.sets[uri] = newSet()
		}
	}
	for uri, s := range f.sets {
		if !wanted[uri] {
			if s.stop != nil {
				s.stop()
			}
			delete(f.sets, uri)
		}
	}
	f.begin(f.run)
}

func newSet() *set { return &set{soon: make(chan struct{}, 1)} }

// begin lets every followed set have its goroutine, once there is a Run.
func (f *Fetcher) begin(run context.Context) {
	if run == nil {
		return
	}
	followed := slices.Collect(maps.Values(f.names))
	for uri, s := range f.sets {
		if s.stop != nil || !slices.Contains(followed, uri) {
			continue
		}
		ctx, stop := context.WithCancel(run)
		s.stop = stop
		f.wg.Go(func() { f.keep(ctx, uri, s) })
	}
}

// UnknownKey says that a token names a key which the issuer of that name does not have here: its set is fetched soon. A
// flood of such tokens makes no more fetches than one in each Pause.
func (f *Fetcher) UnknownKey(issuer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sets[f.names[issuer]]; s != nil {
		select {
		case s.soon <- struct{}{}:
		default: // it will be
		}
	}
}

// Run fetches what is followed until ctx ends.
func (f *Fetcher) Run(ctx context.Context) {
	f.mu.Lock()
	f.run = ctx
	f.begin(ctx)
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.run = nil // nothing is begun any more
	f.mu.Unlock()
	f.wg.Wait()
}

// keep fetches one set again and again: on schedule, sooner while it fails, and soon when somebody saw an unknown key.
func (f *Fetcher) keep(ctx context.Context, uri string, s *set) {
	failures := 0
	for ctx.Err() == nil {
		keys, err := f.fetch(ctx, uri)
		if ctx.Err() != nil {
			return
		}
		if f.took(uri, s, keys, err); err == nil {
			failures = 0
		} else {
			failures++
		}
		f.wait(ctx, s, f.pause(failures))
	}
}

// pause is how long to wait after so many failures in a row; a fifth of it is left to chance, so that a thousand sets are
// not fetched at once.
func (f *Fetcher) pause(failures int) time.Duration {
	const fifth = 5
	d := f.config.Refresh
	if failures > 0 {
		const limit = 16
		d = min(d, f.config.Pause<<min(failures-1, limit))
	}
	return max(f.config.Pause, d-d/fifth+rand.N(d/fifth+1)) //nolint:gosec // no secret
}

// wait waits that long, or only until a fetch may be made again once an unknown key was seen.
func (f *Fetcher) wait(ctx context.Context, s *set, d time.Duration) {
	least := time.NewTimer(f.config.Pause)
	defer least.Stop()
	select {
	case <-ctx.Done():
		return
	case <-least.C:
	}
	rest := time.NewTimer(d - f.config.Pause)
	defer rest.Stop()
	select {
	case <-ctx.Done():
	case <-rest.C:
	case <-s.soon:
	}
}

// took takes what came of a fetch.
func (f *Fetcher) took(uri string, s *set, keys identity.KeySet, err error) {
	now := f.config.Clock()
	f.mu.Lock()
	var changed, save bool
	switch {
	case err == nil:
		changed = s.keys != keys || f.tooOld(s) || s.expired
		save = changed || now.Sub(s.kept) > saveAgain
		s.keys, s.at, s.expired = keys, now, false
	case !s.keys.IsZero() && f.tooOld(s) && !s.expired:
		s.expired, changed = true, true
	case s.expired && !f.tooOld(s): // the clock was set back
		s.expired, changed = false, true
	}
	at, tooOld := s.at, s.expired
	f.mu.Unlock()
	switch {
	case err != nil:
		f.config.Log.Warn("key set cannot be fetched", zap.String("uri", uri), zap.String("reason", clip(err.Error())),
			zap.Time("last_fetched", at), zap.Bool("keys_too_old", tooOld))
	case changed:
		f.config.Log.Info("key set fetched", zap.String("uri", uri))
	}
	if changed {
		select {
		case f.changed <- struct{}{}:
		default: // a notice is waiting already
		}
	}
	if save {
		f.save()
	}
}

// clip shortens what a server may have had a part in.
func clip(s string) string {
	const limit = 300
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

var fetched = prometheus.NewDesc("ringfence_jwks_fetched_timestamp_seconds",
	"When the published key set of a token issuer was last fetched; 0: not yet.", []string{"issuer"}, nil)

var _ prometheus.Collector = (*Fetcher)(nil)

// Describe implements prometheus.Collector.
func (f *Fetcher) Describe(to chan<- *prometheus.Desc) { to <- fetched }

// Collect implements prometheus.Collector.
func (f *Fetcher) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, uri := range f.names {
		value := 0.0
		if s := f.sets[uri]; s != nil && !s.at.IsZero() {
			value = float64(s.at.Unix())
		}
		to <- prometheus.MustNewConstMetric(fetched, prometheus.GaugeValue, value, name)
	}
}
