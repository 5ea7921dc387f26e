package simnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferBytes bounds what is on the way in one direction of a connection.
const bufferBytes = 1 << 20

// A conn is one end of a connection.
type conn struct {
	local, remote addr
	in, out       *half
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // made here, and readers compare it like that
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Close lets what was written arrive.
func (c *conn) Close() error {
	c.out.set(func(h *half) { h.writerClosed = true })
	c.in.set(func(h *half) { h.readerClosed, h.queue, h.size = true, nil, 0 })
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(func(h *half) { h.readDeadline = t })
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.set(func(h *half) { h.writeDeadline = t })
	return nil
}

// reset breaks both directions at once.
func (p *pair) reset() {
	p.there.reset()
	p.back.reset()
}

// over reports whether nothing can come over the connection any more.
func (p *pair) over() bool { return p.there.over() && p.back.over() }

// A half is one direction of a connection.
type half struct {
	from, to string // hosts
	latency  time.Duration

	mu                          sync.Mutex // guards the following
	queue                       []segment
	size                        int
	last                        time.Time // when the last segment arrives
	state                       linkState
	lost                        bool // bytes were dropped
	broken                      bool
	writerClosed, readerClosed  bool
	readDeadline, writeDeadline time.Time
	changed                     chan struct{} // closed when any of these changes
}

// A segment is what one write carries.
type segment struct {
	at    time.Time // when it arrives
	bytes []byte
}

func newHalf(from, to string, latency time.Duration) *half {
	return &half{from: from, to: to, latency: latency, changed: make(chan struct{})}
}

// set changes something, and wakes those who wait.
func (h *half) set(change func(*half)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
	h.wakeLocked()
}

func (h *half) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *half) reset() {
	h.set(func(h *half) { h.broken, h.queue, h.size = true, nil, 0 })
}

func (h *half) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken || h.writerClosed && h.readerClosed
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

func (h *half) read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		now := time.Now()
		var arrives time.Time
		switch {
		case h.readerClosed:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case h.broken:
			h.mu.Unlock()
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		case passed(h.readDeadline, now):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			h.mu.Unlock()
			return 0, nil
		case len(h.queue) > 0 && !h.state.held && !now.Before(h.queue[0].at):
			n := h.takeLocked(p, now)
			h.mu.Unlock()
			return n, nil
		case len(h.queue) > 0 && !h.state.held:
			arrives = h.queue[0].at
		case len(h.queue) == 0 && h.writerClosed && !h.state.held && !h.state.dropped:
			h.mu.Unlock()
			return 0, io.EOF
		}
		changed, deadline := h.changed, h.readDeadline
		h.mu.Unlock()
		wait(changed, now, arrives, deadline)
	}
}

// takeLocked copies what has arrived.
func (h *half) takeLocked(p []byte, now time.Time) int {
	n := 0
	for len(h.queue) > 0 && n < len(p) && !now.Before(h.queue[0].at) {
		s := &h.queue[0]
		k := copy(p[n:], s.bytes)
		n += k
		if s.bytes = s.bytes[k:]; len(s.bytes) == 0 {
			h.queue = h.queue[1:]
		}
	}
	h.size -= n
	h.wakeLocked()
	return n
}

func (h *half) write(p []byte) (int, error) {
	written := 0
	for {
		h.mu.Lock()
		now := time.Now()
		switch {
		case h.writerClosed:
			h.mu.Unlock()
			return written, net.ErrClosed
		case h.broken || h.readerClosed:
			h.mu.Unlock()
			return written, os.NewSyscallError("write", syscall.ECONNRESET)
		case passed(h.writeDeadline, now):
			h.mu.Unlock()
			return written, os.ErrDeadlineExceeded
		case h.state.dropped:
			h.lost = true
			h.mu.Unlock()
			return len(p), nil
		case h.lost:
			// Nothing can follow what was lost.
			h.broken, h.queue, h.size = true, nil, 0
			h.wakeLocked()
			h.mu.Unlock()
			return written, os.NewSyscallError("write", syscall.ECONNRESET)
		case len(p) == 0:
			h.mu.Unlock()
			return written, nil
		case h.size < bufferBytes:
			k := min(len(p), bufferBytes-h.size)
			at := now.Add(h.latency + h.state.delay)
			if at.Before(h.last) {
				at = h.last
			}
			h.last = at
			h.queue = append(h.queue, segment{at, append([]byte(nil), p[:k]...)})
			h.size += k
			written += k
			p = p[k:]
			h.wakeLocked()
			h.mu.Unlock()
			continue
		}
		changed, deadline := h.changed, h.writeDeadline
		h.mu.Unlock()
		wait(changed, now, deadline)
	}
}

// wait returns when changed is closed, or at the first of some instants; zero ones
// are none.
func wait(changed <-chan struct{}, now time.Time, instants ...time.Time) {
	var first time.Time
	for _, t := range instants {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if first.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(first.Sub(now))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}
