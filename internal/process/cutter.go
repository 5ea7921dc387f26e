package process

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialTimeout bounds one attempt to connect to anything.
const dialTimeout = 3 * time.Second

// A cutter is the process's way to Redis and to other processes of braid. It can be
// cut: all connections break and no new ones come, as when a process dies.
type cutter struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex // guards the following
	conns map[*cutConn]struct{}
	isCut bool
}

func newCutter(dial func(ctx context.Context, network, address string) (net.Conn, error)) *cutter {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	return &cutter{dial: dial, conns: make(map[*cutConn]struct{})}
}

// DialContext opens a connection.
func (c *cutter) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if c.dead() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
	}
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &cutConn{Conn: conn, of: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
	}
	c.conns[tracked] = struct{}{}
	return tracked, nil
}

func (c *cutter) dead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isCut
}

// cut breaks everything for good.
func (c *cutter) cut() {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.isCut = nil, true
	c.mu.Unlock()
	for conn := range conns {
		if tcp, ok := conn.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, and nothing that was still to be sent
		}
		_ = conn.Conn.Close()
	}
}

// A cutConn is a connection that a cutter knows.
type cutConn struct {
	net.Conn
	of *cutter
}

func (c *cutConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
