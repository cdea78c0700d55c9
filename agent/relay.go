package agent

import (
	"errors"
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/xds"
	"github.com/ringfence-mesh/ringfence/xds/delta"
)

const (
	maxResources = 100_000
	maxReceived  = 256 << 20 // bytes
)

// upstreamTypes are what the agent asks the control plane for, the table first.
func upstreamTypes() []string {
	return []string{xds.TableType, xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType}
}

// relay is what lies between the control plane's stream and Envoy's. It has no goroutine: whoever owns it calls it, and
// nothing that it calls blocks for long.
type relay struct {
	judge  judge
	own    xds.Resource // the secret with the workload's SVID
	log    *zap.Logger
	tables *tables
	target *target
	store  func(c committed, settled table) error

	// What is in force.
	committed committed
	settled   table // the table whose resources Envoy has acknowledged
	newest    table // the one that arrived last
	expired   bool
	unsaved   bool // the disk does not have what is in force

	// The control plane's stream, and what it believes that the agent has.
	send     func(*discovery.DeltaDiscoveryRequest) // nil while there is no stream
	received map[delta.Key]arrived
	bytes    int
	arriving table
	heard    bool // on this stream the control plane has said which table it has
	gone     bool // the control plane took the table away on this stream
	letters  []*letter

	// Envoy's stream.
	envoy delta.Report
	quiet bool // Envoy has asked for all it will ask for
}

// arrived is a resource that was taken, and the version that the control plane calls it by.
type arrived struct {
	xds.Resource

	called string
}

// letter is a response of the control plane that waits for Envoy.
type letter struct {
	typeURL, nonce string
	items          map[delta.Key]string // version; empty for a removed name
}

func newRelay(j judge, own xds.Resource, log *zap.Logger, ts *tables, to *target, store func(committed, table) error) *relay {
	return &relay{judge: j, own: own, log: log, tables: ts, target: to, store: store}
}

// restore puts an earlier start's configuration in force.
func (r *relay) restore(c committed, settled table) {
	r.committed, r.settled, r.newest = c, settled, c.table
	r.offer()
	r.decide()
}

// offer gives Envoy the committed configuration and the workload's own SVID.
func (r *relay) offer() {
	all := slices.Clone(r.committed.snapshot.All())
	r.target.set(delta.NewTarget(r.targetID(), append(all, r.own)...))
}

func (r *relay) targetID() string { return r.committed.snapshot.Version() + "/" + r.own.Version() }

// decide tells the decision point by which tables calls are allowed.
func (r *relay) decide() {
	var current, next *authz.Table
	if !r.expired {
		current = r.settled.decoded
		if r.newest.version() != r.settled.version() {
			next = r.newest.decoded
		}
	}
	if current == nil {
		next = nil
	}
	r.tables.set(current, next)
}

// expire says whether the SVID has expired by the clock: then everything is denied. A clock that was set ahead may be set back.
func (r *relay) expire(expired bool) {
	r.expired = expired
	r.decide()
}

// renewed is a new SVID of the workload: Envoy gets it, and uses it for connections that it makes from then on.
func (r *relay) renewed(own xds.Resource) {
	r.own, r.expired = own, false
	r.decide()
	r.offer()
}

// connected begins a stream: everything is asked for, and what Envoy has acknowledged is named. What the control plane
// then believes that the agent has is what the agent starts from, so both count alike.
func (r *relay) connected(send func(*discovery.DeltaDiscoveryRequest)) {
	r.send, r.letters, r.heard, r.gone = send, nil, false, false
	r.received, r.bytes, r.arriving = map[delta.Key]arrived{}, 0, table{}
	has := map[string]map[string]string{}
	for _, typeURL := range upstreamTypes() {
		has[typeURL] = map[string]string{}
	}
	for _, res := range r.committed.snapshot.All() {
		if k := keyOf(res); r.envoy.Acked[k] == res.Version() {
			r.keep(k, arrived{res, res.Version()})
			has[k.TypeURL][k.Name] = res.Version()
		}
	}
	if t := r.committed.table; t.decoded != nil {
		r.arriving = t
		has[xds.TableType][t.resource.Name()] = t.version()
	}
	for _, typeURL := range upstreamTypes() {
		send(&discovery.DeltaDiscoveryRequest{
			TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: has[typeURL],
		})
	}
}

func keyOf(r xds.Resource) delta.Key { return delta.Key{TypeURL: r.TypeURL(), Name: r.Name()} }

func (r *relay) keep(k delta.Key, res arrived) {
	r.forget(k)
	r.received[k] = res
	r.bytes += len(res.Value())
}

func (r *relay) forget(k delta.Key) {
	r.bytes -= len(r.received[k].Value())
	delete(r.received, k)
}

// disconnected: nothing can be answered any more.
func (r *relay) disconnected() { r.send, r.letters = nil, nil }

