package router

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// A read asks a broker for the records of one physical partition, without
// waiting for new ones. It outlives the Fetch that began it if the broker is
// slow: the session's next Fetch of the same position takes its result, so a
// slow cluster gets one request for a position, not one for each poll.
type read struct {
	tp     federation.TopicPartition
	extent *federation.Extent
	from   federation.PhysicalOffset
	alone  bool // the only, or first, partition of its request: an empty answer means that nothing is there

	key      readKey
	expected int // bytes

	committed bool          // isolation
	ahead     int64         // reserved of the router's reads ahead
	budget    *atomic.Int64 // that it is of

	mu        sync.Mutex // guards the following
	wake      chan struct{}
	until     time.Time // when a follower has taken too long; zero = none was asked
	done      bool
	doneAt    int64 // in Unix nanoseconds
	abandoned bool
	taken     bool // a Fetch has the answer, and its buffer
	answer    readAnswer
}

// A readAnswer is what a broker said of one partition; buf is retained.
type readAnswer struct {
	err                    error
	records                []byte
	buf                    *upstream.Buffer
	high, stable, logStart int64
	aborted                []kmsg.FetchResponseTopicPartitionAbortedTransaction
	named                  int32 // the follower that is to be read instead; -1 = none
}

func (rd *read) finish(a readAnswer) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.done, rd.doneAt, rd.answer = true, time.Now().UnixNano(), a
	if rd.abandoned {
		rd.unreserve()
		if a.buf != nil {
			a.buf.Release()
		}
	}
	notify(rd.wake)
}

func (rd *read) unreserve() {
	if rd.ahead > 0 {
		rd.budget.Add(-rd.ahead)
		rd.ahead = 0
	}
}

// abandon drops the result, now or when it comes.
func (rd *read) abandon() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.done && !rd.abandoned && !rd.taken {
		rd.unreserve()
		if rd.answer.buf != nil {
			rd.answer.buf.Release()
		}
	}
	rd.abandoned = true
}

// result returns the answer once it is there; the caller owns its buffer then.
func (rd *read) result(wake chan struct{}) (readAnswer, bool) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.wake = wake
	switch {
	case rd.done && rd.abandoned:
		return readAnswer{err: errDropped, named: -1}, true
	case rd.done:
		rd.unreserve()
		rd.taken = true
	}
	return rd.answer, rd.done
}

// wanted reports whether somebody may still come for the answer.
func (rd *read) wanted() bool {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return !rd.abandoned
}

// errDropped is of a read whose answer was given up before anybody came for it.
var errDropped = errors.New("the answer was dropped")

// A readKey groups reads into requests.
type readKey struct {
	cluster *upstream.Cluster
	source  upstream.Source
	use     upstream.Use
}

type wantedRead struct {
	rd       *read
	maxBytes int32
}

// send asks a broker for many partitions in one request.
func (s *session) sendReads(key readKey, reads []wantedRead, limit FetchLimit) {
	fail := func(err error) {
		for _, w := range reads {
			w.rd.finish(readAnswer{err: err, named: -1})
		}
	}
	room, reserved, err := s.r.reserve(key.cluster, reads, limit)
	if err != nil {
		fail(err)
		return
	}
	var conn *upstream.Conn
	if reserved {
		conn = key.cluster.Ready(key.source.Broker, key.use, s.lane.index)
	}
	if reserved {
		key.clock(reads, false)
	}
	if conn == nil || !conn.TryAcquire() {
		s.r.tasks.Go(func() {
			// Room before the connection: who waits for room must hold up nobody else.
			if !reserved {
				if err := s.r.await(s.r.ctx, room); err != nil {
					fail(err)
					return
				}
				if !slices.ContainsFunc(reads, func(w wantedRead) bool { return w.rd.wanted() }) {
					s.r.unreserve(room) // whoever asked has gone meanwhile
					fail(errDropped)
					return
				}
				key.clock(reads, true)
			}
			conn, err := key.cluster.Conn(s.r.ctx, key.source.Broker, key.use, s.lane.index)
			if err == nil {
				err = conn.Acquire(s.r.ctx)
			}
			if err != nil {
				s.r.unreserve(room)
				fail(err)
				return
			}
			s.writeReads(conn, reads, limit, room)
		})
		return
	}
	s.writeReads(conn, reads, limit, room)
}

