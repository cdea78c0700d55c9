package workloadapi_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

func answer(tb testing.TB) *workload.X509SVIDResponse {
	tb.Helper()
	ca := testca.Unconstrained(tb, "acme")
	one := func(of string) *workload.X509SVID {
		s := ca.SVID(of)
		return &workload.X509SVID{SpiffeId: of, X509Svid: s.Cert.Raw, X509SvidKey: []byte("key of " + of), Bundle: ca.Cert.Raw}
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{one("spiffe://acme.demo.test/ns/acme/sa/other"), one(id)}}
}

func TestChooseTakesTheOneSVIDOfTheWorkload(t *testing.T) {
	t.Parallel()
	resp := answer(t)
	got, err := workloadapi.Choose(resp, id)
	if err != nil {
		t.Fatal(err)
	}
	own := resp.GetSvids()[1]
	if len(got.Chain) != 1 || !bytes.Equal(got.Chain[0], own.GetX509Svid()) || string(got.Key) != "key of "+id || len(got.Roots) != 1 {
		t.Errorf("%+v", got)
	}
	for name, c := range map[string]struct {
		change func(*workload.X509SVIDResponse)
		want   error
	}{
		"none":                 {func(r *workload.X509SVIDResponse) { r.Svids = nil }, workloadapi.ErrNoSVID},
		"others":               {func(r *workload.X509SVIDResponse) { r.Svids = r.GetSvids()[:1] }, workloadapi.ErrNoSVID},
		"two":                  {func(r *workload.X509SVIDResponse) { r.Svids = append(r.GetSvids(), r.GetSvids()[1]) }, workloadapi.ErrAmbiguous},
		"no certificate":       {func(r *workload.X509SVIDResponse) { r.GetSvids()[1].X509Svid = nil }, workloadapi.ErrMalformed},
		"no roots":             {func(r *workload.X509SVIDResponse) { r.GetSvids()[1].Bundle = nil }, workloadapi.ErrMalformed},
		"text behind the root": {func(r *workload.X509SVIDResponse) { r.GetSvids()[1].Bundle = append(r.GetSvids()[1].GetBundle(), 0) }, workloadapi.ErrMalformed},
		"too many": {func(r *workload.X509SVIDResponse) {
			r.GetSvids()[1].X509Svid = bytes.Repeat(r.GetSvids()[1].GetX509Svid(), 11)
		}, workloadapi.ErrMalformed},
	} {
		r := answer(t)
		c.change(r)
		if got, err := workloadapi.Choose(r, id); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAWorkloadAPIIsASocket(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"unix:///run/spire/agent.sock": "/run/spire/agent.sock", "unix:///run/./a/../b": "/run/b",
		"unix:/run/agent.sock": "", "unix://agent.sock": "", "tcp://127.0.0.1:8081": "", "/run/agent.sock": "", "": "",
	} {
		got, err := workloadapi.Path(address)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", address, got, err)
		}
	}
}

// What this package serves it also follows: an answer, a change, and an end that is told.
func TestFollowOfOurOwnServer(t *testing.T) {
	t.Parallel()
	acme, other := testca.Constrained(t, "acme.demo.test"), testca.Constrained(t, "platform.demo.test")
	s := &source{changed: make(chan struct{}), now: identityOf(t, acme, other)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stop, seen := errors.New("seen enough"), 0
	err := workloadapi.Follow(ctx, serve(t, s), func(resp *workload.X509SVIDResponse) error {
		got, err := workloadapi.Choose(resp, id)
		if err != nil {
			return err
		}
		if !bytes.Equal(bytes.Join(got.Chain, nil), bytes.Join(s.Identity().Chain, nil)) {
			t.Error("another chain")
		}
		if seen++; seen == 2 {
			return stop
		}
		s.set(identityOf(t, acme, other))
		return nil
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	good, err := proto.Marshal(answer(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add(bytes.Replace(good, []byte("/sa/other"), []byte("/sa/web\x00\x00"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		resp := &workload.X509SVIDResponse{}
		if proto.Unmarshal(data, resp) != nil {
			return
		}
		got, err := workloadapi.Choose(resp, id)
		if err != nil {
			return
		}
		var own []*workload.X509SVID
		for _, s := range resp.GetSvids() {
			if s.GetSpiffeId() == id {
				own = append(own, s)
			}
		}
		if len(own) != 1 || !bytes.Equal(bytes.Join(got.Chain, nil), own[0].GetX509Svid()) ||
			!bytes.Equal(bytes.Join(got.Roots, nil), own[0].GetBundle()) || len(got.Chain) == 0 || len(got.Roots) == 0 {
			t.Errorf("%d SVIDs of the workload, taken apart as %d and %d certificates", len(own), len(got.Chain), len(got.Roots))
		}
	})
}