// response works in what the control plane sent. What cannot be taken is refused at once, with the rest of the response
// taken: the control plane will not send that rest again.
func (r *relay) response(resp *discovery.DeltaDiscoveryResponse) {
	if r.send == nil {
		return
	}
	l := &letter{typeURL: resp.GetTypeUrl(), nonce: resp.GetNonce(), items: map[delta.Key]string{}}
	var refusals []error
	for _, res := range resp.GetResources() {
		k := delta.Key{TypeURL: resp.GetTypeUrl(), Name: res.GetName()}
		if err := r.take(k, res); err != nil {
			refusals = append(refusals, err)
			continue
		}
		l.items[k] = res.GetVersion()
	}
	for _, name := range resp.GetRemovedResources() {
		k := delta.Key{TypeURL: resp.GetTypeUrl(), Name: name}
		r.drop(k)
		l.items[k] = ""
	}
	if err := errors.Join(refusals...); err != nil {
		r.log.Error("refused what the control plane sent; the old configuration stays", zap.Error(err))
		r.answer(l, err.Error())
		return
	}
	r.heard = r.heard || l.typeURL == xds.TableType
	r.letters = append(r.letters, l)
}

// take judges one resource and keeps it.
func (r *relay) take(k delta.Key, sent *discovery.Resource) error {
	if !slices.Contains(upstreamTypes(), k.TypeURL) || sent.GetResource().GetTypeUrl() != k.TypeURL {
		return fmt.Errorf("%.100q: a resource of type %.100q in a response of %.100q", k.Name, sent.GetResource().GetTypeUrl(), k.TypeURL)
	}
	res := xds.NewResource(k.TypeURL, k.Name, sent.GetResource().GetValue())
	// The version of endpoints also covers their cluster; it is checked with the whole, when that is committed.
	if k.TypeURL != xds.EndpointType && sent.GetVersion() != res.Version() {
		return fmt.Errorf("%s %.100q: the version is not that of the content", k.TypeURL, k.Name)
	}
	if k.TypeURL == xds.TableType {
		t, err := r.judge.table(res)
		if err != nil {
			return err
		}
		r.arriving, r.newest, r.gone = t, t, false
		r.decide() // from now on a call must be allowed by this one too
		return nil
	}
	if len(r.received) >= maxResources || r.bytes+len(res.Value()) > maxReceived {
		return fmt.Errorf("%s %.100q: more than an agent takes", k.TypeURL, k.Name)
	}
	if err := r.judge.resource(res); err != nil {
		return err
	}
	r.keep(k, arrived{res, sent.GetVersion()})
	return nil
}

func (r *relay) drop(k delta.Key) {
	if k.TypeURL != xds.TableType {
		r.forget(k)
		return
	}
	r.arriving, r.gone = table{}, true
}

// commit puts what was received in force if it is a whole. It is called when nothing more is waiting to be worked in.
func (r *relay) commit() {
	if r.send == nil {
		return
	}
	if r.gone && len(r.received) == 0 {
		r.clear()
		return
	}
	all := make([]xds.Resource, 0, len(r.received))
	for _, res := range r.received {
		all = append(all, res.Resource)
	}
	c, ok := r.judge.coherent(r.arriving, all)
	if !ok || r.miscalled(c) {
		return
	}
	if r.heard { // else a new stream that says nothing would take back what the one before has brought
		r.newest = c.table
	}
	if c.table.version() == r.committed.table.version() { // and it names the snapshot
		r.decide()
		return
	}
	r.committed, r.quiet = c, false
	if r.settled.decoded == nil {
		r.settled = c.table // nothing was in force that could be stricter
	}
	r.save()
	r.decide() // before Envoy admits more
	r.offer()
	r.log.Info("configuration received", zap.String("snapshot", c.snapshot.Version()), zap.Int("resources", len(c.snapshot.All())))
}

// miscalled refuses endpoints whose version is not that of their content and their cluster's: what Envoy acknowledges
// could not be told to the control plane.
func (r *relay) miscalled(c committed) bool {
	for _, res := range c.snapshot.Resources(xds.EndpointType) {
		k := keyOf(res)
		if r.received[k].called == res.Version() {
			continue
		}
		for i, l := range r.letters {
			if _, in := l.items[k]; in {
				r.answer(l, fmt.Sprintf("%s %.100q: the version is not that of the content", k.TypeURL, k.Name))
				r.letters = slices.Delete(r.letters, i, i+1)
				break
			}
		}
		return true
	}
	return false
}

// clear is for a workload that the mesh no longer knows: nothing is served, every call is denied.
func (r *relay) clear() {
	if r.newest.decoded == nil { // and then nothing is committed
		return
	}
	r.empty()
	r.log.Warn("the mesh no longer knows this workload: every call is denied")
}

// withdraw is for a workload whose root is withdrawn: nothing is served, every call is denied, and what arrives is not heard any more.
func (r *relay) withdraw() {
	r.disconnected()
	r.empty()
}

func (r *relay) empty() {
	r.committed, r.settled, r.newest, r.quiet = committed{}, table{}, table{}, false
	r.decide() // before the disk
	r.save()
	r.offer()
}

func (r *relay) save() {
	err := r.store(r.committed, r.settled)
	if err != nil {
		r.log.Error("cannot keep the configuration on disk: a restart now would find none; it is tried again", zap.Error(err))
	} else if r.unsaved {
		r.log.Info("the configuration is kept on disk again")
	}
	r.unsaved = err != nil
}

// saveAgain does what save could not.
func (r *relay) saveAgain() {
	if r.unsaved {
		r.save()
	}
}

// answer acknowledges a response, or refuses it.
func (r *relay) answer(l *letter, refusal string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: l.typeURL, ResponseNonce: l.nonce}
	if refusal != "" {
		req.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: delta.Text(refusal)}
	}
	r.send(req)
}
