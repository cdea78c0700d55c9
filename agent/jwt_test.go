package agent_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringfence-mesh/ringfence/agent"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/realenvoy"
)

const (
	acmeWeb      = "spiffe://acme.demo.test/ns/acme/sa/web"
	globexOrders = "spiffe://globex.demo.test/ns/globex/sa/orders"
	billing      = "spiffe://platform.demo.test/ns/platform/sa/billing"
)

// beside is a workload's agent, without an Envoy, and a stock client on the workload's socket.
func (p *plane) beside(workload string, change ...func(*agent.Config)) (*running, *workloadapi.Client) {
	p.t.Helper()
	dir := filepath.Join(realenvoy.Dir(p.t), "a")
	c := p.configOf(workload, dir, true)
	c.EnvoyPath = ""
	for _, f := range change {
		f(&c)
	}
	a := start(p.t, c)
	eventually(p.t, "the agent is connected", func() bool { return a.Status().ControlPlane })
	client, err := workloadapi.New(p.t.Context(), workloadapi.WithAddr("unix://"+filepath.Join(dir, "workload.sock")))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = client.Close() })
	return a, client
}

func in(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// Two workloads of a tenant: one gets a JWT-SVID, the other verifies it, by its own library and by its agent. Another tenant's
// workload can do neither, and has no key of it.
func TestApplicationsGetJWTSVIDs(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, web := p.beside(acmeWeb)
	_, orders := p.beside(acmeOrders)
	_, foreign := p.beside(globexOrders)
	ctx := in(t, time.Minute)
	given, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders", ExtraAudiences: []string{"stock"}})
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(given.Expiry); given.ID.String() != acmeWeb || life > 5*time.Minute || life < 4*time.Minute {
		t.Errorf("of %s for %s", given.ID, life)
	}
	bundles, err := orders.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := jwtsvid.ParseAndValidate(given.Marshal(), bundles, []string{"orders"}); err != nil || got.ID.String() != acmeWeb {
		t.Errorf("%v, %v", got, err)
	}
	for _, audience := range []string{"orders", "stock"} {
		if got, err := orders.ValidateJWTSVID(ctx, given.Marshal(), audience); err != nil || got.ID.String() != acmeWeb {
			t.Errorf("%s: %v, %v", audience, got, err)
		}
	}
	if _, err := orders.ValidateJWTSVID(ctx, given.Marshal(), "billing"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("for another audience: %v", err)
	}

	theirs, err := foreign.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(theirs.Bundles()) != 1 || theirs.Has(spiffeid.RequireTrustDomainFromString("acme.demo.test")) {
		t.Errorf("another tenant's workload has %v", theirs.Bundles())
	}
	if _, err := foreign.ValidateJWTSVID(ctx, given.Marshal(), "orders"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another tenant's workload verifies it: %v", err)
	}
	id, err := spiffeid.FromString(globexOrders)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []spiffeid.ID{id, spiffeid.RequireFromString(acmeOrders), spiffeid.RequireFromString("spiffe://acme.demo.test/x")} {
		if _, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders", Subject: subject}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("as %s: %v", subject, err)
		}
	}
	if _, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders", Subject: given.ID}); err != nil {
		t.Errorf("as itself: %v", err)
	}
}

