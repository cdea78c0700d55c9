package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
	"github.com/ringfence-mesh/ringfence/internal/testca"
)

// verdict is what becomes of a call, whichever layer says so: that is a configuration's own.
type verdict string

const (
	passed     verdict = "allowed"   // the application answered
	challenged verdict = "challenge" // 401: a token is missing, or does not verify
	refused    verdict = "refused"   // 403, 400, or no connection
)

// who calls, by its certificate.
type who int

const (
	web           who = iota // acme/web
	orders                   // acme/orders, which no rule names
	other                    // globex/web
	webTwice                 // a certificate of acme/web and acme/orders, in this order
	otherAndWeb              // a certificate of globex/web and acme/web, in this order, from acme's root
	expired                  // acme/web, an hour ago
	fromStranger             // acme/web, by a root that nobody knows
	noCertificate            // nobody
)

// badge is a token in a call; the zero value is none.
type badge struct {
	demo.Token

	text   string // in place of a token
	forged bool   // signed by a key that is not the issuer's
}

// doorCall is a call to acme's orders and its verdict.
type doorCall struct {
	name         string
	caller       who
	method, path string
	token        badge
	header       [2]string // one more, if it has a name
	want         verdict
}

// doorCalls is the one table for the sidecars and for every ready configuration of examples/: the same caller, destination and
// token have the same verdict, whatever Envoy asks.
func doorCalls() []doorCall {
	by := func(roles ...string) badge { return badge{Token: demo.Token{Issuer: "acme", Roles: roles}} }
	but := func(change func(*badge)) badge {
		b := by("clerk")
		change(&b)
		return b
	}
	clerk, manager := by("clerk"), by("manager")
	plain := [2]string{}
	return []doorCall{
		{"a clerk reads", web, "GET", "/orders/7", clerk, plain, passed},
		{"a manager reads", web, "GET", "/orders?page=2", manager, plain, passed},
		{"a manager orders", web, "POST", "/orders", manager, plain, passed},
		{"a clerk may not order", web, "POST", "/orders", clerk, plain, refused},
		{"no rule for the method", web, "DELETE", "/orders/7", manager, plain, refused},
		{"no rule for the path", web, "GET", "/orders/7/lines", manager, plain, refused},
		{"a path that climbs", web, "GET", "/orders/../admin", manager, plain, refused},
		{"a path of two readings", web, "GET", "/orders/%2e%2e%2fadmin", manager, plain, refused},
		{"no role", web, "GET", "/orders/7", by(), plain, refused},

		{"no token", web, "GET", "/orders/7", badge{}, plain, challenged},
		{"a password", web, "GET", "/orders/7", badge{}, [2]string{"authorization", "Basic YTpi"}, challenged},
		{"a token that is none", web, "GET", "/orders/7", badge{text: "not.a.token"}, plain, challenged},
		{"an expired token", web, "GET", "/orders/7", but(func(b *badge) { b.Age = time.Hour }), plain, challenged},
		{"a token for another audience", web, "GET", "/orders/7", but(func(b *badge) { b.Audience = "billing-api" }), plain, challenged},
		{"a token that the issuer did not sign", web, "GET", "/orders/7", but(func(b *badge) { b.forged = true }), plain, challenged},
		{"a token that speaks of another tenant", web, "GET", "/orders/7", but(func(b *badge) { b.Tenant = "globex" }), plain, refused},
		{"another tenant's token", web, "GET", "/orders/7", but(func(b *badge) { b.Issuer = "globex" }), plain, refused},
		{"a token of an unknown issuer", web, "GET", "/orders/7", but(func(b *badge) { b.Issuer, b.Tenant, b.forged = "evil", "acme", true }), plain, refused},

		{"forged headers", web, "POST", "/orders", clerk, [2]string{"x-ringfence-subject", "root"}, refused},
		{"forged headers, and no token", web, "GET", "/orders/7", badge{}, [2]string{"x-ringfence-tenant", "acme"}, challenged},

		{"another account of the tenant", orders, "GET", "/orders/7", clerk, plain, refused},
		{"another tenant", other, "GET", "/orders/7", clerk, plain, refused},
		{"another tenant that says it is web", other, "GET", "/orders/7", clerk, [2]string{"x-forwarded-client-cert", "URI=" + acmeWeb}, refused},
		{"two identities, the caller's first", webTwice, "GET", "/orders/7", clerk, plain, refused},
		{"two identities, another tenant's first", otherAndWeb, "GET", "/orders/7", clerk, plain, refused},
		{"an expired certificate", expired, "GET", "/orders/7", clerk, plain, refused},
		{"a certificate of an unknown root", fromStranger, "GET", "/orders/7", clerk, plain, refused},
		{"no certificate", noCertificate, "GET", "/orders/7", clerk, plain, refused},
	}
}

