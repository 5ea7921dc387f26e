package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// readFloor is how long a Fetch waits for a broker's answer even if its client
	// does not want to wait for new records.
	readFloor = time.Second
	// readGrace is how long a Fetch that has enough waits for the answers still under way.
	readGrace = 5 * time.Millisecond
	// leaderPause is how long a partition without a usable leader rests.
	leaderPause = 50 * time.Millisecond
)

// Fetch implements Session.
//
// Each partition is served from the tail cache or by a direct read; where there
// is nothing to read it waits in its broker's tail. All wake one channel, so the
// answer leaves when all partitions together have enough, or time is up,
// whatever the slowest cluster does.
func (s *session) Fetch(ctx context.Context, from []Position, limit FetchLimit) (*Fetched, error) {
	f := s.newFetching(len(from))
	defer s.keep(f)
	f.ctx, f.limit, f.started = ctx, limit, time.Now()
	f.asks.most = max(int(min(s.r.cfg.FetchBytesMax, limit.MaxBytes)), 1)
	for i := range from {
		f.items = append(f.items, fetchItem{pos: &from[i], at: from[i].Offset, itself: -1})
	}
	f.first = f.begin()
	defer f.leaveTails()
	if err := f.run(); err != nil {
		f.out.Release()
		return nil, err
	}
	f.answer()
	f.readAhead()
	return f.out, nil
}

// keptItemsMax is how many partitions a Fetch may have whose memory the next one
// of its session uses again. That of larger ones is for all sessions together.
const keptItemsMax = 64

var manyItems = sync.Pool{New: func() any { return new([]fetchItem) }}

// newFetching returns memory for a Fetch of n partitions: that of the one before, if
// nobody else has it.
func (s *session) newFetching(n int) *fetching {
	f := s.idle.Swap(nil)
	if f == nil {
		f = &fetching{s: s, wake: make(chan struct{}, 1)}
	}
	f.out = &Fetched{}
	f.out.bufs = f.out.few[:0]
	if n > keptItemsMax {
		f.many, _ = manyItems.Get().(*[]fetchItem)
		f.items = slices.Grow((*f.many)[:0], n)
	}
	return f
}

// keep has the session's next Fetch use f again. A wake that comes late, of a read
// that goes on, has that one look once too often.
func (s *session) keep(f *fetching) {
	clear(f.items)
	if f.many != nil {
		*f.many = f.items[:0]
		manyItems.Put(f.many)
		f.items = nil
	}
	clear(f.asks.groups)
	*f = fetching{s: s, wake: f.wake, timer: f.timer, items: f.items[:0], got: f.got, asks: asks{groups: f.asks.groups}}
	select {
	case <-f.wake:
	default:
	}
	s.idle.Store(f)
}

// fetching is one Fetch under way; one goroutine owns it.
type fetching struct {
	s       *session
	ctx     context.Context //nolint:containedctx // ends with the call
	limit   FetchLimit
	wake    chan struct{}
	timer   *time.Timer
	items   []fetchItem
	many    *[]fetchItem // what items is in if they are many
	first   int          // of items: the one to begin with
	asks    asks
	got     taken // from a tail
	out     *Fetched
	bytes   int
	failed  bool // an item has an error, or an offset was checked: the client wants to know at once
	started time.Time
	looked  time.Time // when this pass over the items began
	enough  time.Time // since when there is enough
	held    time.Time // since when there is something, and not enough
	// awaited are the refreshes that wake the Fetch, each of them once: many partitions of a
	// cluster that is away ask for the same one, several times a second.
	awaited map[<-chan struct{}]bool
}

// A fetchItem is one partition of a Fetch.
type fetchItem struct {
	pos    *Position
	at     federation.LogicalOffset // what to read next
	slice  Slice
	bytes  int
	closed bool                     // takes nothing more in this Fetch
	direct bool                     // its last records came from a direct read: it is behind the tail
	left   bool                     // not asked for, as its broker has enough to answer
	itself federation.LogicalOffset // where only the leader's own answer counts; -1 = nowhere
	resume time.Time
	silent time.Time          // when the follower that is asked may have taken too long; zero = none is
	leader <-chan struct{}    // if not nil, resume ends when it is closed
	extent *federation.Extent // that its last records are of
	tail   *tail
	part   *tailPart
}

