package router

import (
	"context"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A Kafka partition takes any first sequence from a producer that it does not
// know. So a batch that overtakes another one, through another gateway or behind
// one that failed, would open the partition, and the earlier one would be lost for
// good. Therefore a producer that a head does not know opens it with its next
// sequence only: the one after what was carried over from the extent before, or 0.
// From then on the broker checks.
//
//	unknown ──(the next sequence: sent alone)──► known: the broker checks
//	   └─(another one)─► the head is asked ──► known
//	                          └─► early: waits for those before it, then is refused for now
//	                                 └─(comes again, and nothing before it)─► opens

// An opSequence says who wrote a batch, and where it lies in the producer's order.
type opSequence struct {
	id         int64 // -1 = not idempotent
	epoch      int16
	base, last int32
	count      int32 // records, by their offsets
}

func sequenceOf(batch []byte) opSequence {
	h, ok := recordbatch.ParseHeader(batch)
	if !ok {
		return opSequence{id: -1, count: 1}
	}
	return opSequence{id: h.ProducerID, epoch: h.ProducerEpoch, base: h.BaseSequence, last: h.LastSequence(), count: h.LastOffsetDelta + 1}
}

func (op *appendOp) idempotent() bool { return op.seq.id >= 0 }

// notAfter reports whether sequence a is b or before it: sequences wrap, so the
// nearer way round counts.
func notAfter(a, b int32) bool {
	const half = 1 << 30
	return uint32(b-a)&0x7fffffff < half
}

// A headState is what a lane knows of the head of a logical partition that it has
// appended to. The lane's goroutine owns it.
type headState struct {
	topic  federation.TopicID
	extent int32
	// acknowledged is the physical offset after the last record that was acknowledged.
	acknowledged federation.PhysicalOffset
	known        map[int64]int16 // epochs of producers that the head knows, by their ids
	opening      *opening        // what was carried over; nil until it is loaded
	askedAt      time.Time       // when the head was asked last whom it knows
	refused      map[int64]opSequence
}

func (h *headState) knows(s opSequence) bool {
	epoch, ok := h.known[s.id]
	return ok && epoch >= s.epoch // of a newer one, the broker refuses the older
}

// learn notes that the head knows a producer.
func (h *headState) learn(id int64, epoch int16, most int) {
	if h.known == nil || len(h.known) >= most {
		h.known = make(map[int64]int16) // those that are forgotten are asked for again
	}
	if e, ok := h.known[id]; !ok || epoch > e {
		h.known[id] = epoch
	}
	delete(h.refused, id)
}

// headOf returns the state of a partition's head, a new one if the head is new.
func (l *lane) headOf(m *federation.Map, part *federation.Partition) *headState {
	tp, head := federation.TopicPartition{Topic: part.Topic, Partition: part.Number}, part.Head()
	topic := m.Topics[part.Topic].ID
	h := l.heads[tp]
	if h == nil || h.extent != head.Number || h.topic != topic {
		if len(l.heads) >= l.pruneAt {
			l.pruneHeads(m)
		}
		h = &headState{topic: topic, extent: head.Number}
		if head.Opening == 0 {
			h.opening = noOpening
		}
		l.heads[tp] = h
	}
	return h
}

// pruneHeads forgets the heads of topics that are gone.
func (l *lane) pruneHeads(m *federation.Map) {
	for tp, h := range l.heads {
		if m.TopicByID(h.topic) == nil {
			delete(l.heads, tp)
		}
	}
	l.pruneAt = max(statesMin, 2*len(l.heads))
}

// A verdict says what becomes of the next op of a partition.
type verdict int8

const (
	verdictSend    verdict = iota
	verdictOpen            // send it, and nothing behind it until it is answered
	verdictSettled         // it has its answer
	verdictEarly           // those before it are missing
	verdictWait            // an event tells
)

// next returns the op of p that may be sent now; nil if none may. open tells that
// it must be answered before anything else is sent.
func (l *lane) next(p *partQueue) (op *appendOp, open bool) {
	for len(p.queue) > 0 {
		op := p.queue[0]
		v := verdictSend
		if op.idempotent() {
			v = l.admit(p, op)
		}
		switch v {
		case verdictSend, verdictOpen:
			return op, v == verdictOpen
		case verdictEarly:
			p.queue = p.queue[1:]
			p.early = append(p.early, op)
		case verdictSettled:
			p.queue = p.queue[1:]
		case verdictWait:
			return nil, false
		}
	}
	return nil, false
}

// admit applies the rule above to an op.
func (l *lane) admit(p *partQueue, op *appendOp) verdict {
	h, s := p.head, op.seq
	if h.opening == nil {
		l.loadOpening(p)
		return verdictWait
	}
	next := int32(0)
	if c, ok := h.opening.producers[s.id]; ok {
		switch {
		case s.epoch < c.Epoch:
			op.resolve(failedAppend(federation.Errorf(federation.ProducerFenced, "%s: the producer has a newer epoch", op.tp)))
			return verdictSettled
		case s.epoch == c.Epoch && c.LastSequence >= 0 && notAfter(s.last, c.LastSequence):
			l.answerDuplicate(p, op)
			return verdictSettled
		case s.epoch == c.Epoch && c.LastSequence >= 0 && notAfter(s.base, c.LastSequence):
			op.resolve(failedAppend(federation.Errorf(federation.OutOfOrderSequence, "%s: a record batch repeats a part of what the producer has written", op.tp)))
			return verdictSettled
		case s.epoch == c.Epoch && c.LastSequence >= 0:
			next = recordbatch.AddSequence(c.LastSequence, 1)
		}
	}
	switch {
	case h.knows(s):
		return verdictSend
	case s.base == next:
		return verdictOpen
	case h.refused[s.id] == s:
		return verdictOpen // it came again, and nothing before it
	case time.Since(h.askedAt) < l.r.cfg.EarlyAsk:
		l.markEarly(op)
		return verdictEarly
	default:
		l.ask(p)
		return verdictWait
	}
}

func (l *lane) markEarly(op *appendOp) {
	op.cause = federation.Errorf(federation.NoLeader, "%s: record batches before this one are missing; try again", op.tp)
	if op.earlyUntil.IsZero() {
		op.earlyUntil = time.Now().Add(l.r.cfg.EarlyWait)
	}
}

// ask finds out which producers the head knows.
func (l *lane) ask(p *partQueue) {
	h, cluster, at := p.head, p.cluster, p.address
	h.askedAt = time.Now()
	p.waiting = true
	l.r.count.producerQueries.Add(1)
	l.r.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.r.ctx, l.r.cfg.QueryTimeout)
		defer cancel()
		got := producersOf(ctx, cluster, upstream.Partition{Topic: at.Topic, Partition: at.Partition})
		l.post(func() {
			p.waiting = false
			h.askedAt = time.Now()
			for _, s := range got.States {
				h.learn(s.ID, s.Epoch, l.r.cfg.ProducersMax)
			}
			if got.Err != nil {
				h.askedAt = time.Time{}
				l.pause(p, federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", p.tp).WithCause(got.Err))
				return
			}
			l.unearly(p, time.Now())
			l.markReady(p)
		})
	})
}

