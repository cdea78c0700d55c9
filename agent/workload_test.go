package agent_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

// A stock client on the workload's socket has the workload's SVID, and each renewed one without asking. Its own library
// verifies what it gets.
func TestApplicationsGetTheSVIDThroughRenewals(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, shortLived())
	dir := filepath.Join(realenvoy.Dir(t), "a")
	a := start(t, p.config(dir, true))
	a.ready()
	x, err := workloadapi.NewX509Source(t.Context(),
		workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+filepath.Join(dir, "workload.sock"))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	last := time.Time{}
	for range 3 {
		svid, err := x.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if svid.ID.String() != acmeOrders {
			t.Errorf("the SVID is of %s", svid.ID)
		}
		end := svid.Certificates[0].NotAfter
		if !end.After(last) {
			t.Errorf("an SVID until %s after one until %s", end, last)
		}
		last = end
		if _, _, err := x509svid.Verify(svid.Certificates, x509bundle.Source(x)); err != nil {
			t.Error(err)
		}
		select {
		case <-x.Updated():
		case <-time.After(20 * time.Second):
			t.Fatal("the client was not told of a renewal")
		}
	}
	if _, err := x.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("platform.demo.test")); err != nil {
		t.Error(err)
	}
	if _, err := x.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("globex.demo.test")); err == nil {
		t.Error("the application has another tenant's roots")
	}
}

func TestTheWorkloadsSocketHasAPathThatFits(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	c := p.config(filepath.Join(realenvoy.Dir(t), "a"), true)
	c.WorkloadSocket = "/" + strings.Repeat("x", 107)
	if _, err := agent.New(c); err == nil {
		t.Error("an agent was made")
	}
}
