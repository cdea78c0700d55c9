package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
	"github.com/ringfence-mesh/ringfence/xds/sotw"
)

var errStreams = errors.New("too many discovery streams of one workload")

// watch is one open stream: what its client sees, and how far it is. It is bound to one workload when it is made.
type watch struct {
	server   *Server
	workload identity.WorkloadID
	peer     identity.Peer
	label    string // of the tenant, in metrics
	log      *zap.Logger
	since    time.Time
	node     bool // logged already

	asked uint64 // epoch in which the target was taken; only the stream's goroutine touches it
	// The rest is guarded by server.mu.
	end     context.CancelCauseFunc // nil until the stream is served
	done    uint64                  // epoch whose target is acknowledged
	target  string
	acked   string
	refused map[delta.Key]delta.Refusal
	hint    xds.Hint
	ahead   time.Duration // of the client's clock, where the hint has one

	notBefore, notAfter time.Time // of the SVID
}

var _ delta.Source = (*watch)(nil)

func (s *Server) open(p identity.Peer, leaf *x509.Certificate) (*watch, error) {
	w := &watch{
		notBefore: leaf.NotBefore, notAfter: p.NotAfter(),
		server: s, workload: p.ID(), peer: p, label: otherTenant, since: s.config.Clock(),
		log: s.config.Log.With(zap.Stringer("workload", p.ID())),
	}
	if _, _, ok := s.config.Snapshots.Snapshot(w.workload); ok {
		w.label = w.workload.Tenant().Name()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perID[w.workload] >= s.config.Limits.StreamsPerWorkload {
		return w, errStreams
	}
	s.perID[w.workload]++
	s.streams[w] = struct{}{}
	s.config.Metrics.streams.WithLabelValues(w.label).Inc()
	return w, nil
}

func (s *Server) close(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config.Metrics.streams.WithLabelValues(w.label).Dec()
	delete(s.streams, w)
	if s.perID[w.workload]--; s.perID[w.workload] <= 0 {
		delete(s.perID, w.workload)
	}
	s.settle()
}

// settle notes how long a change took, once every client has acknowledged it. It is called with mu held.
func (s *Server) settle() {
	if s.since.IsZero() {
		return
	}
	for w := range s.streams {
		if w.done < s.epoch {
			return
		}
	}
	if len(s.streams) > 0 {
		s.config.Metrics.propagation.Observe(s.config.Clock().Sub(s.since).Seconds())
	}
	s.since = time.Time{}
}

// Changed implements delta.Source.
func (w *watch) Changed() <-chan struct{} {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.asked = w.server.epoch
	return w.server.changed
}

// Target implements delta.Source: the workload's snapshot, and its table under the workload's own ID.
func (w *watch) Target() delta.Target {
	snapshot, table, ok := w.server.config.Snapshots.Snapshot(w.workload)
	if !ok || !snapshot.Workload().Same(w.workload) {
		return delta.NewTarget("none")
	}
	t := xds.NewResource(xds.TableType, w.workload.String(), table)
	return delta.NewTarget(TargetID(snapshot.Version(), table), append(slices.Clone(snapshot.All()), t)...)
}

// TargetID names what one workload shall have: its snapshot and its table.
func TargetID(snapshotVersion string, table []byte) string {
	sum := sha256.Sum256(table)
	return snapshotVersion + "/" + hex.EncodeToString(sum[:8])
}

// note takes in a request, before it is worked in. The node is only a hint for people. A refusal counts where something
// was sent.
func (w *watch) note(node *corev3.Node, typeURL string, refused bool, text string) {
	if node != nil {
		w.hinted(xds.ReadHint(node))
		if !w.node {
			w.node = true
			w.log.Info("discovery stream", zap.String("node", delta.Text(node.GetId())))
		}
	}
	if refused {
		w.server.config.Metrics.nacks.WithLabelValues(w.label, typeLabel(typeURL)).Inc()
		w.log.Warn("configuration refused", zap.String("type", typeLabel(typeURL)), zap.String("text", delta.Text(text)))
	}
}

func (w *watch) hinted(h xds.Hint) {
	now := w.server.config.Clock()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if w.hint = h; !h.Clock.IsZero() {
		w.ahead = h.Clock.Sub(now)
	}
}

func (w *watch) sent(typeURL string) {
	w.server.config.Metrics.pushes.WithLabelValues(w.label, typeLabel(typeURL)).Inc()
}

// standing is what both kinds of conversation say about where their client stands.
type standing interface {
	Current() bool
	Target() delta.Target
	Refusals() map[delta.Key]delta.Refusal
}

func (w *watch) progress(c standing) {
	current, target, refused := c.Current(), c.Target().ID(), c.Refusals()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.target, w.refused = target, refused
	if current {
		w.acked, w.done = target, w.asked
		w.server.settle()
	}
}

// incremental and whole watch a stream of one kind each.
type (
	incremental struct{ *watch }
	whole       struct{ *watch }
)

// Requested implements delta.Observer.
func (w incremental) Requested(c *delta.Conversation, req *discovery.DeltaDiscoveryRequest) {
	w.note(req.GetNode(), req.GetTypeUrl(), c.Refuses(req), req.GetErrorDetail().GetMessage())
}

// Sent implements delta.Observer.
func (w incremental) Sent(resp *discovery.DeltaDiscoveryResponse) { w.sent(resp.GetTypeUrl()) }

// Progress implements delta.Observer.
func (w incremental) Progress(c *delta.Conversation) { w.progress(c) }

// Requested implements delta.Observer.
func (w whole) Requested(c *sotw.Conversation, req *discovery.DiscoveryRequest) {
	w.note(req.GetNode(), req.GetTypeUrl(), c.Refuses(req), req.GetErrorDetail().GetMessage())
}

// Sent implements delta.Observer.
func (w whole) Sent(resp *discovery.DiscoveryResponse) { w.sent(resp.GetTypeUrl()) }

// Progress implements delta.Observer.
func (w whole) Progress(c *sotw.Conversation) { w.progress(c) }

// Status is where one stream stands.
type Status struct {
	Workload identity.WorkloadID
	Since    time.Time
	// Target names what it shall have, Acked what it last acknowledged whole (TargetID).
	Target, Acked string
	// Refused is what it refused and has not got over.
	Refused map[delta.Key]delta.Refusal
	// Hint is what it last said of itself, and Ahead how far its clock was ahead of this one then, where the hint has a time.
	Hint  xds.Hint
	Ahead time.Duration
	// NotBefore and NotAfter are the validity of the SVID that it was opened with.
	NotBefore, NotAfter time.Time
}

// Status is where every open stream stands, sorted by workload and age.
func (s *Server) Status() []Status {
	return s.StatusOf(func(identity.WorkloadID) bool { return true })
}

// StatusOf is Status of these workloads alone, at a cost that hardly grows with the streams of others. Every stream waits
// for of, which must not block.
func (s *Server) StatusOf(of func(identity.WorkloadID) bool) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for w := range s.streams {
		if !of(w.workload) {
			continue
		}
		all = append(all, Status{
			Workload: w.workload, Since: w.since, Target: w.target, Acked: w.acked, Refused: maps.Clone(w.refused),
			Hint: w.hint, Ahead: w.ahead, NotBefore: w.notBefore, NotAfter: w.notAfter,
		})
	}
	slices.SortFunc(all, func(a, b Status) int {
		if c := strings.Compare(a.Workload.String(), b.Workload.String()); c != 0 {
			return c
		}
		return a.Since.Compare(b.Since)
	})
	return all
}