func (f *fetching) run() error {
	version := federation.MapVersion(0)
	for {
		changed := f.s.r.deps.Maps.Changed()
		m := f.s.r.deps.Maps.Current()
		if m.Version != version { // what an item waits for may have come
			for i := range f.items {
				f.items[i].resume, f.items[i].leader = time.Time{}, nil
			}
			version = m.Version
		}
		f.asks.reset()
		f.looked = time.Now()
		pending := false
		for n := range f.items {
			if it := &f.items[(f.first+n)%len(f.items)]; f.open(it) {
				pending = f.step(m, it) || pending
			}
		}
		f.send()
		wait, done := f.wait(pending)
		if done {
			return nil
		}
		if err := f.sleep(wait, changed); err != nil {
			return err
		}
	}
}

// sleep waits for news.
func (f *fetching) sleep(d time.Duration, changed <-chan struct{}) error {
	if f.timer == nil {
		f.timer = time.NewTimer(d)
	} else {
		f.timer.Reset(d)
	}
	defer f.timer.Stop()
	select {
	case <-f.wake:
	case <-changed:
	case <-f.timer.C:
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-f.s.r.ctx.Done():
		return errStopping()
	}
	return nil
}

// open reports whether an item can take more. An answer is not larger than what one
// request to a broker brings, unless the client wants it to be: then the next part can
// come while this one goes.
func (f *fetching) open(it *fetchItem) bool {
	most := min(int(f.limit.MaxBytes), max(f.asks.most, int(f.limit.MinBytes)))
	return !it.closed && it.slice.Err == nil && (f.bytes == 0 || f.bytes < most) && (it.bytes == 0 || it.bytes < int(it.pos.MaxBytes))
}

