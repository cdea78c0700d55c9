package e2e_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
)

// What is killed.
const (
	ofAgent = "agent"
	ofEnvoy = "Envoy"
	ofPlane = "control plane"
)

// When it is killed.
const (
	anyTime       = "at any time"
	configuration = "during a change of the configuration"
	rotation      = "during a rotation of a root"
	joining       = "soon after an agent began to join"
	issued        = "when the issuer has given an SVID for a token"
	renewed       = "when the issuer has renewed an SVID"
)

// fault is one death: of what, when, and how long after that.
type fault struct {
	victim, moment, agent string
	after                 time.Duration
}

func (f fault) String() string {
	if f.victim == ofPlane {
		return fmt.Sprintf("%s, %s, after %v", f.victim, f.moment, f.after)
	}
	return fmt.Sprintf("%s of %s, %s, after %v", f.victim, f.agent, f.moment, f.after)
}

// drawFaults begins with every kind of moment, so that a short run has them all.
func drawFaults(r *rand.Rand, n int) []fault {
	moments := []string{anyTime, configuration, issued, joining, rotation, renewed}
	latest := map[string]time.Duration{
		anyTime: time.Second, configuration: 400 * time.Millisecond, rotation: time.Second, joining: 300 * time.Millisecond,
		issued: 3 * time.Millisecond, renewed: 3 * time.Millisecond,
	}
	var all []fault
	for i := range n {
		f := fault{moment: moments[r.IntN(len(moments))], agent: killableNames()[r.IntN(len(killableNames()))]}
		if i < len(moments) {
			f.moment = moments[i]
		}
		victims := []string{ofAgent, ofEnvoy, ofPlane}
		if f.moment == joining || f.moment == issued || f.moment == renewed {
			victims = []string{ofAgent, ofPlane}
		}
		f.victim = victims[r.IntN(len(victims))]
		if f.moment == joining || f.moment == issued {
			f.agent = "acme/web"
		}
		f.after = time.Duration(r.Int64N(int64(latest[f.moment])))
		all = append(all, f)
	}
	return all
}

// TestKilledUnderLoad kills agents, Envoys and the control plane with SIGKILL, at random moments, while calls are made within the
// tenants and across, and starts again what does not come back by itself. No call across ever reaches an application; after
// each death every pair that may call succeeds again and every agent is ready, and nobody's hand is needed for it; each token
// gave one SVID; the ledger has what the agents held.
//
// RINGFENCE_FAULTS is how many deaths there are (8; with RINGFENCE_LONG 100), RINGFENCE_FAULTS_SEED repeats the choices of an earlier run.
func TestKilledUnderLoad(t *testing.T) {
	n, seed := 8, rand.Uint64()
	if os.Getenv("RINGFENCE_LONG") != "" {
		n = 100
	}
	for name, take := range map[string]func(text string) error{
		"RINGFENCE_FAULTS":      func(text string) (err error) { n, err = strconv.Atoi(text); return err },
		"RINGFENCE_FAULTS_SEED": func(text string) (err error) { seed, err = strconv.ParseUint(text, 10, 64); return err },
	} {
		if text := os.Getenv(name); text != "" {
			if err := take(text); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	t.Logf("%d deaths, RINGFENCE_FAULTS_SEED=%d", n, seed)
	faults := drawFaults(rand.New(rand.NewPCG(seed, seed)), n)

	k := startKillable(t, shortDir(t), 30*time.Second)
	k.recovered(t, time.Now())
	ctx, stop := context.WithCancel(t.Context())
	calls := k.load(ctx)
	var (
		longest time.Duration
		worst   fault
		counts  = map[string]int{}
	)
	for i, f := range faults {
		killed := k.strike(t, f)
		took := k.recovered(t, killed)
		if took > longest {
			longest, worst = took, f
		}
		counts[f.victim+" "+f.moment]++
		t.Logf("%d: %v: calls pass again after %v", i, f, took.Round(time.Millisecond))
		if t.Failed() {
			break
		}
	}
	stop()
	calls.Wait()
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%3d × %s", counts[kind], kind)
	}
	t.Logf("%d calls were allowed, %d attacks, %d of them reached an application; the longest recovery took %v (%v)",
		k.allowed.Load(), k.attacks.Load(), k.breaches.Load(), longest.Round(time.Millisecond), worst)
	if k.allowed.Load() < int64(10*n) || k.attacks.Load() < int64(10*n) {
		t.Error("that is no load")
	}
	k.whole(t)
}

// strike brings about the moment, kills, and starts again; it returns when the death was.
func (k *killable) strike(t *testing.T, f fault) time.Time {
	t.Helper()
	defer k.deaf()
	agent := k.agents[f.agent]
	struck := make(chan time.Time, 1)
	kill := func() { // does not wait for the end: what hears the log calls it
		time.Sleep(f.after)
		switch f.victim {
		case ofPlane:
			k.plane.killed.Store(true)
			k.plane.signal(syscall.SIGKILL)
		case ofAgent:
			agent.killed.Store(true)
			agent.signal(syscall.SIGKILL)
		case ofEnvoy:
			k.killEnvoy(agent)
		}
		struck <- time.Now()
	}
	switch f.moment {
	case configuration:
		k.changeConfiguration(t)
		kill()
	case rotation:
		// One may be under way still; then it is that one.
		_ = exec.CommandContext(t.Context(), binary, "tenant", "rotate-keys", "globex", "--yes", "--state", k.planeState()).Run()
		kill()
	case joining, issued:
		agent.kill()
		k.anew(agent)
		if f.moment == joining {
			k.startAgent(agent)
			kill()
			break
		}
		happened := k.once("SVID issued", spiffeID(f.agent), func(string) { kill() })
		k.startAgent(agent)
		k.await(t, happened, "an SVID is issued")
	case renewed:
		happened := k.once("SVID renewed", "", func(line string) {
			for name, a := range k.agents {
				if strings.Contains(line, spiffeID(name)+`"`) {
					agent = a // who gets it now
				}
			}
			kill()
		})
		k.await(t, happened, "an SVID is renewed")
	default:
		kill()
	}
	at := <-struck
	switch f.victim {
	case ofPlane:
		<-k.plane.done
		k.startPlane()
	case ofAgent:
		<-agent.done
		k.startAgent(agent)
	}
	return at
}

func (k *killable) await(t *testing.T, happened <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(time.Minute):
		t.Fatalf("it does not come: %s", what)
	}
}

