package router

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/internal/upstream"
)

// Records that were read from brokers are counted where they lie: upstream takes the
// buffer of each larger answer from Deps.Answers for as long as somebody has it, be it a
// reader, the tail cache, or a client that takes its answer slowly. The router asks for
// no more than there is room for:
//
//   - a direct read takes what its answer may have before it is sent, and waits for it if
//     need be, in line with others. It gets less of what is free the less is left, so that
//     clients that ask and do not take leave room for those that do;
//   - a Fetch that waits for more than it has goes with that while others wait for room;
//   - a tail waits until there is some room before it asks;
//   - reads ahead are left out where there is not enough;
//   - while somebody waits, the tail caches and what nobody comes for are dropped.

// answerLeast is what a read is granted at least, if it wants that: room for a batch.
const answerLeast = 1 << 20

// Within lowers limits to shares of a process's memory: of what the requests of clients
// may take, and what answers may; 0 = no limit.
func (c Config) Within(requests, answers int64) Config {
	c = c.withDefaults()
	if requests > 0 {
		c.AppendBytesMax = min(c.AppendBytesMax, requests)
		c.SessionAppendBytesMax = min(c.SessionAppendBytesMax, max(requests/4, answerLeast))
	}
	if answers > 0 {
		c.ReadAheadBytesMax = min(c.ReadAheadBytesMax, answers/4)
		c.TailBytesMax = min(c.TailBytesMax, int(answers/4))
	}
	return c
}

// cacheCount is what all tail caches hold together.
type cacheCount struct {
	max  int64 // 0 = no bound but that of each tail
	used atomic.Int64
	// tails is how many share it.
	tails atomic.Int64
}

// CachedBytes returns what the tail caches hold.
func (r *Router) CachedBytes() int64 { return r.cache.used.Load() }

// full reports whether a tail with so many bytes has to give some up: those that have no
// more than their share keep it.
func (c *cacheCount) full(bytes int) bool {
	return c.max > 0 && c.used.Load() > c.max && int64(bytes) > c.max/max(c.tails.Load(), 1)
}

// A reservation is room for the answer to one request of direct reads.
type reservation struct {
	bytes int64
	of    *atomic.Int64 // what all of its cluster have
}

// limit returns how much of most the request may bring.
func (n reservation) limit(most int32) int32 {
	if n.bytes > 0 {
		return int32(min(int64(most), n.bytes))
	}
	return most
}

// errCrowded is of a read to a cluster whose reads have their share of the room: one that
// does not answer must leave room for the others.
var errCrowded = errors.New("too much is read from the cluster already")

// clusterShare is which part of the room the reads of one cluster may have.
const clusterShare = 4

// reserve takes room for the answer of reads, at once or not at all: then await waits for
// it. It fails where a cluster has its share.
func (r *Router) reserve(cluster *upstream.Cluster, reads []wantedRead, limit FetchLimit) (n reservation, taken bool, err error) {
	if r.deps.Answers == nil {
		return reservation{}, true, nil
	}
	want := int64(0)
	for _, w := range reads {
		want += int64(w.maxBytes)
	}
	// Who asks for less than a batch is answered with one all the same.
	want = max(min(want, int64(limit.MaxBytes), int64(r.cfg.FetchBytesMax)), answerLeast)
	n.bytes = r.deps.Answers.Grant(want, answerLeast)
	of, _ := r.reserved.LoadOrStore(cluster, new(atomic.Int64))
	n.of = of.(*atomic.Int64)
	if all := n.of.Add(n.bytes); all > n.bytes && all > r.deps.Answers.Size()/clusterShare {
		n.of.Add(-n.bytes)
		return reservation{}, false, errCrowded
	}
	return n, r.deps.Answers.TryAcquire(n.bytes), nil
}

// await waits for a reservation that was not to be had at once.
func (r *Router) await(ctx context.Context, n reservation) error {
	err := r.deps.Answers.Acquire(ctx, n.bytes)
	if err != nil {
		n.of.Add(-n.bytes)
	}
	return err
}

// unreserve gives room back: the answer, which is counted by itself, is there.
func (r *Router) unreserve(n reservation) {
	if n.bytes > 0 {
		n.of.Add(-n.bytes)
		r.deps.Answers.Release(n.bytes)
	}
}

// requestBytes waits until there is room for what a tail's next request brings, and
// returns how much that may be. It takes nothing: most of these requests wait long, and
// bring little.
func (t *tail) requestBytes(ctx context.Context) (int32, error) {
	want := int64(min(t.r.cfg.TailBytesMax/2, 16<<20))
	if t.r.deps.Answers == nil {
		return int32(want), nil
	}
	if err := t.r.deps.Answers.Await(ctx, answerLeast); err != nil {
		return 0, err
	}
	return int32(t.r.deps.Answers.Grant(want, answerLeast)), nil
}

// uncollectedMax is how long an answer of a broker waits for its session to come back
// for it while others wait for memory.
const uncollectedMax = time.Second

// heldMax is how long a Fetch keeps what it has, and waits for more, while others wait for
// memory, and how often it looks whether some do.
const heldMax = time.Second

// mustGo reports whether a Fetch must go with what it has, and when it has to look again.
func (f *fetching) mustGo(now time.Time) (bool, time.Time) {
	if f.held.IsZero() {
		f.held = now
	}
	look := f.held.Add(heldMax)
	if now.Before(look) {
		return false, look
	}
	return f.s.r.deps.Answers.Waiting() > 0, now.Add(heldMax)
}

// relieve gives back what can be read again: the tail caches, and answers that nobody
// has come for.
func (r *Router) relieve() {
	now := time.Now()
	last := r.relieved.Load()
	if now.UnixNano()-last < int64(reliefPause) || !r.relieved.CompareAndSwap(last, now.UnixNano()) {
		return // somebody does or did it
	}
	r.tailMu.Lock()
	tails := make([]*tail, 0, len(r.tails))
	for _, t := range r.tails {
		tails = append(tails, t)
	}
	r.tailMu.Unlock()
	for _, t := range tails {
		t.evictAll()
	}
	r.sessions.Range(func(s, _ any) bool {
		s.(*session).dropUncollected(now.Add(-uncollectedMax))
		return true
	})
}

// reliefPause is the least time between two looks for memory to give back.
const reliefPause = 100 * time.Millisecond

// evictAll empties the cache. Readers that were not as far ask the broker.
func (t *tail) evictAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.parts {
		for len(p.chunks) > 0 {
			t.evictLocked(p)
		}
	}
	clear(t.order)
	t.order = t.order[:0]
}

// dropUncollected forgets answers that have been there since before a time. A Fetch that
// still wants one reads it again.
func (s *session) dropUncollected(before time.Time) {
	s.mu.Lock()
	var old []*read
	for tp, rd := range s.reads {
		if rd.doneBefore(before) {
			old = append(old, rd)
			delete(s.reads, tp)
		}
	}
	s.mu.Unlock()
	for _, rd := range old {
		rd.abandon()
	}
}

func (rd *read) doneBefore(t time.Time) bool {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.done && !rd.taken && rd.doneAt < t.UnixNano()
}
