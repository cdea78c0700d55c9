package extauthz

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
	"github.com/ringfence-mesh/ringfence/tenancy"
)

// Tables says which rules answer an asker.
type Tables interface {
	// Tables are the Table in force and, while a change is on its way to the asker's Envoy, the one that follows: a call is
	// allowed only if both allow it. next may be nil; without current nothing is allowed. It must not block.
	Tables(asker identity.WorkloadID) (current, next *authz.Table)
}

// Server answers Envoy's checks. It is safe for concurrent use.
type Server struct {
	tables     Tables
	asker      Asker
	recorder   Recorder
	metrics    *Metrics
	clock      func() time.Time
	proofs     proofs
	stripToken bool
	named      NamedTables
	limiter    *limit.Limiter
	unknownKey func(issuer string)
}

// NamedTables says which rules answer an asker that the Mesh names.
type NamedTables interface {
	// TableFor is the whole Table of the tenant of that name, if it names the asker; else nil. It must not block, nor keep
	// tenant, which is a client's.
	TableFor(asker tenancy.AskerKey, tenant string) *authz.Table
	// Names reports whether any tenant's Table names the asker.
	Names(asker tenancy.AskerKey) bool
}

// Option changes what is optional about a Server.
type Option func(*Server)

// StripToken lets the server itself remove a verified token that a shared service does not want passed on. It is for
// Envoys that Ringfence does not configure: its own drop the header in their routes and allow the decision point to change
// nothing but x-ringfence-*.
func StripToken() Option { return func(s *Server) { s.stripToken = true } }

// WithNamed lets askers ask that the Mesh names. Without it only workloads' own proxies may.
func WithNamed(t NamedTables) Option { return func(s *Server) { s.named = t } }

// WithUnknownKeys tells of each token that names a key which its issuer does not have here, with the name of the issuer's
// document. Anybody can make such tokens: tell must neither block nor do much.
func WithUnknownKeys(tell func(issuer string)) Option { return func(s *Server) { s.unknownKey = tell } }

// WithLimits bounds what each asker may ask for.
func WithLimits(l limit.Limits) Option { return func(s *Server) { s.limiter = limit.New(l) } }

// New makes a server. Servers of one process may share the recorder and the metrics.
func New(tables Tables, asker Asker, recorder Recorder, metrics *Metrics, clock func() time.Time, options ...Option) *Server {
	s := &Server{tables: tables, asker: asker, recorder: recorder, metrics: metrics, clock: clock}
	s.proofs.tenants = make(map[identity.TenantID]*memory)
	s.limiter = limit.New(limit.Limits{})
	for _, o := range options {
		o(s)
	}
	return s
}

// maxCheck is far more than the headers that Envoy takes.
const maxCheck = 1 << 20

// maxStreams is how many checks may be open on one connection; an Envoy with more opens another.
const maxStreams = 512

// ServerOptions are the codec and the limits of a gRPC server that answers checks and nothing else.
func ServerOptions() []grpc.ServerOption {
	const (
		headers = 16 << 10
		window  = 1 << 20 // fixed: no pings to measure what a check never needs
	)
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()), grpc.NumStreamWorkers(Workers()),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
		grpc.MaxRecvMsgSize(maxCheck), grpc.MaxHeaderListSize(headers), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second}),
	}
}

// Workers is how many goroutines answer checks whose stacks have grown already; when all are busy, others are started.
func Workers() uint32 {
	const each = 4
	return each * uint32(runtime.GOMAXPROCS(0)) //nolint:gosec // a number of processors
}

// Check answers an encoded CheckRequest with an encoded CheckResponse. An error is returned only to who may not ask at all,
// or asks too much, or sends something else. wire is not kept.
func (s *Server) Check(ctx context.Context, wire []byte) (resp []byte, err error) {
	start := s.clock()
	v := verdict{id: newID()}
	defer func() {
		if recover() != nil {
			resp, err = s.fault(v, start), nil
		}
	}()
	if v.asker, err = s.asker.Asker(ctx); err != nil || v.asker.IsZero() || !s.mayAsk(v.asker) {
		return nil, status.Error(codes.PermissionDenied, "who asks is not known")
	}
	running, ok := s.limiter.Begin(v.asker.text(), start)
	if !ok {
		s.metrics.limited.Inc()
		return nil, status.Error(codes.ResourceExhausted, "too many checks")
	}
	defer running.End()
	req, ok := scan(wire)
	if !ok { // as gRPC answers what it cannot unmarshal; Envoy refuses the call
		return nil, status.Error(codes.InvalidArgument, "this is no CheckRequest")
	}
	v.connection = !req.http
	v = s.judge(v, &req, start)
	took := s.clock().Sub(start)
	s.recorder.Record(v.entry(start))
	s.metrics.count(&v, took)
	return encode(&v), nil
}

