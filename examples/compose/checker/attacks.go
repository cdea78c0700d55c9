package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-mesh/ringfence/internal/demo"
)

// attacker is the application that was taken over.
const attacker = "acme/web"

// stolen are TLS connections past the attacker's own sidecar, with the SVIDs of acme, to what is not acme's.
func stolen() []demo.Call {
	refused := demo.Want{Layer: demo.LayerTLS}
	clerk := demo.Token{Issuer: "acme", Roles: []string{"clerk"}}
	var calls []demo.Call
	for _, sni := range []string{"", "acme/web", "acme/orders", "globex/web", "globex/orders"} {
		for _, from := range []string{"acme/web", "acme/orders"} {
			calls = append(calls, demo.Call{
				From: from, To: "globex/orders", Raw: &demo.Raw{SNI: sni}, Method: http.MethodGet, Path: "/orders/7", Token: clerk, Want: refused,
			})
		}
	}
	for _, c := range []demo.Call{
		{To: "platform/billing", Raw: &demo.Raw{SNI: "globex/web"}, Path: "/invoices/12"},
		{To: "platform/billing", Raw: &demo.Raw{}, Path: "/invoices/12"},
		{To: "globex/orders", Raw: &demo.Raw{SNI: "globex/web", Anonymous: true}, Path: "/orders/7"},
	} {
		c.From, c.Method, c.Want = attacker, http.MethodGet, refused
		calls = append(calls, c)
	}
	return calls
}

// door is something to connect to that must not open.
type door struct {
	what, network, address string
	// listens says that the checker, which is on the agents' networks, can see that somebody is behind it.
	listens bool
}

// doors are the addresses behind which something listens that is no application's business.
func doors(ctx context.Context, m *demo.Remote) ([]door, error) {
	var all []door
	for _, name := range []string{"globex/orders", "platform/billing", "acme/orders"} {
		inbound, err := m.Inbound(name)
		if err != nil {
			return nil, err
		}
		for _, port := range []struct {
			what   string
			number uint16
		}{{"outbound proxy", 15001}, {"application", 8080}, {"Envoy's admin", 9901}, {"Envoy's admin", 15000}, {"agent", 7480}} {
			all = append(all, door{name + ": " + port.what, "tcp", netip.AddrPortFrom(inbound.Addr(), port.number).String(), false})
		}
	}
	for _, service := range []struct {
		name  string
		ports []string
	}{
		{"control-plane", []string{"7443", "7444", "7480"}},
		{"acme-web-agent", []string{"7480"}},
		{"globex-orders-agent", []string{"7480"}},
		{"prometheus", []string{"9090"}},
	} {
		// The attacker has no name server that knows them, so the checker looks them up.
		addresses, err := net.DefaultResolver.LookupHost(ctx, service.name)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			for _, port := range service.ports {
				all = append(all, door{service.name, "tcp", net.JoinHostPort(a, port), true})
			}
		}
	}
	for _, s := range []struct{ what, path string }{
		{"its agent's socket", "/run/ringfence/envoy.sock"},
		{"its Envoy's admin socket", "/run/ringfence/admin.sock"},
		{"the control plane's admin socket", "/run/ringfence-admin/admin.sock"},
		{"Docker's socket", "/var/run/docker.sock"},
	} {
		all = append(all, door{s.what, "unix", s.path, false})
	}
	return all, nil
}

func tryDoors(ctx context.Context, m *demo.Remote, out io.Writer) (wrong, tried int, err error) {
	all, err := doors(ctx, m)
	if err != nil {
		return 0, 0, err
	}
	report := func(ok bool, what, result string) {
		mark := "✓"
		if !ok {
			mark = "✗"
			wrong++
		}
		tried++
		fmt.Fprintf(out, "  %s %-34s %s\n", mark, what, result)
	}
	before, err := m.Hits(ctx)
	if err != nil {
		return 0, 0, err
	}
	results, err := tryAll(ctx, m, all)
	if err != nil {
		return wrong, tried, err
	}
	for i, d := range all {
		report(results[i] != "", d.what, results[i])
	}
	victim, err := m.Inbound("globex/orders")
	if err != nil {
		return wrong, tried, err
	}
	open, err := scan(ctx, m, victim.Addr())
	if err != nil {
		return wrong, tried, err
	}
	report(slices.Equal(open, []int{int(victim.Port())}), "globex/orders: ports 1 to 65535", fmt.Sprintf("open: %v", open))
	answer, err := plaintext(ctx, m, victim.String())
	if err != nil {
		return wrong, tried, err
	}
	report(answer == "", "globex/orders: HTTP without TLS", fmt.Sprintf("answer: %q", answer))
	after, err := m.Hits(ctx)
	if err != nil {
		return wrong, tried, err
	}
	report(after == before, "applications reached", strconv.FormatInt(after-before, 10)+" times")
	return wrong, tried, nil
}

// tryAll tries the doors side by side.
func tryAll(ctx context.Context, m *demo.Remote, all []door) ([]string, error) {
	var group sync.WaitGroup
	results, errs := make([]string, len(all)), make([]error, len(all))
	for i, d := range all {
		group.Go(func() {
			if d.listens {
				if err := probe(ctx, []string{d.address}); err != nil {
					errs[i] = fmt.Errorf("%s: nobody listens, so a closed door says nothing: %w", d.what, err)
					return
				}
			}
			results[i], errs[i] = tryDoor(ctx, m, d)
		})
	}
	group.Wait()
	return results, errors.Join(errs...)
}

// tryDoor gives the reason why a door stays closed; none if it opens. An error is a fault of the relay.
func tryDoor(ctx context.Context, m *demo.Remote, d door) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := m.Dial(ctx, attacker, d.network, d.address)
	if err == nil {
		return "", conn.Close()
	}
	if !errors.Is(err, demo.ErrClosedThere) {
		return "", err
	}
	_, reason, _ := strings.Cut(err.Error(), demo.ErrClosedThere.Error()+": ")
	return reason, nil
}

// scan finds the open ports of an address.
func scan(ctx context.Context, m *demo.Remote, address netip.Addr) ([]int, error) {
	const (
		workers = 64
		last    = 1<<16 - 1
	)
	var (
		mu     sync.Mutex
		open   []int
		failed error
		group  sync.WaitGroup
		ports  = make(chan int)
	)
	for range workers {
		group.Go(func() {
			for port := range ports {
				result, err := tryDoor(ctx, m, door{network: "tcp", address: net.JoinHostPort(address.String(), strconv.Itoa(port))})
				mu.Lock()
				if err != nil {
					failed = err
				} else if result == "" {
					open = append(open, port)
				}
				mu.Unlock()
			}
		})
	}
	for port := 1; port <= last; port++ {
		ports <- port
	}
	close(ports)
	group.Wait()
	slices.Sort(open)
	return open, failed
}

// plaintext asks without TLS, and gives back what comes.
func plaintext(ctx context.Context, m *demo.Remote, address string) (string, error) {
	conn, err := m.Dial(ctx, attacker, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // what came is here
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET /orders/7 HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); err != nil {
		return "", nil // cut off: no answer
	}
	const most = 1 << 10
	answer, _ := io.ReadAll(io.LimitReader(conn, most)) // however it ends
	return string(answer), nil
}
