package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

// TestMatrix sends every call of the tour, and counts at the backends what arrived: an allowed call once, a refused one
// never, at no backend at all.
func TestMatrix(t *testing.T) {
	m := startMesh(t)
	calls := demo.Matrix()
	if len(calls) < 16 {
		t.Fatalf("the matrix has %d calls", len(calls))
	}
	for i, c := range calls {
		t.Run(fmt.Sprintf("%02d %s to %s", i+1, c.From, c.To), func(t *testing.T) {
			before := hits(m)
			r := do(t, m, c)
			if !r.As(c.Want) {
				t.Errorf("got %d by %s (%s), want %v; %s", r.Status, r.Layer, r.Reason, c.Want, r.Body)
			}
			after := hits(m)
			arrived := after.total - before.total
			switch {
			case c.Want.Status == 200 && arrived != 1:
				t.Errorf("an allowed call reached backends %d times", arrived)
			case c.Want.Status != 200 && arrived != 0:
				t.Errorf("a refused call reached a backend: %v -> %v", before, after)
			}
			if c.Want.Status == 200 {
				checkSeen(t, c, r.Seen)
			}
		})
	}
}

type hitCount struct {
	each  map[string]int64
	total int64
}

func hits(m *demo.Mesh) hitCount {
	h := hitCount{each: map[string]int64{}}
	for name, app := range m.Apps() {
		h.each[name] = app.Hits()
		h.total += app.Hits()
	}
	return h
}

// checkSeen holds what the application was told of its caller against who really called, forged headers or not.
func checkSeen(t testing.TB, c demo.Call, seen demo.Seen) {
	t.Helper()
	tenant, account, _ := strings.Cut(c.From, "/")
	caller := fmt.Sprintf("spiffe://%s.demo.test/ns/%s/sa/%s", tenant, tenant, account)
	if seen.Tenant != tenant || seen.Caller != caller {
		t.Errorf("the application was told of %q, %q; %s called", seen.Tenant, seen.Caller, c.From)
	}
	if wantSubject := !c.Token.IsZero(); (seen.Subject != "") != wantSubject {
		t.Errorf("subject %q with token %s", seen.Subject, c.Token)
	}
}

// TestRefusalsLookAlike: whatever refuses, the caller reads one body and learns no name.
func TestRefusalsLookAlike(t *testing.T) {
	m := startMesh(t)
	bodies := map[string][]string{}
	for _, c := range demo.Matrix() {
		if c.Want.Status != 403 {
			continue
		}
		r := do(t, m, c)
		bodies[string(r.Body)] = append(bodies[string(r.Body)], c.To+c.Path)
		if got := r.Header.Get("content-type"); got != "application/problem+json" {
			t.Errorf("%s: content type %q", c.To, got)
		}
		for name := range r.Header {
			switch name {
			case "Content-Type", "Content-Length", "Date", "Server", "X-Ringfence-Decision":
			default:
				t.Errorf("%s: a refusal carries %s", c.To, name)
			}
		}
	}
	if len(bodies) != 1 {
		t.Errorf("%d different bodies: %v", len(bodies), bodies)
	}
	for body := range bodies {
		for _, word := range []string{"acme", "globex", "orders", "billing", "rule", "grant", "tenant"} {
			if strings.Contains(strings.ToLower(body), word) {
				t.Errorf("the body says %q: %s", word, body)
			}
		}
	}
}