// A client that stays connected verifies each token through the replacement of a key, has the new key before it signs, and
// notices when all keys are withdrawn.
func TestJWTKeysChangeUnderAConnectedClient(t *testing.T) {
	t.Parallel()
	p := newPlaneWith(t, issuer.Options{TTL: time.Hour, ShortLived: true, JWTKeyLife: 24 * time.Second, Unlimited: true})
	_, web := p.beside(acmeWeb)
	_, orders := p.beside(acmeOrders)
	ctx := in(t, 3*time.Minute)
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(orders))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = source.Close() }()
	td := spiffeid.RequireTrustDomainFromString("acme.demo.test")
	keys := func() []string {
		t.Helper()
		bundle, err := source.GetJWTBundleForTrustDomain(td)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for id := range bundle.JWTAuthorities() {
			ids = append(ids, id)
		}
		return ids
	}
	first := keys()
	if len(first) != 1 {
		t.Fatalf("keys %v", first)
	}
	var last *jwtsvid.SVID
	published := time.Time{}
	for n := 0; ; n++ {
		if len(keys()) > 1 && published.IsZero() {
			published = time.Now()
		}
		last, err = web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: fmt.Sprintf("orders-%d", n)}) // none that is kept
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jwtsvid.ParseAndValidate(last.Marshal(), source, last.Audience); err != nil {
			t.Fatal(err)
		}
		if keyOf(t, last.Marshal()) != first[0] {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("no other key ever signs")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if lead := time.Since(published); published.IsZero() || lead < time.Second {
		t.Errorf("the new key was known for %s before it signed", lead)
	}
	id, _ := p.Workload(acmeWeb)
	if err := p.issuer.WithdrawJWTKeys(id.Tenant(), time.Now()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client has the new key alone", func() bool { return len(keys()) == 1 && keys()[0] != keyOf(t, last.Marshal()) })
	if _, err := jwtsvid.ParseAndValidate(last.Marshal(), source, last.Audience); err == nil {
		t.Error("a token of a withdrawn key is believed")
	}
	if _, err := orders.ValidateJWTSVID(ctx, last.Marshal(), last.Audience[0]); status.Code(err) != codes.InvalidArgument {
		t.Errorf("by the agent: %v", err)
	}
	eventually(t, "what is kept of a withdrawn key is not given", func() bool {
		again, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: last.Audience[0]})
		return err == nil && again.Marshal() != last.Marshal()
	})
}

func keyOf(t *testing.T, token string) string {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0].KeyID
}

// The control plane is asked once for a set of audiences in half of a token's life, and while it is away, what there is is given.
func TestJWTSVIDsAreKept(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	var ahead atomicDuration
	a, web := p.beside(acmeWeb, func(c *agent.Config) { c.Clock = func() time.Time { return time.Now().Add(ahead.load()) } })
	ctx := in(t, time.Minute)
	fetch := func(audience ...string) string {
		t.Helper()
		got, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience[0], ExtraAudiences: audience[1:]})
		if err != nil {
			t.Fatal(err)
		}
		return got.Marshal()
	}
	first := fetch("a", "b")
	for _, same := range [][]string{{"a", "b"}, {"b", "a"}, {"b", "a", "b"}} {
		if fetch(same...) != first {
			t.Errorf("%v is signed again", same)
		}
	}
	if fetch("a") == first || p.signed.Load() != 2 {
		t.Errorf("signed %d times", p.signed.Load())
	}
	ahead.store(2 * time.Minute)
	if fetch("a", "b") != first {
		t.Error("signed again before half of its life")
	}
	ahead.store(151 * time.Second)
	second := fetch("a", "b")
	if second == first {
		t.Error("given after half of its life")
	}
	ahead.store(0) // the control plane's clock
	p.stop()
	eventually(t, "the control plane is away", func() bool { return !a.Status().ControlPlane })
	ahead.store(4 * time.Minute)
	if fetch("a", "b") != second {
		t.Error("another one, of nobody")
	}
	ahead.store(6 * time.Minute)
	if _, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a", ExtraAudiences: []string{"b"}}); status.Code(err) != codes.Unavailable {
		t.Errorf("after its end: %v", err)
	}
}

// Who is refused by the control plane gets none, not even one that was kept and could be renewed.
func TestWhoIsRevokedGetsNoJWTSVID(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	var ahead atomicDuration
	_, web := p.beside(acmeWeb, func(c *agent.Config) { c.Clock = func() time.Time { return time.Now().Add(ahead.load()) } })
	ctx := in(t, time.Minute)
	if _, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a"}); err != nil {
		t.Fatal(err)
	}
	for code, want := range map[codes.Code]codes.Code{
		codes.PermissionDenied: codes.PermissionDenied, codes.Unauthenticated: codes.PermissionDenied,
		codes.ResourceExhausted: codes.Unavailable, codes.Internal: codes.Unavailable,
	} {
		refusal := status.Error(code, "foreign words")
		p.noJWT.Store(&refusal)
		_, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "b"})
		if status.Code(err) != want || strings.Contains(err.Error(), "foreign") {
			t.Errorf("%s: %v", code, err)
		}
		ahead.store(3 * time.Minute)
		_, err = web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a"})
		if denied := want == codes.PermissionDenied; denied != (status.Code(err) == codes.PermissionDenied) || denied != (err != nil) {
			t.Errorf("%s, one that was kept: %v", code, err)
		}
		ahead.store(0)
	}
}