// producersOf returns the producers that a partition knows, once all that it has of
// them is replicated: what is not can be gone with its leader, and a batch that
// follows it would open the partition.
func producersOf(ctx context.Context, cluster *upstream.Cluster, at upstream.Partition) upstream.PartitionProducers {
	ask := func() upstream.PartitionEnds { return cluster.Ends(ctx, []upstream.Partition{at})[0] }
	before := ask()
	if before.Err != nil {
		return upstream.PartitionProducers{Err: before.Err}
	}
	got := cluster.Producers(ctx, []upstream.Partition{at})[0]
	if got.Err != nil || len(got.States) == 0 {
		return got
	}
	ends := ask()
	for now := ends; ; now = ask() {
		switch {
		case now.Err != nil:
			got.Err = now.Err
			return got
		case now.Epoch != before.Epoch:
			got.Err = federation.Errorf(federation.NoLeader, "the physical partition has another leader than a moment ago")
			return got
		case now.HighWatermark >= ends.LogEnd:
			return got
		}
		sleep(ctx, replicatedPoll)
	}
}

// replicatedPoll is the pause between two looks at a high watermark.
const replicatedPoll = 5 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// unearly puts early ops back into the queue, in their order, whose producer the
// head knows by now, and refuses those that have waited long enough.
func (l *lane) unearly(p *partQueue, now time.Time) {
	if len(p.early) == 0 {
		return
	}
	var back []*appendOp
	kept := p.early[:0]
	for _, op := range p.early {
		switch {
		case p.head.knows(op.seq):
			back = append(back, op)
		case now.Before(op.earlyUntil) && now.Before(op.deadline):
			kept = append(kept, op)
		default:
			p.head.refuse(op.seq)
			op.resolve(failedAppend(op.timedOut()))
		}
	}
	clear(p.early[len(kept):])
	p.early = kept
	if len(back) > 0 {
		p.queue = append(back, p.queue...)
	}
}

// refuse notes the first batch of a producer that was refused as early: when it
// comes again, and none before it, the producer has nothing else.
func (h *headState) refuse(s opSequence) {
	const most = 1000
	if h.refused == nil || len(h.refused) >= most {
		h.refused = make(map[int64]opSequence)
	}
	if r, ok := h.refused[s.id]; !ok || r.epoch < s.epoch || r.epoch == s.epoch && notAfter(s.base, r.base) {
		h.refused[s.id] = s
	}
}

// An opening holds the producers that were carried over to a head.
type opening struct {
	producers map[int64]mark.Producer
}

var noOpening = &opening{}

