package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// App is a sample application behind a sidecar. It answers with what it saw, and counts every request that reached it, or
// every connection where it speaks TCP.
type App struct {
	name   string
	grpc   *grpc.Server
	hits   atomic.Int64
	server *http.Server
	tcp    *greeter // in place of server
}

// Seen is an application's answer: who it is and what its sidecar told it of the caller.
type Seen struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    string `json:"path"`
	Tenant  string `json:"tenant,omitempty"`
	Caller  string `json:"caller,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Authorization says whether a bearer token was passed on, never which.
	Authorization bool `json:"authorization"`
	// Foreign are fields that a sidecar should have stripped: what only Envoy or Ringfence may say.
	Foreign []string `json:"foreign,omitempty"`
}

func foreign(h http.Header) []string {
	var names []string
	for name, values := range h {
		switch name {
		case "X-Ringfence-Tenant", "X-Ringfence-Caller", "X-Ringfence-Subject":
			continue
		case "X-Envoy-External-Address": // what Envoy itself saw of the peer, which is on this machine or on a private network
			if address, err := netip.ParseAddr(strings.Join(values, ",")); err == nil && (address.IsLoopback() || address.IsPrivate()) {
				continue
			}
		}
		if strings.HasPrefix(name, "X-Ringfence-") || strings.HasPrefix(name, "X-Envoy-") || name == "X-Forwarded-Client-Cert" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func startApp(ctx context.Context, name string, port uint16) (*App, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("application of %s: %w", name, err)
	}
	a := newApp(name)
	go func() {
		if err := a.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // Serve on a loopback listener ends only by Close
		}
	}()
	return a, nil
}

func newApp(name string) *App {
	a := &App{name: name, grpc: grpc.NewServer()}
	healthv1.RegisterHealthServer(a.grpc, health.NewServer())
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: 5 * time.Second, Protocols: &http.Protocols{}}
	a.server.Protocols.SetHTTP1(true)
	a.server.Protocols.SetUnencryptedHTTP2(true) // what a sidecar speaks with a service of protocol GRPC
	return a
}

// ServeHTTP answers every request; under …/stream it keeps writing a line each 100 ms until the caller goes away. To gRPC
// it is a server of grpc.health.v1.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.hits.Add(1)
	if r.ProtoMajor > 1 && r.Header.Get("content-type") == "application/grpc" {
		a.grpc.ServeHTTP(w, r)
		return
	}
	w.Header().Set("content-type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/stream") {
		a.stream(w, r)
		return
	}
	seen := Seen{
		Service: a.name, Method: r.Method, Path: r.URL.Path,
		Tenant: r.Header.Get("x-ringfence-tenant"), Caller: r.Header.Get("x-ringfence-caller"),
		Subject:       r.Header.Get("x-ringfence-subject"),
		Authorization: r.Header.Get("authorization") != "",
		Foreign:       foreign(r.Header),
	}
	if err := json.NewEncoder(w).Encode(seen); err != nil {
		return // the caller is gone
	}
}

func (a *App) stream(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	controller := http.NewResponseController(w)
	for {
		if _, err := fmt.Fprintf(w, "{\"service\":%q}\n", a.name); err != nil {
			return
		}
		if err := controller.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// Hits is how many requests, or connections over TCP, have reached the application.
func (a *App) Hits() int64 { return a.hits.Load() }

func (a *App) stop() {
	if a.tcp != nil {
		a.tcp.close()
		return
	}
	_ = a.server.Close()
}
