package demo

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
)

// greeter is the sample application of a TCP service: it answers each line with its name and that line, and where the
// server speaks first it begins with a line of its own.
type greeter struct {
	app      *App
	greeting string
	listener net.Listener

	mu    sync.Mutex
	open  map[net.Conn]bool
	ended bool
	tasks sync.WaitGroup
}

// startEcho is for protocols in which the client speaks first.
func startEcho(ctx context.Context, name string, port uint16) (*App, error) {
	return startTCP(ctx, name, "", port)
}

// startGreeter is for protocols in which the server does.
func startGreeter(ctx context.Context, name string, port uint16) (*App, error) {
	return startTCP(ctx, name, "220 "+name+"\n", port)
}

func startTCP(ctx context.Context, name, greeting string, port uint16) (*App, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("application of %s: %w", name, err)
	}
	a := &App{name: name}
	a.tcp = &greeter{app: a, greeting: greeting, listener: listener, open: map[net.Conn]bool{}}
	a.tcp.tasks.Go(a.tcp.serve)
	return a, nil
}

func (g *greeter) serve() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return // closed
		}
		g.app.hits.Add(1)
		if !g.begin(conn) {
			return
		}
	}
}

// begin serves a connection, unless the application has ended.
func (g *greeter) begin(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		_ = conn.Close()
		return false
	}
	g.open[conn] = true
	g.tasks.Go(func() { g.talk(conn) })
	return true
}

func (g *greeter) talk(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.open, conn)
	}()
	if _, err := conn.Write([]byte(g.greeting)); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := fmt.Fprintf(conn, "%s: %s\n", g.app.name, lines.Text()); err != nil {
			return
		}
	}
}

// close ends the application and every connection.
func (g *greeter) close() {
	_ = g.listener.Close()
	g.mu.Lock()
	g.ended = true
	for conn := range g.open {
		_ = conn.Close()
	}
	g.mu.Unlock()
	g.tasks.Wait()
}
