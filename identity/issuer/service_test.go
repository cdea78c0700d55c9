package issuer_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

// mesh names the workloads of a list.
type mesh struct {
	mapping identity.Mapping
	named   map[string]bool
}

func (m mesh) Mapping() identity.Mapping { return m.mapping }

func (m mesh) Workload(uri string) (identity.WorkloadID, bool) {
	id, err := m.mapping.Parse(uri)
	return id, err == nil && m.named[uri]
}

type served struct {
	of     *issuer.Issuer
	issuer agentv1alpha1.IssuerClient
	admin  agentv1alpha1.AdminClient
	logs   *observer.ObservedLogs
}

// serve runs the two services over a connection in memory.
func serve(t *testing.T, m mesh) served {
	t.Helper()
	i, _ := inMemory(t)
	core, logs := observer.New(zapcore.DebugLevel)
	clock := func() time.Time { return now }
	server := grpc.NewServer()
	agentv1alpha1.RegisterIssuerServer(server, issuer.NewService(i, m, clock, zap.New(core)))
	agentv1alpha1.RegisterAdminServer(server, issuer.NewAdmin(i, m, clock, zap.New(core)))
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return served{i, agentv1alpha1.NewIssuerClient(conn), agentv1alpha1.NewAdminClient(conn), logs}
}

func TestServiceGivesOneSVIDForOneToken(t *testing.T) {
	t.Parallel()
	s := serve(t, mesh{mapping(t), map[string]bool{acmeWeb: true, acmeOrders: true}})
	made, err := s.admin.CreateToken(t.Context(), &agentv1alpha1.CreateTokenRequest{Workload: acmeWeb, Ttl: durationpb.New(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if made.GetExpiresUnix() != now.Add(time.Minute).Unix() {
		t.Errorf("expires at %d", made.GetExpiresUnix())
	}
	key := p256(t)
	ask := func(uri, token string) (*agentv1alpha1.IssueResponse, error) {
		return s.issuer.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: request(t, key, []string{uri}), JoinToken: token})
	}
	var refusals []string
	refused := func(_ *agentv1alpha1.IssueResponse, err error) {
		t.Helper()
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v, want Unauthenticated", err)
		}
		refusals = append(refusals, status.Convert(err).Message())
	}
	refused(ask(acmeOrders, made.GetToken()))
	refused(ask(acmeWeb, "guess"))
	_, err = s.issuer.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: []byte("junk"), JoinToken: made.GetToken()})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("junk: %v, want InvalidArgument", err)
	}
	refused(s.issuer.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: []byte("junk"), JoinToken: "guess"}))
	answer, err := ask(acmeWeb, made.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetChain()) != 1 || len(answer.GetBundle()) != 1 {
		t.Errorf("%d certificates, %d roots", len(answer.GetChain()), len(answer.GetBundle()))
	}
	var rules []identity.MappingRule
	for _, r := range answer.GetMapping() {
		rules = append(rules, identity.MappingRule{TrustDomain: r.GetTrustDomain(), Path: r.GetPath()})
	}
	if answer.GetPlatformTrustDomain() != "platform.demo.test" || !cmp.Equal(mapping(t).Rules(), rules) {
		t.Errorf("mapping %v of %q", answer.GetMapping(), answer.GetPlatformTrustDomain())
	}
	if again, err := ask(acmeWeb, made.GetToken()); err != nil || !cmp.Equal(again.GetChain(), answer.GetChain()) {
		t.Errorf("the agent that asks again gets another SVID, or none: %v", err)
	}
	key = p256(t)
	refused(ask(acmeWeb, made.GetToken()))
	for _, r := range refusals[1:] {
		if diff := cmp.Diff(refusals[0], r); diff != "" {
			t.Errorf("refusals differ:\n%s", diff)
		}
	}
	for _, entry := range s.logs.All() {
		for _, v := range entry.ContextMap() {
			if v == made.GetToken() {
				t.Errorf("the token is in the log: %s", entry.Message)
			}
		}
	}
}