// changeConfiguration allows another method, or not any more.
func (k *killable) changeConfiguration(t *testing.T) {
	t.Helper()
	path := filepath.Join(k.dir, "tenants/globex/orders.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if now := strings.Replace(text, "methods: [GET]", "methods: [GET, HEAD]", 1); now != text {
		write(t, path, now)
		return
	}
	write(t, path, strings.Replace(text, "methods: [GET, HEAD]", "methods: [GET]", 1))
}

// recovered waits until every pair succeeds, and then until everybody is well, and returns how long the pairs took since the death.
func (k *killable) recovered(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	const patience = time.Minute
	for name, call := range k.pairs() {
		eventually(t, patience, name+" succeeds again", func(ctx context.Context) bool { return call(ctx) == http.StatusOK })
	}
	took := time.Since(since)
	k.planeReady()
	for _, a := range k.agents {
		eventually(t, patience, a.name+"'s agent is ready again", func(ctx context.Context) bool {
			select {
			case <-a.done:
				t.Fatalf("the agent of %s ended by itself: %v\n%s", a.name, a.err, a.output.tail())
			default:
			}
			return ready(ctx, a.http)
		})
	}
	select {
	case <-k.plane.done:
		t.Fatalf("the control plane ended by itself: %v\n%s", k.plane.err, k.plane.output.tail())
	default:
	}
	return took
}

// whole compares the ledger with what the agents held, and looks at what lies in the state directories.
func (k *killable) whole(t *testing.T) {
	t.Helper()
	for _, name := range killableNames() {
		k.note(name)
		k.agents[name].stop(t, syscall.SIGTERM)
	}
	k.plane.stop(t, syscall.SIGTERM)
	entries := readLedger(t, filepath.Join(k.planeState(), "ledger.db"))
	joined := 0
	for serial, e := range entries {
		if e.GetAttestation() == agentv1alpha1.Attestation_ATTESTATION_JOIN_TOKEN {
			joined++
		}
		if e.GetAttestation() == agentv1alpha1.Attestation_ATTESTATION_RENEWAL {
			if before, ok := entries[hex.EncodeToString(e.GetRenews())]; !ok || !before.GetSuperseded() || before.GetWorkload() != e.GetWorkload() {
				t.Errorf("%s renews an SVID that the ledger does not have so", serial)
			}
		}
	}
	if joined != k.tokens {
		t.Errorf("%d tokens were made and used, and gave %d SVIDs", k.tokens, joined)
	}
	held := 0
	for name, serials := range k.seen {
		for serial := range serials {
			held++
			if e, ok := entries[serial]; !ok || e.GetWorkload() != spiffeID(name) {
				t.Errorf("%s held SVID %s, which the ledger does not have", name, serial)
			}
		}
	}
	t.Logf("%d tokens gave %d SVIDs; agents held %d of the %d in the ledger", k.tokens, joined, held, len(entries))
	for _, pattern := range []string{"*/*.corrupt-*", "plane/*.bad"} {
		if found, err := filepath.Glob(filepath.Join(k.state, pattern)); err != nil || len(found) > 0 {
			t.Errorf("set aside as damaged: %v, %v", found, err)
		}
	}
}

// readLedger reads the file as it lies there.
func readLedger(t *testing.T, path string) map[string]*agentv1alpha1.LedgerEntry {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // only read
	all := map[string]*agentv1alpha1.LedgerEntry{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, of *bbolt.Bucket) error {
			entries := of.Bucket([]byte("entries"))
			if entries == nil {
				return nil
			}
			return entries.ForEach(func(serial, value []byte) error {
				const sum = 32
				e := &agentv1alpha1.LedgerEntry{}
				if err := proto.Unmarshal(value[sum:], e); err != nil {
					return err
				}
				if _, twice := all[hex.EncodeToString(serial)]; twice {
					t.Errorf("%x stands twice", serial)
				}
				all[hex.EncodeToString(serial)] = e
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
