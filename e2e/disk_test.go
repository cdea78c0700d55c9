package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFullDisks fills the disk of a running mesh: the control plane's and every agent's state lies on one small file system. Calls
// go on, a change of the configuration takes effect, nothing is let across, and everybody says what could not be written. With
// room again everything is kept, and comes back when all processes are killed. It mounts a file system, which only root can.
func TestFullDisks(t *testing.T) {
	if os.Getenv("RINGFENCE_FAULTS") == "" {
		t.Skip("make test-faults runs it")
	}
	state := shortDir(t)
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Skipf("only root can mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	k := startKillable(t, state, 30*time.Second)
	k.recovered(t, time.Now())
	ctx, stop := context.WithCancel(t.Context())
	calls := k.load(ctx)

	orders, filler := k.agents["globex/orders"], filepath.Join(state, "filler")
	old, err := os.ReadFile(filepath.Join(orders.state, "state"))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, filler)
	// The new rule, which no disk has.
	k.changeConfiguration(t)
	proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: k.outbound("20184")})
	client := &http.Client{Transport: &http.Transport{Proxy: proxy, DisableKeepAlives: true}, Timeout: 3 * time.Second}
	eventually(t, time.Minute, "the new rule is in force", func(ctx context.Context) bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://orders/orders/7", http.NoBody)
		if err != nil {
			return false
		}
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	says := func(p *process, text string) {
		t.Helper()
		eventually(t, time.Minute, "it is said: "+text, func(context.Context) bool { return strings.Contains(p.output.String(), text) })
	}
	says(orders.process, "cannot keep the configuration on disk")
	says(k.plane, "no space left on device")
	// Where that goes away there may be room for the new one.
	if now, err := os.ReadFile(filepath.Join(orders.state, "state")); err == nil && bytes.Equal(now, old) {
		t.Error("the configuration from before lies there")
	}
	before := k.allowed.Load()
	eventually(t, time.Minute, "calls go on", func(context.Context) bool { return k.allowed.Load() > before+50 })

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	says(orders.process, "the configuration is kept on disk again")
	k.renewAll(t)
	k.recovered(t, time.Now())
	for _, name := range killableNames() {
		k.agents[name].kill()
	}
	k.plane.kill()
	killed := time.Now()
	k.startPlane()
	for _, name := range killableNames() {
		k.startAgent(k.agents[name])
	}
	took := k.recovered(t, killed)
	stop()
	calls.Wait()
	t.Logf("%d calls were allowed, %d attacks, %d of them reached an application; back after the death of all in %v",
		k.allowed.Load(), k.attacks.Load(), k.breaches.Load(), took.Round(time.Millisecond))
	k.whole(t)
}

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is full
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 4
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// renewAll waits until every agent holds another SVID than now.
func (k *killable) renewAll(t *testing.T) {
	t.Helper()
	held := map[string]int{}
	k.mu.Lock()
	for name, serials := range k.seen {
		held[name] = len(serials)
	}
	k.mu.Unlock()
	eventually(t, time.Minute, "everybody renews", func(context.Context) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		for name, n := range held {
			if len(k.seen[name]) <= n {
				return false
			}
		}
		return true
	})
}