// mayAsk reports whether the asker is still one: the Mesh may have dropped it while its socket or connection is open.
func (s *Server) mayAsk(who Asking) bool {
	return !who.named() || s.named != nil && s.named.Names(who.key)
}

// fault refuses a call on which the code above broke. It must not break again, even if the recorder did.
func (s *Server) fault(v verdict, now time.Time) []byte {
	v = verdict{id: v.id, asker: v.asker, connection: v.connection}
	s.metrics.faults.Inc()
	func() {
		defer func() { _ = recover() }()
		e := v.entry(now)
		e.Fault = string(debug.Stack())
		s.recorder.Record(e)
	}()
	return encode(&v)
}

// verdict is a decision with what its answer, its record and its metrics need. The zero value denies.
type verdict struct {
	id         string
	asker      Asking
	name       string // of an asker that the Mesh names
	decision   authz.Decision
	service    authz.ServiceRef
	caller     identity.WorkloadID
	claims     identity.Claims
	generation string
	strip      bool
	connection bool // it was no request
}

// judge asks the Table in force, and the one that follows where there is one. The stricter of the two is the verdict.
func (s *Server) judge(v verdict, req *request, now time.Time) verdict {
	if v.asker.named() {
		return s.askNamed(v, req, now)
	}
	current, next := s.tables.Tables(v.asker.workload)
	v = s.ask(current, v, req, now)
	if next == nil || !v.decision.Allowed() {
		return v
	}
	following := s.ask(next, v, req, now)
	if !following.decision.Allowed() {
		return following
	}
	v.strip = v.strip || following.strip
	return v
}

// ask decides by one Table, which must be the asker's own.
func (s *Server) ask(t *authz.Table, v verdict, req *request, now time.Time) verdict {
	v = verdict{id: v.id, asker: v.asker, connection: v.connection}
	own := v.asker.workload
	if t == nil || !t.Tenant().Same(own.Tenant()) {
		return v
	}
	if w, bound := t.Workload(); bound && !w.Same(own) {
		return v
	}
	return s.decide(t, v, req, s.proofs.caller(t, req, now), destination(t, own, req), now)
}

// askNamed decides by the Table of the tenant whose service the asker asks about, and by no other. What the asker may not
// ask about is refused as what is not there.
func (s *Server) askNamed(v verdict, req *request, now time.Time) verdict {
	v.name = v.asker.key.String()
	t, asker := s.namedTable(v.asker.key, req.service)
	if t == nil {
		v.decision = authz.NoDestination()
		return v
	}
	v.name = asker.Name()
	var caller authz.Caller
	switch asker.IdentityFrom() {
	case tenancy.FromCertificate:
		caller = s.proofs.caller(t, req, now)
	case tenancy.FromToken:
		caller = asker.Bearer()
	default:
		caller = assertedCaller(asker, req)
	}
	return s.decide(t, v, req, caller, namedDestination(t, asker, req), now)
}

func (s *Server) namedTable(k tenancy.AskerKey, service string) (*authz.Table, authz.AskerRef) {
	owner, _, _ := strings.Cut(service, "/")
	t := s.named.TableFor(k, owner)
	asker, ok := t.Asker(k)
	if !ok {
		return nil, authz.AskerRef{}
	}
	return t, asker
}

func (s *Server) decide(
	t *authz.Table, v verdict, req *request, caller authz.Caller, service authz.ServiceRef, now time.Time,
) verdict {
	in := authz.Input{Caller: caller, Service: service, Method: req.method, Path: req.path, Now: now}
	if service.ReadsToken() && caller.IsKnown() {
		in.Token = s.proofs.token(t, req.authorization, now)
		if issuer := in.Token.Lacks(); issuer != "" && s.unknownKey != nil {
			s.unknownKey(issuer)
		}
	}
	v.decision, v.service, v.generation = authz.Decide(t, in), service, t.Version()
	v.caller, v.claims = caller.ID(), in.Token.Claims()
	v.strip = s.stripToken && !v.claims.IsZero() && !v.service.KeepsToken()
	return v
}

func newID() string {
	var (
		b    [16]byte
		text [2 * len(b)]byte
	)
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	hex.Encode(text[:], b[:])
	return string(text[:])
}
