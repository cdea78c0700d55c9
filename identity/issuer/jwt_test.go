package issuer_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
)

func jwt(t testing.TB, i *issuer.Issuer, leaf []byte, at time.Time, audience ...string) (issuer.JWTSVID, error) {
	t.Helper()
	return i.JWT(audience, leaf, mapping(t), everyone(t), at)
}

func jwtKeys(t testing.TB, i *issuer.Issuer, of string, at time.Time) issuer.JWTKeySet {
	t.Helper()
	set, err := i.JWTKeys(workload(t, of).Tenant(), at)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// verifier believes the JWT-SVIDs of a workload's tenant that these keys verify.
func verifier(t testing.TB, of string, jwks []byte, audience string) identity.TokenVerifier {
	t.Helper()
	by, err := identity.NewTokenIssuer(identity.TokenIssuerConfig{
		Name: "svids", Format: identity.FormatSVID, Audiences: []string{audience}, Tenants: []identity.TenantID{workload(t, of).Tenant()},
		Mapping: mapping(t), MaxLifetime: identity.MaxJWTSVIDLife, JWKS: jwks,
	})
	if err != nil {
		t.Fatal(err)
	}
	return identity.NewTokenVerifier(by)
}

// part is the header (0) or the payload (1) of a token.
func part(t testing.TB, token string, n int) map[string]any {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAJWTSVIDSaysThisAndNothingElse(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	svid := joined(t, i, p256(t), acmeWeb)
	at := now.Add(300 * time.Millisecond)
	given, err := jwt(t, i, svid.Chain[0], at, "orders", "<b>&")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"sub": acmeWeb, "aud": []any{"orders", "<b>&"}, "iat": float64(now.Unix()), "exp": float64(now.Add(5 * time.Minute).Unix()),
	}
	if diff := cmp.Diff(want, part(t, given.Token, 1)); diff != "" || !given.NotAfter.Equal(now.Add(5*time.Minute)) {
		t.Errorf("until %s, claims (-want +got):\n%s", given.NotAfter, diff)
	}
	header := part(t, given.Token, 0)
	if header["alg"] != "ES256" || header["typ"] != "JWT" || len(header["kid"].(string)) != 43 || len(header) != 3 {
		t.Errorf("header %v", header)
	}
	set := jwtKeys(t, i, acmeWeb, at)
	var published struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(set.JWKS, &published); err != nil || len(published.Keys) != 1 {
		t.Fatalf("%s, %v", set.JWKS, err)
	}
	if k := published.Keys[0]; k["use"] != "jwt-svid" || k["kid"] != header["kid"] || k["alg"] != "ES256" || len(k) != 7 {
		t.Errorf("published %v", k)
	}
	claims, err := verifier(t, acmeWeb, set.JWKS, "orders").Verify(given.Token, at)
	if err != nil || claims.Subject() != acmeWeb {
		t.Errorf("%q, %v", claims.Subject(), err)
	}
	if _, err := verifier(t, globexWeb, jwtKeys(t, i, globexWeb, at).JWKS, "orders").Verify(given.Token, at); err == nil {
		t.Error("it is good for another tenant")
	}
	last := svid.NotAfter.Add(-90 * time.Second)
	if given, err = jwt(t, i, svid.Chain[0], last, "orders"); err != nil || !given.NotAfter.Equal(svid.NotAfter) {
		t.Errorf("it ends %s, the SVID %s, %v", given.NotAfter, svid.NotAfter, err)
	}
}

// The longest token that can be asked for is one that verifiers read.
func TestTheLongestJWTSVIDCanBeVerified(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	name := strings.Repeat("n", 63)
	id := "spiffe://acme.demo.test/ns/" + name + "/sa/" + name
	svid := joined(t, i, p256(t), id)
	for _, longest := range []string{`"`, "<", "a"} { // what JSON writes with two bytes, with six where it need not, and with one
		var audience []string
		for n := range 6 {
			audience = append(audience, strings.Repeat(longest, 254)+string(rune('a'+n)))
		}
		given, err := jwt(t, i, svid.Chain[0], now, audience...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier(t, id, jwtKeys(t, i, id, now).JWKS, audience[3]).Verify(given.Token, now); err != nil {
			t.Errorf("%d bytes: %v", len(given.Token), err)
		}
	}
}

func TestJWTRefuses(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	foreign, _ := inMemory(t)
	good := joined(t, i, p256(t), acmeWeb)
	nobody := func(string) (identity.WorkloadID, bool) { return identity.WorkloadID{}, false }
	another := func(string) (identity.WorkloadID, bool) { return workload(t, acmeOrders), true }
	own := []string{"orders"}
	for name, c := range map[string]struct {
		leaf     []byte
		audience []string
		named    issuer.Named
		at       time.Time
		want     error
	}{
		"good":                     {good.Chain[0], own, everyone(t), now, nil},
		"no certificate":           {nil, own, everyone(t), now, issuer.ErrNoJWT},
		"of another issuer":        {joined(t, foreign, p256(t), acmeWeb).Chain[0], own, everyone(t), now, issuer.ErrNoJWT},
		"not named any more":       {good.Chain[0], own, nobody, now, issuer.ErrNoJWT},
		"another is named":         {good.Chain[0], own, another, now, issuer.ErrNoJWT},
		"expired":                  {good.Chain[0], own, everyone(t), good.NotAfter, issuer.ErrNoJWT},
		"of the platform":          {joined(t, i, p256(t), "spiffe://platform.demo.test/ns/platform/sa/billing").Chain[0], own, everyone(t), now, issuer.ErrNoJWT},
		"no audience":              {good.Chain[0], nil, everyone(t), now, issuer.ErrAudience},
		"an empty audience":        {good.Chain[0], []string{""}, everyone(t), now, issuer.ErrAudience},
		"an audience with a space": {good.Chain[0], []string{"a b"}, everyone(t), now, issuer.ErrAudience},
		"10,000 audiences":         {good.Chain[0], strings.Split(strings.Repeat("a ", 10_000)+"a", " "), everyone(t), now, issuer.ErrAudience},
		"17 audiences":             {good.Chain[0], strings.Split(strings.Repeat("a ", 16)+"a", " "), everyone(t), now, issuer.ErrAudience},
		"a huge audience":          {good.Chain[0], []string{strings.Repeat("a", 256)}, everyone(t), now, issuer.ErrAudience},
		"huge together":            {good.Chain[0], slices.Repeat([]string{strings.Repeat("a", 255)}, 7), everyone(t), now, issuer.ErrAudience},
	} {
		given, err := i.JWT(c.audience, c.leaf, mapping(t), c.named, c.at)
		if !errors.Is(err, c.want) || (given.Token != "") != (c.want == nil) {
			t.Errorf("%s: %q, %v", name, given.Token, err)
		}
	}
	if _, err := foreign.JWTKeys(workload(t, "spiffe://platform.demo.test/ns/platform/sa/billing").Tenant(), now); !errors.Is(err, issuer.ErrNoJWT) {
		t.Errorf("keys of the platform: %v", err)
	}
	if _, err := foreign.JWTKeys(identity.TenantID{}, now); err == nil {
		t.Error("keys of nobody")
	}
	if _, err := foreign.JWTKeys(workload(t, "spiffe://initech.demo.test/ns/initech/sa/web").Tenant(), now); err == nil {
		t.Error("keys of a trust domain without a root")
	}
}

// What one workload and one tenant ask for is bounded, and leaves renewals and others alone.
func TestJWTLimits(t *testing.T) {
	t.Parallel()
	i, _ := inMemory(t)
	svid, other := joined(t, i, p256(t), acmeWeb), joined(t, i, p256(t), acmeOrders)
	given := 0
	for ; given < 1000; given++ {
		if _, err := jwt(t, i, svid.Chain[0], now, "orders"); errors.Is(err, issuer.ErrLimited) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if given != 50 {
		t.Errorf("%d at once", given)
	}
	if _, err := jwt(t, i, other.Chain[0], now, "orders"); err != nil {
		t.Errorf("another workload: %v", err)
	}
	if _, err := renew(t, i, request(t, p256(t), []string{acmeWeb}), svid.Chain[0], now); err != nil {
		t.Errorf("a renewal: %v", err)
	}
	if _, err := jwt(t, i, svid.Chain[0], now.Add(time.Second), "orders"); err != nil {
		t.Errorf("a second later: %v", err)
	}
	for n := range 12 {
		one := joined(t, i, p256(t), fmt.Sprintf("spiffe://acme.demo.test/ns/acme/sa/w%d", n))
		for range 50 {
			if _, err := jwt(t, i, one.Chain[0], now, "orders"); errors.Is(err, issuer.ErrLimited) {
				given = -1
			}
		}
	}
	if given != -1 {
		t.Error("a tenant is not bounded")
	}
	if _, err := jwt(t, i, joined(t, i, p256(t), globexWeb).Chain[0], now, "orders"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// For four days, across restarts: whoever has the keys as they were three hours ago verifies a new token, and whoever has those
// of now verifies every token that lives, its leeway included. No key id comes back, and no more than three keys are there.
func TestJWTKeysReplaceEachOther(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	options := issuer.Options{TTL: issuer.MaxTTL, Unlimited: true}
	i, err := issuer.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = i.Close() }()
	if _, err := i.Bundles(now, domains("acme.demo.test", "globex.demo.test")...); err != nil {
		t.Fatal(err)
	}
	svid := joined(t, i, p256(t), acmeWeb)
	const lead = 3 * time.Hour
	type sample struct {
		at    time.Time
		token string
		jwks  []byte
	}
	var (
		samples []sample
		signed  []string // key ids, in the order in which they signed first
	)
	const step = 150 * time.Second
	for at := now; at.Before(now.Add(4 * 24 * time.Hour)); at = at.Add(step) {
		set := jwtKeys(t, i, acmeWeb, at)
		given, err := jwt(t, i, svid.Chain[0], at, "orders")
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, sample{at, given.Token, set.JWKS})
		id := part(t, given.Token, 0)["kid"].(string)
		if len(signed) == 0 || signed[len(signed)-1] != id {
			if slices.Contains(signed, id) {
				t.Fatalf("key %s signs again", id)
			}
			signed = append(signed, id)
		}
		if n := strings.Count(string(set.JWKS), `"kid"`); n > 3 {
			t.Fatalf("%d keys at %s", n, at)
		}
		v := verifier(t, acmeWeb, set.JWKS, "orders")
		for _, s := range slices.Backward(samples) {
			age := at.Sub(s.at)
			if age >= identity.MaxJWTSVIDLife+time.Minute {
				break
			}
			if !strings.Contains(string(set.JWKS), part(t, s.token, 0)["kid"].(string)) {
				t.Fatalf("at %s the key of %s is withdrawn", at, s.at)
			}
			if _, err := v.Verify(s.token, at); err != nil && age < identity.MaxJWTSVIDLife {
				t.Fatalf("at %s, of %s: %v", at, s.at, err)
			}
		}
		if before := len(samples) - 1 - int(lead/step); before >= 0 {
			if _, err := verifier(t, acmeWeb, samples[before].jwks, "orders").Verify(given.Token, at); err != nil {
				t.Fatalf("with the keys of %s, at %s: %v", samples[before].at, at, err)
			}
		}
		if len(samples)%500 == 0 {
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			if i, err = issuer.Open(dir, options); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Bundles(at, domains("acme.demo.test", "globex.demo.test")...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(signed) != 4 {
		t.Errorf("%d keys have signed in four days", len(signed))
	}
	files, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "jwt.acme-*.pem"))
	if err != nil || len(files) > 3 || len(files) == 0 {
		t.Errorf("keys on the disk: %v, %v", files, err)
	}
	if roots, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "key-*.pem")); err != nil || len(roots) != 1 {
		t.Errorf("root keys on the disk: %v, %v", roots, err)
	}
}

// A control plane that was away signs on with the key that verifiers know, until they can know the next one. A clock that was set
// far ahead, and back again, leaves no key that never comes to sign.
func TestJWTKeysAfterATimeAway(t *testing.T) {
	t.Parallel()
	i, err := issuer.OpenMemory(issuer.Options{TTL: issuer.MaxTTL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
		t.Fatal(err)
	}
	svid := joined(t, i, p256(t), acmeWeb)
	signer := func(at time.Time) string {
		t.Helper()
		given, err := jwt(t, i, svid.Chain[0], at, "orders")
		if err != nil {
			t.Fatal(err)
		}
		return part(t, given.Token, 0)["kid"].(string)
	}
	first := jwtKeys(t, i, acmeWeb, now)
	late := now.Add(10 * 24 * time.Hour)
	set := jwtKeys(t, i, acmeWeb, late)
	if n := strings.Count(string(set.JWKS), `"kid"`); n != 2 || !strings.Contains(string(set.JWKS), kidOf(first)) {
		t.Errorf("%d keys: %s", n, set.JWKS)
	}
	select {
	case <-first.Changed:
	default:
		t.Error("nobody was told")
	}
	for after, old := range map[time.Duration]bool{0: true, 3*time.Hour - time.Second: true, 3 * time.Hour: false} {
		if (signer(late.Add(after)) == kidOf(first)) != old {
			t.Errorf("after %s the old key signs: %v", after, !old)
		}
	}
	given, err := jwt(t, i, svid.Chain[0], now, "orders")
	if err != nil {
		t.Fatal(err)
	}
	back := jwtKeys(t, i, acmeWeb, now)
	if _, err := verifier(t, acmeWeb, back.JWKS, "orders").Verify(given.Token, now); err != nil {
		t.Errorf("after the clock went back: %v", err)
	}
	if back.Until.After(now.Add(24 * time.Hour)) {
		t.Errorf("looked at again only at %s", back.Until)
	}
}

// kidOf is the id of the first key.
func kidOf(set issuer.JWTKeySet) string {
	_, rest, _ := strings.Cut(string(set.JWKS), `"kid":"`)
	kid, _, _ := strings.Cut(rest, `"`)
	return kid
}

// Withdrawn keys verify nothing any more, at once and after a restart, and the other tenant's go on.
func TestWithdrawnJWTKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	svid, foreign := joined(t, i, p256(t), acmeWeb), joined(t, i, p256(t), globexWeb)
	before, err := jwt(t, i, svid.Chain[0], now, "orders")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := jwt(t, i, foreign.Chain[0], now, "orders")
	if err != nil {
		t.Fatal(err)
	}
	old := jwtKeys(t, i, acmeWeb, now)
	// One is published that has not signed yet: it may be stolen all the same.
	next := jwtKeys(t, i, acmeWeb, now.Add(22*time.Hour))
	at := now.Add(time.Second)
	if err := i.WithdrawJWTKeys(workload(t, acmeWeb).Tenant(), at); err != nil {
		t.Fatal(err)
	}
	for _, told := range []issuer.JWTKeySet{old, next} {
		select {
		case <-told.Changed:
		default:
			t.Error("nobody was told")
		}
	}
	check := func(i *issuer.Issuer) {
		t.Helper()
		set := jwtKeys(t, i, acmeWeb, at)
		if n := strings.Count(string(set.JWKS), `"kid"`); n != 1 || strings.Contains(string(next.JWKS), kidOf(set)) {
			t.Errorf("%d keys after %s: %s", n, next.JWKS, set.JWKS)
		}
		v := verifier(t, acmeWeb, set.JWKS, "orders")
		if _, err := v.Verify(before.Token, at); !errors.Is(err, identity.ErrTokenInvalid) {
			t.Errorf("a token of the withdrawn key: %v", err)
		}
		given, err := jwt(t, i, svid.Chain[0], at, "orders")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(given.Token, at); err != nil {
			t.Error(err)
		}
		if _, err := verifier(t, globexWeb, jwtKeys(t, i, globexWeb, at).JWKS, "orders").Verify(theirs.Token, at); err != nil {
			t.Errorf("the other tenant's: %v", err)
		}
		if files, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "jwt.acme-*.pem")); err != nil || len(files) != 1 {
			t.Errorf("keys on the disk: %v, %v", files, err)
		}
	}
	check(i)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, dir))
}

