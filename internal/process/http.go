package process

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/logging"
)

// httpTask serves until its context ends; then all connections are closed.
func httpTask(name string, listener net.Listener, server *http.Server) lifecycle.Task {
	return lifecycle.Task{
		Name: name,
		Run: func(ctx context.Context) error {
			server.BaseContext = func(net.Listener) context.Context { return ctx }
			stop := context.AfterFunc(ctx, func() { _ = server.Close() })
			defer stop()
			if err := server.Serve(listener); ctx.Err() == nil && err != http.ErrServerClosed {
				return err
			}
			<-ctx.Done() // a server that was shut down: the rest of the stop follows
			return nil
		},
	}
}

// httpErrors has a server of the Connect API log what its connections fail of, and count it.
func (w *wiring) httpErrors(server *http.Server) (*http.Server, error) {
	failed, err := w.telemetry.meter().Int64Counter("braid.connect.connections.failed",
		metric.WithDescription("Connections to the Connect port that failed before a call or between calls, by reason: tls or other."))
	if err != nil {
		return nil, fmt.Errorf("metric of connections: %w", err)
	}
	tls, other := metric.WithAttributes(attribute.String("reason", "tls")), metric.WithAttributes(attribute.String("reason", "other"))
	server.ErrorLog = logging.HTTPErrors(w.log, func(isTLS bool) {
		if isTLS {
			failed.Add(context.Background(), 1, tls)
		} else {
			failed.Add(context.Background(), 1, other)
		}
	})
	return server, nil
}

// A requestCount counts the requests that a handler is at.
type requestCount struct {
	next http.Handler

	mu      sync.Mutex // guards the following
	n       int
	waiters []chan struct{} // closed when n is 0
}

func (c *requestCount) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.n--; c.n == 0 {
			for _, waiter := range c.waiters {
				close(waiter)
			}
			c.waiters = nil
		}
	}()
	c.next.ServeHTTP(w, r)
}

// shutdown ends a server gracefully: no new connections, clients are asked to go,
// and the requests that are there are answered. net/http's own Shutdown waits a
// second more for HTTP/2 clients to go by themselves; ours know how to come back.
func (c *requestCount) shutdown(ctx context.Context, server *http.Server) error {
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Shutdown(asked)
	}()
	c.mu.Lock()
	idle := make(chan struct{})
	if c.n == 0 {
		close(idle)
	} else {
		c.waiters = append(c.waiters, idle)
	}
	c.mu.Unlock()
	select {
	case <-idle:
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	cancel()
	<-done
	return server.Close()
}
