package agent

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

const (
	// maxUnknown is how many issuers wait at a time to be told of; the rest are seen again.
	maxUnknown   = 64
	unknownPause = 5 * time.Second
	tellTimeout  = 5 * time.Second
)

// unknownKeys are the issuers of tokens whose key the agent's Table does not have. Anybody who calls can make such tokens,
// so each issuer is told of once in a while, and nobody waits for it.
type unknownKeys struct {
	mu      sync.Mutex
	issuers map[string]struct{}
	wake    chan struct{}
	pause   time.Duration
	log     *zap.Logger
}

func newUnknownKeys(log *zap.Logger) *unknownKeys {
	return &unknownKeys{issuers: map[string]struct{}{}, wake: make(chan struct{}, 1), pause: unknownPause, log: log}
}

func (u *unknownKeys) add(issuer string) {
	u.mu.Lock()
	if len(u.issuers) < maxUnknown {
		u.issuers[issuer] = struct{}{}
	}
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default: // it is awake
	}
}

func (u *unknownKeys) take() map[string]struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.issuers
	u.issuers = map[string]struct{}{}
	return all
}

// tell tells the control plane until ctx ends. Where it cannot, the schedule of the control plane has to do.
func (u *unknownKeys) tell(ctx context.Context, to agentv1alpha1.KeysClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
		}
		for issuer := range u.take() {
			within, cancel := context.WithTimeout(ctx, tellTimeout)
			_, err := to.Unknown(within, &agentv1alpha1.UnknownKeyRequest{Issuer: issuer})
			cancel()
			if err != nil && ctx.Err() == nil {
				u.log.Info("the control plane does not hear of an unknown key", zap.String("issuer", issuer), zap.Error(err))
			}
		}
		rest := time.NewTimer(u.pause)
		select {
		case <-ctx.Done():
		case <-rest.C:
		}
		rest.Stop()
	}
}
