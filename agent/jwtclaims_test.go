package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/workloadapi"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

var jwtNow = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)

// tenantKey signs what the control plane would sign, and what it would not.
type tenantKey struct{ key *ecdsa.PrivateKey }

func newTenantKey(t testing.TB) tenantKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tenantKey{key}
}

func (k tenantKey) jwks(t testing.TB) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.key.Public(), KeyID: "k1", Use: "jwt-svid"}}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (k tenantKey) sign(t testing.TB, payload string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// jwtClaims are those of a token for orders' own use, signed so long ago.
func jwtClaims(ago, life time.Duration) string {
	issued := jwtNow.Add(-ago)
	return fmt.Sprintf(`{"sub":%q,"aud":["orders"],"iat":%d,"exp":%d}`, acmeOrders, issued.Unix(), issued.Add(life).Unix())
}

// offline are JWT-SVIDs of acme's orders with the keys of a test.
func offline(t testing.TB, jwks []byte) *jwtSVIDs {
	t.Helper()
	m := tenancytest.TwoTenants(t).Mapping()
	id, err := m.Parse(acmeOrders)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return jwtNow }
	source := newWorkloadSource(identity.Bundle{}, Config{Clock: clock})
	source.now = workloadapi.Identity{ID: acmeOrders, TrustDomain: id.Tenant().TrustDomain().ID()}
	source.notAfter = jwtNow.Add(time.Hour)
	source.setKeys(jwks)
	return newJWTSVIDs(svid{id: id, mapping: m}, source, &tables{workload: id}, Config{Clock: clock}, zap.NewNop())
}

// A token that the tenant's own key has signed is refused for what it says.
func TestWhatAJWTSVIDMustSay(t *testing.T) {
	t.Parallel()
	k := newTenantKey(t)
	j := offline(t, k.jwks(t))
	good := jwtClaims(0, 5*time.Minute)
	if c, err := j.Verify(k.sign(t, good), "orders"); err != nil || c.Subject() != acmeOrders {
		t.Fatalf("the good one: %q, %v", c.Subject(), err)
	}
	as := func(id string) string { return strings.Replace(good, acmeOrders, id, 1) }
	for name, c := range map[string]struct {
		claims, audience string
		want             error
	}{
		"expired":                  {jwtClaims(5*time.Minute, 5*time.Minute), "orders", identity.ErrTokenExpired},
		"of tomorrow":              {jwtClaims(-time.Hour, time.Minute), "orders", identity.ErrTokenInvalid},
		"for longer than signed":   {jwtClaims(0, 5*time.Minute+time.Second), "orders", identity.ErrTokenInvalid},
		"another audience":         {good, "stock", identity.ErrTokenInvalid},
		"a part of the audience":   {good, "order", identity.ErrTokenInvalid},
		"no audience":              {strings.Replace(good, `["orders"]`, `[]`, 1), "orders", identity.ErrTokenInvalid},
		"no iat":                   {strings.Replace(good, `"iat"`, `"x"`, 1), "orders", identity.ErrTokenInvalid},
		"no exp":                   {strings.Replace(good, `"exp"`, `"x"`, 1), "orders", identity.ErrTokenInvalid},
		"the subject twice":        {strings.Replace(good, `{`, `{"sub":"`+acmeOrders+`",`, 1), "orders", identity.ErrTokenInvalid},
		"of another tenant":        {as("spiffe://globex.demo.test/ns/globex/sa/web"), "orders", identity.ErrIssuerNotAllowed},
		"of the platform":          {as("spiffe://platform.demo.test/ns/platform/sa/billing"), "orders", identity.ErrIssuerNotAllowed},
		"of the control plane":     {as("spiffe://platform.demo.test/ns/ringfence-system/sa/control-plane"), "orders", identity.ErrIssuerNotAllowed},
		"of another trust domain":  {as("spiffe://acme.evil.test/ns/acme/sa/orders"), "orders", identity.ErrIssuerNotAllowed},
		"of the trust domain only": {as("spiffe://acme.demo.test"), "orders", identity.ErrIssuerNotAllowed},
	} {
		if got, err := j.Verify(k.sign(t, c.claims), c.audience); !errors.Is(err, c.want) || !got.IsZero() {
			t.Errorf("%s: %q, %v", name, got.Subject(), err)
		}
	}
	if _, err := offline(t, newTenantKey(t).jwks(t)).Verify(k.sign(t, good), "orders"); !errors.Is(err, identity.ErrTokenInvalid) {
		t.Errorf("with another key of that id: %v", err)
	}
}

