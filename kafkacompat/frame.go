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
	pooled *[]byte        // nil if the garbage collector gets the buffer
	from   *memory.Budget // that the frame's bytes are taken from
	size   int64          // taken, and counted for the connection
	parked bool           // waits in line for those before it, other than Produce
	gone   atomic.Bool
}

// release gives buffer and budgets back. Only the first call does something.
func (f *frame) release() {
	if f.gone.Swap(true) {
		return
	}
	f.from.Release(f.size)
	f.c.bytesInFlight.Add(-f.size)
	f.unpark()
	select {
	case f.c.bytesFreed <- struct{}{}:
	default:
	}
	if f.pooled != nil {
		memory.PutSlab(f.pooled)
	} else {
		f.b = nil
	}
}

// unpark notes that the request is at work: it waits in line no more.
func (f *frame) unpark() {
	if !f.parked {
		return
	}
	f.parked = false
	f.c.parked.Add(-f.size)
	select {
	case f.c.bytesFreed <- struct{}{}:
	default:
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
		if err != nil && errors.As(err, &timeout) && timeout.Timeout() && !c.isStopped() && c.busy() {
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

// smallRequestBytes is how large a request other than Produce is that has a budget of its
// own, and how many bytes of such requests a connection may have in line.
const smallRequestBytes = 64 << 10

// readBody reads the rest of a request. What fits into the connection's buffer is in memory
// already, and is counted when it is there. What is larger takes room for all of it before,
// and memory as its bytes come.
func (c *conn) readBody(ctx context.Context, size int, pooled bool) (*frame, error) {
	if size <= c.r.Size() {
		if c.r.Buffered() < size {
			c.setReadDeadline(c.s.cfg.StallTimeout)
		}
		if _, err := c.r.Peek(size); err != nil {
			return nil, fmt.Errorf("read the rest of a request: %w", err)
		}
	} else {
		coming := c.s.comingOf(size, pooled)
		if err := coming.Acquire(ctx, int64(size)); err != nil {
			return nil, err
		}
		defer coming.Release(int64(size))
	}
	from, err := c.takeRoom(ctx, size, pooled)
	if err != nil {
		return nil, err
	}
	f := &frame{c: c, from: from, size: int64(size), parked: !pooled}
	c.bytesInFlight.Add(f.size)
	if f.parked {
		c.parked.Add(f.size)
	}
	for have := 0; have < size; {
		n := min(size, comingBytes[0])
		if have > 0 {
			n = min(size, frameUnitBytes*((have+frameUnitBytes)/frameUnitBytes))
		}
		room := n
		if n > frameUnitBytes {
			room = size // as that much of it has come
		}
		f.grow(have, room, size, pooled)
		if err := c.readUnit(f.b[have:n]); err != nil {
			f.release()
			return nil, err
		}
		have = n
	}
	return f, nil
}

// takeRoom takes what a request needs, and returns from which budget. Small requests do not
// wait in line behind large ones, as long as there are few: a member of a group must be
// heard in time.
func (c *conn) takeRoom(ctx context.Context, size int, produce bool) (*memory.Budget, error) {
	if !produce && size <= smallRequestBytes && c.s.small.TryAcquire(int64(size)) {
		return c.s.small, nil
	}
	return c.s.budget, c.s.budget.Acquire(ctx, int64(size))
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

// While others wait for room, a request that is not whole must go on: patienceBytes within
// patience, or it is given up.
const (
	patience      = time.Second
	patienceBytes = 4 << 10
)

// readUnit fills b within StallTimeout.
func (c *conn) readUnit(b []byte) error {
	if c.r.Buffered() >= len(b) {
		_, err := io.ReadFull(c.r, b)
		return err
	}
	for by := time.Now().Add(c.s.cfg.StallTimeout); ; {
		c.setReadDeadline(min(patience, time.Until(by)))
		n, err := io.ReadFull(c.r, b)
		if err == nil {
			return nil
		}
		b = b[n:]
		var timeout net.Error
		switch {
		case !errors.As(err, &timeout) || !timeout.Timeout() || c.isStopped() || !time.Now().Before(by):
			return fmt.Errorf("read the rest of a request: %w", err)
		case n < patienceBytes && c.s.wanted():
			return fmt.Errorf("%w: the rest of a request does not come, and others wait for its room", errRefused)
		}
	}
}

// comingBytes are the sizes up to which requests that are not whole yet share a budget.
var comingBytes = [...]int{64 << 10, frameUnitBytes}

// newComing divides what requests may take that are not whole yet: an eighth of the budget
// for small ones, a quarter for those up to frameUnitBytes, a half for larger ones, and a
// sixteenth for small ones other than Produce, which must not stand behind producers that
// wait for the budget. So clients that never send the rest keep none of another kind from
// coming in, and a sixteenth at least is for what is there: who waits for the budget never
// waits for what does not come.
func newComing(budget int64) [len(comingBytes) + 2]*memory.Budget {
	return [...]*memory.Budget{memory.NewBudget(budget / 8), memory.NewBudget(budget / 4), memory.NewBudget(budget / 2), memory.NewBudget(budget / 16)}
}

// comingOf returns the budget of a request that is not whole yet.
func (s *shared) comingOf(size int, produce bool) *memory.Budget {
	if !produce && size <= smallRequestBytes {
		return s.coming[len(comingBytes)+1]
	}
	for i, most := range comingBytes {
		if size <= most {
			return s.coming[i]
		}
	}
	return s.coming[len(comingBytes)]
}

// wanted reports whether somebody waits for room.
func (s *shared) wanted() bool {
	for _, b := range s.coming {
		if b.Waiting() > 0 {
			return true
		}
	}
	return s.budget.Waiting() > 0
}

// relieveEvery is how often connections are looked through while somebody waits for room.
const relieveEvery = 250 * time.Millisecond

// relieve ends connections whose requests in line take room that others wait for, while the
// first of them waits for records or for a group: that wait ends, all are answered, and the
// client comes back.
func (s *shared) relieve() {
	now := time.Now().UnixNano()
	if last := s.relieved.Load(); now-last < int64(relieveEvery) || !s.relieved.CompareAndSwap(last, now) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		since := c.answering.Load()
		if since != 0 && now-since > int64(patience) && c.parked.Load() > readBufferBytes {
			c.log.Info("connection closed: requests wait behind one that waits, and others for the room that they take", "bytes", c.parked.Load())
			c.stopReading()
		}
	}
}
