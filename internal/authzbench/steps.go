package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"syscall"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence-mesh/ringfence/authz"
	"github.com/ringfence-mesh/ringfence/authz/extauthz"
	"github.com/ringfence-mesh/ringfence/identity"
)

// cost is the CPU time of one call of f and how often it allocates. It counts the time of this process, not that of the
// wall, so that others on the machine do not count.
func (b *bench) cost(f func()) (cpu float64, allocations float64) {
	f() // warm
	for n := 8; ; n *= 2 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := ownCPU()
		for range n {
			f()
		}
		took := ownCPU() - start
		runtime.ReadMemStats(&after)
		if took >= b.micro {
			return float64(took) / float64(n), float64((after.Mallocs - before.Mallocs) / uint64(n))
		}
	}
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// silent keeps no record.
type silent struct{}

// Record implements extauthz.Recorder.
func (silent) Record(extauthz.Entry) {}

var errRefused = errors.New("a call that is allowed is refused")

// steps measures what needs no gRPC, as parts of what unmarshalling the same request costs.
func (b *bench) steps(ctx context.Context) error {
	all, err := b.decode()
	if err != nil {
		return err
	}
	plainCall := b.mesh.plainCall(0)
	wire, err := plainCall.encode(b.mesh)
	if err != nil {
		return err
	}
	token, err := b.mesh.token(b.mesh.tenants[0].name, 0, b.mesh.now.Add(time.Hour/2))
	if err != nil {
		return err
	}
	tokenWire, err := b.mesh.tokenCall(0, token).encode(b.mesh)
	if err != nil {
		return err
	}
	metrics, err := extauthz.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return err
	}
	server := extauthz.New(all, extauthz.Fixed(all.proxies[0]), silent{}, metrics, time.Now)
	check := func(wire []byte) func() {
		return func() {
			answer, errCheck := server.Check(ctx, wire)
			ok, errAnswer := allows(answer)
			if errCheck != nil || errAnswer != nil || !ok {
				err = errors.Join(errRefused, errCheck, errAnswer)
			}
		}
	}
	one, err := inputs(b.mesh, all, 1)
	if err != nil {
		return err
	}
	many, err := inputs(b.mesh, all, len(all.proxies))
	if err != nil {
		return err
	}
	decide := func(in []input) func() {
		return func() {
			i := in[mathrand.IntN(len(in))] //nolint:gosec // any
			if !authz.Decide(i.table, i.Input).Allowed() {
				err = errRefused
			}
		}
	}
	rows := []struct {
		what   string
		bar    float64
		f      func()
		values []float64
		allocs float64
		cpu    []float64
	}{
		{what: "Decide, one tenant of 20 rules ÷ proto.Unmarshal", bar: 0.015, f: decide(one)},
		{what: fmt.Sprintf("Decide, random tenants of %d ÷ proto.Unmarshal", len(all.proxies)), bar: 0.07, f: decide(many)},
		{what: "bytes to answer, no token ÷ proto.Unmarshal", bar: 0.12, f: check(wire)},
		{what: "bytes to answer, token seen before ÷ proto.Unmarshal", bar: 0.18, f: check(tokenWire)},
	}
	for range b.repeats {
		unmarshal, _ := b.cost(func() {
			if e := proto.Unmarshal(wire, &authv3.CheckRequest{}); e != nil {
				err = e
			}
		})
		for i := range rows {
			cpu, allocs := b.cost(rows[i].f)
			rows[i].values, rows[i].cpu, rows[i].allocs = append(rows[i].values, cpu/unmarshal), append(rows[i].cpu, cpu), allocs
		}
	}
	for _, r := range rows {
		b.report.add(r.what, r.bar, "×", r.values...)
		b.report.remark("%.2f µs, %.0f allocations", median(r.cpu)/float64(time.Microsecond), r.allocs)
	}
	return errors.Join(err, b.firstSight(ctx, server, check(tokenWire)))
}

// firstSight measures what a token costs that was never seen, beyond one that was, as a part of a bare verification.
func (b *bench) firstSight(ctx context.Context, server *extauthz.Server, seen func()) error {
	const fresh = 200
	var values, costs []float64
	for repeat := range b.repeats {
		wires := make([][]byte, fresh)
		for i := range wires {
			token, err := b.mesh.token(b.mesh.tenants[0].name, (repeat+1)*fresh+i, b.mesh.now.Add(time.Hour/2))
			if err != nil {
				return err
			}
			if wires[i], err = b.mesh.tokenCall(0, token).encode(b.mesh); err != nil {
				return err
			}
		}
		digest := sha256.Sum256(wires[0])
		signature, err := ecdsa.SignASN1(rand.Reader, b.mesh.idp, digest[:])
		if err != nil {
			return err
		}
		start := ownCPU()
		for range fresh {
			if !ecdsa.VerifyASN1(&b.mesh.idp.PublicKey, digest[:], signature) {
				return errRefused
			}
		}
		bare := ownCPU() - start
		start = ownCPU()
		for _, wire := range wires {
			answer, err := server.Check(ctx, wire)
			ok, errAnswer := allows(answer)
			if err := errors.Join(err, errAnswer); err != nil {
				return err
			}
			if !ok {
				return errRefused
			}
		}
		first := ownCPU() - start
		known, _ := b.cost(seen)
		values = append(values, (float64(first)/fresh-known)/(float64(bare)/fresh))
		costs = append(costs, float64(first)/fresh)
	}
	b.report.add("token at first sight, beyond one seen before ÷ a bare verification", 1.3, "×", values...)
	b.report.remark("%.0f µs in all; ES256", median(costs)/float64(time.Microsecond))
	return nil
}

// decode makes the Tables of all tenants, and says what that costs.
func (b *bench) decode() (tables, error) {
	all := tables{byTenant: map[identity.TenantID]*authz.Table{}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := ownCPU()
	for _, tenant := range b.mesh.tenants {
		t, err := authz.DecodeTable(tenant.table)
		if err != nil {
			return all, err
		}
		proxy, _ := t.Workload()
		all.proxies = append(all.proxies, proxy)
		all.byTenant[t.Tenant()] = t
	}
	took := ownCPU() - start
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := float64(len(b.mesh.tenants))
	b.report.add("make a tenant's Table, CPU", 0.5, "ms", float64(took)/n/float64(time.Millisecond))
	b.report.remark("%.1f s for %.0f tenants; %d services with %d callers each", took.Seconds(), n, services, callers)
	b.report.add("memory of a tenant's Table", 3, "KiB", float64(after.HeapAlloc-before.HeapAlloc)/n/1024)
	b.report.remark("encoded it has %.1f KiB", float64(len(b.mesh.tenants[0].table))/1024)
	return all, nil
}

type input struct {
	authz.Input

	table *authz.Table
}

// inputs are allowed calls, one for each of the first tenants.
func inputs(m *mesh, all tables, n int) ([]input, error) {
	list := make([]input, n)
	for i := range list {
		t, _ := all.Tables(all.proxies[i])
		c := m.plainCall(i)
		der, err := der(c.certificate)
		if err != nil {
			return nil, err
		}
		service, _ := t.Service(m.tenants[i].name, c.service[len(m.tenants[i].name)+1:])
		list[i] = input{table: t, Input: authz.Input{
			Caller: t.Caller(der, nil, m.now), Service: service, Method: c.method, Path: c.target, Now: m.now,
		}}
	}
	return list, nil
}
