package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// grace is how long calls that are under way may go on after the end was asked for.
const grace = 5 * time.Second

// Tasks are what a process does at once: they begin together, and the end of one, or of the context, ends all.
type Tasks struct {
	run   []func(context.Context) error
	close []func() error
}

// Add adds a task that ends when its context does.
func (t *Tasks) Add(run func(context.Context) error) { t.run = append(t.run, run) }

// ServeGRPC adds a gRPC server on an open listener.
func (t *Tasks) ServeGRPC(s *grpc.Server, l net.Listener) {
	t.close = append(t.close, l.Close)
	t.Add(func(ctx context.Context) error {
		return serveUntil(ctx, func() error {
			if err := s.Serve(l); !errors.Is(err, grpc.ErrServerStopped) { // stopped before it had begun
				return err
			}
			return nil
		}, func(context.Context) { stopGRPC(s) })
	})
}

// ServeHTTP adds an HTTP server on an open listener.
func (t *Tasks) ServeHTTP(s *http.Server, l net.Listener) {
	t.close = append(t.close, l.Close)
	t.Add(func(ctx context.Context) error {
		return serveUntil(ctx, func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}, func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, grace)
			defer cancel()
			_ = s.Shutdown(ctx) // what is not done by then is cut by the end of the process
		})
	})
}

// Close closes the listeners of tasks that are not run.
func (t *Tasks) Close() error {
	var errs []error
	for _, f := range t.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Run runs all tasks until ctx ends or one of them fails, and returns when all have ended.
func (t *Tasks) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, run := range t.run {
		wg.Go(func() {
			defer cancel()
			if err := run(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serveUntil serves until it fails or ctx ends; then it stops, and waits for the serving to be over.
func serveUntil(ctx context.Context, serve func() error, stop func(context.Context)) error {
	done := make(chan error, 1)
	go func() { done <- serve() }()
	select {
	case err := <-done:
		return ended(err)
	case <-ctx.Done():
		stop(context.WithoutCancel(ctx))
		return ended(<-done)
	}
}

func ended(err error) error {
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return nil
}

// stopGRPC lets calls end, and cuts those that do not.
func stopGRPC(s *grpc.Server) {
	done := make(chan struct{})
	go func() { defer close(done); s.GracefulStop() }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.Stop()
		<-done
	}
}
