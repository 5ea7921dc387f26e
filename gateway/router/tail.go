package router

import (
	"context"
	"net"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

type tailKey struct {
	cluster *upstream.Cluster
	source  upstream.Source
}

type physicalKey struct {
	topic     string
	partition federation.PhysicalPartition
}

// A tail waits at one broker for new records of all partitions that readers
// wait for, in one incremental fetch session (KIP-227). What it brings wakes
// every reader and stays in a bounded cache, so a hundred groups on a topic
// cost the broker one read.
type tail struct {
	r   *Router
	key tailKey

	kick  chan struct{}              // capacity 1: a partition joined an idle tail
	woken map[chan struct{}]struct{} // of run's goroutine: the readers to wake

	mu      sync.Mutex // guards the following
	parts   map[physicalKey]*tailPart
	leaving []physicalKey // in the session, to be forgotten
	order   []*tailPart   // one entry for each cached chunk, oldest first
	bytes   int           // of all chunks
	ended   bool
}

// A tailPart is a partition in a tail.
type tailPart struct {
	key     physicalKey
	tp      federation.TopicPartition
	extent  *federation.Extent
	next    federation.PhysicalOffset // what the tail asks for next
	sent    federation.PhysicalOffset // what the session was told last; -1 = not in it
	chunks  []tailChunk               // ascending and adjacent; the last ends at next
	waiters map[chan struct{}]struct{}
	used    time.Time // when the last reader came or went
	gone    bool
}

// A tailChunk is what one answer brought for a partition.
type tailChunk struct {
	first, end federation.LogicalOffset
	data       []byte // patched
	buf        *upstream.Buffer
	txn        bool // holds transactional batches, or lies behind a transaction that is open
}

// tailOf returns the tail of a broker, and starts it if there is none.
func (r *Router) tailOf(cluster *upstream.Cluster, source upstream.Source) *tail {
	key := tailKey{cluster, source}
	r.tailMu.Lock()
	defer r.tailMu.Unlock()
	t := r.tails[key]
	if t == nil {
		t = &tail{r: r, key: key, kick: make(chan struct{}, 1), woken: make(map[chan struct{}]struct{}), parts: make(map[physicalKey]*tailPart)}
		r.tails[key] = t
		r.cache.tails.Add(1)
		r.tasks.Go(t.run)
	}
	return t
}

// watch says that a reader waits for extent's records from at on. If the tail
// has them, got takes them. If the tail is ahead and has them no more, miss
// is true: the reader must ask the broker. Else wake is notified of news until
// the part is left.
func (t *tail) watch(tp federation.TopicPartition, extent *federation.Extent, at federation.LogicalOffset, maxBytes int, join bool, wake chan struct{}, got *taken) (part *tailPart, miss bool) {
	key := physicalKey{extent.PhysicalAddress.Topic, extent.PhysicalAddress.Partition}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[key]
	if p == nil {
		if !join || t.ended {
			return nil, true
		}
		p = &tailPart{key: key, tp: tp, extent: extent, next: extent.Physical(at), sent: -1, waiters: make(map[chan struct{}]struct{})}
		t.parts[key] = p
		notify(t.kick)
	}
	p.used = time.Now()
	if extent.Logical(p.next) > at {
		p.take(at, maxBytes, got)
		return p, len(got.data) == 0
	}
	// Behind what the tail has seen there may be no log at all: a broker must tell first.
	if extent.Logical(p.next) < at && !join {
		return p, true
	}
	p.waiters[wake] = struct{}{}
	return p, false
}

// leave ends a watch.
func (t *tail) leave(p *tailPart, wake chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(p.waiters, wake)
	p.used = time.Now()
}

// taken is what a reader takes from the cache; bufs are retained for it.
type taken struct {
	data [][]byte
	bufs []*upstream.Buffer
	next federation.LogicalOffset
	txn  bool
}

// reset forgets what was taken, but for its memory.
func (g *taken) reset() {
	clear(g.data)
	clear(g.bufs)
	*g = taken{data: g.data[:0], bufs: g.bufs[:0]}
}

// take takes whole batches from the one that holds at on, at least one, at
// most maxBytes; the tail's mu is held.
func (p *tailPart) take(at federation.LogicalOffset, maxBytes int, got *taken) {
	// There can be thousands of them, and a reader mostly wants the last.
	from := sort.Search(len(p.chunks), func(i int) bool { return p.chunks[i].end > at })
	for i := from; i < len(p.chunks); i++ {
		c := &p.chunks[i]
		if c.first > at && len(got.data) == 0 {
			return // evicted
		}
		data, next := cutBatches(c.data, at, maxBytes, len(got.data) == 0)
		if len(data) == 0 {
			return
		}
		c.buf.Retain()
		got.data, got.bufs = append(got.data, data), append(got.bufs, c.buf)
		got.next = next
		got.txn = got.txn || c.txn
		if maxBytes -= len(data); maxBytes <= 0 || next < c.end {
			return
		}
		at = c.end
	}
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// tailLinger is how long a tail without partitions stays.
const tailLinger = 30 * time.Second

func (t *tail) run() {
	s := &tailSession{}
	for t.r.ctx.Err() == nil {
		if !t.await() {
			return
		}
		if err := t.poll(s); err != nil {
			t.r.cfg.Logger.Debug("tail fetch failed", "cluster", t.key.cluster.Name, "broker", t.key.source.Broker, "err", err)
			s.reset()
			t.dropAll(err)
		}
	}
	t.end()
}

// await waits until the tail has partitions; false if it ends instead.
func (t *tail) await() bool {
	t.mu.Lock()
	n := len(t.parts)
	t.mu.Unlock()
	if n > 0 {
		return true
	}
	timer := time.NewTimer(tailLinger)
	defer timer.Stop()
	select {
	case <-t.kick:
		return true
	case <-timer.C:
	case <-t.r.ctx.Done():
	}
	return !t.end()
}

// end takes the tail out of the router, unless a partition joined meanwhile.
func (t *tail) end() bool {
	t.r.tailMu.Lock()
	defer t.r.tailMu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.parts) > 0 && t.r.ctx.Err() == nil {
		return false
	}
	t.ended = true
	delete(t.r.tails, t.key)
	t.r.cache.tails.Add(-1)
	for _, p := range t.parts {
		t.dropLocked(p)
	}
	return true
}

// A tailSession is the broker's fetch session as the tail knows it.
type tailSession struct {
	conn  *upstream.Conn
	id    int32
	epoch int32
}

func (s *tailSession) reset() { *s = tailSession{} }

func (t *tail) poll(s *tailSession) error {
	ctx := t.r.ctx
	conn, err := t.key.cluster.Conn(ctx, t.key.source.Broker, upstream.UseTail, tailLane(t.key.source))
	if err != nil {
		return err
	}
	if s.conn != conn {
		s.reset()
		s.conn = conn
		t.forgetSession()
	}
	maxBytes, err := t.requestBytes(ctx)
	if err != nil {
		return err
	}
	t.r.count.tailFetches.Add(1)
	req := t.request(s)
	req.MaxBytes = maxBytes
	if err := conn.Acquire(ctx); err != nil {
		return err
	}
	type answer struct {
		buf *upstream.Buffer
		err error
	}
	defer t.patience()()
	defer context.AfterFunc(ctx, conn.Close)() // a router that closes waits for no broker
	ch := make(chan answer, 1)
	conn.Send(req.Key(), req.Version, req.IsFlexible(), net.Buffers{req.AppendTo(nil)}, func(b *upstream.Buffer, err error) { ch <- answer{b, err} })
	a := <-ch // the connection answers within its timeout, and when it is closed
	if a.err != nil {
		return a.err
	}
	defer a.buf.Release()
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(req.Version)
	if err := upstream.Decode(resp, a.buf.B); err != nil {
		return err
	}
	if resp.ErrorCode != 0 { // the broker lost the session: begin a new one
		s.reset()
		s.conn = conn
		t.forgetSession()
		return nil
	}
	s.id, s.epoch = resp.SessionID, s.epoch+1
	if s.id == 0 {
		t.forgetSession() // the broker's cache of sessions is full: full requests
		s.epoch = 0
	}
	t.take(resp, a.buf)
	return nil
}

// request builds the next incremental request: what joined, moved on or left.
func (t *tail) request(s *tailSession) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(max(s.conn.Version(1, 4, fetchVersionFor(t.key.source)), 4))
	req.Rack = t.key.cluster.Zone()
	req.MaxWaitMillis = int32(t.r.cfg.TailWait.Milliseconds())
	req.MinBytes = 1
	req.SessionID, req.SessionEpoch = s.id, s.epoch
	now := time.Now()
	topics := make(map[string]int)
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, p := range t.parts {
		if len(p.waiters) == 0 && now.Sub(p.used) > t.r.cfg.TailIdle {
			t.dropLocked(p)
			continue
		}
		if p.sent == p.next {
			continue
		}
		p.sent = p.next
		i, ok := topics[key.topic]
		if !ok {
			i = len(req.Topics)
			topics[key.topic] = i
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic = key.topic
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset = int32(key.partition), int64(p.next)
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = -1, -1
		rp.PartitionMaxBytes = 1 << 20
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	if s.id != 0 {
		for _, key := range t.leaving {
			if t.parts[key] != nil {
				continue // it came back, and is named above: brokers forget last
			}
			f := kmsg.NewFetchRequestForgottenTopic()
			f.Topic, f.Partitions = key.topic, []int32{int32(key.partition)}
			req.ForgottenTopics = append(req.ForgottenTopics, f)
		}
	}
	t.leaving = nil
	return req
}

// take puts what an answer brought into the cache and then wakes the readers: one that
// waits for several partitions finds all there is, and nobody who is awake waits for mu.
func (t *tail) take(resp *kmsg.FetchResponse, buf *upstream.Buffer) {
	defer t.wake()
	m := t.r.deps.Maps.Current()
	bytes := 0
	defer func() { t.r.count.from(t.key.source, bytes) }()
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			bytes += len(rp.RecordBatches)
			t.takePart(m, physicalKey{rt.Topic, federation.PhysicalPartition(rp.Partition)}, rp, buf)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for (t.bytes > t.r.cfg.TailBytesMax || t.r.cache.full(t.bytes)) && len(t.order) > 0 {
		p := t.order[0]
		t.order = t.order[1:]
		t.evictLocked(p)
	}
}

func (t *tail) takePart(m *federation.Map, key physicalKey, rp *kmsg.FetchResponseTopicPartition, buf *upstream.Buffer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[key]
	if p == nil {
		return
	}
	part, err := m.Partition(p.tp)
	if err != nil || part.Head().PhysicalAddress != p.extent.PhysicalAddress || closed(m, part.Head()) {
		t.dropLocked(p)
		return
	}
	p.extent = part.Head()
	if rp.ErrorCode != 0 {
		// Its readers ask the leader and learn what is wrong.
		t.failed(key, kerr.ErrorForCode(rp.ErrorCode).Error())
		t.dropLocked(p)
		return
	}
	logStart := rp.LogStartOffset
	if t.key.source.Follower {
		t.key.cluster.FollowerAt(key.topic, key.partition, t.key.source.Broker, rp.HighWatermark)
		logStart = -1
	}
	believed := t.r.observe(p.tp, p.extent, rp.HighWatermark, rp.LastStableOffset, logStart)
	if rp.PreferredReadReplica >= 0 {
		t.key.cluster.Named(key.topic, key.partition, t.key.source.Broker, rp.PreferredReadReplica, rp.HighWatermark)
		t.dropLocked(p) // its readers go there
		return
	}
	if !believed && !t.r.deps.Lease.Valid() {
		t.dropLocked(p)
		return
	}
	if !recordbatch.AllIntact(rp.RecordBatches) {
		// Kept, they would be given to every reader, and to each as often as it asks again.
		// Its readers ask for themselves: the leader, if this is a follower.
		t.broken(key)
		t.dropLocked(p)
		return
	}
	got := patch(p.extent, p.next, rp.RecordBatches)
	if got.unknownEpoch >= 0 {
		t.r.seen(p.extent, got.unknownEpoch)
		t.dropLocked(p)
		return
	}
	if len(got.data) == 0 {
		if got.next > p.extent.Logical(p.next) {
			p.next = p.extent.Physical(got.next) // a mark: its readers go on behind it
			t.newsLocked(p)
		} else if len(rp.RecordBatches) > 0 {
			t.dropLocked(p) // a seal: its readers wait for the map
		}
		return
	}
	buf.Retain()
	open := rp.LastStableOffset >= 0 && p.extent.Logical(federation.PhysicalOffset(rp.LastStableOffset)) < got.next
	p.chunks = append(p.chunks, tailChunk{first: p.extent.Logical(p.next), end: got.next, data: got.data, buf: buf, txn: got.txn || open})
	p.next = p.extent.Physical(got.next)
	t.order = append(t.order, p)
	t.bytes += len(got.data)
	t.r.cache.used.Add(int64(len(got.data)))
	t.newsLocked(p)
}

// newsLocked has wake wake the readers of a partition.
func (t *tail) newsLocked(p *tailPart) {
	for ch := range p.waiters {
		t.woken[ch] = struct{}{}
	}
}

func (t *tail) wake() {
	for ch := range t.woken {
		notify(ch)
	}
	clear(t.woken)
}

// forgetSession has the next request name every partition.
func (t *tail) forgetSession() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = nil
	for _, p := range t.parts {
		p.sent = -1
	}
}

func (t *tail) dropAll(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.parts {
		t.failed(p.key, why.Error())
		t.dropLocked(p)
	}
}

func (t *tail) dropLocked(p *tailPart) {
	delete(t.parts, p.key)
	p.gone = true
	if p.sent >= 0 {
		t.leaving = append(t.leaving, p.key)
	}
	for len(p.chunks) > 0 {
		t.evictLocked(p)
	}
	p.wakeLocked()
}

// evictLocked drops p's oldest chunk; entries of t.order whose chunk is gone do nothing.
func (t *tail) evictLocked(p *tailPart) {
	if len(p.chunks) == 0 {
		return
	}
	t.bytes -= len(p.chunks[0].data)
	t.r.cache.used.Add(-int64(len(p.chunks[0].data)))
	p.chunks[0].buf.Release()
	p.chunks[0] = tailChunk{}
	p.chunks = p.chunks[1:]
}

func (p *tailPart) wakeLocked() {
	for ch := range p.waiters {
		notify(ch)
	}
}