// However many audiences the applications name, what is kept is bounded, and what ends first goes.
func TestKeptJWTSVIDsAreBounded(t *testing.T) {
	t.Parallel()
	j := offline(t, nil)
	for n := range 3 * maxKept {
		j.keep(fmt.Sprint(n), keptToken{expires: jwtNow.Add(time.Duration(n) * time.Second)})
	}
	j.keep(fmt.Sprint(3*maxKept-1), keptToken{expires: jwtNow})
	if _, last := j.kept[fmt.Sprint(3*maxKept-2)]; len(j.kept) != maxKept || !last {
		t.Errorf("%d are kept, the last but one: %v", len(j.kept), last)
	}
}

// signer is a control plane that gives everybody the same token.
type signer struct {
	agentv1alpha1.JWTSVIDsClient

	token string
}

func (s signer) Fetch(context.Context, *agentv1alpha1.FetchJWTSVIDRequest, ...grpc.CallOption) (*agentv1alpha1.FetchJWTSVIDResponse, error) {
	return &agentv1alpha1.FetchJWTSVIDResponse{Token: s.token, NotAfterUnix: jwtNow.Add(time.Minute).Unix()}, nil
}

// captured is the server that Register makes.
type captured struct {
	server workload.SpiffeWorkloadAPIServer
}

func (c *captured) RegisterService(_ *grpc.ServiceDesc, impl any) {
	c.server, _ = impl.(workload.SpiffeWorkloadAPIServer)
}

// FuzzWorkloadAPI feeds an application's bytes to the JWT profile: no panic, nothing for who does not say that it asks on
// purpose, a token for the workload's own ID and sound audiences alone, and only the one token that the tenant's key signed is
// good, for its audience only.
func FuzzWorkloadAPI(f *testing.F) {
	k := newTenantKey(f)
	good := k.sign(f, jwtClaims(0, time.Minute))
	j := offline(f, k.jwks(f))
	j.setClient(signer{token: good})
	var c captured
	workloadapi.Register(&c, j.source, j)
	for _, m := range []proto.Message{
		&workload.JWTSVIDRequest{}, &workload.JWTSVIDRequest{Audience: []string{"orders"}},
		&workload.JWTSVIDRequest{Audience: []string{"b", "a", "b"}, SpiffeId: acmeOrders},
		&workload.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "spiffe://globex.demo.test/ns/globex/sa/web"},
		&workload.JWTSVIDRequest{Audience: []string{""}}, &workload.JWTSVIDRequest{Audience: slices.Repeat([]string{"a"}, 5000)},
		&workload.JWTSVIDRequest{Audience: []string{strings.Repeat("a", 10_000)}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(false, true, data)
	}
	f.Add(false, false, []byte("\x0a\x01a"))
	for _, token := range []string{"", "..", good, good + "A", good[:len(good)-1], strings.Replace(good, ".", "..", 1)} {
		data, err := proto.Marshal(&workload.ValidateJWTSVIDRequest{Audience: "orders", Svid: token})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, true, data)
	}
	known := []codes.Code{codes.InvalidArgument, codes.PermissionDenied}
	f.Fuzz(func(t *testing.T, validate, header bool, data []byte) {
		ctx := t.Context()
		if header {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("workload.spiffe.io", "true"))
		}
		if validate {
			req := &workload.ValidateJWTSVIDRequest{}
			if proto.Unmarshal(data, req) != nil {
				return
			}
			resp, err := c.server.ValidateJWTSVID(ctx, req)
			if want := header && req.GetSvid() == good && req.GetAudience() == "orders"; want != (err == nil) {
				t.Fatalf("%v, %v", resp, err)
			}
			if err == nil && (resp.GetSpiffeId() != acmeOrders || resp.GetClaims().GetFields()["sub"].GetStringValue() != acmeOrders) {
				t.Fatalf("it names %v", resp)
			}
			if err != nil && !slices.Contains(known, status.Code(err)) {
				t.Fatal(err)
			}
			return
		}
		req := &workload.JWTSVIDRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		resp, err := c.server.FetchJWTSVID(ctx, req)
		if err != nil {
			if !slices.Contains(known, status.Code(err)) {
				t.Fatal(err)
			}
			return
		}
		if !header || req.GetSpiffeId() != "" && req.GetSpiffeId() != acmeOrders || len(req.GetAudience()) == 0 || slices.Contains(req.GetAudience(), "") {
			t.Fatalf("a token for %v", req)
		}
		if len(resp.GetSvids()) != 1 || resp.GetSvids()[0].GetSpiffeId() != acmeOrders {
			t.Fatalf("got %v", resp)
		}
	})
}
