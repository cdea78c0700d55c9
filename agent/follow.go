package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"go.uber.org/zap"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
)

const (
	// answerTimeout is how long a Workload API may take for its first answer.
	answerTimeout = 10 * time.Second
	// The next SVID is overdue once no more than this is left of the present one: a share of its life, but not long before its end.
	// SPIFFE issuers renew at half of it, or as long before the end as they are told to.
	overdueShare = 4
	overdueMost  = time.Hour
)

var (
	errSilent  = errors.New("the Workload API does not answer")
	errOverdue = errors.New("the Workload API gives no newer SVID, and this one ends soon")
	errForeign = errors.New("the control plane says that it is of another workload")
)

// taking takes an answer about the workload, or says what is wrong with it.
type taking func(ctx context.Context, answer workloadapi.Answer) error

// follow keeps asking the Workload API and hands over each answer about the workload until ctx ends. Whatever goes wrong is said,
// and asked again for, more and more slowly up to once in most. due is when an answer is overdue; zero: never.
func (a *Agent) follow(ctx context.Context, most time.Duration, due func() time.Time, take taking) {
	wait := newBackoff(most)
	for ctx.Err() == nil {
		answered, err := a.followOnce(ctx, due, take)
		if ctx.Err() != nil {
			return
		}
		a.log.Warn("no SVID from the Workload API", zap.Error(err))
		a.setTrouble(err)
		if answered && !errors.Is(err, errOverdue) {
			wait.reset()
		}
		if wait.sleep(ctx) != nil {
			return
		}
	}
}

// followOnce follows one stream to its end. answered says that something on it was taken.
func (a *Agent) followOnce(ctx context.Context, due func() time.Time, take taking) (answered bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end(nil)
	first := time.AfterFunc(answerTimeout, func() { end(errSilent) })
	defer first.Stop()
	err = workloadapi.Follow(ctx, a.config.WorkloadAPI, func(resp *workload.X509SVIDResponse) error {
		first.Stop()
		answer, err := workloadapi.Choose(resp, a.config.ID)
		if err == nil {
			err = take(ctx, answer)
		}
		if err != nil {
			return err
		}
		a.setTrouble(nil)
		if !answered && !due().IsZero() {
			parts.Go(func() {
				// What is overdue already may come on this stream: it is given a while.
				for at := later(due(), a.config.Clock().Add(answerTimeout)); a.waitUntil(ctx, at, func() {}); at = due() {
					if !a.config.Clock().Before(due()) { // which moves with each SVID
						end(errOverdue)
					}
				}
			})
		}
		answered = true
		return nil
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return answered, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// identifyByAPI waits for the workload's first SVID from the Workload API, and for the control plane to say how the mesh reads it.
func (a *Agent) identifyByAPI(ctx context.Context) (svid, error) {
	known, has, err := loadStored(a.dir)
	if err != nil {
		a.log.Warn("what is on disk cannot be used", zap.Error(err))
	}
	var own svid
	waiting, found := context.WithCancel(ctx)
	defer found()
	never := func() time.Time { return time.Time{} }
	a.follow(waiting, backoffMost, never, func(ctx context.Context, answer workloadapi.Answer) error {
		if err := answer.Verify(a.config.ID, a.config.Clock()); err != nil { // else the control plane would say so, in fewer words
			return err
		}
		key, err := keyOfAnswer(answer)
		if err != nil {
			return err
		}
		stored, err := a.describe(ctx, tls.Certificate{Certificate: answer.Chain, PrivateKey: key})
		if err != nil && has && temporary(err) {
			a.log.Warn("going on as the mesh read SPIFFE IDs before", zap.Error(err))
			stored, err = known, nil
		}
		if err != nil {
			return fmt.Errorf("asking the control plane: %w", err)
		}
		if own, err = newSVID(a.config.ID, key, answer.Chain, answer.Roots, stored, a.config.Clock()); err != nil {
			return err
		}
		found()
		return nil
	})
	if err := ctx.Err(); err != nil {
		return svid{}, err
	}
	return own, errors.Join(own.saveIdentity(a.dir), own.replace(a.dir))
}

// keepFollowing takes every further SVID of the Workload API, with the roots that come with it, and tells it, until ctx ends.
// Whatever else it says leaves the last good one in force for as long as that holds.
func (a *Agent) keepFollowing(ctx context.Context, own svid, tell func(svid)) {
	var due atomic.Pointer[time.Time]
	set := func(s svid) {
		at := s.notAfter.Add(-min(s.notAfter.Sub(s.notBefore)/overdueShare, overdueMost))
		due.Store(&at)
	}
	set(own)
	a.follow(ctx, renewalMost, func() time.Time { return *due.Load() }, func(_ context.Context, answer workloadapi.Answer) error {
		key, err := keyOfAnswer(answer)
		if err != nil {
			return err
		}
		next, err := newSVID(a.config.ID, key, answer.Chain, answer.Roots, own.stored(), a.config.Clock())
		if err != nil {
			return err
		}
		if next.same(own) {
			return nil
		}
		if err := next.replace(a.dir); err != nil { // there will be another one
			a.log.Error("cannot keep the SVID on disk: a restart will find an older one", zap.Error(err))
		}
		a.log.Info("SVID from the Workload API", zap.Time("not_after", next.notAfter), zap.Int("roots", len(next.bundle.DER())))
		own = next
		set(next)
		tell(next)
		return nil
	})
}

// describe asks the control plane how the mesh reads the workload's identity, with its SVID as the proof of who asks.
func (a *Agent) describe(ctx context.Context, own tls.Certificate) (storedIdentity, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := a.ask(a.config.ControlPlane, &own)
	if err != nil {
		return storedIdentity{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way any more
	resp, err := agentv1alpha1.NewMeshClient(conn).Describe(ctx, &agentv1alpha1.DescribeRequest{})
	if err != nil {
		return storedIdentity{}, err
	}
	if resp.GetWorkload() != a.config.ID {
		return storedIdentity{}, errForeign
	}
	return a.storedIdentity(resp)
}

// keyOfAnswer is the key of an SVID, of a kind that Envoy and every other sidecar take.
func keyOfAnswer(answer workloadapi.Answer) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(answer.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: key: %w", workloadapi.ErrMalformed, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: the Workload API gives a key that is not ECDSA; have it give another one (SPIRE: workload_x509_svid_key_type)", identity.ErrKeyKind)
	}
	return key, nil
}

// same reports whether nothing is new in it.
func (s svid) same(other svid) bool {
	return s.bundle.Digest() == other.bundle.Digest() && slices.EqualFunc(s.cert.Certificate, other.cert.Certificate, bytes.Equal)
}

// loadStored is how the mesh read SPIFFE IDs at an earlier start; false where there was none.
func loadStored(d *stateDir) (stored storedIdentity, ok bool, err error) {
	data, err := d.read(identityFile)
	if data == nil || err != nil {
		return stored, false, err
	}
	if stored, err = parseStored(data); err != nil {
		return stored, false, fmt.Errorf("%s: %w", d.file(identityFile), err)
	}
	return stored, true, nil
}