// wait decides whether the Fetch is done or, if not, how long it may sleep.
// pending says that answers of brokers are under way.
func (f *fetching) wait(pending bool) (time.Duration, bool) {
	now := time.Now()
	deadline := f.started.Add(f.limit.MaxWait)
	if f.failed || f.bytes > 0 && f.bytes >= int(f.limit.MinBytes) {
		if f.enough.IsZero() {
			f.enough = now
		}
		deadline = f.enough.Add(readGrace)
		return deadline.Sub(now), !pending || !now.Before(deadline)
	}
	if pending && f.bytes == 0 {
		deadline = latest(deadline, f.started.Add(readFloor))
	} else if f.limit.MinBytes <= 0 {
		return 0, true
	}
	if !now.Before(deadline) {
		return 0, true
	}
	if f.bytes > 0 && f.s.r.deps.Answers != nil {
		gone, look := f.mustGo(now)
		if gone {
			return 0, true
		}
		if look.Before(deadline) {
			deadline = look
		}
	}
	for i := range f.items {
		for _, t := range [...]time.Time{f.items[i].resume, f.items[i].silent} {
			if t.After(f.looked) && t.Before(deadline) { // perhaps it is past by now
				deadline = t
			}
		}
	}
	return max(deadline.Sub(now), 0), false
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// step takes what is there for an item, and says where to look for more. It
// reports whether a broker's answer for the item is under way.
func (f *fetching) step(m *federation.Map, it *fetchItem) (pending bool) {
	part, err := m.Partition(it.pos.TopicPartition)
	if err != nil {
		f.fail(it, err)
		return false
	}
	if e := m.LeaderEpoch(part); it.pos.CurrentEpoch > e {
		f.fail(it, federation.Errorf(federation.UnknownEpoch, "%s: leader epoch %d is newer than this gateway's %d; try again", it.pos.TopicPartition, it.pos.CurrentEpoch, e))
		return false
	}
	if it.pos.Offset < 0 {
		f.fail(it, errOutOfRange(it))
		return false
	}
	// Each turn crosses to the next extent or ends.
	for range len(part.Extents) + 1 {
		i := part.Locate(it.at)
		extent := part.Extents[i]
		if i == 0 && it.at < extent.First() && beginsAt(m, part) {
			f.fail(it, errOutOfRange(it))
			return false
		}
		it.at = max(it.at, extent.First()) // a gap between extents has no records
		if closed(m, extent) {
			if i == len(part.Extents)-1 || waits(m, it.pos.Topic) {
				return false // the map tells when it goes on
			}
			it.at = part.Extents[i+1].First()
			continue
		}
		next, pending := f.stepExtent(part, i, it)
		if !next || !f.open(it) {
			return pending
		}
	}
	return false
}

// stepExtent is step within one extent; again means that it.at has moved on.
func (f *fetching) stepExtent(part *federation.Partition, i int, it *fetchItem) (again, pending bool) {
	extent, s := part.Extents[i], f.s
	it.silent = time.Time{}
	head := i == len(part.Extents)-1
	if rd := s.current(it.pos.TopicPartition, extent, it.at, f.limit.ReadCommitted); rd != nil {
		a, done := rd.result(f.wake)
		if !done {
			it.silent = rd.silentFrom()
			if it.silent.IsZero() || time.Now().Before(it.silent) {
				f.asks.of(rd.key).load += rd.expected
				return false, true
			}
		}
		s.drop(rd)
		if !done {
			rd.abandon()
			a = readAnswer{err: errSilent, named: -1}
		}
		return f.take(part, i, it, rd, a)
	}
	if it.rests() {
		return false, false
	}
	cluster, err := s.r.cluster(extent)
	if err != nil {
		it.resume = time.Now().Add(leaderPause)
		return false, false
	}
	source, refreshed := f.source(cluster, extent, it)
	if source.Broker < 0 {
		it.resume, it.leader = time.Now().Add(leaderPause), refreshed
		f.wakeAfter(refreshed)
		return false, false
	}
	use := upstream.UseCold
	if head {
		if !s.r.readable(extent, it) {
			it.resume = time.Now().Add(leaderPause)
			return false, false
		}
		use = upstream.UseRead
		if !it.pos.Check {
			if again, served := f.fromTail(it, extent, cluster, source, false); served {
				return again, false
			}
		}
	}
	return false, f.want(it, extent, readKey{cluster: cluster, source: source, use: use})
}

// want has an item read from a broker, unless the broker has enough to answer: then
// another pass comes to it. It reports whether an answer is under way.
func (f *fetching) want(it *fetchItem, extent *federation.Extent, key readKey) (pending bool) {
	g, expected := f.asks.of(key), f.expected(it)
	if it.left = !f.asks.room(g, expected); it.left {
		return false
	}
	rd := f.newRead(it, extent, key, expected)
	if !f.s.add(rd) {
		return false
	}
	if key.source.Follower {
		it.silent = time.Now().Add(key.cluster.FollowerLagMax())
	}
	maxBytes := max(it.pos.MaxBytes-int32(it.bytes), 1)
	if it.pos.Check {
		maxBytes = 1
	}
	g.add(rd, maxBytes)
	return true
}

// rests reports whether an item waits before it asks a broker again.
func (it *fetchItem) rests() bool {
	if it.leader != nil {
		select {
		case <-it.leader:
			it.resume, it.leader = time.Time{}, nil
		default:
		}
	}
	return time.Now().Before(it.resume)
}

// wakeAfter wakes the Fetch when ch is closed, if it is still under way.
func (f *fetching) wakeAfter(ch <-chan struct{}) {
	if f.awaited[ch] {
		return
	}
	if f.awaited == nil {
		f.awaited = make(map[<-chan struct{}]bool)
	}
	f.awaited[ch] = true
	wake, ctx, r := f.wake, f.ctx, f.s.r // f may be another Fetch's by then
	r.tasks.Go(func() {
		select {
		case <-ch:
			notify(wake)
		case <-ctx.Done():
		case <-r.ctx.Done():
		}
	})
}

// fromTail serves an item from the tail of its broker, or has it wait there.
// served is false if the tail does not have what the item needs: a direct read
// must tell. With join, the partition joins the tail.
func (f *fetching) fromTail(it *fetchItem, extent *federation.Extent, cluster *upstream.Cluster, source upstream.Source, join bool) (again, served bool) {
	if w, ok := f.s.r.states.of(it.pos.TopicPartition).ends(); ok && it.at < w.LogStart {
		return false, false // deleted, but perhaps cached
	}
	if it.itself == it.at && !join {
		return false, false
	}
	t := f.s.r.tailOf(cluster, source)
	got := &f.got
	defer got.reset()
	part, miss := t.watch(it.pos.TopicPartition, extent, it.at, int(it.pos.MaxBytes)-it.bytes, join, f.wake, got)
	if miss {
		return false, false
	}
	if len(got.data) == 0 {
		if it.part != part {
			f.leaveTail(it)
			it.tail, it.part = t, part
		}
		return false, true
	}
	unnamed := f.limit.ReadCommitted && got.txn // only a direct read names aborted transactions
	if unnamed || !f.s.r.give(it.pos.TopicPartition, extent, got.next) {
		for _, b := range got.bufs {
			b.Release()
		}
		return false, !unnamed
	}
	for i, d := range got.data {
		f.s.r.count.tailBytes.Add(int64(len(d)))
		f.add(it, d, got.bufs[i])
	}
	it.at, it.direct, it.extent = got.next, false, extent
	return true, true
}

func (f *fetching) leaveTail(it *fetchItem) {
	if it.part != nil {
		it.tail.leave(it.part, f.wake)
		it.tail, it.part = nil, nil
	}
}

func (f *fetching) leaveTails() {
	for i := range f.items {
		f.leaveTail(&f.items[i])
	}
}

func (f *fetching) add(it *fetchItem, data []byte, buf *upstream.Buffer) {
	it.slice.Records = append(it.slice.Records, data)
	f.out.bufs = append(f.out.bufs, buf)
	it.bytes += len(data)
	f.bytes += len(data)
}

func (f *fetching) fail(it *fetchItem, err error) {
	it.slice.Err = err
	f.failed = true
}

// take uses a broker's answer.
func (f *fetching) take(part *federation.Partition, i int, it *fetchItem, rd *read, a readAnswer) (again, pending bool) {
	extent := part.Extents[i]
	head := i == len(part.Extents)-1
	if errors.Is(a.err, errDropped) {
		return true, false // read it again
	}
	if f.elsewhere(extent, head, it, rd, &a) {
		return true, false
	}
	if errors.Is(a.err, kerr.OffsetOutOfRange) {
		return f.hop(part, i, it), false
	}
	if errors.Is(a.err, errCrowded) {
		it.resume = time.Now().Add(leaderPause)
		return false, false
	}
	if a.err != nil {
		// Never an error to the client: the leader has moved, or the cluster is away.
		if c, err := f.s.r.cluster(extent); err == nil {
			c.Stale(extent.PhysicalAddress.Topic)
		}
		it.resume = time.Now().Add(leaderPause)
		return false, false
	}
	if head && !f.s.r.observe(it.pos.TopicPartition, extent, a.high, a.stable, a.logStart) && !f.s.r.deps.Lease.Valid() {
		if a.buf != nil {
			a.buf.Release()
		}
		it.resume = time.Now().Add(leaderPause)
		return false, false
	}
	if it.pos.Check {
		f.inRange(it, a)
		return false, false
	}
	got := f.patch(it, extent, rd.from, a.records)
	if len(got.data) > 0 && !f.s.r.give(it.pos.TopicPartition, extent, got.next) {
		a.buf.Release() // a newer map says how it goes on
		return false, false
	}
	if len(got.data) > 0 {
		f.s.r.count.directBytes.Add(int64(len(got.data)))
		f.add(it, got.data, a.buf)
		it.at, it.direct, it.extent = got.next, true, extent
		for _, t := range a.aborted {
			it.slice.Aborted = append(it.slice.Aborted, AbortedTxn{ProducerID: t.ProducerID, FirstOffset: extent.Logical(federation.PhysicalOffset(t.FirstOffset))})
		}
		// The aborted transactions of two extents must not be mixed.
		it.closed = len(it.slice.Aborted) > 0
		return got.unknownEpoch < 0 && f.bytes < int(f.limit.MinBytes), false
	}
	if a.buf != nil {
		a.buf.Release()
	}
	if got.next > it.at {
		it.at = got.next // a mark
		return true, false
	}
	if got.unknownEpoch >= 0 || head && len(a.records) > 0 {
		it.resume = time.Now().Add(leaderPause)
		return false, false
	}
	if !head && !rd.key.source.Itself {
		f.askLeader(it) // nothing may be passed over for what a follower has not got yet
		return true, false
	}
	return f.empty(extent, head, it, rd, a), false
}

// inRange ends an item of which only that was asked.
func (f *fetching) inRange(it *fetchItem, a readAnswer) {
	if a.buf != nil {
		a.buf.Release()
	}
	it.slice.InRange, it.closed = true, true
	f.failed = true // the client wants to know at once
}

// patch patches records; those of an epoch that the map does not name only if they may be
// stamped with the newest that it does name.
func (f *fetching) patch(it *fetchItem, extent *federation.Extent, from federation.PhysicalOffset, records []byte) patched {
	got := patch(extent, from, records)
	if got.unknownEpoch < 0 {
		return got
	}
	f.s.r.seen(extent, got.unknownEpoch)
	// What lies before it is patched in place, once: it goes first.
	if len(got.data) == 0 && f.s.r.mayStamp(it.pos.TopicPartition, got.unknownEpoch, time.Now()) {
		stamped := *extent
		stamped.Epochs = append(append([]federation.EpochEntry(nil), extent.Epochs...), federation.EpochEntry{Physical: 1<<31 - 1, Logical: extent.LastEpoch().Logical})
		return patch(&stamped, from, records)
	}
	return got
}

// empty handles an answer without records.
func (f *fetching) empty(extent *federation.Extent, head bool, it *fetchItem, rd *read, a readAnswer) (again bool) {
	end := federation.PhysicalOffset(a.high)
	if f.limit.ReadCommitted && a.stable >= 0 {
		end = federation.PhysicalOffset(a.stable)
	}
	if !head && extent.Sealed() {
		seen := end
		end = extent.End
		if !rd.extent.Sealed() && rd.from < end {
			return true // the answer is of a time when there was less
		}
		if seen >= 0 && seen < end {
			// A new leader does not know yet how far its log is replicated, and answers as if
			// there was nothing. What lies up to the end was acknowledged.
			it.resume = time.Now().Add(leaderPause)
			return false
		}
	}
	if rd.from < end && !rd.alone {
		// The other partitions of the request used its size up.
		return f.bytes < max(int(f.limit.MinBytes), 1)
	}
	if !head {
		// Nothing is left of a sealed extent (compaction, markers): go on behind it.
		if last, ok := extent.EndOffset(); ok {
			it.at = last
			return true
		}
		it.resume = time.Now().Add(leaderPause)
		return false
	}
	cluster, err := f.s.r.cluster(extent)
	if err != nil {
		return false
	}
	it.itself = -1 // it is the end, whoever says so: a tail tells when there is more
	source, _ := cluster.Source(extent.PhysicalAddress.Topic, extent.PhysicalAddress.Partition)
	if source.Broker < 0 {
		it.resume = time.Now().Add(leaderPause)
		return false
	}
	if again, served := f.fromTail(it, extent, cluster, source, true); served {
		return again
	}
	it.resume = time.Now().Add(leaderPause)
	return false
}

// readable reports whether the head may be read from an item's position on. While
// it is being sealed, or while this gateway has no lease, what lies behind the end
// that was seen before may not become part of the partition.
func (r *Router) readable(head *federation.Extent, it *fetchItem) bool {
	if !r.deps.Lease.Valid() {
		return false
	}
	if head.State == federation.ExtentOpen {
		return true
	}
	w, known := r.states.of(it.pos.TopicPartition).ends()
	return known && it.at <= w.HighWatermark
}

// hop handles a physical OFFSET_OUT_OF_RANGE. It is an error of the client only
// outside of the logical range; inside, retention or a truncated end has taken
// the records away, and the reader goes on at the next one there is.
func (f *fetching) hop(part *federation.Partition, i int, it *fetchItem) (again bool) {
	extent := part.Extents[i]
	ctx, cancel := context.WithTimeout(awayWaiting(f.ctx, readFloor), f.s.r.cfg.QueryTimeout)
	defer cancel()
	start, err := f.s.r.physicalOffset(ctx, extent, TimestampEarliest)
	if err != nil {
		it.resume = time.Now().Add(leaderPause)
		return false
	}
	first := i == 0
	for j := 0; j < i && !first; j++ {
		// Extents that retention has emptied do not count; one on a failed cluster does.
		e := part.Extents[j]
		if m := f.s.r.deps.Maps.Current(); closed(m, e) || f.s.r.absent(m, e) {
			break
		}
		s, err := f.s.r.physicalOffset(ctx, e, TimestampEarliest)
		if err != nil {
			it.resume = time.Now().Add(leaderPause)
			return false
		}
		if e.Sealed() && s >= e.End {
			first = j == i-1
			continue
		}
		break
	}
	at := extent.Physical(it.at)
	switch {
	case at < start && !first && (!extent.Sealed() || start < extent.End):
		it.at = extent.Logical(start)
		return true
	case at < start && !first, at >= start && extent.Sealed():
		it.at, _ = extent.EndOffset()
		return true
	}
	f.fail(it, errOutOfRange(it))
	return false
}

// beginsAt reports whether records below the first extent are gone, so that a reader that
// is there has missed them, as at a broker: retention emptied the extents before. It may
// have missed nothing if a gap of a failover lies before the extent, for it may stand at
// that gap's beginning; and in a compacted topic offsets go without that the log begins later.
func beginsAt(m *federation.Map, part *federation.Partition) bool {
	t, first := m.Topic(part.Topic), part.Extents[0]
	return t != nil && !t.Compacted() && first.Copies.Len() == 0 && (first.Number == 0 || first.Base%federation.FailoverStep != 0)
}

func errOutOfRange(it *fetchItem) error {
	return federation.Errorf(federation.OffsetOutOfRange, "%s: offset %d is outside of the log", it.pos.TopicPartition, it.pos.Offset)
}

// answer completes the slices.
func (f *fetching) answer() {
	f.out.Slices = make([]Slice, len(f.items))
	m := f.s.r.deps.Maps.Current()
	for i := range f.items {
		it := &f.items[i]
		sl := &it.slice
		sl.TopicPartition = it.pos.TopicPartition
		sl.Next, sl.HighWatermark, sl.LastStable, sl.LogStart = it.at, -1, -1, -1
		if sl.Err == nil {
			if w, ok := f.s.r.ends(f.ctx, m, it.pos.TopicPartition); ok {
				sl.HighWatermark, sl.LastStable, sl.LogStart = w.HighWatermark, w.LastStable, w.LogStart
			}
			if part, err := m.Partition(sl.TopicPartition); err == nil && len(sl.Records) == 0 && it.at > it.pos.Offset {
				sl.NextEpoch = epochAt(part, it.at)
			}
			// Nobody may see the end go back below what a reader was given.
			if len(sl.Records) > 0 {
				f.s.r.given(sl.TopicPartition, it.extent, it.at, f.limit.ReadCommitted)
				sl.HighWatermark = max(sl.HighWatermark, it.at)
				if f.limit.ReadCommitted {
					sl.LastStable = max(sl.LastStable, it.at)
				}
			}
		}
		f.out.Slices[i] = *sl
	}
}

// current returns the session's read of this position, if there is one; a read
// of another position of the partition is given up.
func (s *session) current(tp federation.TopicPartition, e *federation.Extent, at federation.LogicalOffset, committed bool) *read {
	s.mu.Lock()
	rd := s.reads[tp]
	fits := rd != nil && rd.committed == committed && rd.extent.PhysicalAddress == e.PhysicalAddress && rd.from == e.Physical(at)
	if rd != nil && !fits {
		delete(s.reads, tp)
	}
	s.mu.Unlock()
	if rd != nil && !fits {
		rd.abandon()
		return nil
	}
	return rd
}

// add notes a read as the session's one for its partition; false if the session is closed.
func (s *session) add(rd *read) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads == nil {
		return false
	}
	s.reads[rd.tp] = rd
	return true
}

// readOf returns the session's read of a partition, nil if there is none.
func (s *session) readOf(tp federation.TopicPartition) *read {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads[tp]
}

func (s *session) drop(rd *read) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads[rd.tp] == rd {
		delete(s.reads, rd.tp)
	}
}
