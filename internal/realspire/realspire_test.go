//go:build spire

package realspire_test

import (
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/ringfence-mesh/ringfence/internal/realspire"
)

// TestSPIREWorkload: SPIRE tells this process, by its user, who it is.
func TestSPIREWorkload(t *testing.T) {
	t.Parallel()
	s := realspire.Start(t, "acme.demo.test", time.Hour)
	socket := s.Agent()
	const id = "spiffe://acme.demo.test/ns/acme/sa/web"
	s.Entry(id, os.Getuid())
	deadline := time.Now().Add(time.Minute)
	for {
		svid, err := workloadapi.FetchX509SVID(t.Context(), workloadapi.WithAddr("unix://"+socket))
		if err == nil {
			if svid.ID.String() != id {
				t.Errorf("this process is %s", svid.ID)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // the agent asks its server every few seconds
	}
}
