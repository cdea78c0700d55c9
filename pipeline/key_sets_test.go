package pipeline_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/pipeline"
	"github.com/ringfence-mesh/ringfence/tenancy/tenancytest"
)

// published are key sets in memory.
type published struct {
	mu       sync.Mutex
	sets     map[string]identity.KeySet
	followed map[string]string
	changed  chan struct{}
}

var _ pipeline.KeySets = (*published)(nil)

func newPublished() *published {
	return &published{sets: map[string]identity.KeySet{}, changed: make(chan struct{}, 1)}
}

func (p *published) Follow(uris map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.followed = maps.Clone(uris)
}

func (p *published) KeySet(uri string) (identity.KeySet, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sets[uri]
	return s, ok
}

func (p *published) Changed() <-chan struct{} { return p.changed }

func (p *published) follows() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.followed
}

func (p *published) publish(uri string, set identity.KeySet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sets[uri] = set
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func newKeySet(t testing.TB, use string) identity.KeySet {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: "k", Use: use}}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := identity.ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const acmeKeys = "https://idp.acme.example.com/jwks"

// withKeySets is the example, whose acme-idp publishes its keys.
func withKeySets(t testing.TB) (mesh, *published, events) {
	t.Helper()
	s, keys, e := newShelf(tenancytest.TwoTenantsFiles(t)), newPublished(), newEvents()
	s.edit(t, "platform/token-issuers.yaml", "{file: acme-jwks.json}", "{uri: \""+acmeKeys+"\"}")
	p := pipeline.New(pipeline.Config{Source: s, Bundles: bundles(t), Recorder: e, KeySets: keys})
	return mesh{Pipeline: p, t: t, shelf: s}, keys, e
}

func TestPublishedKeysChangeTheirTenantsOnly(t *testing.T) {
	t.Parallel()
	m, keys, _ := withKeySets(t)
	// Before the first fetch everything is served, and no token of that issuer is believed.
	e := m.Reload(t.Context())
	if !e.Published || len(e.Problems) > 0 {
		t.Fatalf("not published: %v", e.Problems)
	}
	if diff := cmp.Diff(map[string]string{"acme-idp": acmeKeys}, keys.follows()); diff != "" {
		t.Error(diff)
	}
	before := m.everything()
	for step, set := range map[string]identity.KeySet{"fetched": newKeySet(t, "sig"), "withdrawn": {}, "of another purpose": newKeySet(t, "jwt-svid")} {
		keys.publish(acmeKeys, set)
		if e = m.Reload(t.Context()); len(e.Problems) > 0 || e.Err != nil || e.Counterexample != nil {
			t.Fatalf("%s: %v %v", step, e.Problems, e.Err)
		}
		after := m.everything()
		// acme/orders reads acme's tokens, and so does the shared service that acme may call.
		if same := after["acme/orders"] == before["acme/orders"]; same != (step != "fetched") {
			t.Errorf("%s: acme's table is the one without keys: %v", step, same)
		}
		for _, other := range []string{"globex/web", "globex/orders", "acme/web"} {
			if after[other] != before[other] {
				t.Errorf("%s: %s gets something else", step, other)
			}
		}
	}
	// A broken document of the platform keeps no key alive.
	m.shelf.edit(t, "platform/tenants.yaml", "kind: Tenant", "kind: Tenantt")
	keys.publish(acmeKeys, newKeySet(t, "sig"))
	if e = m.Reload(t.Context()); !e.Published || len(e.Problems) == 0 || m.everything()["acme/orders"] == before["acme/orders"] {
		t.Errorf("published %v, problems %v", e.Published, e.Problems)
	}
	if diff := cmp.Diff(map[string]string{"acme-idp": acmeKeys}, keys.follows()); diff != "" {
		t.Error(diff)
	}
}

func TestANoticeOfKeysIsFollowed(t *testing.T) {
	t.Parallel()
	m, keys, e := withKeySets(t)
	done := make(chan struct{})
	ctx := t.Context()
	go func() { defer close(done); m.Run(ctx) }()
	t.Cleanup(func() { <-done })
	next := func() pipeline.Event {
		select {
		case ev := <-e.all:
			return ev
		case <-time.After(20 * time.Second):
			t.Fatal("nothing happens")
			return pipeline.Event{}
		}
	}
	for first := next(); !first.Published; first = next() {
	}
	keys.publish(acmeKeys, newKeySet(t, "sig"))
	for ev := next(); ev.Generation.Number() < 2; ev = next() {
	}
}