// writeReads sends a request on a connection whose slot is taken.
func (s *session) writeReads(conn *upstream.Conn, reads []wantedRead, limit FetchLimit, room reservation) {
	s.r.count.directReads.Add(int64(len(reads)))
	req := kmsg.NewPtrFetchRequest()
	key := &reads[0].rd.key
	req.SetVersion(conn.Version(1, 4, fetchVersionFor(key.source)))
	req.Rack = key.cluster.Zone()
	req.MaxWaitMillis, req.MinBytes = 0, 0
	req.MaxBytes = room.limit(min(limit.MaxBytes, s.r.cfg.FetchBytesMax))
	if limit.ReadCommitted {
		req.IsolationLevel = 1
	}
	req.SessionEpoch = -1
	topics := make(map[string]int)
	for _, w := range reads {
		a := &w.rd.extent.PhysicalAddress
		i, ok := topics[a.Topic]
		if !ok {
			i = len(req.Topics)
			topics[a.Topic] = i
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic = a.Topic
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(a.Partition), int64(w.rd.from), w.maxBytes
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = -1, -1
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	conn.Send(req.Key(), req.Version, req.IsFlexible(), net.Buffers{req.AppendTo(nil)}, func(b *upstream.Buffer, err error) {
		s.r.unreserve(room)
		s.answerReads(req.Version, reads, b, err)
	})
}

var errLeftOut = errors.New("the broker's answer leaves the partition out")

func (s *session) answerReads(version int16, reads []wantedRead, b *upstream.Buffer, err error) {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(version)
	if err == nil {
		defer b.Release()
		if err = upstream.Decode(resp, b.B); err == nil && resp.ErrorCode != 0 {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
	}
	if err != nil {
		for _, w := range reads {
			w.rd.finish(readAnswer{err: err, named: -1})
		}
		return
	}
	answers := readAnswers{resp: resp}
	bytes, full := 0, 0
	for _, w := range reads {
		rp := answers.of(&w.rd.extent.PhysicalAddress)
		if rp == nil {
			w.rd.finish(readAnswer{err: errLeftOut, named: -1})
			continue
		}
		a := readAnswer{err: kerr.ErrorForCode(rp.ErrorCode), records: rp.RecordBatches, high: rp.HighWatermark, stable: rp.LastStableOffset, logStart: rp.LogStartOffset, aborted: rp.AbortedTransactions, named: rp.PreferredReadReplica}
		if len(a.records) > 0 {
			b.Retain()
			a.buf = b
			bytes, full = bytes+len(a.records), full+1
		}
		w.rd.finish(a)
	}
	s.brought(bytes, full)
	s.r.count.from(reads[0].rd.key.source, bytes)
}

// readAnswers finds partitions in an answer. Brokers answer in the order in which they
// are asked, so the next one is looked for behind the last.
type readAnswers struct {
	resp            *kmsg.FetchResponse
	topic, position int
}

func (r *readAnswers) of(a *federation.PhysicalAddress) *kmsg.FetchResponseTopicPartition {
	topics := r.resp.Topics
	for i := range topics {
		t := (r.topic + i) % len(topics)
		if i > 0 {
			r.position = 0
		}
		if topics[t].Topic != a.Topic {
			continue
		}
		parts := topics[t].Partitions
		for j := range parts {
			p := (r.position + j) % len(parts)
			if parts[p].Partition == int32(a.Partition) {
				r.topic, r.position = t, p+1
				return &parts[p]
			}
		}
		return nil
	}
	return nil
}

// isCurrent reports whether a head is the one that takes appends, and this gateway
// has a lease. No head is sealed without that this gateway has taken a map that says
// so, or has lost its lease: so what a broker said before this moment of the head's
// end is about the partition, and about nothing that was written behind a seal.
func (r *Router) isCurrent(tp federation.TopicPartition, head *federation.Extent) bool {
	part, err := r.deps.Maps.Current().Partition(tp)
	return err == nil && part.Head().PhysicalAddress == head.PhysicalAddress && part.Head().State == federation.ExtentOpen && r.deps.Lease.Valid()
}

// given notes that a reader has the records of an extent up to an offset: so far the
// partition goes, also while its head is sealed and nobody says where that ends.
func (r *Router) given(tp federation.TopicPartition, e *federation.Extent, end federation.LogicalOffset, committed bool) {
	part, err := r.deps.Maps.Current().Partition(tp)
	if err != nil || !slices.ContainsFunc(part.Extents, func(o *federation.Extent) bool { return o.PhysicalAddress == e.PhysicalAddress }) {
		return // of a topic that is gone
	}
	st := r.states.of(tp)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.high = max(st.high, end)
	if committed {
		st.stable = max(st.stable, end)
	}
}

// observe takes the ends that a broker reported for the head, and reports whether
// they can be believed.
func (r *Router) observe(tp federation.TopicPartition, head *federation.Extent, high, stable, logStart int64) bool {
	ok := r.isCurrent(tp, head)
	if !ok {
		high, stable = -1, -1
	}
	r.states.of(tp).observe(head, high, stable, logStart)
	return ok
}

func (p *partState) observe(e *federation.Extent, high, stable, logStart int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if logStart >= 0 && e.Number == 0 {
		p.logStart = max(p.logStart, e.Logical(federation.PhysicalOffset(logStart)))
	}
	if high < 0 {
		return
	}
	h := e.Logical(federation.PhysicalOffset(high))
	s := h
	if stable >= 0 {
		s = e.Logical(federation.PhysicalOffset(stable))
	}
	// Answers of several connections overtake each other.
	if !p.known || e.Number > p.head || e.Number == p.head && h >= p.high {
		p.head, p.high, p.stable, p.known = e.Number, max(p.high, h), max(p.stable, s), true
	}
}

// ends returns what was seen last; false if nothing was.
func (p *partState) ends() (Watermarks, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Watermarks{LogStart: p.logStart, HighWatermark: p.high, LastStable: p.stable}, p.known
}

// seen reports a physical leader epoch that the map does not name yet.
func (r *Router) seen(e *federation.Extent, epoch federation.PhysicalEpoch) {
	if r.deps.LeaderSeen != nil {
		r.deps.LeaderSeen(string(e.Cluster), e.PhysicalAddress.Topic, int32(e.PhysicalAddress.Partition), int32(epoch))
	}
}

// mayStamp reports whether records of an epoch that the map does not name may be
// given out all the same, with the newest epoch that it does name: after
// EpochWait, so that reads go on while the controller is away.
func (r *Router) mayStamp(tp federation.TopicPartition, epoch federation.PhysicalEpoch, now time.Time) bool {
	st := r.states.of(tp)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.epochWait.IsZero() || st.waitingFor != epoch {
		st.epochWait, st.waitingFor = now, epoch
	}
	return now.Sub(st.epochWait) >= r.cfg.EpochWait
}
