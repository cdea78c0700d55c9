package jwks_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/jwks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

func key(t testing.TB, kid string) jose.JSONWebKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: k.Public(), KeyID: kid, Use: "sig", Algorithm: "ES256"}
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func parse(t testing.TB, text []byte) identity.KeySet {
	t.Helper()
	set, err := identity.ParseKeySet(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// idp is an HTTPS server whose behaviour a test changes.
type idp struct {
	*httptest.Server
	hits   atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func serve(t testing.TB, h http.HandlerFunc) *idp {
	t.Helper()
	p := &idp{}
	p.answer.Store(&h)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.hits.Add(1)
		(*p.answer.Load())(w, r)
	}))
	p.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	p.StartTLS()
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

func (p *idp) does(h http.HandlerFunc) { p.answer.Store(&h) }

func (p *idp) publishes(text []byte) {
	p.does(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
}

func publishing(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }
}

func roots(servers ...*idp) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, s := range servers {
		pool.AddCert(s.Certificate())
	}
	return pool
}

// fetcher is one that is quick, and runs until the test ends.
type fetcher struct {
	*jwks.Fetcher
	logs *observer.ObservedLogs
	stop func()
}

func run(t testing.TB, c jwks.Config) *fetcher {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	c.Log = zap.New(core)
	if c.Allow == nil {
		c.Allow = loopback
	}
	if c.Refresh == 0 {
		c.Refresh = 20 * time.Millisecond
	}
	if c.Pause == 0 {
		c.Pause = time.Millisecond
	}
	f := &fetcher{Fetcher: jwks.New(c), logs: logs}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(f.stop)
	return f
}

// has waits until the set of that URI is the one that is wanted; zero: none.
func (f *fetcher) has(t testing.TB, uri string, want identity.KeySet) {
	t.Helper()
	deadline := time.After(patience)
	for {
		if got, _ := f.KeySet(uri); got == want {
			return
		}
		select {
		case <-f.Changed():
		case <-deadline:
			t.Fatalf("the set of %s is not the wanted one; %v", uri, f.logs.All())
		}
	}
}

// fails waits for so many further failures of a URI, and gives the last one's reason.
func (f *fetcher) fails(t testing.TB, uri string, n int) string {
	t.Helper()
	failed := func() (reasons []string) {
		for _, e := range f.logs.FilterMessage("key set cannot be fetched").FilterField(zap.String("uri", uri)).All() {
			reasons = append(reasons, fmt.Sprint(e.ContextMap()["reason"]))
		}
		return reasons
	}
	before := len(failed())
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if all := failed(); len(all) >= before+n {
			return all[len(all)-1]
		}
	}
	t.Fatalf("no failure of %s", uri)
	return ""
}

func TestFetch(t *testing.T) {
	t.Parallel()
	first, second := keySet(t, key(t, "k1")), keySet(t, key(t, "k1"), key(t, "k2"))
	var headers atomic.Pointer[http.Request]
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		headers.Store(r)
		w.Header().Set("Set-Cookie", "c=v")
		_, _ = w.Write(first)
	})
	f := run(t, jwks.Config{Roots: roots(p)})
	if _, ok := f.KeySet(p.URL); ok {
		t.Error("a set that nobody asked for")
	}
	f.Follow(map[string]string{"acme-idp": p.URL + "/jwks?x=1"})
	f.has(t, p.URL+"/jwks?x=1", parse(t, first))
	p.publishes(second)
	f.has(t, p.URL+"/jwks?x=1", parse(t, second))
	r := headers.Load()
	if r.URL.RawQuery != "x=1" || r.Header.Get("Accept-Encoding") != "" || len(r.Cookies()) > 0 || r.ProtoMajor != 1 {
		t.Errorf("asked as %v %v", r.URL, r.Header)
	}
	p.publishes(first)
	f.Follow(map[string]string{"acme-idp": p.URL + "/other"})
	if _, ok := f.KeySet(p.URL + "/jwks?x=1"); ok {
		t.Error("a set that nobody wants any more is known")
	}
	f.has(t, p.URL+"/other", parse(t, first))
	f.Follow(nil)
	if _, ok := f.KeySet(p.URL + "/other"); ok {
		t.Error("a set that nobody wants any more is known")
	}
}