func TestAdminMakesTokensOfNamedWorkloadsOnly(t *testing.T) {
	t.Parallel()
	self := "spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"
	s := serve(t, mesh{mapping(t), map[string]bool{acmeWeb: true, self: true}})
	year := durationpb.New(365 * 24 * time.Hour)
	for name, c := range map[string]struct {
		request *agentv1alpha1.CreateTokenRequest
		want    codes.Code
	}{
		"named":             {&agentv1alpha1.CreateTokenRequest{Workload: acmeWeb}, codes.OK},
		"not named":         {&agentv1alpha1.CreateTokenRequest{Workload: acmeOrders}, codes.NotFound},
		"no SPIFFE ID":      {&agentv1alpha1.CreateTokenRequest{Workload: "web"}, codes.NotFound},
		"nothing":           {&agentv1alpha1.CreateTokenRequest{}, codes.NotFound},
		"the control plane": {&agentv1alpha1.CreateTokenRequest{Workload: self}, codes.NotFound},
		"ttl of zero":       {&agentv1alpha1.CreateTokenRequest{Workload: acmeWeb, Ttl: durationpb.New(0)}, codes.InvalidArgument},
		"negative ttl":      {&agentv1alpha1.CreateTokenRequest{Workload: acmeWeb, Ttl: durationpb.New(-time.Hour)}, codes.InvalidArgument},
		"ttl of a year":     {&agentv1alpha1.CreateTokenRequest{Workload: acmeWeb, Ttl: year}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, err := s.admin.CreateToken(t.Context(), c.request)
			if status.Code(err) != c.want || (answer.GetToken() != "") != (c.want == codes.OK) {
				t.Errorf("got %v, %v; want %v", answer, err, c.want)
			}
		})
	}
}

func TestAdminBeforeTheFirstConfiguration(t *testing.T) {
	t.Parallel()
	s := serve(t, mesh{})
	_, err := s.admin.CreateToken(t.Context(), &agentv1alpha1.CreateTokenRequest{Workload: acmeWeb})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
}

// A control plane that has nothing published yet must not be taken for one that refuses the token: an agent gives up then.
func TestIssueBeforeTheFirstConfiguration(t *testing.T) {
	t.Parallel()
	s := serve(t, mesh{})
	for _, token := range []string{"guess", ""} {
		_, err := s.issuer.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: request(t, p256(t), []string{acmeWeb}), JoinToken: token})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v, want FailedPrecondition", err)
		}
	}
}

func TestServiceHidesItsOwnTrouble(t *testing.T) {
	t.Parallel()
	i, err := issuer.OpenMemory(issuer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := issuer.NewService(i, mesh{mapping(t), map[string]bool{acmeWeb: true}}, func() time.Time { return now }, zap.NewNop())
	good := request(t, p256(t), []string{acmeWeb})
	_, err = s.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: good, JoinToken: newToken(t, i, acmeWeb)})
	if status.Code(err) != codes.Internal || status.Convert(err).Message() != "cannot issue" {
		t.Errorf("got %v", err)
	}
	bad := request(t, p256(t), nil)
	token := newToken(t, i, acmeWeb)
	for range 20 {
		_, err = s.Issue(t.Context(), &agentv1alpha1.IssueRequest{Csr: bad, JoinToken: token})
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
}

// Anybody may ask whether a root that he knows is withdrawn, and learns nothing of others.
func TestServiceTellsOfWithdrawnRoots(t *testing.T) {
	t.Parallel()
	s := serve(t, mesh{mapping(t), map[string]bool{acmeWeb: true}})
	old := fingerprints(roots(t, s.of))[0]
	ask := func(asked ...[]byte) (bool, error) {
		answer, err := s.issuer.Withdrawn(t.Context(), &agentv1alpha1.WithdrawnRequest{Roots: asked})
		return answer.GetWithdrawn(), err
	}
	if withdrawn, err := ask(old[:]); err != nil || withdrawn {
		t.Errorf("before: %v, %v", withdrawn, err)
	}
	if _, err := s.of.Compromised(identity.MustTrustDomain(acmeDomain), now); err != nil {
		t.Fatal(err)
	}
	fresh := fingerprints(roots(t, s.of))[0]
	for name, c := range map[string]struct {
		asked [][]byte
		want  bool
	}{
		"the old root": {[][]byte{old[:]}, true}, "beside another": {[][]byte{fresh[:], old[:]}, true}, "before another": {[][]byte{old[:], fresh[:]}, true},
		"the new root": {[][]byte{fresh[:]}, false}, "none": {nil, false}, "nonsense": {[][]byte{{}, old[:31], append(old[:], 0)}, false},
	} {
		if got, err := ask(c.asked...); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ask(make([][]byte, 9)...); status.Code(err) != codes.InvalidArgument {
		t.Errorf("many: %v", err)
	}
}
