package extauthz

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

func TestCache(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	later := now.Add(time.Minute)
	c := cache[digest, int]{limit: 3}
	k := func(n byte) digest { return digest{n} }
	if _, ok := c.get(k(0), now); ok {
		t.Error("something is in an empty cache")
	}
	full := cache[digest, int]{limit: 3}
	for n := range byte(3) {
		full.put(k(n), int(n), now, later)
	}
	for n := range byte(3) {
		if v, ok := full.get(k(n), now); !ok || v != int(n) || len(full.old) != 0 {
			t.Errorf("of as many as it holds %d is forgotten", n)
		}
	}
	c.put(k(0), 7, now, later)
	if v, ok := c.get(k(0), later.Add(-1)); !ok || v != 7 {
		t.Errorf("%v, %v", v, ok)
	}
	if v, ok := c.get(k(0), later); ok || v != 0 {
		t.Errorf("over, but %v", v)
	}
	if v, ok := c.get(k(0), now.Add(-1)); ok || v != 0 {
		t.Errorf("not yet, but %v", v)
	}
	for n := range byte(100) {
		if _, ok := c.get(k(n+101), now); ok || len(c.young)+len(c.old) != 1 {
			t.Fatalf("what is not there takes a place: %d", len(c.young)+len(c.old))
		}
	}
	for n := range byte(100) {
		c.put(k(n+1), int(n), now, later)
		if v, ok := c.get(k(0), now); !ok || v != 7 {
			t.Fatalf("what is asked for is forgotten after %d others", n)
		}
		if held := len(c.young) + len(c.old); held > 6 {
			t.Fatalf("%d values are held", held)
		}
	}
	if _, ok := c.get(k(1), now); ok {
		t.Error("what nobody asks for is kept")
	}
}

func TestKeyTellsFieldsApart(t *testing.T) {
	t.Parallel()
	seen := map[digest]bool{}
	for _, fields := range [][]string{{}, {""}, {"", ""}, {"a", "b"}, {"ab"}, {"ab", ""}, {"", "ab"}, {"a" + strings.Repeat("\x00", 8) + "b"}} {
		if seen[key(fields...)] {
			t.Errorf("%q has another list's key", fields)
		}
		seen[key(fields...)] = true
	}
}

// tokenKey is a token issuer's key.
type tokenKey struct {
	id  string
	key *ecdsa.PrivateKey
}

func newTokenKey(t testing.TB, id string) tokenKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tokenKey{id, key}
}

func (k tokenKey) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.key}, (&jose.SignerOptions{}).WithHeader("kid", k.id))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tableOf is acme's Table, whose issuer publishes these keys and accepts that audience.
func tableOf(t testing.TB, audience string, keys ...tokenKey) *authz.Table {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key.Public(), KeyID: k.id, Use: "sig"})
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	files := tenancytest.TwoTenantsFiles(t)
	const uri = "https://idp.acme.example.com/jwks"
	files["platform/token-issuers.yaml"] = "kind: TokenIssuer\nmetadata: {name: acme-idp}\nspec:\n  issuer: https://idp.acme.example.com\n" +
		"  jwks: {uri: " + uri + "}\n  audiences: [" + audience + "]\n  tenants: [acme]\n"
	in := tenancytest.Input(t, files)
	if in.Bundles = tenancytest.Bundles(t, tenancy.TrustDomains(in.Documents)...); len(keys) > 0 {
		set, err := identity.ParseKeySet(text)
		if err != nil {
			t.Fatal(err)
		}
		in.KeySets = map[string]identity.KeySet{uri: set}
	}
	model, problems := tenancy.Build(in)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	table, err := authz.Compile(tenancytest.Tenant(t, model, "acme"))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestRememberedTokensAreVerifiedTokens compares the memory of tokens with its dumb twin, which has none, while keys are