// loadOpening reads the opening marks of p's head.
func (l *lane) loadOpening(p *partQueue) {
	h, e := p.head, p.extent
	p.waiting = true
	l.r.tasks.Go(func() {
		o, err := l.r.openings.load(l.r.ctx, h.topic, e, l.r.readOpening)
		l.post(func() {
			p.waiting = false
			if err != nil {
				l.pause(p, federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", p.tp).WithCause(err))
				return
			}
			h.opening = o
			l.markReady(p)
		})
	})
}

// readOpening reads the marks between Opening and Start. Marks that retention has
// taken are older than any batch that may be repeated.
func (r *Router) readOpening(ctx context.Context, e *federation.Extent) (*opening, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.QueryTimeout)
	defer cancel()
	cluster, err := r.cluster(e)
	if err != nil {
		return nil, err
	}
	o := &opening{producers: make(map[int64]mark.Producer)}
	var bad error
	at := upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition}
	err = cluster.ReadBatches(ctx, at, e.Opening, e.Start, func(h recordbatch.Header, batch []byte) bool {
		if !mark.IsMark(h.ProducerID) {
			return true
		}
		_, _, producers, err := mark.Parse(batch)
		if err != nil {
			bad = err
			return false
		}
		for _, p := range producers {
			o.producers[p.ID] = p
		}
		return true
	})
	if err == nil {
		err = bad
	}
	return o, err
}

// openings shares what was read over the lanes: each head is read once.
type openings struct {
	mu     sync.Mutex // guards the following
	loaded map[openingKey]*loadedOpening
}

type openingKey struct {
	topic  federation.TopicID
	extent federation.PhysicalAddress
}

type loadedOpening struct {
	done    chan struct{} // closed when the following are set
	opening *opening
	err     error
}

// openingsMax bounds the openings that are shared; lanes keep those they use.
const openingsMax = 10_000

func (o *openings) load(ctx context.Context, topic federation.TopicID, e *federation.Extent, read func(context.Context, *federation.Extent) (*opening, error)) (*opening, error) {
	key := openingKey{topic, e.PhysicalAddress}
	o.mu.Lock()
	l := o.loaded[key]
	mine := l == nil
	if mine {
		if o.loaded == nil || len(o.loaded) >= openingsMax {
			o.loaded = make(map[openingKey]*loadedOpening)
		}
		l = &loadedOpening{done: make(chan struct{})}
		o.loaded[key] = l
	}
	o.mu.Unlock()
	if !mine {
		<-l.done // whoever reads is bounded
		return l.opening, l.err
	}
	l.opening, l.err = read(ctx, e)
	if l.err != nil {
		o.mu.Lock()
		if o.loaded[key] == l {
			delete(o.loaded, key)
		}
		o.mu.Unlock()
	}
	close(l.done)
	return l.opening, l.err
}

// answerDuplicate answers an op that the log has from before its head was opened:
// with its offset if it is among the last batches of the extents before, else
// without.
func (l *lane) answerDuplicate(p *partQueue, op *appendOp) {
	m := l.r.deps.Maps.Current()
	part, err := m.Partition(p.tp)
	if err != nil {
		op.resolve(failedAppend(err))
		return
	}
	l.r.count.repeats.Add(1)
	l.repeats++
	l.r.tasks.Go(func() {
		res := Appended{BaseOffset: l.r.findBatch(part, op.seq), LogAppendTimeMs: -1, LogStart: -1, Duplicate: true}
		l.post(func() {
			l.repeats--
			op.resolve(res)
		})
	})
}

// How far back a repeated batch is looked for: what a producer repeats is among
// its last batches.
const (
	findExtents = 2
	findBytes   = 32 << 20
)

// findBatch returns the logical offset of a batch at the end of the sealed
// extents; -1 if it is not found there.
func (r *Router) findBatch(part *federation.Partition, s opSequence) federation.LogicalOffset {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.EarlyWait)
	defer cancel()
	looked := 0
	for i := len(part.Extents) - 1; i >= 0 && looked < findExtents; i-- {
		e := part.Extents[i]
		if !e.Sealed() {
			continue
		}
		looked++
		if at := r.findBatchIn(ctx, e, s); at >= 0 {
			return at
		}
	}
	return -1
}

func (r *Router) findBatchIn(ctx context.Context, e *federation.Extent, s opSequence) federation.LogicalOffset {
	cluster, err := r.cluster(e)
	if err != nil {
		return -1
	}
	found := federation.LogicalOffset(-1)
	bytes := 0
	at := upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition}
	end := e.End
	for _, back := range []federation.PhysicalOffset{100, 1000, 10_000} {
		from := max(e.Start, e.End-back)
		err := cluster.ReadBatches(ctx, at, from, end, func(h recordbatch.Header, batch []byte) bool {
			bytes += len(batch)
			if h.ProducerID == s.id && h.ProducerEpoch == s.epoch && h.BaseSequence == s.base {
				found = e.Logical(federation.PhysicalOffset(h.BaseOffset))
				return false
			}
			return bytes < findBytes
		})
		if found >= 0 || err != nil || from == e.Start || bytes >= findBytes {
			return found
		}
		end = from
	}
	return found
}
