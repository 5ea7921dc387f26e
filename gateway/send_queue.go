package gateway

import (
	"context"
	"sync"

	"github.com/braidmq/braid/internal/memory"
)

// A sendQueue carries messages from the goroutine that decides to the one that
// sends. Adding never blocks; the decider adds records only while there is room.
type sendQueue[T any] struct {
	bytesMax int
	answers  *memory.Budget // that frames are counted in while they wait and are sent; may be nil
	wake     chan struct{}  // capacity 1: something was added
	room     chan struct{}  // capacity 1: something was sent

	mu     sync.Mutex // guards the following
	items  []queued[T]
	bytes  int
	held   int64 // of answers: what waits, but for frameFreeBytes
	closed bool
	ended  bool // nobody sends any more
}

type queued[T any] struct {
	msg   *T
	bytes int
	frame *recordFrame // that the message is of, or nil
}

// queueMessagesMax is how many messages may wait, whatever their size.
const queueMessagesMax = 1000

func newSendQueue[T any](bytesMax int) *sendQueue[T] {
	return &sendQueue[T]{bytesMax: bytesMax, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (q *sendQueue[T]) add(msg *T, bytes int) { q.addFrame(msg, bytes, nil) }

// addFrame is add for a message whose frame is to be released when it was sent.
func (q *sendQueue[T]) addFrame(msg *T, bytes int, frame *recordFrame) {
	q.mu.Lock()
	q.items = append(q.items, queued[T]{msg, bytes, frame})
	q.bytes += bytes
	q.holdLocked()
	q.mu.Unlock()
	signal(q.wake)
}

// holdLocked counts what waits. Like a frame that is sent, it waits for no room itself.
func (q *sendQueue[T]) holdLocked() {
	n := max(0, int64(q.bytes)-frameFreeBytes)
	if q.ended {
		n = 0
	}
	switch {
	case n > q.held:
		q.answers.Charge(n - q.held)
	case n < q.held:
		q.answers.Uncharge(q.held - n)
	}
	q.held = n
}

// end gives back the room of what will not be sent.
func (q *sendQueue[T]) end() {
	q.mu.Lock()
	q.ended = true
	q.holdLocked()
	q.mu.Unlock()
}

// full reports whether no more records should be added.
func (q *sendQueue[T]) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes >= q.bytesMax || len(q.items) >= queueMessagesMax
}

// close says that nothing more will be added.
func (q *sendQueue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	signal(q.wake)
}

// drain sends all messages until the queue is closed and empty.
func (q *sendQueue[T]) drain(ctx context.Context, send func(*T) error) error {
	defer q.end()
	for {
		q.mu.Lock()
		items, closed := q.items, q.closed
		q.items = nil
		q.mu.Unlock()
		for _, it := range items {
			it.frame.count(q.answers, frameCopies-1) // the other one is counted as it waits
			err := send(it.msg)
			it.frame.release()
			if err != nil {
				return err
			}
			q.mu.Lock()
			q.bytes -= it.bytes
			q.holdLocked()
			q.mu.Unlock()
			signal(q.room)
		}
		if closed && len(items) == 0 {
			return nil
		}
		if len(items) > 0 {
			continue
		}
		flushStream(ctx)
		select {
		case <-q.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
