package controlplane_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// asksForAll subscribes to everything and leaves what comes to the test.
func asksForAll(t *testing.T, s stream) stream {
	t.Helper()
	for _, typeURL := range allTypes {
		send(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{"*"}})
	}
	return s
}

// ends reads a stream until it does.
func ends(s stream) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

// served is nil where a certificate gets configuration.
func (p plane) served(cert tls.Certificate) error {
	p.t.Helper()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(p.connect(p.XDSAddr().String(), &cert)).DeltaAggregatedResources(within(p.t))
	if err != nil {
		return err
	}
	_ = s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: allTypes[0], ResourceNamesSubscribe: []string{"*"}}) // Recv tells
	_, err = s.Recv()
	return err
}

// root is the SHA-256 of the one root that a trust file holds.
func root(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		t.Fatalf("%s does not hold one root", path)
	}
	sum := sha256.Sum256(block.Bytes)
	return sum[:]
}

// Compromised roots are withdrawn at whatever step, and at once: streams of acme's are ended and refused, nothing of theirs is
// renewed, sidecars of shared services that it may call get the new root, and globex's get nothing. Who is to join again is told,
// also after a restart, and once everybody has, it is over.
func TestCompromisedRoot(t *testing.T) {
	t.Parallel()
	config, state := example(t), filepath.Join(t.TempDir(), "state")
	r := startRotating(t, config, state, time.Now)
	orders, web := r.joined(acmeOrders), r.joined(acmeWeb)
	trustFile := filepath.Join(state, "trust", "acme.demo.test.pem")
	old := root(t, trustFile)
	keysOf := func(cert tls.Certificate) string {
		return firstKeys(within(t), t, agentv1alpha1.NewJWTSVIDsClient(r.connect(r.XDSAddr().String(), &cert)))
	}
	oldKeys, globex := keysOf(orders), r.joined(globexOrders)
	otherKeys := keysOf(globex)
	open := asksForAll(t, r.stream(orders))
	bills := r.joined(billing)
	follow(t, r.stream(bills))
	other := follow(t, r.stream(r.joined(globexWeb)))
	<-other
	if _, err := r.client.Begin(within(t), acme()); err != nil {
		t.Fatal(err)
	}
	r.becomes("published 1/2 orders:acknowledgement web:connection…")
	ended := make(chan error, 1)
	go func() { ended <- ends(open) }()
	answer, err := r.client.Compromised(within(t), acme())
	if err != nil {
		t.Fatal(err)
	}
	if got := rotationText(answer); !strings.HasPrefix(got, "attesting 3/0 orders:attestation web:attestation") || answer.GetTrustFile() != trustFile {
		t.Errorf("%s, trust file %s", got, answer.GetTrustFile())
	}
	if err := <-ended; status.Code(err) != codes.Unauthenticated {
		t.Errorf("acme's stream: %v", err)
	}
	r.becomes("attesting 3/0 orders:attestation web:attestation") // the shared service's sidecar has acknowledged
	select {
	case <-other:
		t.Error("globex's sidecar was sent something, or cut")
	default:
	}
	for range 2 {
		if _, err := r.renew(r.XDSAddr().String(), &web, acmeWeb); err == nil {
			t.Error("what a withdrawn root has signed is renewed")
		}
		if err := r.served(web); err == nil {
			t.Error("what a withdrawn root has signed gets configuration")
		}
		if _, err := r.client.Begin(within(t), acme()); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "join first") {
			t.Errorf("a rotation begins: %v", err)
		}
		if _, err := r.client.Rollback(within(t), acme()); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "compromised") {
			t.Errorf("it is taken back: %v", err)
		}
		for _, c := range []struct {
			root []byte
			want bool
		}{{old, true}, {root(t, trustFile), false}} {
			ask := agentv1alpha1.NewIssuerClient(r.dial(r.IssuerAddr().String(), r.trust()))
			got, err := ask.Withdrawn(within(t), &agentv1alpha1.WithdrawnRequest{Roots: [][]byte{c.root}})
			if err != nil || got.GetWithdrawn() != c.want {
				t.Errorf("withdrawn %v, want %t: %v", got, c.want, err)
			}
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = startRotating(t, config, state, time.Now)
		r.becomes("attesting 3/0 orders:attestation web:attestation billing:connection…")
	}
	follow(t, r.stream(bills))
	r.becomes("attesting 3/0 orders:attestation web:attestation")
	follow(t, r.stream(r.joined(acmeOrders)))
	r.becomes("attesting 3/0 web:attestation")
	if answer, err = r.client.Show(within(t), acme()); err != nil || len(answer.GetAttested()) != 1 || answer.GetAttested()[0] != acmeOrders {
		t.Errorf("joined again: %v, %v", answer.GetAttested(), err)
	}
	again := r.joined(acmeWeb)
	follow(t, r.stream(again))
	r.becomes("none 3/0")
	if keysOf(again) == oldKeys || keysOf(globex) != otherKeys {
		t.Error("the keys of JWT-SVIDs are not withdrawn, or those of another tenant are")
	}
	if _, err := r.renew(r.XDSAddr().String(), &again, acmeWeb); err != nil {
		t.Errorf("what the new root has signed: %v", err)
	}
	for tenant, want := range map[string]codes.Code{"nobody": codes.NotFound, "platform": codes.FailedPrecondition} {
		if _, err := r.client.Compromised(within(t), &agentv1alpha1.RotationRequest{Tenant: tenant}); status.Code(err) != want {
			t.Errorf("%q: %v", tenant, err)
		}
	}
}

// A workload that no document names any more is not waited for.
func TestCompromisedRootWaitsForNobodyWhoIsGone(t *testing.T) {
	t.Parallel()
	r := startRotating(t, example(t), "", time.Now)
	r.joined(acmeWeb)
	if _, err := r.client.Compromised(within(t), acme()); err != nil {
		t.Fatal(err)
	}
	r.becomes("attesting 2/0 web:attestation")
	r.edit("tenants/acme/web.yaml", "serviceAccounts: [web]", "serviceAccounts: [site]")
	r.becomes("none 2/0")
}

// Documents that cannot be read just then do not undo a withdrawal: it is told that nobody is told yet, and it is served as soon as
// it can be.
func TestCompromisedRootWhileDocumentsCannotBeRead(t *testing.T) {
	t.Parallel()
	config := example(t)
	r := startRotating(t, config, "", time.Now)
	follow(t, r.stream(r.joined(acmeOrders)))
	if err := os.Rename(config, config+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Compromised(within(t), acme()); status.Code(err) != codes.Aborted {
		t.Errorf("%v", err)
	}
	if err := os.Rename(config+"-away", config); err != nil {
		t.Fatal(err)
	}
	cert := r.joined(acmeOrders)
	ctx := within(t)
	for r.served(cert) != nil { // until it is proved by the new root
		select {
		case <-ctx.Done():
			t.Fatal("the withdrawal is never served")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
