package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
)

const (
	// maxKept is how many JWT-SVIDs are kept, each for other audiences.
	maxKept = 64
	// jwtTimeout is how long the control plane may take to sign one.
	jwtTimeout = 5 * time.Second
)

var (
	errNoKeys  = errors.New("the keys that verify JWT-SVIDs are not known: the control plane has not sent them yet")
	errAway    = errors.New("no JWT-SVID: the control plane is away")
	errRevoked = fmt.Errorf("%w: revoked", identity.ErrTokenInvalid)
	errBusy    = errors.New("no JWT-SVID: too many are asked for, try again in a second")
)

// jwtSVIDs are the workload's JWT-SVIDs. The control plane signs them; each is kept until half of its life, and given while it
// holds where there is no newer one to be had.
type jwtSVIDs struct {
	workload identity.WorkloadID
	mapping  identity.Mapping
	source   *workloadSource
	tables   *tables
	clock    func() time.Time
	log      *zap.Logger
	asking   chan struct{} // has room for one: the control plane allows few calls at a time
	none     bool          // see Config.noJWT

	mu     sync.Mutex
	client agentv1alpha1.JWTSVIDsClient // nil: the control plane is away
	kept   map[string]keptToken         // by audiences
}

type keptToken struct {
	token            string
	refresh, expires time.Time
}

var _ workloadapi.Tokens = (*jwtSVIDs)(nil)

// noJWT reports whether the workload gets no JWT-SVIDs here: the control plane signs them for those of tenants, whose SVIDs it
// has given.
func (c *Config) noJWT(id identity.WorkloadID) bool {
	return id.Tenant().IsPlatform() || c.WorkloadAPI != ""
}

func newJWTSVIDs(own svid, source *workloadSource, ts *tables, c Config, log *zap.Logger) *jwtSVIDs {
	return &jwtSVIDs{
		none:     c.noJWT(own.id),
		workload: own.id, mapping: own.mapping, source: source, tables: ts, clock: c.Clock, log: log,
		asking: make(chan struct{}, 1), kept: map[string]keptToken{},
	}
}

// follow has the control plane of one connection sign, and takes its keys, until ctx ends.
func (j *jwtSVIDs) follow(ctx context.Context, client agentv1alpha1.JWTSVIDsClient) {
	if j.none {
		return
	}
	j.setClient(client)
	defer j.setClient(nil)
	wait := newBackoff(backoffMost)
	for ctx.Err() == nil {
		err := j.keys(ctx, client, wait)
		if ctx.Err() != nil {
			return
		}
		if code := status.Code(err); code == codes.Unimplemented || code == codes.PermissionDenied {
			j.log.Info("this workload gets no JWT-SVIDs", zap.Error(err))
			<-ctx.Done() // until the next connection
			return
		}
		j.log.Info("the control plane does not tell the keys of JWT-SVIDs", zap.Error(err))
		if wait.sleep(ctx) != nil {
			return
		}
	}
}

func (j *jwtSVIDs) keys(ctx context.Context, client agentv1alpha1.JWTSVIDsClient, wait *backoff) error {
	stream, err := client.Keys(ctx, &agentv1alpha1.JWTKeysRequest{})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		wait.reset()
		if _, err := j.issuer("keys", resp.GetJwks()); err != nil {
			return err
		}
		j.source.setKeys(resp.GetJwks())
	}
}

func (j *jwtSVIDs) setClient(client agentv1alpha1.JWTSVIDsClient) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.client = client
}

// issuer is whoever signs with these keys, for the workloads of the agent's own tenant and for that audience.
func (j *jwtSVIDs) issuer(audience string, jwks []byte) (identity.TokenIssuer, error) {
	return identity.NewTokenIssuer(identity.TokenIssuerConfig{
		Name: "jwt-svid", Format: identity.FormatSVID, Audiences: []string{audience}, Tenants: []identity.TenantID{j.workload.Tenant()},
		Mapping: j.mapping, MaxLifetime: identity.MaxJWTSVIDLife, JWKS: jwks,
	})
}

// Verify implements workloadapi.Tokens. A revocation counts as soon as the agent has its Table.
func (j *jwtSVIDs) Verify(token, audience string) (identity.Claims, error) {
	jwks := j.source.keys()
	if len(jwks) == 0 {
		return identity.Claims{}, errNoKeys
	}
	issuer, err := j.issuer(audience, jwks)
	if err != nil {
		return identity.Claims{}, err
	}
	now := j.clock()
	claims, err := identity.NewTokenVerifier(issuer).Verify(token, now)
	if err != nil {
		return identity.Claims{}, err
	}
	if current, next := j.tables.Tables(j.workload); current.RevokesToken(claims, now) || next.RevokesToken(claims, now) {
		return identity.Claims{}, errRevoked
	}
	return claims, nil
}

// Fetch implements workloadapi.Tokens.
func (j *jwtSVIDs) Fetch(ctx context.Context, audience []string) (string, error) {
	name := strings.Join(audience, " ") // none has a space
	if k, ok := j.lookup(name, audience[0]); ok && j.clock().Before(k.refresh) {
		return k.token, nil
	}
	select {
	case j.asking <- struct{}{}:
		defer func() { <-j.asking }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	k, held := j.lookup(name, audience[0]) // somebody else may have asked meanwhile
	if held && j.clock().Before(k.refresh) {
		return k.token, nil
	}
	next, err := j.ask(ctx, audience)
	switch {
	case err == nil:
		j.keep(name, next)
		return next.token, nil
	case held && !errors.Is(err, workloadapi.ErrDenied):
		return k.token, nil
	default:
		return "", err
	}
}

// lookup finds a token that is kept, and that a verifier with the keys of this moment would believe.
func (j *jwtSVIDs) lookup(name, audience string) (keptToken, bool) {
	j.mu.Lock()
	k, ok := j.kept[name]
	j.mu.Unlock()
	if !ok {
		return keptToken{}, false
	}
	_, err := j.Verify(k.token, audience)
	return k, err == nil
}

// keep makes room by forgetting what ends first.
func (j *jwtSVIDs) keep(name string, k keptToken) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, known := j.kept[name]; !known && len(j.kept) >= maxKept {
		first := ""
		for other, o := range j.kept {
			if first == "" || o.expires.Before(j.kept[first].expires) {
				first = other
			}
		}
		delete(j.kept, first)
	}
	j.kept[name] = k
}

func (j *jwtSVIDs) ask(ctx context.Context, audience []string) (keptToken, error) {
	j.mu.Lock()
	client := j.client
	j.mu.Unlock()
	if client == nil {
		return keptToken{}, errAway
	}
	ctx, cancel := context.WithTimeout(ctx, jwtTimeout)
	defer cancel()
	now := j.clock()
	resp, err := client.Fetch(ctx, &agentv1alpha1.FetchJWTSVIDRequest{Audience: audience})
	switch status.Code(err) {
	case codes.OK:
		expires := time.Unix(resp.GetNotAfterUnix(), 0)
		return keptToken{token: resp.GetToken(), refresh: now.Add(expires.Sub(now) / 2), expires: expires}, nil
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		j.log.Warn("no JWT-SVID is given to the workload", zap.Error(err))
		return keptToken{}, workloadapi.ErrDenied
	case codes.ResourceExhausted:
		return keptToken{}, errBusy
	default:
		j.log.Warn("no JWT-SVID yet", zap.Error(err))
		return keptToken{}, errAway
	}
}
