package authz

import (
	"errors"
	"slices"
	"time"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Caller is who calls, as far as it is proved. It comes only from a Table and counts for that Table only; the zero value
// is nobody.
type Caller struct {
	peer       identity.Peer
	asserted   identity.WorkloadID // without a proof, by an asker that is believed; see AskerRef.Caller
	bearer     string              // the asker through which the token's subject calls; see AskerRef.Bearer
	proof      string              // the version of the Table whose roots proved it
	reason     Reason              // why nobody is proved
	unprovable bool                // whatever the time is
}

// Caller proves who holds the leaf certificate. Whoever lives in a trust domain that the Table has no roots of cannot be
// proved, and need not be: nothing of that domain may call here.
func (t *Table) Caller(leafDER []byte, intermediates [][]byte, now time.Time) Caller {
	if t == nil {
		return Caller{}
	}
	peer, err := t.verifier.VerifyLeaf(leafDER, intermediates, now)
	if err == nil {
		return Caller{peer: peer, proof: t.version}
	}
	reason := identityReason(err)
	foreign := errors.Is(err, identity.ErrNoBundle)
	if foreign {
		if reason = CrossTenant; t.tenant.IsPlatform() {
			reason = GrantMissing
		}
	}
	return Caller{
		reason: reason, unprovable: foreign || errors.Is(err, identity.ErrUnmapped) || errors.Is(err, identity.ErrInvalidID),
	}
}

// InvalidCaller is a caller whose proofs contradict each other or cannot be read.
func InvalidCaller() Caller { return Caller{reason: InvalidIdentity} }

// Unprovable reports whether the certificate can prove nobody to this Table, whatever the time is: it cannot be read as an
// identity of this mesh, or the Table has no roots of its trust domain.
func (c Caller) Unprovable() bool { return c.unprovable }

// Peer is who was proved; zero for a caller that is only asserted.
func (c Caller) Peer() identity.Peer { return c.peer }

// Token is the bearer token of a call, as far as it is verified. It comes only from a Table and counts for that Table
// only; the zero value is no token.
type Token struct {
	present bool
	claims  identity.Claims
	proof   string // the version of the Table whose issuers' keys verified it
	reason  Reason // why nothing is verified
	lacking string // the issuer that does not have the key which the token names
}

// Token verifies a bearer token by the issuers of the Table.
func (t *Table) Token(compact string, now time.Time) Token {
	if t == nil {
		return InvalidToken()
	}
	c, err := t.tokens.Verify(compact, now)
	if err != nil {
		t := Token{present: true, reason: tokenReason(err)}
		if unknown, ok := errors.AsType[*identity.UnknownKeyError](err); ok {
			t.lacking = unknown.Issuer
		}
		return t
	}
	return Token{present: true, claims: c, proof: t.version}
}

// InvalidToken is a token that cannot be read, or more than one.
func InvalidToken() Token { return Token{present: true, reason: TokenInvalid} }

// Lacks is the name of the token issuer that does not have the key which the token names, where that is why it is not
// verified.
func (t Token) Lacks() string { return t.lacking }

// Claims are what the token asserts; zero where there is none or it is not verified.
func (t Token) Claims() identity.Claims { return t.claims }

// Input is one call. Who calls and what the token says cannot be written down, only proved.
type Input struct {
	Caller  Caller
	Token   Token
	Service ServiceRef
	// Method and Path are the request's, untouched; both are empty for a TCP connection.
	Method, Path string
	Now          time.Time
}

// Decision is the answer to one call. The zero value denies, for the reason not_ready.
type Decision struct {
	allowed bool
	reason  Reason
	rule    string
	token   bool
	unmet   *tenancy.Sensitivity // in the Table, which never changes
}

// Allowed reports whether the call may pass.
func (d Decision) Allowed() bool { return d.allowed }

// Reason is why.
func (d Decision) Reason() Reason { return d.reason }

// TokenRevoked reports whether it is the token, and not the caller, that is refused as revoked.
func (d Decision) TokenRevoked() bool { return d.token }

// Rule is the rule ("policy/rule") or Grant that allowed the call.
func (d Decision) Rule() string { return d.rule }

func allow(r *rule) Decision { return Decision{allowed: true, reason: Allowed, rule: r.name} }

// deny is the refusal for that reason; ofToken says that a revoked one is the token, not the caller, and unmet is the class
// of data that the call does not meet.
func deny(r Reason, ofToken bool, unmet *tenancy.Sensitivity) Decision {
	return Decision{reason: r, token: ofToken && r == Revoked, unmet: unmet}
}

// Decide answers a call. It is a function of its arguments alone, and allocates nothing.
func Decide(t *Table, in Input) Decision {
	if t == nil || in.Now.IsZero() {
		return Decision{}
	}
	if reason, ok := guard(t, &in); !ok {
		return deny(reason, false, nil)
	}
	if reason, ok := checkToken(t, &in); !ok {
		return deny(reason, true, nil)
	}
	if reason, class := checkSensitivity(&in); reason != Allowed {
		return deny(reason, false, class)
	}
	if r := in.Service.s.find(&in); r != nil {
		return allow(r)
	}
	return deny(NoRule, false, nil)
}

// guard is the tenant test. It looks at no rule, and nothing that a tenant writes changes it.
func guard(t *Table, in *Input) (Reason, bool) {
	caller, peer, s := in.Caller.ID(), in.Caller.peer, in.Service.s
	switch {
	case in.Caller.bearer != "":
		return guardBearer(t, in)
	case in.Caller.reason != NotReady: // why nobody is proved
		return in.Caller.reason, false
	case caller.IsZero(), in.Caller.proof != t.version:
		return UnknownCaller, false
	case !peer.IsZero() && in.Now.After(peer.NotAfter()):
		return ExpiredIdentity, false
	}
	if _, revoked := t.revokedCaller(in); revoked {
		return Revoked, false
	}
	if s == nil || s.table != t {
		return UnknownDestination, false
	}
	tenant := caller.Tenant()
	if tenant.Same(t.tenant) {
		return Allowed, true
	}
	if !t.tenant.IsPlatform() {
		return CrossTenant, false
	}
	until, granted := s.grants[tenant]
	switch {
	case !granted:
		return GrantMissing, false
	case in.Now.Unix() >= until:
		return GrantExpired, false
	}
	return Allowed, true
}

// guardBearer is the tenant test of a call whose caller is whom its token names. So the token must be there, whatever the
// service demands of workloads; and no Grant counts, because only a workload can have one.
func guardBearer(t *Table, in *Input) (Reason, bool) {
	s, token := in.Service.s, &in.Token
	switch {
	case in.Caller.proof != t.version:
		return UnknownCaller, false
	case s == nil || s.table != t:
		return UnknownDestination, false
	case s.token == agentv1alpha1.TokenMode_TOKEN_MODE_NONE: // its Authorization header is the application's own, and names nobody
		return UnknownCaller, false
	case !token.present:
		return TokenMissing, false
	}
	if reason, ok := token.holds(t, in.Now); !ok {
		return reason, false
	}
	switch {
	case token.claims.Subject() == "":
		return TokenInvalid, false
	case !token.claims.Tenant().Same(t.tenant):
		return CrossTenant, false
	}
	return Allowed, true // as far as the tenant goes; checkToken says whether the token is revoked
}

// holds reports whether the Table's issuers have verified the token, and it has not expired.
func (t Token) holds(by *Table, now time.Time) (Reason, bool) {
	switch {
	case t.claims.IsZero():
		return t.reason, false
	case t.proof != by.version, now.Before(t.claims.Begins()):
		return TokenInvalid, false
	case !now.Before(t.claims.Expires()):
		return TokenExpired, false
	}
	return Allowed, true
}

// tenant is the caller's.
func (in *Input) tenant() identity.TenantID {
	if in.Caller.bearer != "" {
		return in.Token.claims.Tenant()
	}
	return in.Caller.ID().Tenant()
}

// checkToken tests the token where the service reads tokens: it must be there if it is required, hold now, assert the
// caller's own tenant, and not be revoked.
func checkToken(t *Table, in *Input) (Reason, bool) {
	token, mode := &in.Token, in.Service.s.token
	switch {
	case mode == agentv1alpha1.TokenMode_TOKEN_MODE_NONE:
		return Allowed, true
	case !token.present && mode == agentv1alpha1.TokenMode_TOKEN_MODE_OPTIONAL:
		return Allowed, true
	case !token.present:
		return TokenMissing, false
	}
	if reason, ok := token.holds(t, in.Now); !ok {
		return reason, false
	}
	if !token.claims.Tenant().Same(in.tenant()) {
		return TokenTenantMismatch, false
	}
	if _, revoked := t.revokedToken(in.Token.claims, in.Now); revoked {
		return Revoked, false
	}
	return Allowed, true
}

// find is the first rule that names the caller and covers the call.
func (s *service) find(in *Input) *rule {
	if s.tcp != 0 {
		return s.findTCP(in)
	}
	path, ok := canonicalPath(in.Path)
	c := s.call(in)
	if c.caller < 0 && c.asker == "" || !ok {
		return nil
	}
	return s.paths.find(path[1:], &c, nil)
}

// findTCP is the first rule that lets the caller connect. A request is no connection: it is covered by none.
func (s *service) findTCP(in *Input) *rule {
	c := s.call(in)
	if in.isRequest() {
		return nil
	}
	for _, r := range s.rules {
		if r.names(&c) && r.holds(&c) {
			return r
		}
	}
	return nil
}

// isRequest tells an HTTP request from a TCP connection: it has a method and a path.
func (in *Input) isRequest() bool { return in.Method != "" || in.Path != "" }

// call is what the service's rules are asked about.
func (s *service) call(in *Input) call {
	c := call{caller: -1, asker: in.Caller.bearer, method: in.Method, now: in.Now.Unix()}
	if n, named := s.table.callers[in.Caller.ID()]; named { // which nobody is whom only a token names
		c.caller = n
	}
	if s.token != agentv1alpha1.TokenMode_TOKEN_MODE_NONE { // who reads no tokens sees no roles
		c.claims = in.Token.claims
	}
	return c
}

// call is what a rule is asked about.
type call struct {
	caller int    // its number, -1 for one that no rule names
	asker  string // through which the token's subject calls; empty for workloads
	method string
	claims identity.Claims
	now    int64
}

func (c *call) earliest(rules []*rule, best *rule) *rule {
	for _, r := range rules {
		if (best == nil || r.order < best.order) && r.covers(c) {
			best = r
		}
	}
	return best
}

func (r *rule) covers(c *call) bool {
	return r.names(c) && r.holds(c) && r.hasMethod(c) && r.hasRole(c)
}

func (r *rule) names(c *call) bool {
	if c.asker != "" {
		return slices.Contains(r.askers, c.asker)
	}
	return c.caller >= 0 && r.from.has(c.caller)
}

func (r *rule) holds(c *call) bool { return c.now < r.until }

func (r *rule) hasMethod(c *call) bool { return slices.Contains(r.methods, c.method) }

func (r *rule) hasRole(c *call) bool {
	return len(r.roles) == 0 || slices.ContainsFunc(r.roles, c.claims.HasRole)
}
