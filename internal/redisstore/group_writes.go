package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// groupWriter sends the writes of many groups to Redis together: what comes in while
// pipelines are under way goes out as the next one. A write that comes alone goes at
// once, so nothing waits for company.
//
// Each write is a script of its own, which checks the ownership of its group, and has
// its own answer. A group has one write under way at a time, so their order in a
// pipeline does not matter.
type groupWriter struct {
	s       *Store
	timeout time.Duration // of a pipeline
	limits  groupWriteLimits

	pipelines, writes atomic.Int64

	mu      sync.Mutex // guards the following
	queue   []*queuedWrite
	running int // goroutines that send
}

// groupWriteLimits bound a pipeline, and how many are under way at a time.
type groupWriteLimits struct{ pipelines, writes, bytes int }

type queuedWrite struct {
	group string
	keys  []string
	args  []any
	size  int
	done  chan error // capacity 1
}

// GroupWriteStats counts writes of groups, and the round trips to Redis that they took.
type GroupWriteStats struct{ Writes, RoundTrips int64 }

// GroupWriteStats returns the counts since the store was opened.
func (s *Store) GroupWriteStats() GroupWriteStats {
	return GroupWriteStats{Writes: s.groups.writes.Load(), RoundTrips: s.groups.pipelines.Load()}
}

// write runs groupWrite. If ctx ends first, the write may be done all the same, as one
// whose answer is lost.
func (g *groupWriter) write(ctx context.Context, group string, keys []string, args []any) error {
	w := &queuedWrite{group: group, keys: keys, args: args, size: sizeOf(args), done: make(chan error, 1)}
	g.mu.Lock()
	g.queue = append(g.queue, w)
	if g.running < g.limits.pipelines {
		g.running++
		go g.run(context.WithoutCancel(ctx))
	}
	g.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		g.forget(w)
		return ctx.Err()
	}
}

func sizeOf(args []any) (n int) {
	for _, a := range args {
		switch a := a.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		}
	}
	return n
}

// forget takes a write back that was not sent yet.
func (g *groupWriter) forget(w *queuedWrite) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.queue {
		if o == w {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return
		}
	}
}

// run sends what waits until nothing does.
func (g *groupWriter) run(ctx context.Context) {
	for {
		batch := g.next()
		if batch == nil {
			return
		}
		g.send(ctx, batch)
	}
}

// next takes a pipeline's worth off the queue; nil if it is empty, and then the
// caller does not run any more.
func (g *groupWriter) next() []*queuedWrite {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, size := 0, 0
	for n < len(g.queue) && n < g.limits.writes && (n == 0 || size+g.queue[n].size <= g.limits.bytes) {
		size += g.queue[n].size
		n++
	}
	if n == 0 {
		g.running--
		return nil
	}
	batch := append([]*queuedWrite(nil), g.queue[:n]...)
	clear(g.queue[:n])
	if g.queue = g.queue[n:]; len(g.queue) == 0 {
		g.queue = nil
	}
	return batch
}

func (g *groupWriter) send(ctx context.Context, batch []*queuedWrite) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if batch = g.pipeline(ctx, batch, true); len(batch) == 0 {
		return
	}
	// Redis was started anew, and has no scripts yet.
	if err := groupWrite.Load(ctx, g.s.rdb).Err(); err != nil {
		for _, w := range batch {
			w.done <- unavailable(err)
		}
		return
	}
	g.pipeline(ctx, batch, false)
}

// pipeline sends writes in one round trip and answers them. With load, it returns those
// that the script was missing for, and does not answer them.
func (g *groupWriter) pipeline(ctx context.Context, batch []*queuedWrite, load bool) (again []*queuedWrite) {
	g.pipelines.Add(1)
	pipe := g.s.rdb.Pipeline()
	answers := make([]*redis.Cmd, len(batch))
	for i, w := range batch {
		answers[i] = groupWrite.EvalSha(ctx, pipe, w.keys, w.args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, w := range batch {
		owner, err := answers[i].Bool()
		switch {
		case load && redis.HasErrorPrefix(err, "NOSCRIPT"):
			again = append(again, w)
		case err != nil:
			w.done <- unavailable(err)
		case owner:
			g.writes.Add(1)
			w.done <- nil
		default:
			w.done <- errGroupTaken(w.group)
		}
	}
	return again
}