// withdrawn and come back, the issuer's audience changes, and the clock goes forwards and backwards.
func TestRememberedTokensAreVerifiedTokens(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	one, two := newTokenKey(t, "k1"), newTokenKey(t, "k2")
	tables := []*authz.Table{
		tableOf(t, "orders-api", one, two), tableOf(t, "orders-api", two), tableOf(t, "orders-api", one),
		tableOf(t, "other-api", one, two), tableOf(t, "orders-api"),
	}
	tokens := []string{"", "x", "a.b.c"}
	for _, k := range []tokenKey{one, two, newTokenKey(t, "k1"), newTokenKey(t, "k3")} {
		for _, minutes := range []int{-12, -5, 0, 5} {
			for _, aud := range []string{"orders-api", "other-api"} {
				begin := now.Add(time.Duration(minutes) * time.Minute)
				claims := map[string]any{
					"iss": "https://idp.acme.example.com", "aud": aud, "sub": fmt.Sprint(minutes), "tenant": "acme",
					"iat": begin.Unix(), "exp": begin.Add(10 * time.Minute).Unix(), "roles": []string{"clerk"},
				}
				switch minutes {
				case 0:
					claims["nbf"] = begin.Add(2 * time.Minute).Unix()
				case 5:
					claims["auth_time"] = begin.Add(time.Minute).Unix()
				}
				tokens = append(tokens, k.sign(t, claims))
			}
		}
	}
	p := proofs{tenants: map[identity.TenantID]*memory{}}
	random := mathrand.New(mathrand.NewPCG(1, 2)) // the same each time
	good := 0
	for range 20_000 {
		now = now.Add(time.Duration(random.Int64N(int64(4*time.Minute))) - 2*time.Minute)
		if random.IntN(50) == 0 {
			now = time.Unix(1_800_000_000, 0)
		}
		table, token := tables[random.IntN(len(tables))], tokens[random.IntN(len(tokens))]
		bare := table.Token(token, now)
		if !bare.Claims().IsZero() {
			good++
		}
		if got := p.verified(table, token, now); !reflect.DeepEqual(got, bare) {
			t.Fatalf("at %v memory says %+v, and verification %+v", now, got, bare)
		}
	}
	if good < 500 {
		t.Errorf("only %d of the tokens were good ones", good)
	}
}

func TestARememberedTokenCostsNoAllocation(t *testing.T) { //nolint:paralleltest // it counts allocations
	now := time.Unix(1_800_000_000, 0)
	k := newTokenKey(t, "k1")
	table := tableOf(t, "orders-api", k)
	token := k.sign(t, map[string]any{
		"iss": "https://idp.acme.example.com", "aud": "orders-api", "tenant": "acme", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	p := proofs{tenants: map[identity.TenantID]*memory{}}
	if n := testing.AllocsPerRun(100, func() {
		if p.verified(table, token, now).Claims().IsZero() {
			t.Error("the token does not verify")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestTheMemoryOfATenantIsBounded: a flood of good tokens of one tenant pushes out its own.
func TestTheMemoryOfATenantIsBounded(t *testing.T) {
	t.Parallel()
	var p proofs
	p.tenants = map[identity.TenantID]*memory{}
	table := tableOf(t, "orders-api", newTokenKey(t, "k1"))
	m := p.of(table)
	now := time.Unix(1_800_000_000, 0)
	for n := range 3 * maxTokens {
		m.tokens.put(p.proof(table, fmt.Sprint(n)), authz.Token{}, now, now.Add(time.Minute))
	}
	if held := len(m.tokens.young) + len(m.tokens.old); held > 2*maxTokens {
		t.Errorf("%d tokens are remembered", held)
	}
}

func BenchmarkRememberedToken(b *testing.B) {
	now := time.Unix(1_800_000_000, 0)
	k := newTokenKey(b, "k1")
	table := tableOf(b, "orders-api", k)
	token := k.sign(b, map[string]any{
		"iss": "https://idp.acme.example.com", "aud": "orders-api", "tenant": "acme", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	for name, verify := range map[string]func() authz.Token{
		"first":  func() authz.Token { return table.Token(token, now) },
		"before": func(p *proofs) func() authz.Token { return func() authz.Token { return p.verified(table, token, now) } }(&proofs{tenants: map[identity.TenantID]*memory{}}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if verify().Claims().IsZero() {
					b.Fatal("the token does not verify")
				}
			}
		})
	}
}
