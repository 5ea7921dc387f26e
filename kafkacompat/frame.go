package kafkacompat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/memory"
)

// A frame is one request as it came in, without its length field. It holds a
// part of the budgets until release.
type frame struct {
	b      []byte
	c      *conn
	pooled *[]byte // nil if the garbage collector gets the buffer
	taken  int64   // of the server's budget
	size   int64   // counted for the connection
	gone   atomic.Bool
}

// release gives buffer and budgets back. Only the first call does something.
func (f *frame) release() {
	if f.gone.Swap(true) {
		return
	}
	f.c.s.budget.Release(f.taken)
	f.c.bytesInFlight.Add(-f.size)
	select {
	case f.c.bytesFreed <- struct{}{}:
	default:
	}
	if f.pooled != nil {
		memory.PutSlab(f.pooled)
	}
}

// frameHeadBytes are length, API key and version: what is needed to decide how
// to read the rest.
const frameHeadBytes = 8

// readFrame reads the next request. Its errors end the connection: io.EOF if the
// client closed it between two requests.
func (c *conn) readFrame(ctx context.Context) (*frame, error) {
	if err := c.awaitFrame(); err != nil {
		return nil, err
	}
	if err := c.awaitTurn(ctx); err != nil {
		return nil, err
	}
	if c.r.Buffered() < frameHeadBytes {
		c.setReadDeadline(c.s.cfg.StallTimeout)
	}
	head, err := c.r.Peek(frameHeadBytes)
	if err != nil {
		return nil, fmt.Errorf("read the head of a request: %w", err)
	}
	size := int(int32(binary.BigEndian.Uint32(head)))
	key := int16(binary.BigEndian.Uint16(head[4:]))
	limit := c.s.cfg.SmallFrameBytesMax
	produce := key == int16(kmsg.Produce)
	if produce {
		limit = c.s.cfg.FrameBytesMax
	}
	limit = min(limit, c.s.cfg.FrameBytesMax)
	if size < requestHeadBytesMin || size > limit {
		return nil, fmt.Errorf("%w: request of %d bytes (API key %d): want %d to %d", errRefused, size, key, requestHeadBytesMin, limit)
	}
	_, _ = c.r.Discard(4)
	return c.readBody(ctx, size, produce)
}

// awaitFrame waits for the first byte of the next request. While requests are
// being worked on, the connection is not idle, however long they take.
func (c *conn) awaitFrame() error {
	for {
		c.setReadDeadline(c.s.cfg.IdleTimeout)
		_, err := c.r.Peek(1)
		var timeout net.Error
		if err != nil && errors.As(err, &timeout) && timeout.Timeout() && !c.s.isDraining() && c.busy() {
			continue
		}
		return err
	}
}

// setReadDeadline does nothing once the server drains: stopReading has set one
// in the past then.
func (c *conn) setReadDeadline(d time.Duration) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if by, ok := newDeadline(c.readBy, d); ok && !c.stopped {
		c.readBy = by
		_ = c.nc.SetReadDeadline(by)
	}
}

// newDeadline returns a deadline in d or up to an eighth later, and whether it must be
// set: to set one for each request costs more than the rest of what a small one does.
func newDeadline(have time.Time, d time.Duration) (time.Time, bool) {
	now := time.Now()
	latest := now.Add(d + d/8)
	return latest, have.Before(now.Add(d)) || have.After(latest)
}

// smallRequestBytes is how large a request is that waits for no budget, unless it is Produce.
const smallRequestBytes = 64 << 10

// readBody believes a length above frameUnitBytes only when that much of the
// request is there: budget and memory for the rest are taken then.
func (c *conn) readBody(ctx context.Context, size int, pooled bool) (*frame, error) {
	first := min(size, frameUnitBytes)
	if size > first {
		select {
		case c.s.large <- struct{}{}:
			defer func() { <-c.s.large }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// Small requests do not wait in line behind large ones: a member of a group must be
	// heard in time, and each connection may have few of them.
	if !pooled && size <= smallRequestBytes {
		c.s.budget.Charge(int64(first))
	} else if err := c.s.budget.Acquire(ctx, int64(first)); err != nil {
		return nil, err
	}
	f := &frame{c: c, taken: int64(first), size: int64(size)}
	c.bytesInFlight.Add(f.size)
	f.grow(0, first, size, pooled)
	err := c.readInto(f.b[:first])
	if err == nil && size > first {
		if err = c.s.budget.Acquire(ctx, int64(size-first)); err == nil {
			f.taken += int64(size - first)
			f.grow(first, size, size, pooled)
			err = c.readInto(f.b[first:])
		}
	}
	if err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// grow makes room for n bytes and keeps the first have. A buffer of the whole
// size is used at once if one is idle: it costs no new memory.
func (f *frame) grow(have, n, size int, pooled bool) {
	switch {
	case len(f.b) >= n:
	case !pooled:
		b := make([]byte, n)
		copy(b, f.b[:have])
		f.b = b
	default:
		p, room := memory.IdleSlab(size), size
		if p == nil {
			p, room = memory.GetSlab(n), n
		}
		*p = (*p)[:room]
		copy(*p, f.b[:have])
		if f.pooled != nil {
			memory.PutSlab(f.pooled)
		}
		f.pooled, f.b = p, *p
	}
}

// readInto fills b; each MiB must come within StallTimeout.
func (c *conn) readInto(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), frameUnitBytes)
		if c.r.Buffered() < n {
			c.setReadDeadline(c.s.cfg.StallTimeout)
		}
		if _, err := io.ReadFull(c.r, b[:n]); err != nil {
			return fmt.Errorf("read the rest of a request: %w", err)
		}
		b = b[n:]
	}
	return nil
}