// sealedBy writes the token down, signed with the key.
func (b badge) sealedBy(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	if b.text != "" || b.IsZero() {
		return b.text
	}
	if b.forged {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	or := func(s, standard string) string {
		if s == "" {
			return standard
		}
		return s
	}
	return signFor(t, key, or(b.Audience, "orders-api"), "https://idp."+b.Issuer+".example.com", or(b.Tenant, b.Issuer), time.Now().Add(-b.Age), b.Roles...)
}

// certificate is the caller's, under the names that a mesh gives; nil: none.
func (w who) certificate(t *testing.T, acme, globex *testca.CA, webID, ordersID, otherID string) *tls.Certificate {
	t.Helper()
	var svid *testca.SVID
	switch w {
	case web:
		svid = acme.SVID(webID)
	case orders:
		svid = acme.SVID(ordersID)
	case other:
		svid = globex.SVID(otherID)
	case webTwice:
		svid = acme.SVID("", testca.RawURIs(webID, ordersID))
	case otherAndWeb:
		svid = acme.SVID("", testca.RawURIs(otherID, webID))
	case expired:
		svid = acme.SVID(webID, testca.ValidFor(-2*time.Hour, -time.Hour))
	case fromStranger:
		svid = testca.Constrained(t, acme.Cert.PermittedURIDomains[0]).SVID(webID)
	case noCertificate:
		return nil
	}
	c := svid.TLS()
	return &c
}

// judged is the verdict that an answer amounts to; status 0 is no connection.
func judged(t *testing.T, status int, reached int64) verdict {
	t.Helper()
	switch {
	case status == http.StatusOK && reached == 1:
		return passed
	case reached != 0:
		t.Errorf("the application was reached %d times by a call that got %d", reached, status)
	case status == http.StatusUnauthorized:
		return challenged
	case status == 0, status == http.StatusForbidden, status == http.StatusBadRequest:
		return refused
	}
	return verdict(http.StatusText(status))
}

// door is a way to acme's orders.
type door struct {
	name string
	call func(t *testing.T, c doorCall) verdict
	// cannot says why a call of that name cannot be made here, or would be another call.
	cannot map[string]string
}

// fewest is how many calls of the table each door takes at least.
const fewest = 8

// TestDoors sends the calls of the one table through a real sidecar, and then through each ready configuration's own Envoy.
func TestDoors(t *testing.T) {
	sidecar := sidecarDoor(t)
	verdicts := map[string]verdict{}
	for _, c := range doorCalls() {
		if verdicts[c.name] = sidecar.call(t, c); verdicts[c.name] != c.want {
			t.Errorf("the sidecar: %s: %s, want %s", c.name, verdicts[c.name], c.want)
		}
	}
	for _, open := range []func(*testing.T) door{staticDoor, foreignDoor(istio()), foreignDoor(envoyGateway()), ingressDoor} {
		d := open(t)
		t.Run(d.name, func(t *testing.T) {
			made, unmade := 0, 0
			for _, c := range doorCalls() {
				if why := d.cannot[c.name]; why != "" {
					unmade++
					t.Logf("%s: not here: %s", c.name, why)
					continue
				}
				made++
				if got := d.call(t, c); got != verdicts[c.name] {
					t.Errorf("%s: %s, but the sidecar says %s", c.name, got, verdicts[c.name])
				}
			}
			if made < fewest || unmade != len(d.cannot) {
				t.Errorf("%d calls, not %d; %d reasons for %d that are not made", made, fewest, len(d.cannot), unmade)
			}
		})
	}
}

// sidecarDoor is the sidecar of acme's orders, in the mesh of examples/two-tenants.
func sidecarDoor(t *testing.T) door {
	t.Helper()
	m := startMesh(t)
	acme, globex := stolenRoot(t, m, "acme.demo.test"), stolenRoot(t, m, "globex.demo.test")
	return door{name: "sidecar", call: func(t *testing.T, c doorCall) verdict {
		t.Helper()
		raw := demo.Raw{SNI: "acme/web", Anonymous: c.caller == noCertificate}
		if !raw.Anonymous {
			raw.Certificate = c.caller.certificate(t, acme, globex, acmeWeb, acmeOrders, globexWeb)
		}
		call := demo.Call{From: "acme/web", To: "acme/orders", Raw: &raw, Method: c.method, Path: c.path, Header: http.Header{}}
		switch {
		case c.token.text != "" || c.token.forged:
			call.Header.Set("authorization", "Bearer "+c.token.sealedBy(t, nil))
		default:
			call.Token = c.token.Token
		}
		if c.header[0] != "" {
			call.Header.Set(c.header[0], c.header[1])
		}
		before := hits(m).total
		r := do(t, m, call)
		return judged(t, r.Status, hits(m).total-before)
	}}
}

func staticDoor(t *testing.T) door {
	t.Helper()
	return startStatic(t).door("envoy-static", acmeWeb, acmeOrders, globexWeb, nil)
}

func foreignDoor(f foreign) func(*testing.T) door {
	return func(t *testing.T) door {
		t.Helper()
		return f.start(t).door(f.name, f.web, f.orders, f.other, f.cannot)
	}
}

func (s *static) door(name, webID, ordersID, otherID string, cannot map[string]string) door {
	return door{name: name, cannot: cannot, call: func(t *testing.T, c doorCall) verdict {
		t.Helper()
		s.header = c.header
		before := s.hits.Load()
		status, _ := s.call(t, c.caller.certificate(t, s.acme, s.globex, webID, ordersID, otherID), c.method, c.path, c.token.sealedBy(t, s.key))
		s.header = [2]string{}
		return judged(t, status, s.hits.Load()-before)
	}}
}

// ingressDoor offers web's certificate, which is not asked for: the token is all that counts, and the rules of examples/ingress
// say of its roles what the others' say of web's.
func ingressDoor(t *testing.T) door {
	t.Helper()
	i := startIngress(t)
	acme := testca.Constrained(t, "acme.demo.test")
	const why = "no certificate is asked for: who calls is whom the token names"
	d := door{name: "ingress", cannot: map[string]string{}, call: func(t *testing.T, c doorCall) verdict {
		t.Helper()
		call := edgeCall{method: c.method, path: c.path, header: http.Header{}, token: c.token.sealedBy(t, i.acme)}
		call.cert = c.caller.certificate(t, acme, acme, acmeWeb, acmeOrders, globexWeb)
		if c.header[0] != "" {
			call.header.Set(c.header[0], c.header[1])
		}
		before := i.acmeHits.Load() + i.globexes.Load()
		got := i.do(t, call)
		return judged(t, got.status, i.acmeHits.Load()+i.globexes.Load()-before)
	}}
	for _, c := range doorCalls() {
		if c.caller != web {
			d.cannot[c.name] = why
		}
	}
	return d
}
