package extauthz_test

import (
	"context"
	"errors"
	"testing"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/internal/limit"
)

// A revoked token is answered as any invalid one, for which another can be brought; a revoked workload as everything else.
func TestRevokedAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		revoked   string
		status    typev3.StatusCode
		grpc      int32
		challenge string
	}{
		"token":    {"token: {subject: alice}", 401, int32(codes.Unauthenticated), `Bearer realm="ringfence", error="invalid_token"`},
		"workload": {"workload: " + acmeWeb, 403, int32(codes.PermissionDenied), ""},
	} {
		m := newMesh(t)
		m.files["tenants/acme/revoked.yaml"] = "apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r}\nspec: {" + tt.revoked + `, reason: r, notAfter: "2036-01-01T00:00:00Z"}` + "\n"
		p := start(t, m, acmeOrders, m.agents(acmeOrders))
		resp := p.check(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders", "Bearer "+m.clerk()))
		denied := resp.GetDeniedResponse()
		if reason(resp) != "revoked" || denied.GetStatus().GetCode() != tt.status || resp.GetStatus().GetCode() != tt.grpc || headers(denied.GetHeaders())["www-authenticate"] != tt.challenge {
			t.Errorf("%s: %v", name, resp)
		}
	}
}

// told is an Asker that a test sets.
type told struct {
	id  identity.WorkloadID
	err error
}

func (a *told) Asker(context.Context) (extauthz.Asking, error) { return extauthz.Own(a.id), a.err }

// What one workload's proxy may ask for, another's does not use up.
func TestLimitsAreEachAskersOwn(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	asker := &told{id: m.id(acmeOrders)}
	s := extauthz.New(&tables{}, asker, &entries{}, metrics(t, prometheus.NewRegistry()), newClock(m.now).Now,
		extauthz.WithLimits(limit.Limits{Concurrent: 1, PerSecond: 1, Burst: 2}))
	wire := encode(t, call(m.acme.SVID(acmeWeb), acmeWeb, "acme/orders", "GET", "/orders"))
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
		if _, err := s.Check(t.Context(), wire); status.Code(err) != want {
			t.Errorf("check %d: %v", i, err)
		}
	}
	asker.id = m.id(globexOrders)
	resp, err := s.Check(t.Context(), wire)
	if err != nil || len(resp) == 0 {
		t.Errorf("another asker: %v", err)
	}
	asker.err = errors.New("not known")
	if _, err := s.Check(t.Context(), wire); status.Code(err) != codes.PermissionDenied {
		t.Errorf("somebody, with an error: %v", err)
	}
	asker.id, asker.err = identity.WorkloadID{}, nil
	if _, err := s.Check(t.Context(), wire); status.Code(err) != codes.PermissionDenied {
		t.Errorf("nobody: %v", err)
	}
}

// A certificate that was proved is not proved again until it ends, which costs a signature each time.
func TestARememberedAskerIsNotProvedAgain(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	bundles, err := identity.NewBundles(m.acme.Bundle("acme.demo.test"))
	if err != nil {
		t.Fatal(err)
	}
	good, version := identity.NewVerifier(m.model().Mapping(), bundles), "1"
	verifier := good
	asker := extauthz.FromTLS(func() (identity.Verifier, string) { return verifier, version }, newClock(m.now).Now)
	ctx := tlsPeer(t, m.acme.SVID(acmeOrders).Cert)
	if _, err := asker.Asker(ctx); err != nil {
		t.Fatal(err)
	}
	verifier = identity.Verifier{} // which proves nobody, and whose version says that it is the same
	if who, err := asker.Asker(ctx); err != nil || who != extauthz.Own(m.id(acmeOrders)) {
		t.Errorf("%v, %v", who, err)
	}
}