// What lies on the disk is the keys or nothing; it can be withdrawn, or removed, and both begin anew.
func TestDamagedJWTKeys(t *testing.T) {
	t.Parallel()
	acme := workload(t, acmeWeb).Tenant()
	for name, spoil := range map[string]func(dir string){
		"no JSON":         func(dir string) { write(t, filepath.Join(dir, "jwt.acme.json"), []byte("{")) },
		"another version": func(dir string) { edit(t, filepath.Join(dir, "jwt.acme.json"), `"version": 1`, `"version": 2`) },
		"more members": func(dir string) {
			edit(t, filepath.Join(dir, "jwt.acme.json"), `"version": 1`, `"version": 1, "more": 1`)
		},
		"a key elsewhere": func(dir string) { edit(t, filepath.Join(dir, "jwt.acme.json"), `file:acme`, `pkcs11:acme`) },
		"a way out": func(dir string) {
			edit(t, filepath.Join(dir, "jwt.acme.json"), `file:acme.demo.test/`, `file:../../`)
		},
		"no key": func(dir string) {
			found, err := filepath.Glob(filepath.Join(dir, "jwt.acme-*.pem"))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			if err := os.Remove(found[0]); err != nil {
				t.Fatal(err)
			}
		},
		"out of order": func(dir string) {
			path := filepath.Join(dir, "jwt.acme.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			one := string(text[strings.Index(string(text), "[")+1 : strings.LastIndex(string(text), "]")])
			earlier := strings.Replace(one, "2026", "2025", 1)
			write(t, path, []byte(strings.Replace(string(text), one, one+","+earlier, 1)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			i := open(t, dir)
			before := kidOf(jwtKeys(t, i, acmeWeb, now))
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			spoil(filepath.Join(dir, "ca", "acme.demo.test"))
			i = open(t, dir)
			if _, err := i.JWTKeys(acme, now); err == nil || !strings.Contains(err.Error(), "acme") {
				t.Fatalf("read: %v", err)
			}
			jwtKeys(t, i, globexWeb, now)
			if err := i.WithdrawJWTKeys(acme, now); err != nil {
				t.Fatal(err)
			}
			if kidOf(jwtKeys(t, i, acmeWeb, now)) == before {
				t.Error("the key is still there")
			}
		})
	}
}

// Tenants that share a trust domain share no key.
func TestTenantsOfOneTrustDomainHaveKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	m, err := identity.NewMapping(identity.MustTrustDomain("platform.demo.test"), []identity.MappingRule{
		{TrustDomain: "acme.demo.test", Path: "/{tenant}/{serviceAccount}"},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	i := open(t, dir)
	kids := map[string]bool{}
	for _, name := range []string{"a", "a-b", "a-12345678"} { // none is swept away with another's
		id, err := m.TenantID(name)
		if err != nil {
			t.Fatal(err)
		}
		set, err := i.JWTKeys(id, now)
		if err != nil {
			t.Fatal(err)
		}
		kids[kidOf(set)] = true
	}
	if id, err := m.TenantID("a"); err != nil || i.WithdrawJWTKeys(id, now) != nil {
		t.Fatal("nothing is withdrawn", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "jwt.a*-*.pem"))
	if err != nil || len(files) != 3 || len(kids) != 3 {
		t.Errorf("%v, %v, %v", kids, files, err)
	}
}

func TestJWTKeysAreSealed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	seal, err := issuer.ParseSealingKey([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))))
	if err != nil {
		t.Fatal(err)
	}
	i, err := issuer.Open(dir, issuer.Options{Seal: seal})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close() //nolint:errcheck // the test is over
	if _, err := i.Bundles(now, domains("acme.demo.test")...); err != nil {
		t.Fatal(err)
	}
	jwtKeys(t, i, acmeWeb, now)
	found, err := filepath.Glob(filepath.Join(dir, "ca", "acme.demo.test", "jwt.acme-*.pem"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil || !strings.Contains(string(text), "SEALED") {
		t.Errorf("%.40s, %v", text, err)
	}
}

func TestJWTKeyLife(t *testing.T) {
	t.Parallel()
	for life, ok := range map[time.Duration]bool{0: true, time.Hour: true, time.Minute: false, -time.Hour: false} {
		if _, err := issuer.OpenMemory(issuer.Options{JWTKeyLife: life}); (err == nil) != ok {
			t.Errorf("%s: %v", life, err)
		}
	}
}
