package main

import (
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/internal/health"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// givingAPI is a Workload API that gives one answer.
type givingAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	answer *workload.X509SVIDResponse
	err    error
}

// FetchX509SVID implements the Workload API.
func (g givingAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if g.err != nil {
		return g.err
	}
	return stream.Send(g.answer)
}

func (g givingAPI) serve(t *testing.T) (address string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, g)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return "unix://" + path
}

// What `check --pre --workload-api` says at three in the morning: which of the three things is wrong.
func TestAskWorkloadAPI(t *testing.T) {
	t.Parallel()
	const web, foreign = "spiffe://acme.demo.test/ns/acme/sa/web", "spiffe://globex.demo.test/ns/globex/sa/web"
	ca := testca.Unconstrained(t, "acme")
	svid := func(of, says string, options ...testca.Option) *workload.X509SVID {
		s := ca.SVID(of, options...)
		key, err := x509.MarshalPKCS8PrivateKey(s.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &workload.X509SVID{SpiffeId: says, X509Svid: s.Cert.Raw, X509SvidKey: key, Bundle: ca.Cert.Raw}
	}
	give := func(svids ...*workload.X509SVID) string {
		return givingAPI{answer: &workload.X509SVIDResponse{Svids: svids}}.serve(t)
	}
	for name, c := range map[string]struct {
		address string
		want    health.Code
	}{
		"well":                  {give(svid(foreign, foreign), svid(web, web)), ""},
		"no socket":             {"unix://" + filepath.Join(t.TempDir(), "none.sock"), health.CodeAPIAway},
		"no address":            {"/run/spire/agent.sock", health.CodeAPIAway},
		"not registered":        {givingAPI{err: status.Error(codes.PermissionDenied, "no identity issued")}.serve(t), health.CodeNoSVID},
		"starting":              {givingAPI{err: status.Error(codes.Unavailable, "not ready")}.serve(t), health.CodeAPIAway},
		"none":                  {give(), health.CodeNoSVID},
		"two":                   {give(svid(web, web), svid(web, web)), health.CodeNoSVID},
		"expired":               {give(svid(web, web, testca.ValidFor(-time.Hour, -time.Minute))), health.CodeNoSVID},
		"another tenant's":      {give(svid(foreign, foreign)), health.CodeOtherSVID},
		"another's as our own":  {give(svid(foreign, web)), health.CodeOtherSVID},
		"of nobody that we see": {give(svid("spiffe://acme.demo.test/a/b/c", "spiffe://acme.demo.test/a/b/c")), health.CodeOtherSVID},
	} {
		got, err := askWorkloadAPI(t.Context(), c.address, web, time.Now())
		if got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}
