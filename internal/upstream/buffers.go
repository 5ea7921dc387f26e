package upstream

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/internal/memory"
)

// A Buffer is a response body in memory that is used again, counted by its users.
type Buffer struct {
	B    []byte
	full []byte
	slab *[]byte // that full is; nil if it is a large one
	refs atomic.Int32
	idle *idleBuffers // of large ones that are kept
	// charged is the budget that the buffer's bytes are taken from while it has users.
	charged *memory.Budget
}

// chargedMin is the size from which on buffers count. Smaller ones are answers to
// appends and questions, which are what requests under way wait for.
const chargedMin = 64 << 10

// slabBytesMax is the size up to which buffers are slabs of the process. Larger ones are
// kept by each Pool, which knows better than a class of sizes which of them does.
const slabBytesMax = 4 << 20

var buffers = sync.Pool{New: func() any { return new(Buffer) }} // without memory

// firstReadBytes is how much memory an answer above slabBytesMax gets before any of it is
// there, if no idle buffer will do.
const firstReadBytes = 1 << 20

// readBuffer reads n bytes into a buffer with one user. A large buffer that nobody uses is
// taken at once; a new one grows as the bytes come, so that what a broker announces and does
// not send costs no more than twice what it has sent. Errors are those of io.ReadFull.
func readBuffer(r io.Reader, n int, idle *idleBuffers) (*Buffer, error) {
	b := firstBuffer(n, idle)
	for have := 0; ; {
		if _, err := io.ReadFull(r, b.B[have:]); err != nil {
			b.Release()
			return nil, err
		}
		if have = len(b.B); have == n {
			return b, nil
		}
		small := b
		if next := 2 * have; next >= n || next <= slabBytesMax {
			b = newBuffer(min(next, n), idle)
		} else { // of no use to others when it has grown
			b = (&Buffer{full: make([]byte, next)}).begin(next, idle)
		}
		copy(b.B, small.B)
		small.Release()
	}
}

// firstBuffer returns a buffer of n bytes that costs nothing or little, else a smaller one.
func firstBuffer(n int, idle *idleBuffers) *Buffer {
	if n <= slabBytesMax {
		return newBuffer(n, idle)
	}
	if b := idle.get(n); b != nil {
		return b.begin(n, idle)
	}
	return newBuffer(firstReadBytes, idle)
}

// newBuffer returns a buffer of n bytes with one user. Its content is arbitrary.
func newBuffer(n int, idle *idleBuffers) *Buffer {
	return pooledBuffer(n, idle).begin(n, idle)
}

// begin gives the buffer its first user, who has n bytes of it.
func (b *Buffer) begin(n int, idle *idleBuffers) *Buffer {
	b.B = b.full[:n]
	b.refs.Store(1)
	if len(b.full) >= chargedMin && idle.budget != nil {
		b.charged = idle.budget
		b.charged.Charge(int64(len(b.full)))
	}
	return b
}

func pooledBuffer(n int, idle *idleBuffers) *Buffer {
	if n <= slabBytesMax {
		b := buffers.Get().(*Buffer)
		b.slab = memory.GetSlab(n)
		b.full = (*b.slab)[:cap(*b.slab)]
		return b
	}
	if b := idle.get(n); b != nil {
		return b
	}
	// A step of 1 MiB lets answers of nearly the same size share a buffer.
	const step = 1 << 20
	return &Buffer{full: make([]byte, (n+step-1)/step*step), idle: idle}
}

// Retain adds a user.
func (b *Buffer) Retain() { b.refs.Add(1) }

// Release takes a user away; the last one gives the buffer's memory back.
func (b *Buffer) Release() {
	if b.refs.Add(-1) != 0 {
		return
	}
	b.B = nil
	b.uncharge()
	if b.slab != nil {
		memory.PutSlab(b.slab)
		b.slab, b.full = nil, nil
		buffers.Put(b)
		return
	}
	if b.idle != nil {
		b.idle.put(b, time.Now())
	}
}

// uncharge has the buffer count no more.
func (b *Buffer) uncharge() {
	if b.charged != nil {
		b.charged.Uncharge(int64(len(b.full)))
		b.charged = nil
	}
}

// idleBuffers keeps the large buffers of a Pool that nobody uses, for the next
// answers: to allocate and clear one costs more than to fill it. It holds at most
// bytesMax, and each buffer only for idleBufferAge.
type idleBuffers struct {
	bytesMax int
	budget   *memory.Budget // of what is in use; nil = no bound

	mu     sync.Mutex // guards the following
	held   []idleBuffer
	bytes  int
	closed bool
	timer  *time.Timer // runs while something is held
}

type idleBuffer struct {
	*Buffer
	since time.Time
}

// idleBufferAge is how long a large buffer waits for its next use. Readers that
// catch up need one every few milliseconds.
const idleBufferAge = 30 * time.Second

// get takes the smallest buffer of at least n bytes; nil if there is none. One
// of more than twice the size is left for the answers that need it.
func (l *idleBuffers) get(n int) *Buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	best := -1
	// The newest come first, so that those that are too many grow old.
	for i, b := range slices.Backward(l.held) {
		if size := len(b.full); size >= n && size/2 <= n && (best < 0 || size < len(l.held[best].full)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	b := l.held[best].Buffer
	l.remove(best, best+1)
	return b
}

// put keeps a buffer, in place of the oldest if there is no room.
func (l *idleBuffers) put(b *Buffer, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(b.full) > l.bytesMax {
		return
	}
	drop, room := 0, l.bytesMax-l.bytes
	for room < len(b.full) {
		room += len(l.held[drop].full)
		drop++
	}
	l.remove(0, drop)
	l.held = append(l.held, idleBuffer{b, now})
	l.bytes += len(b.full)
	if l.timer == nil {
		l.timer = time.AfterFunc(idleBufferAge, l.expire)
	}
}

// remove takes held[from:to] out.
func (l *idleBuffers) remove(from, to int) {
	for _, b := range l.held[from:to] {
		l.bytes -= len(b.full)
	}
	l.held = append(l.held[:from], l.held[to:]...)
	clear(l.held[len(l.held) : len(l.held)+to-from]) // lets go of what they point to
}

// expire drops what has waited for too long; they are in the order in which they came.
func (l *idleBuffers) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, drop := time.Now(), 0
	for drop < len(l.held) && now.Sub(l.held[drop].since) >= idleBufferAge {
		drop++
	}
	l.remove(0, drop)
	l.timer = nil
	if len(l.held) > 0 {
		l.timer = time.AfterFunc(l.held[0].since.Add(idleBufferAge).Sub(now), l.expire)
	}
}

// close drops everything; what comes later is not kept.
func (l *idleBuffers) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.remove(0, len(l.held))
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}