// A token that was given before its workload was revoked is not believed any more, as soon as the verifier's agent knows.
func TestATokenOfARevokedWorkloadIsNotBelieved(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, web := p.beside(acmeWeb)
	_, orders := p.beside(acmeOrders)
	ctx := in(t, time.Minute)
	given, err := web.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is believed", func() bool { _, err := orders.ValidateJWTSVID(ctx, given.Marshal(), "orders"); return err == nil })
	p.files["tenants/acme/stolen.yaml"] = "apiVersion: ringfence.dev/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec:\n" +
		"  workload: " + acmeWeb + "\n  reason: stolen\n  notAfter: \"2100-01-01T00:00:00Z\"\n"
	p.publish()
	eventually(t, "it is refused", func() bool {
		_, err := orders.ValidateJWTSVID(ctx, given.Marshal(), "orders")
		return status.Code(err) == codes.InvalidArgument && strings.Contains(err.Error(), "revoked")
	})
}

// A shared service's workload gets none: no verifier believes a token that names one of the platform's.
func TestThePlatformsWorkloadsGetNoJWTSVID(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, client := p.beside(billing)
	ctx := in(t, time.Minute)
	if _, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	if _, err := client.ValidateJWTSVID(ctx, "a.b.c", "a"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("verified: %v", err)
	}
	if _, err := client.FetchJWTBundles(ctx); status.Code(err) != codes.PermissionDenied {
		t.Errorf("keys: %v", err)
	}
}

// Tokens that are not what they say, at the socket that says whom a token names.
func TestForgedJWTSVIDs(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	a, orders := p.beside(acmeOrders)
	_, foreign := p.beside(globexOrders)
	ctx := in(t, time.Minute)
	good, err := orders.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := foreign.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := orders.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	kid, theirKid := keyOf(t, good.Marshal()), keyOf(t, theirs.Marshal())
	public := publicKey(t, bundles, kid)
	now := time.Now()
	own := fmt.Sprintf(`{"sub":%q,"aud":["orders"],"iat":%d,"exp":%d}`, acmeWeb, now.Unix(), now.Add(time.Minute).Unix())
	x509Key := ownKey(t, a.dir)
	parts := strings.Split(good.Marshal(), ".")
	for name, token := range map[string]string{
		"no token":                       "",
		"two parts":                      parts[0] + "." + parts[1],
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"another payload":                parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(own)) + "." + parts[2],
		"alg none":                       unsigned(`{"alg":"none","kid":"`+kid+`"}`, own),
		"HS256 with the public key":      signed(t, jose.HS256, public, kid, own),
		"the workload's own X.509 key":   signed(t, jose.ES256, x509Key, kid, own),
		"the same, without kid":          signed(t, jose.ES256, x509Key, "", own),
		"another tenant's token":         theirs.Marshal(),
		"the kid of another tenant":      signed(t, jose.ES256, x509Key, theirKid, own),
		"of a trust domain that is none": signed(t, jose.ES256, x509Key, kid, strings.Replace(own, "acme.demo", "evil.demo", 1)),
		"too long":                       good.Marshal() + strings.Repeat("A", 8<<10),
	} {
		if got, err := orders.ValidateJWTSVID(ctx, token, "orders"); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func publicKey(t *testing.T, bundles *jwtbundle.Set, kid string) []byte {
	t.Helper()
	for _, b := range bundles.Bundles() {
		if key, ok := b.FindJWTAuthority(kid); ok {
			text, err := (&jose.JSONWebKey{Key: key}).MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
	t.Fatal("the key is not published")
	return nil
}

// atomicDuration is how far a clock is ahead.
type atomicDuration struct{ d atomic.Int64 }

func (a *atomicDuration) store(d time.Duration) { a.d.Store(int64(d)) }

func (a *atomicDuration) load() time.Duration { return time.Duration(a.d.Load()) }

// ownKey is the key of the workload's X.509-SVID.
func ownKey(t *testing.T, dir string) any {
	t.Helper()
	block, _ := pem.Decode(file(t, dir, "key.pem"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unsigned(header, payload string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + "."
}

func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, kid, payload string) string {
	t.Helper()
	options := &jose.SignerOptions{}
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
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