// TestBadServers lets a server of one issuer behave in every bad way. The other issuer's rotation is not held up, and what
// was good before stays.
func TestBadServers(t *testing.T) {
	t.Parallel()
	k := key(t, "k1")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again := k
	again.Key = key(t, "k1").Key
	answer := func(text string) http.HandlerFunc { return publishing([]byte(text)) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		reason  string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, "status 500"},
		"500 with keys": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write(keySet(t, k))
		}, "status 500"},
		"404":        {http.NotFound, "status 404"},
		"204":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "status 204"},
		"HTML":       {answer("<!doctype html><title>Login</title>"), "invalid character"},
		"empty":      {answer(""), "unexpected end"},
		"no set":     {answer("[]"), "cannot unmarshal"},
		"no keys":    {answer("{}"), "no key"},
		"empty keys": {answer(`{"keys":[]}`), "no key"},
		"null keys":  {answer(`{"keys":null}`), "no key"},
		"no key":     {answer(`{"keys":[7]}`), "not an object"},
		"unusable":   {answer(`{"keys":[{"kty":"none"},{"kty":"OKP","crv":"X25519","x":"AA"}]}`), "no key"},
		"one kid":    {publishing(keySet(t, k, again)), "kid"},
		"private":    {publishing(keySet(t, k, jose.JSONWebKey{Key: private, KeyID: "k2"})), "no secret any more"},
		"symmetric":  {publishing(keySet(t, k, jose.JSONWebKey{Key: make([]byte, 32), KeyID: "k2"})), "no secret any more"},
		"twice":      {answer(`{"keys":[],` + string(keySet(t, k))[1:]), "duplicate"},
		"behind it":  {answer(string(keySet(t, k)) + `{}`), "after top-level"},
		"too long":   {answer(string(keySet(t, k)) + strings.Repeat(" ", 64<<10)), "bytes"},
		"deep":       {answer(`{"keys":` + strings.Repeat("[", 60<<10)), "depth"},
		"redirect":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/there", http.StatusFound) }, "status 302"},
		"redirect to http": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusPermanentRedirect)
		}, "status 308"},
		"never answers": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline"},
		"never ends": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[`))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "deadline"},
		"floods": {func(w http.ResponseWriter, r *http.Request) {
			flood(w, r, []byte(strings.Repeat(" ", 32<<10)))
		}, "more than 65536 bytes"},
		"floods with headers": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprintf("X-Flood-%d", i), strings.Repeat("x", 100))
			}
			_, _ = w.Write(keySet(t, k))
		}, "server response headers exceeded"},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("\x1f\x8b\x08\x00"))
		}, "invalid character"},
		"hangs up": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}, "EOF"},
		"is no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("SSH-2.0-x\r\n"))
				_ = conn.Close()
			}
		}, "malformed HTTP"},
		"cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(keySet(t, k))
		}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, rotated, before := keySet(t, key(t, "a")), keySet(t, key(t, "b")), keySet(t, k)
			honest, bad := serve(t, publishing(good)), serve(t, publishing(before))
			f := run(t, jwks.Config{Roots: roots(honest, bad), Timeout: 300 * time.Millisecond})
			f.Follow(map[string]string{"acme-idp": honest.URL, "globex-idp": bad.URL})
			f.has(t, bad.URL, parse(t, before))
			bad.does(c.handler)
			if reason := f.fails(t, bad.URL, 2); !strings.Contains(reason, c.reason) || len(reason) > 400 {
				t.Errorf("the reason is %q, not %q", reason, c.reason)
			}
			honest.publishes(rotated)
			f.has(t, honest.URL, parse(t, rotated))
			f.has(t, bad.URL, parse(t, before))
		})
	}
}

func flood(w io.Writer, r *http.Request, block []byte) {
	b := bufio.NewWriter(w)
	for r.Context().Err() == nil {
		if _, err := b.Write(block); err != nil {
			return
		}
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	target := serve(t, publishing(keySet(t, key(t, "k1"))))
	p := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, http.StatusFound) })
	f := run(t, jwks.Config{Roots: roots(p, target)})
	f.Follow(map[string]string{"i": p.URL})
	f.fails(t, p.URL, 3)
	if target.hits.Load() > 0 {
		t.Error("the redirect was followed")
	}
}

func TestOnlyVerifiedHTTPS(t *testing.T) {
	t.Parallel()
	set := keySet(t, key(t, "k1"))
	p := serve(t, publishing(set))
	plain := httptest.NewServer(publishing(set))
	t.Cleanup(plain.Close)
	other := httptest.NewUnstartedServer(publishing(set))
	other.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} // what must be refused
	other.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	other.StartTLS()
	t.Cleanup(other.Close)
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		uri    string
		roots  *x509.CertPool
		reason string
	}{
		"unknown root": {p.URL, x509.NewCertPool(), "certificate"},
		"another name": {"https://localhost:" + port, roots(p), "certificate"},
		"without TLS":  {plain.URL, roots(p), "no https URL"},
		"not TLS":      {strings.Replace(plain.URL, "http:", "https:", 1), roots(p), "HTTPS client"},
		"old TLS":      {other.URL, roots(p), "protocol version"},
	} {
		f := run(t, jwks.Config{Roots: c.roots})
		f.Follow(map[string]string{"i": c.uri})
		if reason := f.fails(t, c.uri, 1); !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %q", name, reason)
		}
		f.stop()
	}
	if p.hits.Load() > 0 {
		t.Error("a request was sent to who is not verified")
	}
}

func TestNotFetchedFromInside(t *testing.T) {
	t.Parallel()
	p := serve(t, publishing(keySet(t, key(t, "k1"))))
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f := run(t, jwks.Config{Roots: roots(p), Allow: []netip.Prefix{netip.MustParsePrefix("10.9.9.0/24")}, Timeout: time.Second})
	names := map[string]string{}
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1", "2130706433", "0x7f.1", "169.254.169.254", "[fd00:ec2::254]",
		"[64:ff9b::7f00:1]", "10.0.0.1", "100.64.0.1", "224.0.0.1", "[fe80::1]",
	} {
		names["i"+host] = "https://" + host + ":" + port
	}
	f.Follow(names)
	for name, uri := range names {
		reason := f.fails(t, uri, 1)
		judged := strings.Contains(reason, jwks.ErrAddress.Error())
		unresolved := strings.Contains(reason, "lookup") || strings.Contains(reason, "deadline")
		if !judged && !unresolved {
			t.Errorf("%s: %s", name, reason)
		}
	}
	if p.hits.Load() > 0 {
		t.Error("a request was sent inside")
	}
}

// rebinding is a DNS server on loopback whose answer a test changes.
func rebinding(t *testing.T, answer *atomic.Pointer[[]netip.Addr]) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) == 0 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			for _, a := range *answer.Load() {
				if q.Type == dnsmessage.TypeA && a.Is4() {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a.As4()},
					})
				}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// TestRebinding lets a name lead to a permitted address first and then to loopback: each connection is judged by where it
// goes, whatever the name said before, and a permitted address beside a forbidden one opens nothing.
func TestRebinding(t *testing.T) {
	t.Parallel()
	const host = "example.com" // httptest's certificate has the name
	set := keySet(t, key(t, "k1"))
	outside := serveAt(t, "127.0.0.2:0", publishing(set)) // plays the public address
	_, port, err := net.SplitHostPort(outside.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inside := serveAt(t, "127.0.0.3:"+port, publishing(keySet(t, key(t, "evil"))))
	var answer atomic.Pointer[[]netip.Addr]
	say := func(addrs ...string) {
		list := make([]netip.Addr, len(addrs))
		for i, a := range addrs {
			list[i] = netip.MustParseAddr(a)
		}
		answer.Store(&list)
	}
	say("127.0.0.2")
	f := run(t, jwks.Config{
		Roots: roots(outside, inside), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}, Resolver: rebinding(t, &answer),
	})
	uri := "https://" + host + ":" + port + "/jwks"
	f.Follow(map[string]string{"i": uri})
	f.has(t, uri, parse(t, set))
	say("127.0.0.3")
	if reason := f.fails(t, uri, 2); !strings.Contains(reason, jwks.ErrAddress.Error()) {
		t.Error(reason)
	}
	say("127.0.0.3", "127.0.0.2")
	before := outside.hits.Load()
	for deadline := time.Now().Add(patience); outside.hits.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the permitted address is not tried")
		}
	}
	f.has(t, uri, parse(t, set))
	if inside.hits.Load() > 0 {
		t.Error("loopback was asked")
	}
}

func serveAt(t *testing.T, address string, h http.HandlerFunc) *idp {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{}
	p.answer.Store(&h)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.hits.Add(1)
		(*p.answer.Load())(w, r)
	}))
	_ = p.Listener.Close()
	p.Listener = l
	p.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	p.StartTLS()
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

func TestNoProxyOfTheEnvironment(t *testing.T) {
	p := serve(t, publishing(keySet(t, key(t, "k1"))))
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("ALL_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	var answer atomic.Pointer[[]netip.Addr]
	answer.Store(&[]netip.Addr{loopback[0].Addr()})
	f := run(t, jwks.Config{Roots: roots(p), Resolver: rebinding(t, &answer)})
	f.Follow(map[string]string{"i": "https://example.com:" + port}) // Go uses no proxy for loopback's own names
	await(t, func() bool { return p.hits.Load() > 0 })
	if asked.Load() {
		t.Error("the proxy was asked")
	}
}

// TestUnknownKey: the schedule is far away, so only the unknown key fetches; a flood of them fetches once in a while.
func TestUnknownKey(t *testing.T) {
	t.Parallel()
	first, second := keySet(t, key(t, "k1")), keySet(t, key(t, "k2"))
	p := serve(t, publishing(first))
	const pause = 200 * time.Millisecond
	f := run(t, jwks.Config{Roots: roots(p), Refresh: time.Hour, Pause: pause})
	f.Follow(map[string]string{"acme-idp": p.URL})
	f.has(t, p.URL, parse(t, first))
	p.publishes(second)
	f.UnknownKey("globex-idp")
	f.UnknownKey("")
	f.UnknownKey("acme-idp")
	f.has(t, p.URL, parse(t, second))
	start, before := time.Now(), p.hits.Load()
	for time.Since(start) < 4*pause {
		f.UnknownKey("acme-idp")
		time.Sleep(time.Millisecond)
	}
	if n := p.hits.Load() - before; n < 1 || n > int64(time.Since(start)/pause)+1 {
		t.Errorf("%d fetches in %v", n, time.Since(start))
	}
}

// TestOutage: the last good keys count for a day, also for the next process, and no longer.
func TestOutage(t *testing.T) {
	t.Parallel()
	set := keySet(t, key(t, "k1"))
	p := serve(t, publishing(set))
	var now atomic.Int64
	now.Store(1_800_000_000)
	clock := func() time.Time { return time.Unix(now.Load(), 0) }
	file := filepath.Join(t.TempDir(), "jwks.json")
	c := jwks.Config{Roots: roots(p), State: file, Clock: clock}
	uris := map[string]string{"i": p.URL}
	f := run(t, c)
	f.Follow(uris)
	f.has(t, p.URL, parse(t, set))
	f.stop()
	p.does(http.NotFound)

	now.Add(int64(jwks.MaxAge / time.Second))
	f = run(t, c)
	if got, ok := f.KeySet(p.URL); !ok || got != parse(t, set) {
		t.Error("the next process does not have the keys")
	}
	f.Follow(uris)
	f.fails(t, p.URL, 2)
	f.has(t, p.URL, parse(t, set))
	now.Add(1)
	f.fails(t, p.URL, 2)
	select {
	case <-f.Changed():
	case <-time.After(patience):
		t.Error("nobody is told that the keys are too old")
	}
	if _, ok := f.KeySet(p.URL); ok {
		t.Error("keys count for more than a day")
	}
	p.publishes(set)
	f.has(t, p.URL, parse(t, set))
}

// A clock that is ahead makes the keys seem too old; set back again they count, and who uses them is told, whether or not the
// server is there again.
func TestAClockThatWasAheadLosesNoKeys(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]bool{"the server is there again": true, "it is away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := keySet(t, key(t, "k1"))
			p := serve(t, publishing(set))
			var now atomic.Int64
			now.Store(1_800_000_000)
			f := run(t, jwks.Config{Roots: roots(p), Clock: func() time.Time { return time.Unix(now.Load(), 0) }})
			told := func() {
				t.Helper()
				select {
				case <-f.Changed():
				case <-time.After(patience):
					t.Fatal("nobody is told")
				}
			}
			f.Follow(map[string]string{"i": p.URL})
			f.has(t, p.URL, parse(t, set))
			p.does(http.NotFound)
			f.fails(t, p.URL, 1) // what there was to tell before is told
			select {
			case <-f.Changed():
			default:
			}
			ahead := int64(jwks.MaxAge/time.Second) + 3600
			now.Add(ahead)
			told()
			if _, ok := f.KeySet(p.URL); ok {
				t.Error("keys count for more than a day")
			}
			if there {
				p.publishes(set)
			}
			now.Add(-ahead)
			told()
			f.has(t, p.URL, parse(t, set))
		})
	}
}

func TestStateThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	set := keySet(t, key(t, "k1"))
	for name, data := range map[string]string{
		"nothing": "", "no JSON": "x", "another version": `{"version":2}`,
		"no keys":     `{"version":1,"sets":[{"uri":"https://i","fetched":1800000000,"keys":{}}]}`,
		"private key": `{"version":1,"sets":[{"uri":"https://i","fetched":1800000000,"keys":{"keys":[{"kty":"oct","k":"AA"}]}}]}`,
		"too long":    strings.Repeat(" ", 64<<20+1),
	} {
		file := filepath.Join(t.TempDir(), "jwks.json")
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		p := serve(t, publishing(set))
		f := run(t, jwks.Config{Roots: roots(p), State: file})
		if _, ok := f.KeySet("https://i"); ok || f.logs.FilterMessage("starting without key sets").Len() != 1 {
			t.Errorf("%s: used", name)
		}
		f.Follow(map[string]string{"i": p.URL})
		f.has(t, p.URL, parse(t, set))
		f.stop()
	}
	link := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	if f := run(t, jwks.Config{State: link}); f.logs.FilterMessage("starting without key sets").Len() != 1 {
		t.Error("a link was followed")
	}
}

// TestStateThatCannotBeWritten: what was withdrawn must not come back with the next start.
func TestStateThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "jwks.json")
	first, second := keySet(t, key(t, "k1")), keySet(t, key(t, "k2"))
	p := serve(t, publishing(first))
	f := run(t, jwks.Config{Roots: roots(p), State: file})
	f.Follow(map[string]string{"i": p.URL})
	f.has(t, p.URL, parse(t, first))
	await(t, func() bool { _, err := os.Stat(file); return err == nil })
	if err := os.Mkdir(file+".new", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(file+".new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.publishes(second)
	f.has(t, p.URL, parse(t, second))
	await(t, func() bool { return f.logs.FilterMessage("key sets are not kept for the next start").Len() > 0 })
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the withdrawn key is kept: %v", err)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}

func TestMetric(t *testing.T) {
	t.Parallel()
	p := serve(t, publishing(keySet(t, key(t, "k1"))))
	f := run(t, jwks.Config{Roots: roots(p), Clock: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	f.Follow(map[string]string{"acme-idp": p.URL, "globex-idp": "https://127.0.0.1:1"})
	await(t, func() bool { _, ok := f.KeySet(p.URL); return ok })
	r := prometheus.NewRegistry()
	r.MustRegister(f)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	if len(got) != 2 || got["acme-idp"] != 1_800_000_000 || got["globex-idp"] != 0 {
		t.Error(got)
	}
}
